"""Files below a root: one step or nothing, retries, every kind of path."""

import errno
import os
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pytest

from raylatent.errors import RunError, StorageError
from raylatent.storage import (
    ASIDE_SUFFIX,
    Store,
    file_stat,
    list_files,
    open_input,
    paths,
)

NAMES = ["a.bin", "slide=a b/0.bin", "é/ü ✓.bin", "%41/#x.bin", "שקף/🔬.bin"]


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """Retries as many as ever, without waiting; the waits that were asked for."""
    asked = []
    monkeypatch.setattr(paths.time, "sleep", asked.append)
    return asked


@pytest.fixture(params=["local", "memory", "pyarrow"])
def store(request, tmp_path, monkeypatch):
    """A store in a local folder, in fsspec, and in a pyarrow file system with a scheme."""
    if request.param == "local":
        yield Store(tmp_path / "run ✓")
    elif request.param == "memory":
        store = Store("memory://bucket/run ✓/")
        yield store
        store.delete_folder("")
    else:
        below = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
        monkeypatch.setattr(paths, "_remote_filesystem", lambda root: below)
        (tmp_path / "bucket" / "run").mkdir(parents=True)
        for name in NAMES:
            (tmp_path / "bucket" / "run" / name).parent.mkdir(exist_ok=True)
        yield Store("s3://bucket/run")


def litter(folder):
    return [
        path for path in Path(folder).rglob("*") if path.name.endswith(ASIDE_SUFFIX)
    ]


def test_write_read_list_delete(store):
    assert store.list() == []
    assert store.list("none") == []
    for i, name in enumerate(NAMES):
        store.write(name, bytes([i]))
    store.write(NAMES[0], pa.py_buffer(b"again"))
    assert store.list() == sorted(NAMES)
    assert store.list("slide=a b") == ["slide=a b/0.bin"]
    assert store.sizes("slide=a b") == {
        "slide=a b/0.bin": len(store.read("slide=a b/0.bin"))
    }
    assert store.sizes("none") == {}
    assert store.read(NAMES[0]) == b"again"
    assert [store.read(name) for name in NAMES[1:]] == [b"\1", b"\2", b"\3", b"\4"]
    with store.open("a.bin") as file:
        assert (file.size(), file.read_at(2, 3)) == (5, b"in")
    child = store.child("é")
    assert child.list() == ["ü ✓.bin"]
    assert child.exists("ü ✓.bin")
    assert not store.exists("é")
    store.delete("a.bin")
    store.delete("a.bin")
    assert not store.exists("a.bin")
    store.move("é/ü ✓.bin", "removed/é/x.bin")
    assert store.read("removed/é/x.bin") == b"\2"
    assert store.list("é") == []
    store.delete_folder("removed")
    store.delete_folder("removed")
    assert store.list() == sorted(["slide=a b/0.bin", "%41/#x.bin", "שקף/🔬.bin"])


def test_the_same_from_another_process(store):
    store.write("a.bin", b"x")
    again = pickle.loads(pickle.dumps(store))  # noqa: S301
    assert (again.uri, again.writer) == (store.uri, store.writer)
    assert again.read("a.bin") == b"x"


def test_create_only_once(store):
    assert store.create("claim", b"1")
    assert not store.create("claim", b"2")
    assert store.read("claim") == b"1"
    assert store.asides() == []


def test_what_is_not_there(store):
    with pytest.raises(StorageError, match="none"):
        store.read("none")
    with pytest.raises(StorageError, match="none"):
        store.open("none")


def test_files_of_a_folder_with_their_stat(store):
    for name in NAMES:
        store.write(name, b"123")
    found = list_files(store.uri)
    assert found == sorted(f"{store.uri}/{name}" for name in NAMES)
    for file in found:
        assert file_stat(file).size == 3
        assert list_files(file) == [file]
        with open_input(file) as opened:
            assert opened.read() == b"123"
    assert list_files(f"{store.uri}/none") is None
    with pytest.raises(StorageError, match="no such file"):
        file_stat(f"{store.uri}/none")


@pytest.mark.parametrize("broken", ["fsync", "replace", "write"])
def test_an_exception_while_writing_leaves_the_old_file(tmp_path, monkeypatch, broken):
    store = Store(tmp_path)
    store.write("a/b", b"old")

    def fail(*args):
        raise KeyboardInterrupt

    if broken == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    elif broken == "replace":
        monkeypatch.setattr(Path, "replace", fail)
    data = object() if broken == "write" else b"new"
    with pytest.raises((KeyboardInterrupt, TypeError)):
        store.write("a/b", data)
    assert store.read("a/b") == b"old"
    assert store.asides() == []
    assert litter(tmp_path) == []


def test_a_file_shows_only_when_it_is_whole(tmp_path, monkeypatch):
    store = Store(tmp_path, writer="me")
    seen = []

    def look(descriptor):
        seen.append((store.list(), store.asides(), store.exists("a/b")))

    monkeypatch.setattr(os, "fsync", look)
    store.write("a/b", b"new")
    ((listed, asides, there),) = seen
    assert (listed, there) == ([], False)
    assert len(asides) == 1
    assert asides[0].startswith("a/.me-")
    assert store.list() == ["a/b"]


def test_a_full_disk_while_writing(tmp_path, monkeypatch, waits):
    store = Store(tmp_path)
    store.write("a", b"old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    says = r"cannot write .*/a: .*No space.* \(make room and run again\)"
    with pytest.raises(StorageError, match=says):
        store.write("a", b"new")
    assert (store.read("a"), litter(tmp_path), waits) == (b"old", [], [])


def test_a_write_is_repeated_as_a_whole(tmp_path, monkeypatch, waits):
    store = Store(tmp_path)
    real, left = os.fsync, iter([1, 2])

    def flaky(descriptor):
        if next(left, None):
            raise OSError(errno.EIO, "flaky")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", flaky)
    store.write("a", b"new")
    assert (store.read("a"), litter(tmp_path), len(waits)) == (b"new", [], 2)


def test_a_full_disk_while_appending(tmp_path, waits):
    store = Store(tmp_path)
    store.write("a", b"old")

    class Full:
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    with (
        pytest.raises(
            StorageError, match=r"/a: .*No space.* \(make room and run again"
        ),
        store.writing("a") as append,
    ):
        append.func(Full(), *append.args[1:], b"new")
    assert (store.read("a"), litter(tmp_path), waits) == (b"old", [], [])


def test_create_where_there_are_no_links(tmp_path, monkeypatch):
    def no_links(*args):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", no_links)
    store = Store(tmp_path)
    assert store.create("claim", b"1")
    assert not store.create("claim", b"2")
    assert (store.read("claim"), litter(tmp_path)) == (b"1", [])


@pytest.mark.parametrize("root", ["file", "file/run", "file/a/run"])
def test_a_root_that_is_a_file_or_below_one(tmp_path, root):
    (tmp_path / "file").write_bytes(b"")
    store = Store(tmp_path / root)
    for action in (
        lambda: store.write("run.json", b"x"),
        lambda: store.create("claim/0.json", b"x"),
        store.list,
    ):
        with pytest.raises(RunError, match=r"/file is a file, not a folder"):
            action()
    assert not store.exists("run.json")
    assert (tmp_path / "file").read_bytes() == b""


def test_a_file_where_a_folder_is_wanted_below_the_root(tmp_path):
    store = Store(tmp_path)
    store.write("a", b"x")
    with pytest.raises(StorageError, match="cannot write"):
        store.write("a/b", b"x")
