"""TFRecord files as Slideflow writes them: range reads of records.

What the other rooms need of framing, index and Example is importable from here.
"""

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylatent.errors import ContentError
from raylatent.source.filebytes import FileBytes, read_range
from raylatent.source.index import (
    TFRecordIndex,
    frames_beside,
    frames_from,
    index_tfrecord,
)
from raylatent.source.record import (
    FRAME_BYTES,
    HEADER_BYTES,
    SUFFIXES,
    TileRecord,
    broken_frame,
    check_frame,
    example_message,
    header_length,
    masked_crc,
    parse_example,
)
from raylatent.storage import open_input

__all__ = [
    "FRAME_BYTES",
    "HEADER_BYTES",
    "MAX_RECORD_BYTES",
    "SUFFIXES",
    "TFRecordIndex",
    "TileRecord",
    "check_frame",
    "example_message",
    "frames_beside",
    "frames_from",
    "header_length",
    "index_tfrecord",
    "iter_records",
    "masked_crc",
    "parse_example",
    "read_records",
]

MAX_RECORD_BYTES = 64 << 20  # an Example can take 17 times its bytes in memory
_CHUNK_BYTES = 16 << 20
_GAP_BYTES = 64 << 10  # records nearer than this are read in one go

Integers: TypeAlias = Sequence[int] | NDArray[np.int64]


def iter_records(
    uri: str, offsets: Integers, lengths: Integers
) -> Iterator[memoryview | ContentError]:
    """Payloads of records in the order of their offsets, checksums verified.

    Near records are read together, at most 16 MiB at once; what is larger is read only
    if its header is right, and never beyond 64 MiB.

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
            if int(lengths[first]) > _CHUNK_BYTES:  # it is read alone
                yield _large(uri, file, start, start + int(lengths[first]))
                continue
            end = max(int(offsets[i]) + int(lengths[i]) for i in range(first, last))
            view = read_range(file, uri, start, end - start)
            for i in range(first, last):
                begin = int(offsets[i]) - start
                frame = view[begin : begin + int(lengths[i])]
                yield check_frame(frame)


def _large(
    uri: str, file: pa.NativeFile, start: int, end: int
) -> memoryview | ContentError:
    """The payload of a large frame; what is none is not held in memory."""
    length = header_length(read_range(file, uri, start, HEADER_BYTES))
    if length is None or length + FRAME_BYTES != end - start:
        one = FileBytes(uri, file, end).payload_fits(start, end)
        return broken_frame(length, one=one)
    if length > MAX_RECORD_BYTES:
        message = (
            f"the record is too large: tiles have at most {MAX_RECORD_BYTES} bytes"
        )
        return ContentError(message, stage="read")
    return check_frame(read_range(file, uri, start, end - start))


def _spans(offsets: Integers, lengths: Integers) -> Iterator[tuple[int, int]]:
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


def read_records(
    uri: str, offsets: Integers, lengths: Integers
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
        found[int(i)] = payload if isinstance(payload, ContentError) else bytes(payload)
    return [found[i] for i in range(len(order))]
