"""TFRecords of given payloads, with and without an index beside them."""

import struct

import numpy as np

from raylatent.errors import ContentError, SourceError
from raylatent.source.filebytes import read_records
from raylatent.source.index import frames_from, index_tfrecord
from raylatent.source.record import FRAME_BYTES, frame, header_length, masked_crc


def write_frames(folder, contents, name="s.tfrecords"):
    path = folder / name
    path.write_bytes(b"".join(frame(content) for content in contents))
    return path


def write_sidecar(path, frames, **others):
    with (path.parent / f"{path.stem}.index.npz").open("wb") as file:
        np.savez(file, arr_0=np.asarray(frames), **others)


def frames_of(contents):
    lengths = np.array([len(content) + FRAME_BYTES for content in contents])
    return np.stack([np.cumsum(lengths) - lengths, lengths], axis=1)


def remove(path):
    for name in (path, path.parent / f"{path.stem}.index.npz"):
        name.unlink(missing_ok=True)


def whole_records(content):
    """Where whole records begin and end, wherever they are."""
    found = []
    for start in range(len(content) - FRAME_BYTES + 1):
        length = header_length(content[start : start + 12])
        end = start + FRAME_BYTES + (length or 0)
        if length is not None and end <= len(content):
            payload = content[start + 12 : end - 4]
            if content[end - 4 : end] == struct.pack("<I", masked_crc(payload)):
                found.append((start, end))
    return found


def check(path, content):
    """What is promised of any file; its index, None where it is no TFRecord."""
    path.write_bytes(content)
    whole = whole_records(content)
    try:
        index = index_tfrecord(str(path))
    except SourceError as error:
        assert "is no TFRecord" in str(error)  # noqa: PT017
        assert not whole
        return None
    starts, ends = index.offsets, index.offsets + index.lengths
    assert starts.tolist() == [0, *ends[:-1]][: len(index)]
    assert (ends[-1] if len(index) else 0) == len(content)
    found = read_records(str(path), index.offsets, index.lengths)
    for i in range(len(index) if not index.sidecar else 0):
        again = frames_from(str(path), int(starts[i]), len(index) - i)
        assert np.array_equal(again.offsets, starts[i:])
        assert np.array_equal(again.lengths, index.lengths[i:])
    good = set()
    for start, end, payload in zip(starts, ends, found, strict=True):
        if isinstance(payload, ContentError):
            assert payload.stage == "read"
            continue
        good.add((int(start), int(end)))
        assert payload == content[start + 12 : end - 4]
    assert good <= set(whole)
    # A record whose length is right, up to where another begins, is taken as told, as a
    # length that fits its payload is; what lies in it cannot be seen.
    for start, end in set(whole) - good:
        i = int(np.searchsorted(starts, start, side="right")) - 1
        header = content[starts[i] : starts[i] + 12]
        told = FRAME_BYTES + int.from_bytes(header[:8], "little")
        assert end <= ends[i] or (starts[i], ends[i]) in good  # they overlap
        assert told == index.lengths[i]
    return index
