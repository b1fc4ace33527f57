"""Where the records are: from headers, from the index beside, after any damage."""

import gzip
import io
import pickle
import struct
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raylatent.errors import ContentError, SourceError, StorageError
from raylatent.source.filebytes import read_records
from raylatent.source.index import frames_beside, frames_from, index_tfrecord
from raylatent.source.record import HEADER_BYTES, frame, masked_crc
from tests.source.frames import frames_of, remove, write_frames, write_sidecar

quick = settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
payloads = st.lists(st.binary(max_size=40), min_size=1, max_size=6)


@quick
@given(payloads)
def test_the_index_beside_is_that_of_the_headers(tmp_path, contents):
    path = write_frames(tmp_path, contents)
    remove(tmp_path / "s.index.npz")
    from_headers = index_tfrecord(str(path))
    assert not from_headers.sidecar
    assert np.array_equal(
        np.stack([from_headers.offsets, from_headers.lengths], 1), frames_of(contents)
    )
    write_sidecar(path, frames_of(contents))
    beside = index_tfrecord(str(path))
    assert beside.sidecar
    assert np.array_equal(beside.offsets, from_headers.offsets)
    assert np.array_equal(beside.lengths, from_headers.lengths)
    remove(path)


@quick
@given(payloads, st.data())
def test_truncation_anywhere_costs_the_record_that_is_cut(tmp_path, contents, data):
    path = write_frames(tmp_path, contents)
    content = path.read_bytes()
    size = data.draw(st.integers(0, len(content) - 1), label="bytes left")
    path.write_bytes(content[:size])
    write_sidecar(path, frames_of(contents))  # does not fit any more
    ends = frames_of(contents).sum(axis=1)
    kept = int((ends <= size).sum())
    left = size - int(ends[kept - 1] if kept else 0)
    if not kept and 0 < size < HEADER_BYTES:
        with pytest.raises(SourceError, match="is no TFRecord"):
            index_tfrecord(str(path))
        remove(path)
        return
    index = index_tfrecord(str(path))
    assert len(index) == kept + bool(left)
    assert not index.sidecar
    found = read_records(str(path), index.offsets, index.lengths)
    assert found[:kept] == contents[:kept]
    if left:
        assert isinstance(found[kept], ContentError)
        says = (
            f"bytes {size - left} to {size} are no record"
            if left < HEADER_BYTES
            else f"the file breaks off in record {kept} at byte {size - left}"
        )
        assert f"{path}: {says} (its index has {len(contents)} records)" in index.error
    else:
        says = f"ends after {kept} records, of which its index has {len(contents)}"
        assert f"{path} {says}" in index.error
    remove(path)


def test_empty_and_one_record(tmp_path):
    empty = tmp_path / "empty.tfrecords"
    empty.write_bytes(b"")
    index = index_tfrecord(str(empty))
    assert (len(index), index.error) == (0, None)
    assert read_records(str(empty), [], []) == []
    one = write_frames(tmp_path, [b""], "one.tfrecords")
    index = index_tfrecord(str(one))
    assert (index.offsets.tolist(), index.lengths.tolist()) == ([0], [16])
    assert read_records(str(one), index.offsets, index.lengths) == [b""]
    with pytest.raises(StorageError, match=r"none\.tfrecords"):
        index_tfrecord(str(tmp_path / "none.tfrecords"))


@pytest.mark.parametrize(
    "content", [b"x" * 100, b"PK\x03\x04" + bytes(60), b"\xff" * 8, bytes(16)]
)
def test_not_a_tfrecord(tmp_path, content):
    path = tmp_path / "s.tfrecords"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=r"s\.tfrecords") as caught:
        index_tfrecord(str(path))
    assert "\n" not in str(caught.value)


def test_a_header_with_an_absurd_length(tmp_path):
    header = struct.pack("<Q", 1 << 62)
    path = tmp_path / "s.tfrecords"
    path.write_bytes(
        frame(b"good") + header + struct.pack("<I", masked_crc(header)) + bytes(99)
    )
    index = index_tfrecord(str(path))
    assert index.lengths.tolist() == [20, 111]
    assert "breaks off in record 1 at byte 20" in index.error


def unfit(contents):
    """Indexes that do not fit a file of these payloads."""
    good = frames_of(contents)
    moved = good.copy()
    moved[1:, 0] += 1
    moved[0, 1] += 1
    moved[-1, 1] -= 1
    return {
        "too short": good[:-1],
        "too long": np.concatenate([good, [[good[-1].sum(), 20]]]),
        "empty": good[:0],
        "one dimension": good[:, 0],
        "three columns": np.concatenate([good, good[:, :1]], axis=1),
        "float": good.astype(float),
        "negative": -good,
        "huge": good + (1 << 62),
        "same ends, other middle": moved,
        "text": np.array([["a", "b"]]),
        "reversed": good[::-1],
    }


@pytest.mark.parametrize("case", unfit([b"12345"] * 3))
def test_an_index_that_does_not_fit_is_ignored(tmp_path, case):
    contents = [b"12345"] * 3
    path = write_frames(tmp_path, contents)
    write_sidecar(path, unfit(contents)[case])
    index = index_tfrecord(str(path))
    assert not index.sidecar
    assert index.offsets.tolist() == frames_of(contents)[:, 0].tolist()
    assert (index.error is None) == (case != "too long")


