"""Writing TFRecords that Slideflow reads, with the index that it reads beside them."""

import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from raylatent.seal import content_digest, content_hasher
from raylatent.source.index import sidecar_name
from raylatent.source.record import FRAME_BYTES, TileRecord, example_message, frame
from raylatent.storage import Store

SUFFIX = ".tfrecords"
ENCODER = f"pillow-{PIL.__version__}"
_PNG_LEVEL = 3  # of zlib: 6, the default, takes twice the time for 3 % less


def encode_tile(pixels: NDArray[np.uint8], img_format: str, jpeg_quality: int) -> bytes:
    """A tile as JPEG (4:2:0, as Slideflow's) or PNG.

    Args:
        pixels: (h, w, 3) uint8.
        img_format: `jpg` or `png`.
        jpeg_quality: 1 to 100.
    """
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    if img_format == "png":
        image.save(buffer, "PNG", compress_level=_PNG_LEVEL)
    else:
        image.save(buffer, "JPEG", quality=jpeg_quality, subsampling="4:2:0")
    return buffer.getvalue()


def example(record: TileRecord) -> bytes:
    """A tile as a serialized tf.train.Example with Slideflow's feature names."""
    message = example_message().Example()
    feature = message.features.feature
    feature["image_raw"].bytes_list.value.append(record.image_raw)
    if record.slide is not None:
        feature["slide"].bytes_list.value.append(
            record.slide.encode("utf-8", "replace")
        )
    if record.loc_x is not None and record.loc_y is not None:
        feature["loc_x"].int64_list.value.append(record.loc_x)
        feature["loc_y"].int64_list.value.append(record.loc_y)
    return bytes(message.SerializeToString(deterministic=True))


class _RecordWriter:
    """Records one after the other, and what the index says of them."""

    def __init__(self, append: Callable[[bytes], None]) -> None:
        self._append = append
        self._frames: list[tuple[int, int]] = []
        self._locations: list[tuple[int, int]] = []
        self._end = 0
        self._hasher = content_hasher()

    def write(self, record: TileRecord) -> None:
        payload = example(record)
        length = len(payload) + FRAME_BYTES
        framed = frame(payload)
        self._hasher.update(framed)
        self._append(framed)
        self._frames.append((self._end, length))
        self._end += length
        if record.loc_x is not None and record.loc_y is not None:
            self._locations.append((record.loc_x, record.loc_y))

    def index(self) -> bytes:
        arrays: dict[str, Any] = {
            "arr_0": np.array(self._frames, np.int64).reshape(-1, 2)
        }
        if self._locations and len(self._locations) == len(self._frames):
            arrays["locations"] = np.array(self._locations, np.int64)
        index = io.BytesIO()
        np.savez(index, **arrays)
        return index.getvalue()

    @property
    def size(self) -> int:
        return self._end

    @property
    def digest(self) -> str:
        return self._hasher.hexdigest()


def write_tfrecord(path: Path, records: Iterable[TileRecord]) -> None:
    """One slide's tiles in a TFRecord, with `<stem>.index.npz` beside it.

    Args:
        path: `<folder>/<slide>.tfrecords`.
        records: The tiles, all with a location or none.
    """
    put_tfrecord(Store(path.parent), path.name, records)


def put_tfrecord(
    store: Store, name: str, records: Iterable[TileRecord]
) -> tuple[int, dict[str, str]]:
    """A TFRecord and its index in a store, record by record.

    Each file is put in place in one step, the index first: without its TFRecord it
    is never used.

    Args:
        store: Where.
        name: `<slide>.tfrecords`.
        records: The tiles, all with a location or none.

    Returns:
        The TFRecord's size in bytes, and the digests of both files by name.

    Raises:
        StorageError: It cannot be written; nothing is to be seen then.
    """
    with store.writing(name) as append:
        writer = _RecordWriter(append)
        for record in records:
            writer.write(record)
        index = writer.index()
        store.write(sidecar_name(name), index)
    digests = {name: writer.digest, sidecar_name(name): content_digest(index)}
    return writer.size, digests
