"""The job `bench` on tiny data, and what it refuses."""

import json
import subprocess
import sys
import tempfile

import numpy as np
import pytest

from raylatent import bench
from raylatent.config import BenchConfig
from raylatent.engine import activations
from raylatent.errors import ConfigError, SourceError
from raylatent.source.kinds import find_sources
from tests.jobs.test_jobs import JOBS, job, lines_of

STAGES = {"read", "decode", "wait", "forward", "write"}


@pytest.mark.ray
def test_bench(ray_session, small_tfrecords, small_model, tmp_path, capfd):
    out = tmp_path / "run"
    argv = [
        *("--tfrecords", small_tfrecords, "--model", small_model, "--out", out),
        *("--batch-size", "16", "--seconds", "0.3", "--json", tmp_path / "found.json"),
    ]
    assert job("bench")(*argv) == 0
    lines = lines_of(capfd.readouterr().out)
    for stage in STAGES:
        assert "for 1,000 tiles" in lines[stage]
    assert "transfer" not in lines  # there is no GPU
    assert lines["job"].split()[1:3] == ["146", "tiles:"]
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["limit"] == lines["limit"].split()[1]
    job_s = found["forecast_s"]
    assert (found["cluster"]["nodes"], found["cluster"]["cpus"]) == (1, 2)
    assert (found["tiles"], found["map"]["sample"]) == (146, 146)
    assert job_s["activations"] == pytest.approx(146 / found["tiles_per_s"])
    assert list(job_s) == ["start", "activations", "fit", "placement", "mosaic"]
    assert min(job_s.values()) > 0
    assert found["parquet_bytes"] > 146 * 4
    assert not out.exists()  # what was written is gone, and what was made for it


@pytest.mark.ray
def test_a_forecast_for_more_tiles_leaves_a_run_alone(
    ray_session, finished_run, small_model, capfd
):
    before = sorted(finished_run.out.rglob("*"))
    argv = ["--tfrecords", finished_run.sources, "--model", small_model]
    more = ["--out", finished_run.out, "--job-tiles", "500", "--seconds", "0.1"]
    assert job("bench")(*argv, *more) == 0
    assert "500 tiles" in lines_of(capfd.readouterr().out)["job"]
    assert sorted(finished_run.out.rglob("*")) == before


@pytest.mark.ray
def test_the_first_units_of_all_tfrecords_come_in_turn(
    ray_session, small_tfrecords, small_model, tmp_path, monkeypatch
):
    """So that the tiles which are measured are a sample of all of them."""
    sent = []

    def stream(name, items, *arguments, **more):
        sent.extend((unit.source.slide, unit.unit) for unit in items)
        return real(name, items, *arguments, **more)

    real = activations.stream
    monkeypatch.setattr(activations, "stream", stream)
    argv = ["--tfrecords", small_tfrecords, "--model", small_model]
    more = ["--out", tmp_path / "run", "--unit-tiles", "16", "--batch-size", "16"]
    assert job("bench")(*argv, *more, "--seconds", "0.1") == 0
    numbers = [unit for _, unit in sent]
    assert numbers == sorted(numbers)
    assert len({slide for slide, unit in sent if unit == 0}) > 1
    assert max(numbers) > 0


