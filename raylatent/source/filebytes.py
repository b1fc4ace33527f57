"""Bytes of a TFRecord: by windows to find its records, and the records themselves.

Memory is bounded whatever the file is.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TypeAlias

import numpy as np
import pyarrow as pa
from crc32c import crc32c
from numpy.typing import NDArray

from raylatent.errors import ContentError, StorageError
from raylatent.source.picture import MAX_BYTES
from raylatent.source.record import (
    FRAME_BYTES,
    HEADER_BYTES,
    broken_frame,
    check_frame,
    header_length,
    mask,
)
from raylatent.storage import is_uri, open_input, retry

_WINDOW_BYTES = 4096  # small: the payloads between headers are mostly passed over
_REMOTE_WINDOW_BYTES = 4 << 20  # a request costs more than the bytes
_WINDOWS = 4  # headers are looked at by turns here, and where what they tell ends
_CHUNK_BYTES = 8 << 20
_TOGETHER_BYTES = 16 << 20
_GAP_BYTES = 64 << 10  # records nearer than this are read in one go

Integers: TypeAlias = Sequence[int] | NDArray[np.int64]


def read_range(file: pa.NativeFile, uri: str, start: int, n_bytes: int) -> memoryview:
    """Bytes of a file.

    Raises:
        StorageError: It cannot be read, after retries, or ends before them.
    """
    view = memoryview(retry(partial(file.read_at, n_bytes, start), f"read {uri}"))
    if len(view) < n_bytes:
        message = f"{uri} has changed, it ends before byte {start + n_bytes}: run again"
        raise StorageError(message)
    return view


class FileBytes:
    """A file that is looked at here and there.

    Attributes:
        uri: The file.
        size: In bytes; it must not become shorter.
    """

    def __init__(self, uri: str, file: pa.NativeFile, size: int) -> None:
        self.uri, self.size = uri, size
        self._file = file
        self._windows: deque[tuple[int, memoryview]] = deque(maxlen=_WINDOWS)
        self._window_bytes = _REMOTE_WINDOW_BYTES if is_uri(uri) else _WINDOW_BYTES

    def read(self, start: int, end: int) -> memoryview:
        """Bytes from `start` up to `end` or the file's end."""
        held = self._held(start, end)
        return self._load(start, end) if held is None else held

    def _load(self, start: int, end: int) -> memoryview:
        n_bytes = max(0, min(end, self.size) - start)
        return read_range(self._file, self.uri, start, n_bytes)

    def _held(self, start: int, end: int) -> memoryview | None:
        end = max(start, min(end, self.size))
        for begin, window in self._windows:
            if begin <= start and end <= begin + len(window):
                return window[start - begin : end - begin]
        return None

    def header(self, start: int) -> memoryview:
        """The header that begins at a byte, shorter where the file ends in it."""
        header = self._held(start, start + HEADER_BYTES)
        if header is None:
            window = self._load(start, start + self._window_bytes)
            self._windows.appendleft((start, window))
            header = window[:HEADER_BYTES]
        return header

    def length_at(self, start: int) -> int | None:
        """Payload bytes that the header at a byte tells; None where there is none."""
        return header_length(self.header(start))

    def payload_fits(self, start: int, end: int) -> bool:
        """Whether the last 4 bytes of a frame are the checksum of its payload."""
        if end - start < FRAME_BYTES:
            return False
        crc, last = 0, end - 4
        for at in range(start + HEADER_BYTES, last, _CHUNK_BYTES):
            crc = crc32c(self.read(at, min(at + _CHUNK_BYTES, last)), crc)
        return mask(crc) == int.from_bytes(self.read(last, end), "little")


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
            if int(lengths[first]) > _TOGETHER_BYTES:  # it is read alone
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
    if length > MAX_BYTES:
        message = f"the record is too large: tiles have at most {MAX_BYTES} bytes"
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
            if near and end - int(offsets[first]) <= _TOGETHER_BYTES:
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
