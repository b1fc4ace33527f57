"""An index of another version of the file, told from rotten headers."""

import pytest

from raylatent.source.filebytes import read_records
from raylatent.source.index import index_tfrecord
from tests.source.frames import frames_of, write_frames, write_sidecar


def rot(path, *headers):
    """Flip a bit in these headers."""
    content = bytearray(path.read_bytes())
    for offset in headers:
        content[offset + 9] ^= 4
    path.write_bytes(content)


def swapped(contents, i, j):
    after = list(contents)
    after[i], after[j] = after[j], after[i]
    return after


@pytest.mark.parametrize("n", [1000, 7])
def test_two_records_that_changed_places(tmp_path, n):
    """Also between the records that a few probes would look at."""
    before = [bytes(10 + i % 30) for i in range(n)]
    after = swapped(before, 3, 5)
    path = write_frames(tmp_path, after)
    write_sidecar(path, frames_of(before))
    index = index_tfrecord(str(path))
    assert not index.sidecar
    assert read_records(str(path), index.offsets, index.lengths) == after


def test_rotten_headers_are_bridged_by_the_index_that_fits(tmp_path):
    contents = [bytes(10 + i) for i in range(9)]
    path = write_frames(tmp_path, contents)
    frames = frames_of(contents)
    write_sidecar(path, frames)
    rot(path, *frames[[0, 4, 8], 0])
    index = index_tfrecord(str(path))
    assert (len(index), index.sidecar, index.error) == (9, True, None)
    found = read_records(str(path), index.offsets, index.lengths)
    assert [i for i in range(9) if found[i] != contents[i]] == [0, 4, 8]


@pytest.mark.parametrize("rotten", [2, 3, 4, 5])
def test_an_old_index_is_not_taken_for_rot(tmp_path, rotten):
    before = [bytes(10 + i) for i in range(9)]
    after = swapped(before, 3, 5)
    path = write_frames(tmp_path, after)
    write_sidecar(path, frames_of(before))
    rot(path, frames_of(after)[rotten, 0])
    index = index_tfrecord(str(path))
    assert not index.sidecar
    assert index.error is None
    found = read_records(str(path), index.offsets, index.lengths)
    assert [i for i in range(9) if found[i] != after[i]] == [rotten]