def test_an_index_of_another_file_of_one_size_is_ignored(tmp_path):
    """Written anew, with other records that happen to fill as many bytes."""
    before = [bytes([i]) * (10 + i) for i in range(20)]
    path = write_frames(tmp_path, before[::-1])
    write_sidecar(path, frames_of(before))
    index = index_tfrecord(str(path))
    assert not index.sidecar
    assert read_records(str(path), index.offsets, index.lengths) == before[::-1]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([10, 30], [20, 20]),  # the first header tells another length
        ([9, 10, 20, 15, 9, 9], [9, 20, 10, 15, 9, 9]),
        ([9, *range(10, 48), 9], [9, *range(47, 9, -1), 9]),  # right at both ends
    ],
)
def test_a_rewritten_file_of_one_size(tmp_path, before, after):
    path = write_frames(tmp_path, [bytes(n) for n in after])
    write_sidecar(path, frames_of([bytes(n) for n in before]))
    index = index_tfrecord(str(path))
    assert index.offsets.tolist() == frames_of([bytes(n) for n in after])[:, 0].tolist()


def test_a_bomb_is_not_unpacked(tmp_path, monkeypatch):
    path = write_frames(tmp_path, [b"12345"])
    (tmp_path / "s.index.npz").write_bytes(damaged("x")["bomb"])
    monkeypatch.setattr(zipfile.ZipFile, "read", pytest.fail)
    assert not index_tfrecord(str(path)).sidecar


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def damaged(path):
    """Contents of files beside that are no index."""
    good = io.BytesIO()
    np.savez(good, arr_0=frames_of([b"12345"]))
    compressed = io.BytesIO()
    np.savez_compressed(compressed, arr_0=frames_of([b"12345"]))
    pickled = io.BytesIO()
    np.savez(pickled, arr_0=np.array([Bomb(path)], object), allow_pickle=True)
    no_array = io.BytesIO()
    with zipfile.ZipFile(no_array, "w") as members:
        members.writestr("other.npy", b"x")
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as members:
        members.writestr("arr_0.npy", bytes(50 << 20))
    header = io.BytesIO()
    with zipfile.ZipFile(header, "w") as members:
        text = (
            b"{'descr': '<i8', 'fortran_order': False, 'shape': (9" + b"9" * 14 + b",)}"
        )
        members.writestr(
            "arr_0.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text
        )
    broken = bytearray(compressed.getvalue())
    broken[60:90] = bytes(30)
    return {
        "pickle in npz": pickled.getvalue(),
        "pickle": pickle.dumps(Bomb(path)),
        "cut off": good.getvalue()[:-30],
        "broken deflate": bytes(broken),
        "empty": b"",
        "text": b"no index",
        "no array": no_array.getvalue(),
        "bomb": bomb.getvalue(),
        "absurd shape": header.getvalue(),
        "npy": good.getvalue()[40:],
    }


@pytest.mark.parametrize("case", damaged("x"))
def test_a_damaged_index_is_ignored_and_nothing_in_it_runs(tmp_path, case):
    mark = tmp_path / "executed"
    path = write_frames(tmp_path, [b"12345"])
    (tmp_path / "s.index.npz").write_bytes(damaged(mark)[case])
    index = index_tfrecord(str(path))
    assert (len(index), index.sidecar, index.error) == (1, False, None)
    assert not mark.exists()


def test_the_bomb_of_these_tests_works(tmp_path):
    mark = tmp_path / "executed"
    pickle.loads(pickle.dumps(Bomb(mark))).close()  # noqa: S301
    assert mark.exists()


@pytest.mark.parametrize("beside", [True, False])
def test_frames_of_a_unit(tmp_path, beside):
    contents = [bytes(i) for i in range(30)]
    path = str(write_frames(tmp_path, contents))
    frames = frames_of(contents)
    if beside:
        write_sidecar(tmp_path / "s.tfrecords", frames)
        index = frames_beside(path, 10, 7)
    else:
        index = frames_from(path, int(frames[10, 0]), 7)
    assert np.array_equal(np.stack([index.offsets, index.lengths], 1), frames[10:17])


def test_frames_of_a_unit_that_changed(tmp_path):
    path = write_frames(tmp_path, [b"abc"] * 5)
    with pytest.raises(StorageError, match="has changed since it was indexed"):
        frames_from(str(path), 2 * 19, 4)
    with pytest.raises(StorageError, match="has changed since it was read"):
        frames_beside(str(path), 0, 5)
    write_sidecar(path, frames_of([b"abc"] * 5))
    with pytest.raises(StorageError, match="run again"):
        frames_beside(str(path), 3, 3)


@pytest.mark.parametrize(
    ("pack", "says"),
    [
        (gzip.compress, r"a\.tfrecords is gzip'ed: .* so unpack it \(gunzip\), or"),
        (zlib.compress, r"a\.tfrecords is compressed by zlib"),
        (lambda data: zlib.compress(data, 1), "compressed by zlib"),
        (lambda data: zlib.compress(data, 9), "compressed by zlib"),
    ],
)
def test_a_compressed_file_is_called_so(tmp_path, pack, says):
    path = tmp_path / "a.tfrecords"
    path.write_bytes(pack(frame(b"payload") * 9))
    with pytest.raises(SourceError, match=says):
        index_tfrecord(str(path))


@pytest.mark.parametrize("n_bytes", [0x8B1F, 0x9C78, 0x0178])
def test_a_length_that_looks_like_compression_is_a_length(tmp_path, n_bytes):
    path = tmp_path / "a.tfrecords"
    path.write_bytes(frame(bytes(n_bytes)))
    assert index_tfrecord(str(path)).lengths.tolist() == [n_bytes + 16]
