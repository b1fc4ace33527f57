"""jobs/extract_tiles.py: its exit codes, what it says, what it leaves."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine import slide_files

SCRIPT = Path(__file__).parents[2] / "jobs" / "extract_tiles.py"
TILE = ["--tile-px", "96", "--tile-um", "48", "--unit-tiles", "8"]


@pytest.fixture(scope="module")
def job():
    spec = importlib.util.spec_from_file_location("job_extract_tiles", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda *argv: module.main([str(part) for part in argv])


@pytest.mark.ray
def test_slides_become_tfrecords_and_what_fails_is_named(
    tmp_path, ray_session, job, capfd
):
    slides, out = tmp_path / "slides", tmp_path / "run"
    slides.mkdir()
    small = {"width": 900, "height": 800}
    slide_files.write_slide(slides / "a.tif", 1, **small)
    slide_files.write_slide(slides / "nobody.tif", 2, mpp=None, **small)
    slide_files.write_slide(slides / "pale.tif", color=slide_files.PALE, grain=0)
    argv = ["--slides", slides, *TILE, "--actors", "2", "--out", out]
    assert job(*argv) == 1
    said = capfd.readouterr()
    assert "slide 'nobody' failed: slide nobody does not say how many" in said.err
    assert "no tiles  pale" in said.out
    assert f"TFRecords {out}/96px_48um" in said.out
    assert f"page      {out}/slides.html" in said.out
    assert f"report    {out}/report.json" in said.out
    assert (out / "thumbnails/slide=a/grid.jpg").stat().st_size > 0
    page = (out / "slides.html").read_text()
    assert "does not say how many" in page

    (made,) = (out / "96px_48um").glob("*.tfrecords")
    time = made.stat().st_mtime_ns
    wsi = slide_files.plain_slide(slides / "a.tif")
    plain = slide_files.plain_tfrecord(tmp_path / "a.tfrecords", wsi)
    assert made.read_bytes() == plain.read_bytes()

    (slides / "nobody.tif").unlink()
    assert job(*argv) == 0
    assert f"{wsi.num_tiles} tiles, 0 tiles quarantined" in capfd.readouterr().out
    assert made.stat().st_mtime_ns == time
    report = json.loads((out / "report.json").read_text())
    assert report["this_invocation"]["tiles"] == 0
    assert report["without_tiles"] == ["pale"]

    assert job(*argv, "--qc", "none") == 2
    assert 'slides.qc was "otsu", now "none"' in capfd.readouterr().err


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--out", "run"], "no slides were given"),
        (["--slides", "s", "--tile-um", "48", "--out", "run"], "--tile-px"),
        (["--slides", "s", "--tile-px", "96", "--out", "run"], "--tile-um"),
        (["--slides", "s", *TILE], "--out"),
        (["--slides", "gone", *TILE, "--out", "run"], "gone"),
        (["--slides", "s", *TILE, "--out", "run", "--img-format", "gif"], "gif"),
        (
            ["--slides", "s", *TILE, "--out", "run", "--jpeg-quality", "0"],
            "quality is 0",
        ),
    ],
)
def test_nonsense_is_refused_before_anything_is_done(
    tmp_path, monkeypatch, job, capfd, argv, says
):
    monkeypatch.chdir(tmp_path)
    slide_files.write_slide(tmp_path / "s.tif", width=300, height=300)
    assert job(*(part if part != "s" else "s.tif" for part in argv)) == 2
    (line,) = capfd.readouterr().err.strip().splitlines()[-1:]
    assert says in line
    assert not (tmp_path / "run").exists()


def test_it_is_a_script(tmp_path):
    found = subprocess.run(  # noqa: S603
        [sys.executable, str(SCRIPT), "--help"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=tmp_path,
    )
    assert found.returncode == 0
    assert found.stderr == ""
    assert "raylatent extract-tiles" in found.stdout
    for option in ("--out RUN", "--img-format", "--jpeg-quality", "95", "--stride-div"):
        assert option in found.stdout
