"""The index that Slideflow keeps beside a TFRecord, where it fits the file."""

import io
import struct
import tokenize
import zipfile
import zlib

import numpy as np
from numpy.typing import NDArray

from raylatent.errors import StorageError
from raylatent.source.filebytes import FileBytes
from raylatent.source.framing import FRAME_BYTES, MAX_FRAME_BYTES, without_ending
from raylatent.source.resync import find_record
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
