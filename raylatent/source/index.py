"""Where the records of a TFRecord file are: Slideflow's index, or the headers."""

import io
import struct
import tokenize
import zipfile
import zlib
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylatent.errors import SourceError, StorageError
from raylatent.source.framing import (
    FRAME_BYTES,
    HEADER_BYTES,
    MAX_PAYLOAD_BYTES,
    SUFFIXES,
    header_length,
)
from raylatent.storage import is_uri, open_input, retry

_WINDOW_BYTES = 4096  # small: the payloads between headers are mostly passed over
_REMOTE_WINDOW_BYTES = 4 << 20  # a request costs more than the bytes
_INDEX_MEMBER = "arr_0.npy"
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


def _sidecar_index(uri: str, file: pa.NativeFile, size: int) -> TFRecordIndex | None:
    """Slideflow's index, None where there is none or it does not fit the file."""
    index = _sidecar_frames(uri, size)
    if index is None or not _headers_agree(_Headers(uri, file), index):
        return None
    return index


def _sidecar_frames(uri: str, size: int) -> TFRecordIndex | None:
    """The index beside, None unless its frames fill a file of `size` bytes."""
    try:
        frames = _read_sidecar(sidecar_name(uri), size)
    except _NO_INDEX:
        return None
    if frames.ndim != 2 or frames.shape[1] != 2 or frames.dtype.kind not in "iu":
        return None
    offsets, lengths = np.ascontiguousarray(frames.astype(np.int64).T)
    ends = offsets + lengths
    if not len(ends) or offsets[0] != 0 or ends[-1] != size:
        return None
    if (lengths < FRAME_BYTES).any() or (offsets[1:] != ends[:-1]).any():
        return None
    if (lengths > MAX_PAYLOAD_BYTES + FRAME_BYTES).any():
        return None
    return TFRecordIndex(offsets, lengths, sidecar=True)


def sidecar_name(uri: str) -> str:
    """Where Slideflow keeps the index of a file.

    >>> sidecar_name("tiles/a.tfrecords")
    'tiles/a.index.npz'
    """
    for suffix in SUFFIXES:
        if uri.endswith(suffix):
            return f"{uri.removesuffix(suffix)}.index.npz"
    return f"{uri}.index.npz"


def _read_sidecar(name: str, size: int) -> NDArray[np.generic]:
    """The frames that an index gives; ValueError if there are too many to be true."""
    with open_input(name) as sidecar:
        # Frames and locations are 16 bytes a record each, a record at least as many.
        largest = 4 * size + (1 << 16)
        if sidecar.size() > largest:
            raise ValueError(name)
        data = bytes(retry(sidecar.read, f"read {name}"))
    with zipfile.ZipFile(io.BytesIO(data)) as members:
        if members.getinfo(_INDEX_MEMBER).file_size > largest:
            raise ValueError(name)
        array = np.lib.format.read_array(
            io.BytesIO(members.read(_INDEX_MEMBER)), allow_pickle=False
        )
    return np.asarray(array)


class _Headers:
    """Headers of a file's records, read by windows."""

    def __init__(self, uri: str, file: pa.NativeFile) -> None:
        self._uri, self._file = uri, file
        self._window, self._start = memoryview(b""), 0
        self._window_bytes = _REMOTE_WINDOW_BYTES if is_uri(uri) else _WINDOW_BYTES

    def at(self, offset: int) -> memoryview:
        """The header that begins at a byte, shorter where the file ends in it."""
        if not (
            self._start <= offset
            and offset + HEADER_BYTES <= self._start + len(self._window)
        ):
            read = partial(self._file.read_at, self._window_bytes, offset)
            self._window = memoryview(retry(read, f"read {self._uri}"))
            self._start = offset
        begin = offset - self._start
        return self._window[begin : begin + HEADER_BYTES]


def _headers_agree(headers: _Headers, index: TFRecordIndex) -> bool:
    """Whether every header is where the index has it and tells the same length.

    An index of another version of the file parts from it at some record, and up to
    there all headers are right: that record's header tells another length. A header
    with a wrong checksum is bit rot; the index stands in for it if the next header is
    right again, or the file ends there.
    """
    broken_before, right = False, 0
    for offset, frame_bytes in zip(index.offsets, index.lengths, strict=True):
        length = header_length(headers.at(int(offset)))
        if length is None:
            if broken_before:
                return False
            broken_before = True
            continue
        if length != int(frame_bytes) - FRAME_BYTES:
            return False
        broken_before, right = False, right + 1
    return right > 0 or len(index) == 1


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
        # Its headers were compared when the file was indexed.
        index = _sidecar_frames(uri, file.size())
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
    headers = _Headers(uri, file)
    offset = first
    while offset < size and len(offsets) != count:
        header = headers.at(offset)
        length = header_length(header)
        end = offset + FRAME_BYTES + (length or 0)
        if length is None or end > size or length > MAX_PAYLOAD_BYTES:
            cut = len(header) < HEADER_BYTES or (length is not None and end > size)
            error = _framing_error(uri, offset, len(offsets), cut=cut)
            break
        offsets.append(offset)
        lengths.append(end - offset)
        offset = end
    return TFRecordIndex(
        np.array(offsets, np.int64), np.array(lengths, np.int64), error
    )


def _framing_error(uri: str, offset: int, n_before: int, *, cut: bool) -> str:
    if not n_before and cut:
        return f"{uri} breaks off in its first record: write the file again"
    if not n_before:
        return (
            f"{uri} is no TFRecord: its first record header is wrong, leave it out or "
            "write it again"
        )
    what = "the file breaks off in" if cut else "broken header of"
    return (
        f"{uri}: {what} record {n_before} at byte {offset}; the {n_before} records "
        "before it are kept, write the file again to have the rest"
    )
