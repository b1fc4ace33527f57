"""What ran and which files were read."""

import gc
import os
import sys
import threading

import pytest

from raylatent.model import identity
from raylatent.model.identity import Watch, content_digest


def test_files_that_are_read(tmp_path, monkeypatch):
    for name in ("a.json", "b.txt", "c.py", "w.safetensors", "d.txt", "e.txt"):
        (tmp_path / name).write_text(name)
    monkeypatch.chdir(tmp_path)
    watch = Watch()
    with watch.opened_files():
        (tmp_path / "a.json").read_text()
        with open("b.txt", "rb"):  # noqa: PTH123
            pass
        (tmp_path / "c.py").read_text()
        (tmp_path / "w.safetensors").read_bytes()
        (tmp_path / "new.txt").write_text("its own")
        (tmp_path / "new.txt").read_text()
        other = threading.Thread(target=(tmp_path / "e.txt").read_text)
        other.start()
        other.join()
    (tmp_path / "d.txt").read_text()
    assert watch.files == {str(tmp_path.resolve() / n) for n in ("a.json", "b.txt")}


def test_digests_of_files(tmp_path, monkeypatch):
    monkeypatch.setattr(identity, "PART_BYTES", 4)
    file = tmp_path / "x"
    found = []
    for content in (
        b"12345678",
        b"1234_5678",
        b"1234-5678",
        b"1234-5679",
        b"0234-5678",
    ):
        file.write_bytes(content)
        found.append(content_digest(str(file)))
    assert found[1] == found[2]  # the middle of a large file
    assert len(set(found)) == 4
    assert content_digest(str(tmp_path / "none")) is None
    assert content_digest(os.devnull) is None


def ran_here():
    return 1


def test_a_profiler_goes_on():
    seen = []

    def profiler(frame, event, argument):
        seen.append(frame.f_code.co_name)

    watch = Watch()
    before = sys.getprofile()
    sys.setprofile(profiler)
    try:
        with watch.functions():
            ran_here()
        assert sys.getprofile() is profiler
    finally:
        sys.setprofile(before)
    assert id(ran_here.__code__) in watch.ran


def test_what_an_import_runs_is_left_out(tmp_path, monkeypatch):
    """It runs in the first of two starts alone."""
    text = "def early(): return 1\ndef late(): return 2\nearly()\n"
    (tmp_path / "watched_module.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    watch = Watch()
    try:
        with watch.functions():
            import watched_module

            watched_module.late()
    finally:
        sys.modules.pop("watched_module", None)
    names = {code.co_name for code, _ in watch.ran.values()}
    assert "late" in names
    assert "early" not in names


def test_errors_pass():
    watch = Watch()
    with pytest.raises(ValueError, match="invalid literal"), watch.functions():
        int("no number")
    assert sys.getprofile() != watch._event


def test_what_a_collection_calls_is_no_code_of_the_model():
    called = []

    def callback(phase, info):
        called.append(phase)

    watch = Watch()
    gc.callbacks.append(callback)
    try:
        with watch.functions():
            cycles = [[] for _ in range(50_000)]  # more than a collection waits for
            for cycle in cycles:
                cycle.append(cycle)
            assert not called
        gc.collect()
    finally:
        gc.callbacks.remove(callback)
    assert called
    assert all(code is not callback.__code__ for code, _ in watch.ran.values())
