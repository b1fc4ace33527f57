"""Where the records of a TFRecord file are: Slideflow's index beside it, or the headers.

The index is used where it fits the file. Where the file is broken, what lies between two
sound records is one frame. What follows a byte depends on the file and that byte alone,
so that a unit that begins at a frame has the frames that the whole file has.
"""

import io
import struct
import tokenize
import zipfile
import zlib
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from functools import cache
from itertools import islice

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

from raylatent.errors import SourceError, StorageError
from raylatent.source.filebytes import FileBytes
from raylatent.source.record import (
    FRAME_BYTES,
    HEADER_BYTES,
    MAX_FRAME_BYTES,
    header_length,
    without_ending,
)
from raylatent.storage import open_input, retry

Frames = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Offsets and lengths, each (n,)."""

_MAX_BYTES = 256 << 20  # 16 million records: what claims more is no index
_CHUNK_BYTES = 1 << 20
# What a file that is no index can raise in zipfile and numpy.
_NO_INDEX = (
    StorageError,
    ValueError,
    OSError,
    LookupError,
    EOFError,
    TypeError,
    AttributeError,
    ArithmeticError,
    MemoryError,
    RuntimeError,
    SyntaxError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
_FIRST_SEARCHED_BYTES = 4 << 10  # the next record is mostly near
_SEARCHED_BYTES = 8 << 20
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


_HEADED = (Kind.RECORD, Kind.CUT)


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
    at, chunk_bytes = start, _FIRST_SEARCHED_BYTES
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
        chunk_bytes = min(2 * chunk_bytes, _SEARCHED_BYTES)
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


def sidecar_name(uri: str) -> str:
    """Where Slideflow keeps the index of a file.

    >>> sidecar_name("tiles/a.tfrecords")
    'tiles/a.index.npz'
    """
    stem = without_ending(uri)
    return f"{uri if stem is None else stem}.index.npz"


def sidecar_frames(uri: str, size: int) -> Frames | None:
    """The index beside, None unless its frames fill a file of `size` bytes."""
    frames = told_frames(uri, size)
    if frames is None:
        return None
    offsets, lengths = frames
    ends = offsets + lengths
    if not len(ends) or offsets[0] != 0 or ends[-1] != size:
        return None
    if (lengths < FRAME_BYTES).any() or (offsets[1:] != ends[:-1]).any():
        return None
    if (lengths > MAX_FRAME_BYTES).any():
        return None
    return frames


def told_frames(uri: str, size: int) -> Frames | None:
    """What the index beside says, whether it fits or not; None where there is none."""
    try:
        frames = _read(sidecar_name(uri), size)
    except _NO_INDEX:
        return None
    if frames.ndim != 2 or frames.shape[1] != 2 or frames.dtype.kind not in "iu":
        return None
    offsets, lengths = np.ascontiguousarray(frames.astype(np.int64).T)
    return offsets, lengths


def _read(name: str, size: int) -> NDArray[np.generic]:
    """An index's frames; ValueError if they are too large to be true."""
    with open_input(name) as sidecar:
        # Frames and locations are 16 bytes a record each, a record at least as many.
        largest = min(4 * size + (1 << 16), _MAX_BYTES)
        if sidecar.size() > largest:
            raise ValueError(name)
        data = bytes(retry(sidecar.read, f"read {name}"))
    with zipfile.ZipFile(io.BytesIO(data)) as members:
        return _array(members, "arr_0.npy", largest)


def _array(members: zipfile.ZipFile, name: str, largest: int) -> NDArray[np.generic]:
    """A member's array; ValueError if it is larger, whatever its entry claims."""
    info = members.getinfo(name)
    # zipfile unpacks the other kinds without a limit, however little is asked for.
    if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise ValueError(name)
    content = io.BytesIO()
    with members.open(info) as member:
        while chunk := member.read(_CHUNK_BYTES):
            content.write(chunk)
            if content.tell() > largest:
                raise ValueError(name)
    content.seek(0)
    return np.asarray(np.lib.format.read_array(content, allow_pickle=False))


def headers_agree(data: FileBytes, frames: Frames) -> bool:
    """Whether the file's headers are where the index has them, and tell its lengths.

    An index of another version of the file parts from it at some record: that record's
    header tells another length, or records begin where the index has none. A frame
    whose header is broken is taken from the index if its payload fits, or if no record
    is found in it: nothing is lost then.
    """
    right, broken = 0, None
    for start, n_bytes in zip(*(values.tolist() for values in frames), strict=True):
        length = data.length_at(start)
        if length is not None and length != n_bytes - FRAME_BYTES:
            return False
        if length is None and not data.payload_fits(start, start + n_bytes):
            broken = start if broken is None else broken
            continue
        if broken is not None and find_record(data, broken + 1, start) is not None:
            return False
        right, broken = right + 1, None
    if broken is not None and find_record(data, broken + 1, data.size) is not None:
        return False
    return right > 0


@dataclass(frozen=True)
class TFRecordIndex:
    """Where each record of a file is.

    Bytes that are no record are a frame too: read, they are what is wrong with a tile.

    Attributes:
        offsets: First byte of each frame, shape (n,), int64.
        lengths: Bytes of each frame with header and checksums, shape (n,), int64.
        error: Why there may be more records than frames, None where there are not.
    """

    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]
    error: str | None = None
    sidecar: bool = False  # frames come from the file beside, not from headers

    def __len__(self) -> int:
        """Number of records."""
        return len(self.offsets)


