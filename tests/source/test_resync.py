"""After any damage: all whole records are returned, and each byte is in one frame."""

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from raylatent.source import filebytes
from raylatent.source import index as module
from raylatent.source.record import FRAME_BYTES
from tests.source.frames import check, frames_of, remove, write_frames, write_sidecar

quick = settings(
    max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
payloads = st.lists(st.binary(max_size=60), min_size=1, max_size=8)
place = st.floats(0, 1, exclude_max=True)
damages = st.one_of(
    st.tuples(st.just("flip"), place, st.integers(0, 7)),
    st.tuples(st.just("byte"), place, st.integers(0, 255)),
    st.tuples(st.just("cut"), place, st.just(0)),
    st.tuples(st.just("append"), place, st.binary(min_size=1, max_size=50)),
    st.tuples(st.just("zero"), place, st.integers(1, 150)),
    st.tuples(st.just("double"), place, st.integers(1, 150)),
    st.tuples(st.just("delete"), place, st.integers(1, 150)),
)


def damaged(content, damage):
    """Content with one damage, and its name."""
    kind, where, how = damage
    content = bytearray(content)
    at = int(where * len(content))
    if kind == "append":
        return bytes(content) + how
    if not content:
        return b""
    if kind == "flip":
        content[at] ^= 1 << how
    elif kind == "byte":
        content[at] = how
    elif kind == "cut":
        del content[at:]
    elif kind == "zero":
        n = min(how, len(content) - at)
        content[at : at + n] = bytes(n)
    elif kind == "double":
        content[at:at] = content[at : at + how]
    else:
        del content[at : at + how]
    return bytes(content)


@quick
@given(payloads, st.lists(damages, min_size=1, max_size=3))
@example([b"a" * 9] * 4, [("zero", 0.0, 12)])
@example([b"a" * 9, b"", b"b" * 30, b"c"], [("delete", 0.3, 7)])
@example([bytes(8), b""], [("delete", 0.25, 12)])
@example([bytes(8), b""], [("delete", 0.5, 12)])
def test_whole_records_survive_any_damage(tmp_path, contents, hits):
    path = write_frames(tmp_path, contents)
    content = path.read_bytes()
    for hit in hits:
        content = damaged(content, hit)
    check(path, content)
    write_sidecar(path, frames_of(contents))
    check(path, content)
    remove(path)


@pytest.mark.parametrize("start", [b"x", b"\x1f\x8b", b"x\x01" * 9])
def test_a_damaged_start_that_looks_compressed_costs_one_record(tmp_path, start):
    path = write_frames(tmp_path, [b"one", b"two"])
    check(path, start + path.read_bytes())


@quick
@given(payloads, damages, st.lists(damages, min_size=1, max_size=3))
def test_a_damaged_index_costs_nothing(tmp_path, contents, hit, others):
    path = write_frames(tmp_path, contents)
    content = damaged(path.read_bytes(), hit)
    write_sidecar(path, frames_of(contents))
    sidecar = tmp_path / "s.index.npz"
    beside = sidecar.read_bytes()
    for other in others:
        beside = damaged(beside, other)
    sidecar.write_bytes(beside)
    check(path, content)
    remove(path)


@quick
@given(payloads, st.lists(damages, min_size=1, max_size=3), st.integers(1, 90))
def test_reading_by_pieces_changes_nothing(tmp_path, contents, hits, n_bytes):
    path = write_frames(tmp_path, contents)
    content = path.read_bytes()
    for hit in hits:
        content = damaged(content, hit)
    index = check(path, content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_FIRST_SEARCHED_BYTES", n_bytes)
        patch.setattr(module, "_SEARCHED_BYTES", n_bytes)
        patch.setattr(module, "_BLOCK", max(1, n_bytes // 3))
        patch.setattr(filebytes, "_WINDOW_BYTES", n_bytes + 12)
        patch.setattr(filebytes, "_CHUNK_BYTES", n_bytes)
        patch.setattr(filebytes, "_CHUNK_BYTES", n_bytes + 12)
        again = check(path, content)
    assert (index is None) == (again is None)
    if index is not None:
        assert np.array_equal(index.offsets, again.offsets)
        assert index.error == again.error
    remove(path)


@quick
@given(payloads, st.lists(damages, min_size=1, max_size=3), st.integers(20, 90))
def test_what_is_too_long_for_one_frame_is_several(tmp_path, contents, hits, most):
    path = write_frames(tmp_path, [c[: most - FRAME_BYTES] for c in contents])
    content = path.read_bytes()
    for hit in hits:
        content = damaged(content, hit)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_FRAME_BYTES", most)
        index = check(path, content)
    if index is not None:
        assert (index.lengths <= most).all()
    remove(path)
