"""`ray job submit --working-dir . -- python jobs/atlas.py ...` on a head of our own."""

import socket
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]

RAY = Path(sys.executable).with_name("ray")


@pytest.fixture
def head(sandbox):
    """The dashboard's address of a head that ends with the test."""
    sockets = [socket.socket() for _ in range(5)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    process = sandbox.start(
        *(RAY, "start", "--head", "--block", "--num-cpus", 2),
        *("--port", ports[0], "--dashboard-port", ports[1]),
        *("--dashboard-agent-listen-port", ports[2]),
        *("--ray-client-server-port", ports[3], "--metrics-export-port", ports[4]),
        *("--node-ip-address", "127.0.0.1", "--temp-dir", sandbox.ray_folder),
        *("--object-store-memory", 200_000_000, "--disable-usage-stats"),
    )
    address = ("127.0.0.1", ports[1])
    for _ in range(600):
        assert process.poll() is None, process.communicate()
        try:
            socket.create_connection(address, timeout=1).close()
            break
        except OSError:
            time.sleep(0.1)
    return f"http://{address[0]}:{address[1]}"


def test_submitted_jobs_succeed_and_fail_as_they_should(
    tmp_path, head, sandbox, small_tfrecords, small_model, assert_same
):
    def submit(*arguments):
        job = ("python", "jobs/atlas.py", "--tfrecords", small_tfrecords)
        code, out, err = sandbox.run(
            *(RAY, "job", "submit", "--address", head, "--working-dir", "."),
            *("--", *job, "--model", small_model, *arguments),
        )
        return code, out + err

    out = tmp_path / "run"
    code, printed = submit("--out", out, "--unit-tiles", 20, "--n-neighbors", 10)
    assert code == 0, printed
    assert f"mosaic    {out}/mosaics/default/mosaic.png" in printed
    assert (out / "maps/default/umap.png").stat().st_size > 0
    assert (out / "mosaics/default/mosaic.png").stat().st_size > 0
    assert_same(out, [small_tfrecords])

    code, printed = submit("--out", "relative/run")
    assert code != 0
    assert "--out relative/run lies in the temporary copy" in printed
    assert "Traceback" not in printed.split("raylatent: error")[0]

    code, printed = submit("--out", out, "--model", "./their_model")
    assert code != 0
    assert "no such model: ./their_model (looked for /" in printed
    assert "a job of `ray job submit` runs there, not where you are" in printed
    assert "Traceback" not in printed.split("raylatent: error")[0]
