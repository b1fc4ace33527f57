"""Writing TFRecords that Slideflow reads, with the index that it reads beside them."""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from raylatent.source.example import TileRecord, example_message
from raylatent.source.framing import FRAME_BYTES, frame
from raylatent.source.index import sidecar_name
from raylatent.storage import Store


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


def write_tfrecord(path: Path, records: Iterable[TileRecord]) -> None:
    """One slide's tiles in a TFRecord, with `<stem>.index.npz` beside it.

    Each file is put in place in one step, the index first: without its TFRecord it
    is never used.

    Args:
        path: `<folder>/<slide>.tfrecords`.
        records: The tiles, all with a location or none.
    """
    data = io.BytesIO()
    frames: list[tuple[int, int]] = []
    locations: list[tuple[int, int]] = []
    for record in records:
        payload = example(record)
        frames.append((data.tell(), len(payload) + FRAME_BYTES))
        data.write(frame(payload))
        if record.loc_x is not None and record.loc_y is not None:
            locations.append((record.loc_x, record.loc_y))
    arrays: dict[str, Any] = {"arr_0": np.array(frames, np.int64).reshape(-1, 2)}
    if locations and len(locations) == len(frames):
        arrays["locations"] = np.array(locations, np.int64)
    index = io.BytesIO()
    np.savez(index, **arrays)
    store = Store(path.parent)
    store.write(sidecar_name(path.name), index.getvalue())
    store.write(path.name, data.getvalue())