def index_tfrecord(uri: str) -> TFRecordIndex:
    """Frames of a file, from Slideflow's `.index.npz` beside it where that fits.

    Otherwise every header is read and its checksum verified; after a broken one the
    next that is right is searched, and what lies between is one frame. `error` says
    where the file breaks off, ends in bytes that are no record, or ends before its index
    does.

    Raises:
        SourceError: The file is no TFRecord at all.
        StorageError: It cannot be read.
    """
    with open_input(uri) as file:
        data = FileBytes(uri, file, file.size())
        _refuse_compressed(data)
        frames = sidecar_frames(uri, data.size)
        if frames is not None and headers_agree(data, frames):
            return TFRecordIndex(*frames, sidecar=True)
        return _index(data, spans(data))


def _refuse_compressed(data: FileBytes) -> None:
    """What TensorFlow writes with compression is one stream: no record can be sought."""
    start = bytes(data.header(0))
    if header_length(start) is not None or len(start) < 2:
        return
    # gzip's mark; zlib's first byte for deflate, and the check of its first two
    kind = "gzip'ed" if start[:2] == b"\x1f\x8b" else ""
    if start[0] == 0x78 and int.from_bytes(start[:2], "big") % 31 == 0:
        kind = "compressed by zlib"
    # Bytes of a damaged record may look the same; others follow it then.
    if kind and find_record(data, 1, min(data.size, _SEARCHED_BYTES)) is None:
        message = (
            f"{data.uri} is {kind}: tiles are read from anywhere in a TFRecord, so unpack "
            "it (gunzip), or write it without compression"
        )
        raise SourceError(message)


def _index(data: FileBytes, found: Iterable[Span]) -> TFRecordIndex:
    """All frames of a file, by its headers."""
    offsets, lengths = array("q"), array("q")
    headed = False
    tail: tuple[Span, int] | None = None  # what follows the last record, its number
    for span in found:
        headed = headed or span.kind in _HEADED
        if span.kind in {Kind.RECORD, Kind.GAP}:
            tail = None
        elif tail is None:
            tail = (span, len(offsets))
        offsets.append(span.start)
        lengths.append(span.end - span.start)
    if offsets and not headed:
        message = (
            f"{data.uri} is no TFRecord: no record header in it is right, leave it out "
            "or write it again"
        )
        raise SourceError(message)
    index = TFRecordIndex(np.array(offsets, np.int64), np.array(lengths, np.int64))
    return replace(index, error=_lost_records(data, index, *(tail or (None, 0))))


def _lost_records(
    data: FileBytes, index: TFRecordIndex, tail: Span | None, number: int
) -> str | None:
    """Why there may be more records than were found, None where there are not.

    Args:
        data: The file.
        index: Its frames.
        tail: What follows the last record, None where nothing does.
        number: Of the frame that is.
    """
    told = told_frames(data.uri, data.size)
    known = "" if told is None else f" (its index has {len(told[0])} records)"
    if tail is None:
        if told is None or not _goes_on(index, told):
            return None
        return (
            f"{data.uri} ends after {len(index)} records, of which its index has "
            f"{len(told[0])}: write the file again, or delete the index if it is old"
        )
    if tail.kind is Kind.CUT:
        what = f"the file breaks off in record {number} at byte {tail.start}"
    else:
        what = f"bytes {tail.start} to {data.size} are no record"
    return (
        f"{data.uri}: {what}{known}; the {number} before are kept, write the file again "
        "to have the rest"
    )


def _goes_on(index: TFRecordIndex, told: Frames) -> bool:
    """Whether an index has all frames of a file, and more after them."""
    n = len(index)
    return (
        len(told[0]) > n
        and np.array_equal(told[0][:n], index.offsets)
        and np.array_equal(told[1][:n], index.lengths)
    )


def frames_from(uri: str, start: int, count: int) -> TFRecordIndex:
    """`count` frames from the one at byte `start` on, by their headers.

    Raises:
        StorageError: The file cannot be read, or is not as it was when indexed.
    """
    with open_input(uri) as file:
        data = FileBytes(uri, file, file.size())
        found = list(islice(spans(data, start), count))
    if len(found) != count:
        message = f"{uri} has changed since it was indexed: run again"
        raise StorageError(message)
    return TFRecordIndex(
        np.array([span.start for span in found], np.int64),
        np.array([span.end - span.start for span in found], np.int64),
    )


def frames_beside(uri: str, first: int, count: int) -> TFRecordIndex:
    """`count` frames from record `first` on, from the `.index.npz` beside the file.

    Raises:
        StorageError: It is not there any more, or does not fit.
    """
    with open_input(uri) as file:
        # Its headers were compared when the file was indexed.
        frames = sidecar_frames(uri, file.size())
    last = first + count
    if frames is None or len(frames[0]) < last:
        message = f"the index beside {uri} has changed since it was read: run again"
        raise StorageError(message)
    offsets, lengths = (values[first:last] for values in frames)
    return TFRecordIndex(offsets, lengths)
