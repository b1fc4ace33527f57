"""Killed in several ways and started again: the rows of a run never disturbed."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.campaign,
]

UNIT_TILES = 16
SLOW_NET = """
import time

import golden_net


class SlowNet(golden_net.ResNet):
    def forward(self, x):
        time.sleep(0.5)
        return super().forward(x)


def build():
    return SlowNet()
"""


@pytest.fixture
def slow_model(tmp_path, golden_model):
    """golden_net, half a second slower for each pass."""
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


def send_when_parts_are_there(jobs, runs, n, timeout_s=240):
    """Send each job its signal as soon as its run has `n` parts; yields it then."""
    waiting = dict(jobs)
    ends = time.monotonic() + timeout_s
    while waiting:
        assert time.monotonic() < ends, [len(parts_of(out)) for out in runs.values()]
        for number, process in list(waiting.items()):
            assert process.poll() is None, process.communicate()
            if len(parts_of(runs[number])) >= n:
                os.kill(process.pid, number)
                del waiting[number]
                yield number
        time.sleep(0.02)


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
    killed = runs[signal.SIGKILL]
    for number in send_when_parts_are_there(jobs, runs, 2):
        if number == signal.SIGKILL:
            # Nothing is given back, and the actors live on: start again at once.
            jobs[number].wait()
            kept = parts_of(killed)
            assert (killed / "claim.json").exists()
            again = sandbox.start(*job(killed))

    for number in (signal.SIGTERM, signal.SIGINT):
        printed, complaints = jobs[number].communicate(timeout=120)
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
