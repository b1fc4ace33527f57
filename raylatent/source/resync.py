"""Frames of a TFRecord file, also where it is broken: what lies between is one frame.

What follows a byte depends on the file and that byte alone, so that a unit that begins
at a frame has the frames that the whole file has.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cache

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

from raylatent.source.filebytes import FileBytes
from raylatent.source.record import (
    FRAME_BYTES,
    HEADER_BYTES,
    MAX_FRAME_BYTES,
)

_FIRST_CHUNK_BYTES = 4 << 10  # the next record is mostly near
_CHUNK_BYTES = 8 << 20
_BLOCK = 1 << 20  # offsets looked at together
# What looks like a header and is none costs reading: a file full of them is given up,
# and payloads are read in proportion to the bytes that are searched.
_MAX_CHECKS = 4096
_FREE_BYTES = 64 << 10
_CHECKED_PER_BYTE = 16


class Kind(Enum):
    """What bytes are.

    Attributes:
        RECORD: A record by its header, whatever is in it.
        GAP: No whole record; a record follows, or it is surely one record.
        PIECE: The like, too long for one frame: goes on in the next.
        CUT: A record that the file's end cuts off.
        TAIL: No record, up to the file's end.
    """

    RECORD = "record"
    GAP = "gap"
    PIECE = "piece"
    CUT = "cut"
    TAIL = "tail"


@dataclass(frozen=True, slots=True)
class Span:
    """A frame, or what stands in for some.

    Attributes:
        start: First byte.
        end: One past the last.
        kind: What the bytes are.
    """

    start: int
    end: int
    kind: Kind


def spans(data: FileBytes, start: int = 0) -> Iterator[Span]:
    """All bytes of a file from a frame on, cut into frames.

    Raises:
        StorageError: The file cannot be read, or became shorter.
    """
    while start < data.size:
        span = _span(data, start)
        yield span
        start = span.end


def _span(data: FileBytes, start: int) -> Span:
    length = data.length_at(start)
    if length is None:
        return _broken(data, start)
    end = start + FRAME_BYTES + length
    fits = end <= data.size and end - start <= MAX_FRAME_BYTES
    if fits and is_end(data, end):
        return Span(start, end, Kind.RECORD)
    # Bytes may be missing in it, and whole records follow before it should end.
    found = find_record(data, start + 1, min(end, data.size, start + MAX_FRAME_BYTES))
    if fits and (found is None or _holds(data, start, end, found)):
        return Span(start, end, Kind.RECORD)
    if found is not None:
        return Span(start, found, Kind.GAP)
    return _rest(data, start, Kind.CUT if end > data.size else Kind.PIECE)


def _broken(data: FileBytes, start: int) -> Span:
    """What a wrong header begins."""
    end = start + FRAME_BYTES + int.from_bytes(data.header(start)[:8], "little")
    stop = min(data.size, start + MAX_FRAME_BYTES)
    found = None
    if end <= stop:
        found = find_record(data, start + 1, end)
        inside = found is None or _end(data, found) <= end
        if inside and _holds(data, start, end, end if found is None else found):
            return Span(start, end, Kind.GAP)  # the length is right, its checksum not
    if found is None:
        found = find_record(data, start + 1, stop)
    if found is not None:
        return Span(start, found, Kind.GAP)
    return _rest(data, start, Kind.TAIL)


def _holds(data: FileBytes, start: int, end: int, found: int) -> bool:
    """Whether what is found within a frame is a part of its payload, which fits.

    A long payload is not read for a record that begins soon: bytes that claim long
    payloads may be many.
    """
    return end - start <= _affordable(found - start) and data.payload_fits(start, end)


def _end(data: FileBytes, start: int) -> int:
    """Where a record ends by its header."""
    return start + FRAME_BYTES + (data.length_at(start) or 0)


def _affordable(n_searched: int) -> int:
    """Bytes of payloads that may be read while so many bytes are searched."""
    return _FREE_BYTES + _CHECKED_PER_BYTE * n_searched


def is_end(data: FileBytes, end: int) -> bool:
    """Whether a frame can end at a byte, by what follows."""
    return end == data.size or data.length_at(end) is not None


def _rest(data: FileBytes, start: int, kind: Kind) -> Span:
    """Bytes after which no record is found."""
    if data.size - start > MAX_FRAME_BYTES:
        return Span(start, start + MAX_FRAME_BYTES, Kind.PIECE)
    if kind is Kind.TAIL and data.payload_fits(start, data.size):
        kind = Kind.GAP
    return Span(start, data.size, kind)


def find_record(data: FileBytes, start: int, stop: int) -> int | None:
    """The first record that begins from `start` up to before `stop`, None if none does.

    By the checksum of its length; since that fits by chance, and what looks like a
    header may be a part of a payload, a record must also follow it, or its own payload
    fit.
    """
    looked = _Candidates(data, start)
    at, chunk_bytes = start, _FIRST_CHUNK_BYTES
    while at < stop:
        n = min(chunk_bytes, stop - at)
        view = data.read(at, at + n + HEADER_BYTES - 1)
        for offset, length in _headers(view, data.size - at):
            begin, end = at + offset, at + offset + FRAME_BYTES + length
            if end - begin > MAX_FRAME_BYTES:
                continue
            if looked.is_record(begin, end):
                return looked.first_fitting(begin) or begin
            if looked.n > _MAX_CHECKS:
                return None
        at += n
        found = looked.first_fitting(at)
        if found is not None:
            return found
        chunk_bytes = min(2 * chunk_bytes, _CHUNK_BYTES)
    return None


class _Candidates:
    """What looks like records in a search.

    A payload that costs too much to read waits until enough is searched: a record that
    is whole ends before the next one that is found, or before the search does.

    Attributes:
        n: How many are none, or wait.
    """

    def __init__(self, data: FileBytes, start: int) -> None:
        self.n = 0
        self._data, self._start = data, start
        self._checked_bytes = 0
        self._waiting: list[tuple[int, int]] = []

    def is_record(self, begin: int, end: int) -> bool:
        """Whether one follows it, or its payload fits; else it may wait."""
        if is_end(self._data, end):
            return True
        self.n += 1
        if self._pays(begin, end, begin):
            return self._data.payload_fits(begin, end)
        self._waiting.append((begin, end))
        return False

    def first_fitting(self, here: int) -> int | None:
        """The first that waits and fits, by what may be read where the search is."""
        waiting, self._waiting = self._waiting, []
        for begin, end in waiting:
            if not self._pays(begin, end, here):
                self._waiting.append((begin, end))
            elif self._data.payload_fits(begin, end):
                return begin
        return None

    def _pays(self, begin: int, end: int, here: int) -> bool:
        """Count a payload if it may be read."""
        checked_bytes = self._checked_bytes + end - begin
        if checked_bytes > _affordable(here - self._start):
            return False
        self._checked_bytes = checked_bytes
        return True


def _headers(view: memoryview, n_left: int) -> Iterator[tuple[int, int]]:
    """Offsets and lengths of what looks like headers of frames within `n_left` bytes."""
    data = np.frombuffer(view, np.uint8)
    # Whatever fits the file has zeros in the upper bytes of its length: few bytes do.
    used = max(1, (n_left.bit_length() + 7) // 8)
    for first in range(0, len(data) - HEADER_BYTES + 1, _BLOCK):
        block = data[first : first + _BLOCK + HEADER_BYTES - 1]
        n = len(block) - HEADER_BYTES + 1
        zero = block == 0
        near = _all_of(zero, used, 8, n)
        if near.any():  # 12 zeros are none: a file that was never filled
            near &= ~_all_of(zero, 0, HEADER_BYTES, n)
        at = np.flatnonzero(near)
        at = at[_masked_crcs(block, at) == _integers(block, at + 8, 4)]
        lengths = _integers(block, at, 8).astype(np.int64)
        fits = at + first + lengths + FRAME_BYTES <= n_left
        yield from zip((at[fits] + first).tolist(), lengths[fits].tolist(), strict=True)


def _all_of(
    zero: NDArray[np.bool_], first: int, last: int, n: int
) -> NDArray[np.bool_]:
    """For each of `n` offsets whether its bytes from `first` up to `last` are zero."""
    found = np.ones(n, bool)
    for i in range(first, last):
        found &= zero[i : i + n]
    return found


def _integers(
    block: NDArray[np.uint8], at: NDArray[np.int64], n_bytes: int
) -> NDArray[np.uint64]:
    """Little-endian integers at offsets."""
    values = np.zeros(len(at), np.uint64)
    for i in range(n_bytes):
        values |= block[at + i].astype(np.uint64) << np.uint64(8 * i)
    return values


def _masked_crcs(block: NDArray[np.uint8], at: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The masked CRC32C of 8 bytes at each offset."""
    crcs = np.full(len(at), crc32c(bytes(8)), np.uint32)
    for i, table in enumerate(_tables()):
        crcs ^= table[block[at + i]]
    turned = crcs >> np.uint32(15) | crcs << np.uint32(17)
    return (turned + np.uint32(0xA282EAD8)).astype(np.uint64)


@cache
def _tables() -> NDArray[np.uint32]:
    """What each value of each of 8 bytes changes in their CRC32C, which is linear."""
    zero = crc32c(bytes(8))
    return np.array(
        [
            [
                crc32c(bytes(i) + bytes([value]) + bytes(7 - i)) ^ zero
                for value in range(256)
            ]
            for i in range(8)
        ],
        np.uint32,
    )
