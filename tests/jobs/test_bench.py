"""The job `bench` on tiny data, and what it refuses."""

import json
import subprocess
import sys

import pytest

from raylatent.config import BenchConfig
from raylatent.errors import ConfigError
from tests.jobs.test_jobs import JOBS, job, lines_of

STAGES = {"read", "decode", "forward", "write", "place", "draw"}


@pytest.mark.ray
def test_bench(ray_session, golden_tfrecords, golden_model, tmp_path, capfd):
    out = tmp_path / "run"
    argv = [
        *("--tfrecords", golden_tfrecords, "--model", golden_model, "--out", out),
        *("--batch-size", "16", "--seconds", "0.3", "--json", tmp_path / "found.json"),
    ]
    assert job("bench")(*argv) == 0
    lines = lines_of(capfd.readouterr().out)
    for stage in STAGES:
        assert "tiles/s a core" in lines[stage]
    assert "there is no GPU" in lines["transfer"]
    assert lines["job"].split()[1:3] == ["146", "tiles:"]
    found = json.loads((tmp_path / "found.json").read_text())
    (node,) = found["nodes"]
    assert set(node["stages"]) == STAGES
    assert node["limit"] == lines["limit"].split()[1]
    assert (node["cpus"], node["count"], found["forecast"]["tiles"]) == (2, 1, 146)
    took = found["forecast"]["activations_s"]
    alone = 146 / node["actor_tiles_per_s"] / node["actors"]
    cores = 146 / node["most_by_part"]["cores"]
    assert took == pytest.approx(max(alone, cores))
    assert not list(out.rglob("*"))  # what was written is gone


@pytest.mark.ray
def test_a_forecast_for_more_tiles_leaves_a_run_alone(
    ray_session, finished_run, golden_model, capfd
):
    before = sorted(finished_run.out.rglob("*"))
    argv = ["--tfrecords", finished_run.sources, "--model", golden_model]
    more = ["--out", finished_run.out, "--tiles", "5000", "--seconds", "0.1"]
    assert job("bench")(*argv, *more) == 0
    assert "5,000 tiles" in lines_of(capfd.readouterr().out)["job"]
    assert sorted(finished_run.out.rglob("*")) == before


@pytest.mark.ray
def test_sources_that_cannot_be_read(ray_session, golden_model, tmp_path, capfd):
    (tmp_path / "a.tfrecords").write_bytes(b"nothing of the kind" * 10)
    argv = ["--tfrecords", tmp_path, "--model", golden_model, "--seconds", "0.1"]
    assert job("bench")(*argv) == 1
    said = capfd.readouterr().err
    assert "no tile can be read" in said
    assert "a.tfrecords" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"seconds": "0"}, "--seconds is 0.0, not above 0"),
        ({"tiles": "0"}, "--tiles is 0, less than 1"),
        ({"tfrecords": "/no/such/folder"}, "/no/such/folder"),
        ({"model": "/no/such/model"}, "/no/such/model"),
        ({"layers": "nonsense"}, "nonsense"),
        ({"batch-size": "8"}, "--batch-size is 8, less than 16"),
        ({"dtype": "int8"}, "int8"),
        ({"nonsense": "1"}, "--nonsense"),
    ],
)
def test_bad_arguments(golden_tfrecords, golden_model, capfd, changed, said):
    options = {"tfrecords": golden_tfrecords, "model": golden_model} | changed
    argv = [part for name, value in options.items() for part in (f"--{name}", value)]
    assert job("bench")(*argv) == 2
    assert said in capfd.readouterr().err


def test_sources_and_a_model_are_needed():
    with pytest.raises(ConfigError, match="no tiles were given"):
        BenchConfig(model="m")
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
    assert "--tiles N" in found.stdout
