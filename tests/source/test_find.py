"""Which slides there are."""

import errno
import os
from pathlib import Path

import pytest

from raylatent.errors import ConfigError, SourceError
from raylatent.source.find import find_tfrecords, slide_name


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return [str(folder / name) for name in names]


def test_folders_are_searched_files_are_taken(tmp_path):
    a, b, c, *_ = touch(
        tmp_path,
        "in/b.tfrecords",
        "in/deep/er/a.tfrecord",
        "else/c.bin",
        "in/._b.tfrecords",
        "in/b.index.npz",
        "in/manifest.json",
        "in/x.tfrecords.part",
    )
    found = find_tfrecords([str(tmp_path / "in"), c])
    assert found == {"a": b, "b": a, "c.bin": c}
    assert list(found) == ["a", "b", "c.bin"]


@pytest.mark.parametrize(
    "name",
    ["007", "a b", "50%", "x=1%2F", "ü ✓", "a.b", "~tmp", "#1", "-a", "a.tfrecords"],
)
def test_names(tmp_path, name):
    (file,) = touch(tmp_path, f"{name}.tfrecords")
    assert find_tfrecords([str(tmp_path)]) == {name: file}
    assert find_tfrecords([file]) == {name: file}
    assert slide_name(f"s3://bucket/{name}.tfrecord") == name


def test_no_paths_no_slides():
    assert find_tfrecords([]) == {}


def test_what_holds_nothing(tmp_path):
    touch(tmp_path, "in/a.txt", "in/._a.tfrecords")
    for folder in ("in", "in/"):
        with pytest.raises(SourceError, match=r"in/? holds no \*\.tfrecords"):
            find_tfrecords([f"{tmp_path}/{folder}"])
    with pytest.raises(SourceError, match=r"no such file or folder: .*/none"):
        find_tfrecords([str(tmp_path / "none")])
    with pytest.raises(ConfigError, match="'' is no path"):
        find_tfrecords([""])


def test_two_files_of_one_stem_are_both_named(tmp_path):
    one, other = touch(tmp_path, "a/s.tfrecords", "b/s.tfrecord")
    with pytest.raises(SourceError, match="two slides are called 's'") as caught:
        find_tfrecords([str(tmp_path)])
    assert one in str(caught.value)
    assert other in str(caught.value)


def test_one_file_given_twice_is_one(tmp_path, monkeypatch):
    (file,) = touch(tmp_path, "a/s.tfrecords")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "s.tfrecords").symlink_to(file)
    monkeypatch.chdir(tmp_path)
    paths = [file, "a", "./a/", "a/s.tfrecords", f"file://{file}", "link", "b"]
    assert find_tfrecords(paths) == {"s": file}


def test_relative_paths_become_absolute(tmp_path, monkeypatch):
    (file,) = touch(tmp_path, "a/s.tfrecords")
    monkeypatch.chdir(tmp_path / "a")
    for path in (".", "s.tfrecords", "../a"):
        (found,) = find_tfrecords([path]).values()
        assert Path(found).is_absolute()
        assert Path(found).samefile(file)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_tfrecords(["~/a"]) == {"s": file}


def test_only_below_a_folder_of_a_name(tmp_path):
    file, _ = touch(tmp_path, "x/299px_302um/s.tfrecords", "x/96px/s.tfrecords")
    assert find_tfrecords([str(tmp_path)], below="299px_302um") == {"s": file}
    with pytest.raises(SourceError, match="holds no"):
        find_tfrecords([str(tmp_path)], below="px")


def test_a_link_to_nothing_is_not_passed_over(tmp_path):
    (tmp_path / "s.tfrecords").symlink_to(tmp_path / "none")
    assert list(find_tfrecords([str(tmp_path)])) == ["s"]


def test_a_name_that_is_not_utf8_is_said(tmp_path):
    os.close(os.open(os.fsencode(tmp_path) + b"/\xff.txt", os.O_CREAT))
    touch(tmp_path, "s.tfrecords")
    assert list(find_tfrecords([str(tmp_path)])) == ["s"]
    os.close(os.open(os.fsencode(tmp_path) + b"/\xff.tfrecords", os.O_CREAT))
    with pytest.raises(SourceError, match="not in UTF-8: rename the file"):
        find_tfrecords([str(tmp_path)])


def test_a_folder_that_cannot_be_read(tmp_path, monkeypatch):
    touch(tmp_path, "in/s.tfrecords")

    def scandir(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(SourceError, match=r"cannot be searched.*Permission denied"):
        find_tfrecords([str(tmp_path)])


def test_endings_in_any_case(tmp_path):
    one, other = touch(tmp_path, "A.TFRECORDS", "b.TFRecord")
    touch(tmp_path, "c.tfrecords.bak", "d.tfrecords~", "e.tfrecords.tmp")
    assert find_tfrecords([str(tmp_path)]) == {"A": one, "b": other}


def test_compressed_files_are_said(tmp_path, caplog):
    (file,) = touch(tmp_path, "a.tfrecords")
    touch(tmp_path, "a.tfrecords.gz", "other.csv.gz")
    assert find_tfrecords([str(tmp_path)]) == {"a": file}
    assert not caplog.messages  # it is there unpacked
    (packed,) = touch(tmp_path, "b.tfrecords.GZ")
    assert find_tfrecords([str(tmp_path)]) == {"a": file}
    assert f"1 TFRecords are compressed and left out, as {packed!r}" in caplog.text
    (tmp_path / "a.tfrecords").unlink()
    says = (
        r"holds no \*\.tfrecords or .*\(its files by ending: 3 \.gz\): give the folder"
    )
    with pytest.raises(SourceError, match=says):
        find_tfrecords([str(tmp_path)])


def test_a_file_whose_name_is_not_utf8_may_be_anything(tmp_path, caplog):
    from raylatent.source.slides import find_slides

    os.close(os.open(os.fsencode(tmp_path) + b"/\xff", os.O_CREAT))
    touch(tmp_path, "s.svs")
    assert list(find_slides([str(tmp_path)])) == ["s"]
    assert "it is not known whether" in caplog.text
