"""Bytes of a file of known size, by windows: memory is bounded whatever the file is."""

from collections import deque
from functools import partial

import pyarrow as pa
from crc32c import crc32c

from raylatent.errors import StorageError
from raylatent.source.record import (
    FRAME_BYTES,
    HEADER_BYTES,
    header_length,
    mask,
)
from raylatent.storage import is_uri, retry

_WINDOW_BYTES = 4096  # small: the payloads between headers are mostly passed over
_REMOTE_WINDOW_BYTES = 4 << 20  # a request costs more than the bytes
_WINDOWS = 4  # headers are looked at by turns here, and where what they tell ends
_CHUNK_BYTES = 8 << 20


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