@pytest.mark.ray
def test_the_rest_of_a_slide_is_left_undone(
    ray_session, large_slide, small_model, tmp_path, capfd, monkeypatch
):
    """Without --out rows go to the temporary folder, from which they are removed."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    argv = ["--slides", large_slide, "--tile-um", "96", "--mpp", "1"]
    argv += ["--qc", "none", "--model", small_model, "--seconds", "0.01"]
    argv += ["--batch-size", "16", "--unit-tiles", "16"]
    assert job("bench")(*argv) == 0
    lines = lines_of(capfd.readouterr().out)
    measured, tiles = (int(lines[name].split()[1]) for name in ("measured", "job"))
    assert 0 < measured < tiles
    assert list(tmp_path.glob("*bench*")) == []


@pytest.mark.ray
def test_sources_that_cannot_be_read(ray_session, small_model, tmp_path, capfd):
    (tmp_path / "a.tfrecords").write_bytes(b"nothing of the kind" * 10)
    argv = ["--tfrecords", tmp_path, "--model", small_model, "--seconds", "0.1"]
    assert job("bench")(*argv) == 1
    said = capfd.readouterr().err
    assert "there is no tile to work on" in said
    assert "a.tfrecords" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"seconds": "0"}, "--seconds is 0.0, not above 0"),
        ({"job-tiles": "0"}, "--job-tiles is 0, less than 1"),
        ({"tfrecords": "/no/such/folder"}, "/no/such/folder"),
        ({"model": "/no/such/model"}, "/no/such/model"),
        ({"layers": "nonsense"}, "nonsense"),
        ({"batch-size": "8"}, "--batch-size is 8, less than 16"),
        ({"dtype": "int8"}, "int8"),
        ({"nonsense": "1"}, "--nonsense"),
    ],
)
def test_bad_arguments(small_tfrecords, small_model, capfd, changed, said):
    options = {"tfrecords": small_tfrecords, "model": small_model} | changed
    argv = [part for name, value in options.items() for part in (f"--{name}", value)]
    assert job("bench")(*argv) == 2
    assert said in capfd.readouterr().err


def test_what_the_job_refuses_is_refused(large_slide, small_model, capfd):
    slide = ["--slides", large_slide, "--tile-um", "96", "--mpp", "1"]
    side = ["--tile-px", "64", "--no-resize", "--model", small_model]
    assert job("bench")(*slide, *side) == 2
    assert "64" in capfd.readouterr().err


def test_rows_that_are_like_others():
    rows = np.random.default_rng(0).random((90, 8), np.float32)
    made = bench.like(rows, 400, seed=1)
    assert (made.shape, made.dtype) == ((400, 8), np.float32)
    assert len(np.unique(np.concatenate([rows, made]), axis=0)) == 490
    assert np.abs(made[:90] - rows).max() < 0.6 * rows.std()


def test_where_json_cannot_go_is_known_before_all_is_measured(
    small_tfrecords, small_model, tmp_path, monkeypatch, capfd
):
    def run_bench(*_):
        message = "it was measured"
        raise AssertionError(message)

    monkeypatch.setattr(bench, "run_bench", run_bench)
    argv = ["--tfrecords", small_tfrecords, "--model", small_model, "--json"]
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    for target in ("folder", "file/found.json"):
        assert job("bench")(*argv, tmp_path / target) == 2
        assert "folder" in capfd.readouterr().err
    with pytest.raises(AssertionError, match="it was measured"):
        job("bench")(*argv, tmp_path / "file")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "x"


def test_ctrl_c_does_not_promise_to_go_on(
    small_tfrecords, small_model, monkeypatch, capfd
):
    def run_bench(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "run_bench", run_bench)
    argv = ["--tfrecords", small_tfrecords, "--model", small_model]
    assert job("bench")(*argv) == 130
    assert "interrupted: nothing is kept" in capfd.readouterr().err


def test_sources_and_a_model_are_needed():
    with pytest.raises(SourceError, match="no tiles were given"):
        find_sources(BenchConfig(model="m"))
    with pytest.raises(ConfigError, match="--model SPEC is missing"):
        BenchConfig(tfrecords=("a",))
    assert BenchConfig(tfrecords=("a",), model="m").out == ""


def test_the_job_is_a_script(tmp_path):
    found = subprocess.run(  # noqa: S603
        [sys.executable, str(JOBS / "bench.py"), "--help"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=tmp_path,
    )
    assert found.returncode == 0
    assert found.stderr == ""
    assert "raylatent bench" in found.stdout
    assert "--job-tiles N" in found.stdout
    assert found.stdout.count("ignored: taken so that") == 3
