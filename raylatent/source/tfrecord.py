"""TFRecord files as Slideflow writes them: framing, checksums, Example, range reads.

A record is framed as `uint64 length, uint32 masked CRC32C of the length, payload,
uint32 masked CRC32C of the payload`, little-endian
(https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details).
"""

import importlib.util
import struct
import sys
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
from crc32c import crc32c
from numpy.typing import NDArray

from raylatent.errors import ContentError, SourceError, StorageError
from raylatent.storage import open_input, reason, retry

HEADER_BYTES = 12
FRAME_BYTES = HEADER_BYTES + 4
SUFFIXES = (".tfrecords", ".tfrecord")
_CHUNK_BYTES = 16 << 20
_GAP_BYTES = 64 << 10  # records nearer than this are read in one go
_MAX_LENGTH = (1 << 31) - 1


@dataclass(frozen=True)
class TFRecordIndex:
    """Where each record of a file is.

    Attributes:
        offsets: First byte of each frame, shape (n,), int64.
        lengths: Bytes of each frame with header and checksums, shape (n,), int64.
        error: What is wrong with the rest of the file, None where nothing is.
    """

    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]
    error: str | None = None
    sidecar: bool = False  # frames come from the file beside, not from headers

    def __len__(self) -> int:
        """Number of records."""
        return len(self.offsets)


@dataclass(frozen=True)
class TileRecord:
    """What a record says of a tile.

    Attributes:
        image_raw: The encoded picture, JPEG or PNG.
        slide: Its slide's name, None where the record has none.
        loc_x: Center of the tile in level-0 pixels, None where not recorded.
        loc_y: Likewise.
    """

    image_raw: bytes
    slide: str | None = None
    loc_x: int | None = None
    loc_y: int | None = None


def masked_crc(data: bytes | memoryview) -> int:
    """TFRecord's masked CRC32C.

    >>> hex(masked_crc(b""))
    '0xa282ead8'
    """
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def header_length(header: bytes | memoryview) -> int | None:
    """Payload bytes that a 12-byte header tells, None where its checksum is wrong."""
    length, crc = struct.unpack("<QI", header)
    return int(length) if masked_crc(header[:8]) == crc else None


def index_tfrecord(uri: str) -> TFRecordIndex:
    """Frames of a file, from Slideflow's `.index.npz` beside it where that fits.

    Otherwise every header is read and its checksum verified. A file that breaks off,
    or has a broken header, keeps the records before that; `error` says where.

    Raises:
        SourceError: The file is no TFRecord at all.
        StorageError: It cannot be read.
    """
    with open_input(uri) as file:
        size = file.size()
        index = _sidecar_index(uri, file, size)
        if index is None:
            index = _scan_headers(uri, file, size)
    if index.error is not None and not len(index):
        raise SourceError(index.error)
    return index


def _sidecar_index(
    uri: str, file: pa.NativeFile, size: int
) -> TFRecordIndex | None:
    """Slideflow's index, None where there is none or it does not fit the file."""
    name = uri
    for suffix in SUFFIXES:
        name = name.removesuffix(suffix)
    try:
        with open_input(f"{name}.index.npz") as sidecar:
            data = sidecar.read()
        with np.load(pa.BufferReader(data), allow_pickle=False) as arrays:
            frames = np.asarray(arrays["arr_0"])
    except (StorageError, KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile):
        return None
    if frames.ndim != 2 or frames.shape[1] != 2 or frames.dtype.kind not in "iu":
        return None
    offsets, lengths = frames.astype(np.int64).T
    ends = offsets + lengths
    fits = len(ends) and ends[-1] == size and offsets[0] == 0
    if not (fits and (lengths > FRAME_BYTES).all() and (offsets[1:] == ends[:-1]).all()):
        return None
    # A record rewritten in place keeps the size; the ends of the file tell it apart.
    for i in (0, len(ends) - 1):
        header = file.read_at(HEADER_BYTES, int(offsets[i]))
        if header_length(header) not in {None, int(lengths[i]) - FRAME_BYTES}:
            return None
    offsets, lengths = np.ascontiguousarray(offsets), np.ascontiguousarray(lengths)
    return TFRecordIndex(offsets, lengths, sidecar=True)


