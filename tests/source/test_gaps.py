"""What a broken TFRecord costs, and what is said of it, case by case."""

import struct
import tracemalloc

import fsspec
import numpy as np
import pytest

from raylatent.errors import ContentError, SourceError
from raylatent.source import filebytes
from raylatent.source import index as module
from raylatent.source.filebytes import read_records
from raylatent.source.index import frames_from, index_tfrecord
from raylatent.source.record import frame, masked_crc
from tests.source.frames import check, frames_of, write_sidecar

CONTENTS = [bytes([i]) * (20 + i) for i in range(6)]


def broken(headers, at=0):
    """A file of CONTENTS with a flipped byte in some headers."""
    content = bytearray(b"".join(map(frame, CONTENTS)))
    for i in headers:
        content[frames_of(CONTENTS)[i, 0] + at] ^= 0xFF
    return bytes(content)


@pytest.mark.parametrize("headers", [[0], [2], [5], [2, 3], [0, 1, 2], [1, 3, 5]])
def test_wrong_checksums_of_right_lengths_cost_one_record_each(tmp_path, headers):
    path = tmp_path / "s.tfrecords"
    index = check(path, broken(headers, at=9))
    assert index.error is None
    assert np.array_equal(index.offsets, frames_of(CONTENTS)[:, 0])
    found = read_records(str(path), index.offsets, index.lengths)
    assert [i for i, f in enumerate(found) if isinstance(f, ContentError)] == headers
    says = "wrong checksum of the record's length: the bytes are one record"
    assert {str(found[i]) for i in headers} == {says}


def test_neighbors_with_wrong_lengths_are_one_gap(tmp_path):
    path = tmp_path / "s.tfrecords"
    index = check(path, broken([1, 2, 4], at=0))
    starts = frames_of(CONTENTS)[:, 0]
    assert index.offsets.tolist() == starts[[0, 1, 3, 4, 5]].tolist()
    found = read_records(str(path), index.offsets, index.lengths)
    says = "no right record length in these bytes: one tile or more"
    assert says in str(found[1])
    assert "are one record" in str(found[3])


@pytest.mark.parametrize("headers", [[1, 2], [0, 1, 2, 3, 4], [3, 4, 5], range(6)])
def test_an_index_that_fits_tells_neighbors_apart(tmp_path, headers):
    path = tmp_path / "s.tfrecords"
    write_sidecar(path, frames_of(CONTENTS))
    index = check(path, broken(headers, at=0))
    assert index.sidecar
    found = read_records(str(path), index.offsets, index.lengths)
    bad = [i for i, f in enumerate(found) if isinstance(f, ContentError)]
    assert bad == list(headers)


def test_zeros_over_several_records_with_an_index(tmp_path):
    path = tmp_path / "s.tfrecords"
    write_sidecar(path, frames_of(CONTENTS))
    starts = frames_of(CONTENTS)[:, 0]
    content = bytearray(b"".join(map(frame, CONTENTS)))
    content[starts[1] : starts[4]] = bytes(starts[4] - starts[1])
    index = check(path, bytes(content))
    assert index.sidecar
    assert len(index) == 6


def test_bytes_that_are_missing_within_a_record(tmp_path):
    """The length is right, but the next record begins earlier."""
    starts = frames_of(CONTENTS)[:, 0]
    content = bytearray(b"".join(map(frame, CONTENTS)))
    del content[starts[2] + 14 : starts[2] + 19]
    path = tmp_path / "s.tfrecords"
    index = check(path, bytes(content))
    assert index.error is None
    assert index.lengths.tolist() == [36, 37, 33, 39, 40, 41]
    found = read_records(str(path), index.offsets, index.lengths)
    assert "the record has other bytes in it" in str(found[2])


def test_a_payload_that_holds_records(tmp_path):
    """Its own length comes before what looks like records in it."""
    inner = b"".join(frame(c) for c in CONTENTS)
    content = bytearray(frame(b"first") + frame(inner) + frame(b"last"))
    content[21 + 9] ^= 1
    path = tmp_path / "s.tfrecords"
    path.write_bytes(content)
    index = index_tfrecord(str(path))
    assert index.lengths.tolist() == [21, len(inner) + 16, 20]


@pytest.mark.parametrize(
    ("tail", "says"),
    [
        (b"garbage", "bytes 231 to 238 are no record"),
        (bytes(5000), "bytes 231 to 5231 are no record"),
        (frame(b"x" * 50)[:40], "breaks off in record 6 at byte 231"),
        (frame(b"x" * 50)[:12], "breaks off in record 6 at byte 231"),
        (b"\0" + frame(b"x" * 50)[1:], None),  # surely one record
        (frame(b"x") + b"y" * 40, "bytes 248 to 288 are no record"),
    ],
)
@pytest.mark.parametrize("beside", [True, False])
def test_tails(tmp_path, tail, says, beside):
    path = tmp_path / "s.tfrecords"
    if beside:
        write_sidecar(path, frames_of([*CONTENTS, b"x" * 50, b"y"]))
    index = check(path, b"".join(map(frame, CONTENTS)) + tail)
    assert len(index) == 7 + (tail[:17] == frame(b"x"))
    if says is None and beside:
        says = "ends after 7 records, of which its index has 8: write the file again"
    assert (index.error is None) == (says is None)
    if says:
        assert says in index.error
        assert ("its index has 8" in index.error) == beside


