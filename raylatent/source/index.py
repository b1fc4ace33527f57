"""Where the records of a TFRecord file are: Slideflow's index beside it, or the headers.

The index is used where it fits the file.
"""

import io
import struct
import tokenize
import zipfile
import zlib
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from raylatent.errors import SourceError, StorageError
from raylatent.source.filebytes import FileBytes
from raylatent.source.record import (
    FRAME_BYTES,
    MAX_FRAME_BYTES,
    header_length,
    without_ending,
)
from raylatent.source.resync import Kind, Span, find_record, spans
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
_HEADED = (Kind.RECORD, Kind.CUT)


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
    if kind:
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