def frames_from(uri: str, start: int, count: int) -> TFRecordIndex:
    """`count` frames from byte `start` on, by their headers.

    Raises:
        StorageError: The file cannot be read, or is not as it was when indexed.
    """
    with open_input(uri) as file:
        index = _scan_headers(uri, file, file.size(), first=start, count=count)
    if len(index) != count:
        message = f"{uri} has changed since it was indexed: run again"
        raise StorageError(message)
    return index


def frames_beside(uri: str, first: int, count: int) -> TFRecordIndex:
    """`count` frames from record `first` on, from the `.index.npz` beside the file.

    Raises:
        StorageError: It is not there any more, or does not fit.
    """
    with open_input(uri) as file:
        index = _sidecar_index(uri, file, file.size())
    if index is None or len(index) < first + count:
        message = f"the index beside {uri} has changed since it was read: run again"
        raise StorageError(message)
    last = first + count
    return TFRecordIndex(index.offsets[first:last], index.lengths[first:last])


def _scan_headers(
    uri: str,
    file: pa.NativeFile,
    size: int,
    *,
    first: int = 0,
    count: int | None = None,
) -> TFRecordIndex:
    offsets: list[int] = []
    lengths: list[int] = []
    error = None
    window, start = memoryview(b""), 0
    offset = first
    while offset < size and len(offsets) != count:
        if offset + HEADER_BYTES > start + len(window):
            # Small reads: payloads between headers are mostly passed over.
            read = partial(file.read_at, 4096, offset)
            window = memoryview(retry(read, f"read {uri}"))
            start = offset
        header = window[offset - start : offset - start + HEADER_BYTES]
        length = header_length(header) if len(header) == HEADER_BYTES else None
        end = offset + FRAME_BYTES + (length or 0)
        if length is None or end > size or length > _MAX_LENGTH:
            error = _framing_error(uri, offset, len(offsets), cut=length is not None)
            break
        offsets.append(offset)
        lengths.append(end - offset)
        offset = end
    return TFRecordIndex(
        np.array(offsets, np.int64), np.array(lengths, np.int64), error
    )


def _framing_error(uri: str, offset: int, n_before: int, *, cut: bool) -> str:
    if not n_before:
        return f"{uri} is no TFRecord: its first record header is wrong"
    what = "the file breaks off in" if cut else "broken header of"
    return (
        f"{uri}: {what} record {n_before} at byte {offset}; the {n_before} records "
        "before it are kept, write the file again to have the rest"
    )


def iter_records(
    uri: str, offsets: Sequence[int], lengths: Sequence[int]
) -> Iterator[memoryview | ContentError]:
    """Payloads of records in the order of their offsets, checksums verified.

    Near records are read together, at most 16 MiB at once.

    Args:
        uri: The file.
        offsets: First byte of each frame, ascending.
        lengths: Bytes of each frame.

    Yields:
        The payload, or the ContentError that says what is wrong with it.

    Raises:
        StorageError: The file cannot be read, after retries, or is shorter.
    """
    with open_input(uri) as file:
        for first, last in _spans(offsets, lengths):
            start = int(offsets[first])
            n_bytes = int(offsets[last - 1]) + int(lengths[last - 1]) - start
            view = memoryview(
                retry(partial(file.read_at, n_bytes, start), f"read {uri}")
            )
            if len(view) < n_bytes:
                message = f"{uri} has changed: it ends before byte {start + n_bytes}"
                raise StorageError(message)
            for i in range(first, last):
                begin = int(offsets[i]) - start
                yield check_frame(view[begin : begin + int(lengths[i])])


