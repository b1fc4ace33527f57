"""Killed in several ways and started again: the rows of a run never disturbed."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

UNIT_TILES = 16
SLOW_NET = """
import time

import golden_net


class SlowNet(golden_net.ResNet):
    def forward(self, x):
        time.sleep(0.25)
        return super().forward(x)


def build():
    return SlowNet()
"""


@pytest.fixture
def slow_model(tmp_path, golden_model):
    """golden_net, a quarter of a second slower for each pass."""
    folder = Path(shutil.copytree(golden_model, tmp_path / "slow_model"))
    (folder / "slow_net.py").write_text(SLOW_NET)
    spec = json.loads((folder / "model.json").read_text())
    spec["factory"] = "slow_net:build"
    (folder / "model.json").write_text(json.dumps(spec))
    return folder


@pytest.fixture
def source(tmp_path, tiles, write_slide):
    """320 tiles in 20 units."""
    folder = tmp_path / "tfrecords"
    folder.mkdir()
    for slide in "abcde":
        write_slide(folder, slide, tiles, bad={5} if slide == "c" else set())
    return folder


def parts_of(out):
    return {
        file: (file.stat().st_ino, file.stat().st_mtime_ns)
        for file in out.glob("activations/*/*.parquet")
    }


def wait_for_parts(process, out, n, timeout_s=90):
    """Parts that are there once there are `n`."""
    ends = time.monotonic() + timeout_s
    while len(parts_of(out)) < n:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < ends, f"{len(parts_of(out))} parts, not {n}"
        time.sleep(0.02)
    return parts_of(out)


def test_killed_terminated_or_interrupted_it_can_go_on(
    tmp_path, source, slow_model, golden_model, sandbox, assert_same
):
    def job(out):
        return sandbox.job(
            *("activations", "--tfrecords", source, "--model", slow_model),
            *("--unit-tiles", UNIT_TILES, "--batch-size", 16, "--actors", 2),
            *("--out", out),
        )

    runs = {
        number: tmp_path / number.name
        for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
    }
    jobs = {number: sandbox.start(*job(out)) for number, out in runs.items()}
    for number, process in jobs.items():
        wait_for_parts(process, runs[number], 2)
        os.kill(process.pid, number)

    # Killed: nothing is given back, and the actors live on for a while.
    killed = runs[signal.SIGKILL]
    jobs[signal.SIGKILL].wait()
    kept = parts_of(killed)
    assert (killed / "claim.json").exists()
    assert sandbox.alive(), "the actors should still live when the next one starts"
    again = sandbox.start(*job(killed))

    for number in (signal.SIGTERM, signal.SIGINT):
        printed, complaints = jobs[number].communicate(timeout=60)
        assert jobs[number].returncode == 130, complaints
        last = complaints.strip().splitlines()[-1]
        assert last.endswith("interrupted: the same command again goes on from here"), (
            complaints
        )
        assert "Traceback" not in complaints + printed
        assert not (runs[number] / "claim.json").exists()
        assert 2 <= len(parts_of(runs[number])) < 20

    _, complaints = again.communicate(timeout=120)
    assert again.returncode == 0, complaints
    after = parts_of(killed)
    assert len(after) == 20
    assert {file: after[file] for file in kept} == kept
    report = json.loads((killed / "report.json").read_text())
    # The actors that lived on may have done some of it.
    assert report["this_invocation"]["tiles"] <= (20 - len(kept)) * UNIT_TILES
    assert_same(
        killed, [source], model=golden_model, unit_tiles=UNIT_TILES, batch_size=16
    )