def test_a_file_full_of_what_looks_like_headers_is_given_up(tmp_path, monkeypatch):
    header = struct.pack("<Q", 100)
    false = header + struct.pack("<I", masked_crc(header)) + b"xyz"
    content = b"\1" * 10 + false * 200 + frame(b"good")
    path = tmp_path / "s.tfrecords"
    index = check(path, content)
    assert len(index) == 2
    monkeypatch.setattr(module, "_MAX_CHECKS", 50)
    path.write_bytes(content)
    with pytest.raises(SourceError, match="is no TFRecord"):
        index_tfrecord(str(path))


def claiming(length, *, right):
    """A header of a record of so many bytes."""
    header = struct.pack("<Q", length)
    return header + struct.pack("<I", masked_crc(header) ^ (not right))


@pytest.mark.parametrize(
    "unit",
    [
        claiming(1 << 20, right=False) + frame(b""),
        claiming(1 << 20, right=True) + frame(b""),
        claiming(1 << 20, right=False) + claiming(1 << 19, right=True) + frame(b""),
        claiming(0, right=False) + struct.pack("<I", masked_crc(b"")),
    ],
)
def test_bytes_that_claim_long_payloads_cost_little(tmp_path, monkeypatch, unit):
    """What is read is in proportion to the file, however many claim half of it."""
    n = 500
    path = tmp_path / "s.tfrecords"
    noise = np.random.default_rng(0).bytes(2 << 20)
    path.write_bytes(frame(b"first") + unit * n + noise)
    taken = 0
    loading = filebytes.read_range

    def counted(file, uri, start, n_bytes):
        nonlocal taken
        taken += n_bytes
        return loading(file, uri, start, n_bytes)

    monkeypatch.setattr(filebytes, "read_range", counted)
    index = index_tfrecord(str(path))
    assert len(index) > n
    assert taken < 60 << 20  # not 500 MiB


def test_a_long_record_survives_what_is_broken_around_it(tmp_path):
    """Its payload is read once as much is searched: no record follows it."""
    long = np.random.default_rng(0).bytes(3 << 20)
    contents = [b"a", b"b", long, b"c", b"d"]
    content = bytearray(b"".join(map(frame, contents)))
    for i in (1, 3):
        content[frames_of(contents)[i, 0]] ^= 0xFF
    path = tmp_path / "s.tfrecords"
    path.write_bytes(content)
    index = index_tfrecord(str(path))
    assert index.offsets.tolist() == frames_of(contents)[:, 0].tolist()
    content[frames_of(contents)[1, 0] + 12] ^= 0xFF  # its end is not known any more
    path.write_bytes(content)
    index = index_tfrecord(str(path))
    assert index.offsets.tolist() == frames_of(contents)[:, 0].tolist()
    middle = frames_from(str(path), int(index.offsets[1]), 3)
    assert np.array_equal(middle.lengths, index.lengths[1:4])


def test_large_records_are_not_read_unless_they_are_whole(tmp_path, monkeypatch):
    content = frame(bytes(3 << 20)) + frame(b"small")
    hole = bytearray(content)
    hole[3] ^= 1
    path = tmp_path / "s.tfrecords"
    path.write_bytes(hole)
    monkeypatch.setattr(filebytes, "_TOGETHER_BYTES", 1 << 20)
    monkeypatch.setattr(filebytes, "_CHUNK_BYTES", 1 << 16)
    index = index_tfrecord(str(path))
    tracemalloc.start()
    found = read_records(str(path), index.offsets, index.lengths)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "are one record" in str(found[0])
    assert found[1] == b"small"
    assert peak < 1 << 20
    path.write_bytes(content)
    found = read_records(str(path), index.offsets, index.lengths)
    assert found == [bytes(3 << 20), b"small"]
    monkeypatch.setattr(filebytes, "MAX_BYTES", 2 << 20)
    found = read_records(str(path), index.offsets, index.lengths)
    assert "tiles have at most 2097152" in str(found[0])


def test_a_large_gap_in_a_remote_file(monkeypatch):
    """Several requests, bounded memory."""
    generator = np.random.default_rng(0)
    content = bytearray(generator.bytes(20 << 20))
    content[:20] = frame(b"abcd")
    content += frame(b"last")
    memory = fsspec.filesystem("memory")
    memory.pipe("/resync/s.tfrecords", bytes(content))
    try:
        index = index_tfrecord("memory://resync/s.tfrecords")
        assert index.lengths.tolist() == [20, (20 << 20) - 20, 20]
        found = read_records(
            "memory://resync/s.tfrecords", index.offsets, index.lengths
        )
    finally:
        memory.rm("/resync", recursive=True)
    assert found[::2] == [b"abcd", b"last"]
    assert isinstance(found[1], ContentError)
