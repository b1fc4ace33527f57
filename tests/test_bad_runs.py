"""What is noticed with the cluster at work is one line too, after those of progress."""

import json
import re
import shutil

import pytest

from raylatent import cli
from raylatent.source.record import TileRecord, frame
from raylatent.source.write import example, write_tfrecord

pytestmark = pytest.mark.ray


def failing(argv, capfd, code):
    """The one line of errors, after lines of progress."""
    assert cli.main([str(part) for part in argv]) == code
    said = capfd.readouterr()
    assert "Traceback" not in said.err + said.out
    lines = [
        line
        for line in said.err.splitlines()
        if re.match(r"raylatent: (error: |slide .* failed: )", line)
    ]
    assert len(lines) == 1, said.err
    return lines[0]


@pytest.mark.parametrize("kind", ["no tfrecord", "no image_raw", "empty", "cut off"])
def test_a_slide_that_fails(
    ray_session, command_line, small_tfrecords, tmp_path, capfd, kind
):
    folder = tmp_path / "t"
    folder.mkdir()
    shutil.copy(small_tfrecords / "g01.tfrecords", folder)
    bad = folder / "bad.tfrecords"
    if kind == "no tfrecord":
        bad.write_bytes(b"slide,label\nno,tfrecord\n" * 40)
    elif kind == "no image_raw":
        payload = example(TileRecord(b"x", "bad", 1, 2)).replace(
            b"image_raw", b"image_row"
        )
        bad.write_bytes(frame(payload) * 3)
    elif kind == "cut off":
        whole = (small_tfrecords / "g02.tfrecords").read_bytes()
        bad.write_bytes(whole[:-500])
    else:
        bad.write_bytes(b"")
    argv = command_line(tfrecords=folder)
    if kind == "empty":
        assert cli.main([str(part) for part in argv]) == 0
        assert "no tiles  bad" in capfd.readouterr().out
    else:
        assert "'bad'" in failing(argv, capfd, 1)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["rows"] >= 7  # the good one is finished and kept
    assert bool(report["failed"]) == (kind != "empty")


def test_not_one_tile(ray_session, command_line, tmp_path, capfd):
    write_tfrecord(tmp_path / "t" / "none.tfrecords", [])
    line = failing(command_line(tfrecords=tmp_path / "t"), capfd, 1)
    assert "no tile" in line


def test_a_run_of_another_configuration(
    ray_session, command_line, small_dts, small_project, capfd
):
    argv = command_line(
        out=small_dts.run.uri, tfrecords=small_project / "tfrecords", pooling="max"
    )
    line = failing(argv, capfd, 2)
    for word in (small_dts.run.uri, 'pooling was "none", now "max"', "--overwrite"):
        assert word in line


def test_a_file_where_the_run_shall_be(ray_session, command_line, tmp_path, capfd):
    (tmp_path / "run").write_text("mine")
    line = failing(command_line(), capfd, 2)
    assert str(tmp_path / "run") in line
    assert (tmp_path / "run").read_text() == "mine"


def test_a_layer_that_was_not_stored(ray_session, small_dts, capfd):
    argv = ["map", "--out", small_dts.run.uri, "--layer", "layer1"]
    line = failing(argv, capfd, 2)
    assert "'layer1'" in line
    assert "postconv" in line
