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


def test_killed_terminated_interrupted_and_started_again(
    tmp_path, source, slow_model, golden_model, sandbox, assert_same
):
    out = tmp_path / "run"
    job = sandbox.job(
        *("activations", "--tfrecords", source, "--model", slow_model, "--out", out),
        *("--unit-tiles", UNIT_TILES, "--batch-size", 16, "--actors", 2),
    )

    # Killed: nothing is given back, and the actors live on for a while.
    process = sandbox.start(*job)
    wait_for_parts(process, out, 2)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.communicate()
    kept = parts_of(out)
    assert (out / "claim.json").exists()
    assert sandbox.alive(), "the actors should still live when the next one starts"

    for number, sent in ((signal.SIGTERM, 1), (signal.SIGINT, 1)):
        process = sandbox.start(*job)
        before = wait_for_parts(process, out, len(kept) + sent)
        assert {file: before[file] for file in kept} == kept
        os.kill(process.pid, number)
        printed, complaints = process.communicate(timeout=60)
        assert process.returncode == 130, complaints
        last = complaints.strip().splitlines()[-1]
        assert last.endswith("interrupted: the same command again goes on from here"), (
            complaints
        )
        assert "Traceback" not in complaints + printed
        assert not (out / "claim.json").exists()
        kept = parts_of(out)
        assert len(kept) < 20

    code, _, complaints = sandbox.run(*job)
    assert code == 0, complaints
    after = parts_of(out)
    assert len(after) == 20
    assert {file: after[file] for file in kept} == kept
    done = json.loads((out / "report.json").read_text())["this_invocation"]["tiles"]
    assert done == (20 - len(kept)) * UNIT_TILES
    assert_same(out, [source], model=golden_model, unit_tiles=UNIT_TILES, batch_size=16)
