"""Where the records of a TFRecord file are: Slideflow's index, or the headers."""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from raylatent.errors import SourceError, StorageError
from raylatent.source.filebytes import FileBytes
from raylatent.source.framing import header_length
from raylatent.source.resync import Kind, Span, spans
from raylatent.source.sidecar import (
    Frames,
    headers_agree,
    sidecar_frames,
    told_frames,
)
from raylatent.storage import open_input

_HEADED = (Kind.RECORD, Kind.CUT)


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
