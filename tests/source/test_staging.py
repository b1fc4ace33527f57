"""Copies of remote slides on a node: shared, bounded, never taken away in use."""

import gc
import uuid

import fsspec
import pytest

from raylatent.errors import ConfigError, StorageError
from raylatent.source import staging
from raylatent.source.slides import local_slide, slide_files, slide_stat
from raylatent.source.wsi import WSI
from tests.source import synthetic_slides as slides


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    folder = tmp_path / "scratch"
    monkeypatch.setenv(staging.ROOT_VARIABLE, str(folder))
    monkeypatch.delenv(staging.CAPACITY_VARIABLE, raising=False)
    monkeypatch.setattr(staging, "_PATIENCE_S", 0.0)
    return folder


@pytest.fixture
def remote():
    """Puts a file into memory:// and gives its URI."""
    memory = fsspec.filesystem("memory")
    root = f"/{uuid.uuid4().hex}"

    def put(name, content):
        memory.pipe_file(f"{root}/{name}", content)
        return f"memory:/{root}/{name}"

    yield put
    memory.rm(root, recursive=True)


def stage(uri):
    return staging.stage(slide_files(uri), slide_stat(uri))


def copies(scratch):
    return [entry for entry in scratch.iterdir() if entry.is_dir()]


def test_a_copy_is_made_once(scratch, remote):
    uri = remote("a.svs", b"x" * 1000)
    first, second = stage(uri), stage(uri)
    assert first.folder == second.folder
    assert (first.folder / "a.svs").read_bytes() == b"x" * 1000
    assert copies(scratch) == [first.folder]


def test_a_slide_that_changed_is_copied_again(scratch, remote):
    before = stage(remote("a.svs", b"one"))
    after = stage(remote("a.svs", b"other"))
    assert after.folder != before.folder
    assert (after.folder / "a.svs").read_bytes() == b"other"


def test_the_longest_unused_goes_when_room_is_needed(scratch, remote, monkeypatch):
    monkeypatch.setenv(staging.CAPACITY_VARIABLE, "2.5e-6")  # 2,500 bytes
    held = stage(remote("a.svs", b"a" * 1000))
    loose = stage(remote("b.svs", b"b" * 1000)).folder
    gc.collect()
    new = stage(remote("c.svs", b"c" * 1000))
    assert held.folder.is_dir()
    assert new.folder.is_dir()
    assert not loose.exists()


def test_what_is_in_use_is_waited_for_and_then_said(scratch, remote, monkeypatch):
    monkeypatch.setenv(staging.CAPACITY_VARIABLE, "1.5e-6")
    held = stage(remote("a.svs", b"a" * 1000))
    with pytest.raises(StorageError, match="in use"):
        stage(remote("b.svs", b"b" * 1000))
    waits = []

    def wait(seconds):
        waits.append(seconds)
        nonlocal held
        held = None
        gc.collect()

    monkeypatch.setattr(staging, "_PATIENCE_S", 60.0)
    monkeypatch.setattr(staging.time, "sleep", wait)
    assert stage(remote("b.svs", b"b" * 1000)).folder.is_dir()
    assert len(waits) == 1


def test_a_slide_larger_than_the_scratch_is_refused_at_once(
    scratch, remote, monkeypatch
):
    monkeypatch.setattr(staging, "_PATIENCE_S", 60.0)
    monkeypatch.setenv(staging.CAPACITY_VARIABLE, "1e-6")
    with pytest.raises(StorageError, match=staging.CAPACITY_VARIABLE):
        stage(remote("a.svs", b"a" * 2000))
    monkeypatch.setenv(staging.CAPACITY_VARIABLE, "much")
    with pytest.raises(ConfigError, match="much"):
        stage(remote("a.svs", b"a" * 2000))


def test_leftovers_of_a_worker_that_died_are_no_copy(scratch, remote):
    uri = remote("a.svs", b"whole")
    folder = stage(uri).folder
    gc.collect()
    folder.rename(folder.with_name(f"{folder.name}.aside"))
    assert (stage(uri).folder / "a.svs").read_bytes() == b"whole"
    assert [copy.name for copy in copies(scratch)] == [folder.name]


def test_a_scratch_that_cannot_be_is_a_sentence(tmp_path, remote, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv(staging.ROOT_VARIABLE, str(tmp_path / "file" / "scratch"))
    with pytest.raises(StorageError, match=staging.ROOT_VARIABLE):
        stage(remote("a.svs", b"x"))


def test_a_remote_slide_opens(scratch, remote, tmp_path):
    path = slides.write_slide(tmp_path / "s.tif", [slides.blob(300, 200)])
    uri = remote("s.tif", path.read_bytes())
    assert local_slide(uri).path.parent.parent == scratch
    wsi = WSI(uri, 64, 32)
    assert wsi.name == "s"
    assert (wsi[1, 1] == WSI(path, 64, 32)[1, 1]).all()


def test_companions_of_mirax_come_along(scratch, remote):
    uri = remote("s.mrxs", b"head")
    remote("s/Data0000.dat", b"data")
    folder = local_slide(uri).staged.folder
    assert (folder / "s.mrxs").read_bytes() == b"head"
    assert (folder / "s" / "Data0000.dat").read_bytes() == b"data"
