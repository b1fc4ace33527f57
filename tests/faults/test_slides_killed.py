"""Killed with -9 in the middle of a slide, and started again: as if never disturbed."""

import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

import pytest

from raylatent.model.features import Features
from raylatent.run import RunDirectory
from tests.engine import slide_files

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.campaign,
]

RAY = Path(sys.executable).with_name("ray")
FOLDER = "96px_48um"
SLOW_NET = """
import time

import small_net


class SlowNet(small_net.ResNet):
    def forward(self, x):
        time.sleep(0.4)
        return super().forward(x)


def build():
    return SlowNet()
"""


@pytest.fixture
def slow_model(tmp_path, small_model):
    """small_net, slower for each pass."""
    folder = Path(shutil.copytree(small_model, tmp_path / "slow_model"))
    (folder / "slow_net.py").write_text(SLOW_NET)
    spec = json.loads((folder / "model.json").read_text())
    spec["factory"] = "slow_net:build"
    (folder / "model.json").write_text(json.dumps(spec))
    return folder


@pytest.fixture(scope="module")
def sandbox(beside):
    """One for all tests here: jobs that are killed, on a cluster that outlives them."""
    box = beside("sandbox").Sandbox(tempfile.mkdtemp(prefix="rls", dir="/tmp"))
    yield box
    box.close()


@pytest.fixture(scope="module")
def head(sandbox):
    """The cluster's address."""
    sockets = [socket.socket() for _ in range(4)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    process = sandbox.start(
        *(RAY, "start", "--head", "--block", "--num-cpus", 2, "--port", ports[0]),
        *("--include-dashboard", "false", "--dashboard-agent-listen-port", ports[1]),
        *("--ray-client-server-port", ports[2], "--metrics-export-port", ports[3]),
        *("--node-ip-address", "127.0.0.1", "--temp-dir", sandbox.ray_folder),
        *("--object-store-memory", 200_000_000, "--disable-usage-stats"),
    )
    for _ in range(600):
        assert process.poll() is None, process.communicate()
        try:
            socket.create_connection(("127.0.0.1", ports[0]), timeout=1).close()
            break
        except OSError:
            time.sleep(0.1)
    return f"127.0.0.1:{ports[0]}"


def stats_of(files):
    return {file: (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}


def kill_when(process, moment, meanwhile=lambda: None, timeout_s=240):
    """Send SIGKILL at a moment."""
    ends = time.monotonic() + timeout_s
    while not moment():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < ends
        meanwhile()
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def test_a_run_killed_in_the_middle_of_a_slide_goes_on_there(
    tmp_path, slow_model, small_model, head, sandbox, assert_rows
):
    out = tmp_path / "run"
    path = slide_files.write_slide(tmp_path / "a.tif", 1)
    job = sandbox.job(
        *("activations", "--slides", path, "--model", slow_model, "--tile-um", 48),
        *("--unit-tiles", 5, "--batch-size", 16, "--actors", 1, "--out", out),
    )

    def parts():
        return stats_of(out.glob("activations/*/*.parquet"))

    process = sandbox.start(*job, RAY_ADDRESS=head)
    kill_when(process, lambda: len(parts()) >= 3)
    kept, grids = parts(), stats_of(out.glob("grids/*/*"))
    assert (out / "claim.json").exists()
    n_kept = sum(part.rows for part in RunDirectory.open(str(out)).footers())
    code, _, complaints = sandbox.run(*job, RAY_ADDRESS=head)
    assert code == 0, complaints
    assert len(parts()) > len(kept) + 2
    assert {file: parts()[file] for file in kept} == kept
    assert stats_of(grids) == grids
    report = json.loads((out / "report.json").read_text())
    # The actors that lived on for a moment may have done some of it.
    assert 0 < report["this_invocation"]["tiles"] <= 70 - n_kept
    features = Features(small_model, include_preds=True, batch_size=16, device="cpu")
    rows = slide_files.plain_rows(features, slide_files.plain_slide(path), 0)
    assert_rows(out, {"a": rows})


def test_of_an_extraction_killed_at_any_moment_no_tfrecord_is_ever_there_in_part(
    tmp_path, head, sandbox
):
    slides, out, expected = tmp_path / "slides", tmp_path / "run", {}
    slides.mkdir()
    for i in range(7):
        path = slide_files.write_slide(slides / f"{i}.tif", i, width=1000, height=900)
        file = slide_files.plain_tfrecord(
            tmp_path / "plain" / f"{i}.tfrecords",
            slide_files.plain_slide(path),
            img_format="png",
        )
        expected[file.name] = file.read_bytes()
    job = sandbox.job(
        *("extract_tiles", "--slides", slides, "--tile-px", 96, "--tile-um", 48),
        *("--img-format", "png", "--unit-tiles", 4, "--actors", 1, "--out", out),
    )
    seen = {}

    def look():
        """What is there under its final name is whole."""
        for file in out.glob(f"{FOLDER}/*.tfrecords"):
            try:
                stat = stats_of([file])[file]
                content = None if seen.get(file) == stat else file.read_bytes()
            except FileNotFoundError:  # one without a record is taken away at the start
                continue
            assert content in {None, expected[file.name]}
            seen[file] = stat

    def n_files(pattern):
        return len(list(out.glob(pattern)))

    finished = {}
    for moment in (
        lambda: n_files("tiles/*/*.parquet") >= 3,
        lambda: n_files(f"{FOLDER}/.*.aside") or n_files(f"{FOLDER}/*.tfrecords") > 2,
        lambda: n_files("finished/*/record.json") >= 5,
    ):
        process = sandbox.start(*job, RAY_ADDRESS=head)
        kill_when(process, moment, look)
        look()
        assert not (out / FOLDER / "manifest.json").exists()
        records = list(out.glob("finished/*/record.json"))
        finished |= stats_of(
            out / FOLDER / f"{file.parent.name[6:]}.tfrecords" for file in records
        )

    process = sandbox.start(*job, RAY_ADDRESS=head)
    while process.poll() is None:
        look()
        time.sleep(0.002)
    assert process.returncode == 0, process.communicate()
    assert {
        file.name: file.read_bytes() for file in out.glob(f"{FOLDER}/*.tfrecords")
    } == expected
    for name in expected:
        index = f"{name.removesuffix('.tfrecords')}.index.npz"
        made, plain = (f / index for f in (out / FOLDER, tmp_path / "plain"))
        assert made.read_bytes() == plain.read_bytes()
    assert finished
    assert stats_of(finished) == finished  # not done again
    assert (out / FOLDER / "manifest.json").exists()
    left = [file.name for file in out.rglob("*") if file.is_file()]
    assert not [name for name in left if name.endswith(".aside")]
    assert "claim.json" not in left
    assert not list((out / "tiles").rglob("*.parquet"))
