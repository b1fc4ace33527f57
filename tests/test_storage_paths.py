"""Paths and URIs, listing through links, and what is tried again."""

import errno
import logging
import os
from pathlib import Path

import pyarrow as pa
import pytest

from raylatent.errors import ConfigError, StorageError
from raylatent.storage import (
    NOT_SEEN,
    Store,
    absolute,
    file_stat,
    is_uri,
    list_files,
    list_stats,
    look_at,
    paths,
    retry,
)


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """Retries as many as ever, without waiting; the waits that were asked for."""
    asked = []
    monkeypatch.setattr(paths.time, "sleep", asked.append)
    return asked


def failing(times, error):
    """An action that fails some times and then gives 7."""
    left = iter(range(times))

    def action():
        if next(left, None) is not None:
            raise error
        return 7

    return action


def test_io_errors_are_retried(waits, caplog):
    with caplog.at_level(logging.WARNING):
        assert retry(failing(3, OSError(errno.EIO, "flaky")), "read x") == 7
    assert waits == list(paths.RETRY_WAITS_S[:3])
    assert "cannot read x" in caplog.text


def test_at_last_an_io_error_is_ours(waits):
    with pytest.raises(StorageError, match=r"cannot read x.*flaky"):
        retry(failing(99, OSError(errno.EIO, "flaky")), "read x")
    assert waits == list(paths.RETRY_WAITS_S)
    assert sum(waits) > 60


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EROFS, "Read-only"),
        OSError(errno.ENAMETOOLONG, "too long"),
        FileNotFoundError("x"),
        PermissionError(errno.EACCES, "denied"),
        FileExistsError("x"),
        NotADirectoryError("x"),
        OSError("When reading: AWS Error ACCESS_DENIED during HeadObject"),
        OSError("Bucket 'no-such' not found"),
        pa.ArrowInvalid("bad path"),
        ValueError("embedded null byte"),
    ],
)
def test_what_waiting_does_not_mend_is_final(waits, error):
    with pytest.raises(StorageError, match=r"cannot write run\.json") as caught:
        retry(failing(99, error), "write run.json")
    assert waits == []
    assert "\n" not in str(caught.value)


def test_a_full_disk_says_what_to_do():
    with pytest.raises(StorageError, match="make room and run again"):
        retry(failing(9, OSError(errno.ENOSPC, "No space left on device")), "write x")


def test_bugs_are_not_taken_for_storage():
    with pytest.raises(KeyError):
        retry(failing(1, KeyError("x")), "read x")


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/a/b/", "/a/b"),
        ("/a//b", "/a/b"),
        ("/a/x://y", "/a/x://y".replace("//", "/")),
        ("/50%/a b#1", "/50%/a b#1"),
        ("file:///a%20b/%2341/%C3%A9", "/a b/#41/é"),
        ("file:///a/b/", "/a/b"),
        ("file://localhost/a", "/a"),
        ("s3://bucket/a b/%41/", "s3://bucket/a b/%41"),
        ("s3://bucket/", "s3://bucket"),
        ("memory://", "memory://"),  # not a local folder called `memory:`
    ],
)
def test_absolute(path, wanted):
    assert absolute(path) == wanted


def test_absolute_from_here_and_from_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert absolute("a/b") == f"{tmp_path}/a/b"
    assert absolute(Path("a")) == f"{tmp_path}/a"
    assert absolute(".") == str(tmp_path)
    assert absolute("~/a") == "/home/me/a"
    assert absolute("~no_such_user/a") == f"{tmp_path}/~no_such_user/a"
    assert absolute("a~") == f"{tmp_path}/a~"


@pytest.mark.parametrize(
    "path", ["", "  ", "a\0b", "a\udcffb", "file://host/a", "file:///%00"]
)
def test_what_is_no_path(path):
    with pytest.raises(ConfigError):
        absolute(path)


def test_is_uri():
    assert is_uri("gs://a/b")
    assert is_uri("abfs+x.1://a")
    assert not is_uri("/a/s3://b")
    assert not is_uri("C:/a")


def test_an_unknown_scheme():
    with pytest.raises(StorageError, match="cannot open nope:// paths"):
        Store("nope://a/b")


def test_links_are_followed_once(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "f").write_bytes(b"1")
    (tmp_path / "real" / "up").symlink_to(tmp_path)
    (tmp_path / "other").symlink_to(tmp_path / "real")
    (tmp_path / "self").symlink_to(tmp_path / "self")
    (tmp_path / "dangling").symlink_to(tmp_path / "none")
    found = [Path(file).name for file in list_files(tmp_path)]
    assert sorted(found) == ["dangling", "f", "self"]
    with pytest.raises(StorageError, match="dangling"):
        file_stat(tmp_path / "dangling")
    assert list_files(f"{tmp_path}/other/") == [
        f"{tmp_path}/other/f",
        *[f for f in list_files(f"{tmp_path}/other/") if "/up/" in f],
    ]


def test_names_that_are_not_utf8_do_not_stop_the_rest(tmp_path):
    os.close(os.open(os.fsencode(tmp_path) + b"/\xff", os.O_CREAT))
    (tmp_path / "a").write_bytes(b"")
    assert Path(list_files(tmp_path)[0]).name == "a"


def test_a_folder_that_cannot_be_read_is_said(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    real = os.scandir

    def scandir(path):
        if str(path).endswith("closed"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(StorageError, match=r"closed.*give yourself access"):
        list_files(tmp_path)


def test_a_store_of_fsspec_tells_when_a_file_was_replaced():
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.pipe("/marks/a/1.png", b"one")
    memory.pipe("/marks/2.png", b"two")
    before = list_stats("memory://marks")
    assert set(before) == {"a/1.png", "2.png"}
    uris = [f"memory://marks/{name}" for name in before]
    assert look_at([*uris, "memory://marks/gone"]) == [*before.values(), NOT_SEEN]
    assert file_stat(uris[0]) == next(iter(before.values()))
    memory.pipe("/marks/a/1.png", b"new")
    after = list_stats("memory://marks")
    assert after["2.png"] == before["2.png"]
    assert after["a/1.png"] != before["a/1.png"]
    assert after["a/1.png"].size == before["a/1.png"].size


def test_a_store_that_tells_nothing_of_its_files_is_said_once(monkeypatch, caplog):
    fsspec = pytest.importorskip("fsspec")
    fsspec.filesystem("memory").pipe("/blind/1.png", b"one")
    monkeypatch.setattr("raylatent.storage.paths._MARKS", ("ETag",))
    paths._say_no_mark.cache_clear()
    for _ in range(2):
        (one,) = list_stats("memory://blind").values()
    assert (one.size, one.mtime_ns, one.etag) == (3, None, None)
    assert caplog.text.count("memory://blind tells neither when a file was writ") == 1


def test_links_to_folders_outside_are_not_walked(tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").write_text("x")
    (tmp_path / "in" / "a").write_text("a")
    for name, target in (("o", "out"), ("r", "/"), ("n", "nothing"), ("d", "in/deep")):
        (tmp_path / "in" / name).symlink_to(tmp_path / target)
    (tmp_path / "in" / "self").symlink_to("self")
    found = list_stats(tmp_path / "in")
    assert {name for name, one in found.items() if one is NOT_SEEN} == {
        *("o", "r", "n", "self")
    }
    assert found["a"].size == 1
    assert len(found) == 5