def _spans(
    offsets: Sequence[int], lengths: Sequence[int]
) -> Iterator[tuple[int, int]]:
    """Runs [first, last) of frames that are read together."""
    first = 0
    for i in range(1, len(offsets) + 1):
        if i < len(offsets):
            previous_end = int(offsets[i - 1]) + int(lengths[i - 1])
            near = int(offsets[i]) - previous_end <= _GAP_BYTES
            end = int(offsets[i]) + int(lengths[i])
            if near and end - int(offsets[first]) <= _CHUNK_BYTES:
                continue
        yield first, i
        first = i


def check_frame(frame: memoryview) -> memoryview | ContentError:
    """The payload of one frame, or the ContentError that its checksums give."""
    length = header_length(frame[:HEADER_BYTES])
    if length is None:
        return ContentError("wrong checksum of the record's length", stage="read")
    if length + FRAME_BYTES != len(frame):
        message = f"record of {length} bytes in a frame of {len(frame)}"
        return ContentError(message, stage="read")
    payload = frame[HEADER_BYTES:-4]
    (crc,) = struct.unpack("<I", frame[-4:])
    if masked_crc(payload) != crc:
        return ContentError("wrong checksum of the record's payload", stage="read")
    return payload


def read_records(
    uri: str, offsets: Sequence[int], lengths: Sequence[int]
) -> list[bytes | ContentError]:
    """Payloads of any records of a file, in the order asked, by range reads.

    Raises:
        StorageError: The file cannot be read, after retries.
    """
    order = np.argsort(np.asarray(offsets), kind="stable")
    ascending = [int(offsets[i]) for i in order]
    frames = iter_records(uri, ascending, [int(lengths[i]) for i in order])
    found: dict[int, bytes | ContentError] = {}
    for i, payload in zip(order, frames, strict=True):
        bad = isinstance(payload, ContentError)
        found[int(i)] = payload if bad else bytes(payload)
    return [found[i] for i in range(len(order))]


@cache
def example_message() -> ModuleType:
    """The protobuf messages that the `tfrecord` package ships.

    Loaded without the package itself, which would import torch in every reader.
    """
    spec = importlib.util.find_spec("tfrecord")
    if spec is None or spec.origin is None:
        message = "the package tfrecord is not installed: pip install tfrecord"
        raise SourceError(message)
    name = "raylatent_tfrecord_example_pb2"
    path = Path(spec.origin).with_name("example_pb2.py")
    file_spec = importlib.util.spec_from_file_location(name, path)
    if file_spec is None or file_spec.loader is None:
        message = f"the package tfrecord lacks {path.name}: install it again"
        raise SourceError(message)
    module = importlib.util.module_from_spec(file_spec)
    sys.modules[name] = module
    file_spec.loader.exec_module(module)
    return module


def parse_example(payload: bytes | memoryview) -> TileRecord:
    """What a record's payload (a serialized tf.train.Example) says of a tile.

    Raises:
        ContentError: It is no Example, or has no `image_raw`.
    """
    try:
        feature = example_message().Example.FromString(payload).features.feature
    except ValueError as error:  # protobuf's DecodeError
        message = f"not a tf.train.Example: {reason(error)}"
        raise ContentError(message, stage="parse") from error
    image = feature["image_raw"].bytes_list.value if "image_raw" in feature else ()
    if not image:
        names = ", ".join(sorted(feature)[:8]) or "nothing"
        message = f"the record has no image_raw (it has {names})"
        raise ContentError(message, stage="parse")
    slide = feature["slide"].bytes_list.value if "slide" in feature else ()
    location = [
        feature[name].int64_list.value[0]
        if name in feature and feature[name].int64_list.value
        else None
        for name in ("loc_x", "loc_y")
    ]
    return TileRecord(
        image_raw=image[0],
        slide=slide[0].decode("utf-8", "replace") if slide else None,
        loc_x=location[0],
        loc_y=location[1],
    )
