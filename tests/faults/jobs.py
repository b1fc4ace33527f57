"""Jobs that are disturbed: a cluster that serves many, a slow model, a source."""

import json
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from stat import S_ISREG

from tests.faults.processes import descendants, title

CLUSTER = Path(__file__).with_name("cluster_process.py")
UNIT_TILES = 16
OPTIONS = (
    *("--unit-tiles", UNIT_TILES, "--batch-size", 16, "--actors", 2),
    *("--max-bad-fraction", 0.1),
)
ACTOR = "ray::MapWorker"
SLOW_NET = """
import time

import small_net


class SlowNet(small_net.ResNet):
    def forward(self, x):
        time.sleep({seconds})
        return super().forward(x)


def build():
    return SlowNet()
"""


class SmallCluster:
    """A head and two worker nodes of one CPU each, for many jobs one after another.

    Args:
        sandbox: See tests/engine/sandbox.py; ends all.
        env: More of the nodes' environment.
    """

    def __init__(self, sandbox, **env):
        self.sandbox = sandbox
        self._env = env
        self.process = sandbox.start(
            sys.executable, CLUSTER, stdin=subprocess.PIPE, **env
        )
        self.address = self._answer("ADDRESS")
        self.command("heal")

    def _answer(self, word):
        for line in self.process.stdout:
            if line.startswith(word):
                return line.split()[1]
        raise AssertionError(self.process.stderr.read()[-2000:])

    def command(self, text):
        """See cluster_process.py; how many worker nodes there are then."""
        self.process.stdin.write(f"{text}\n")
        self.process.stdin.flush()
        return int(self._answer("NODES"))

    def start(self, name, *arguments):
        """A job on this cluster."""
        return self.sandbox.start(
            *self.sandbox.job(name, *arguments), RAY_ADDRESS=self.address, **self._env
        )

    def actors(self, kind=ACTOR):
        """Processes of Ray's that have such a title."""
        return [pid for pid in descendants(self.process.pid) if kind in title(pid)]


def copy_slow_model(folder, small_model, seconds=0.3):
    """small_net, slower for each pass."""
    shutil.copytree(small_model, folder)
    (folder / "slow_net.py").write_text(SLOW_NET.format(seconds=seconds))
    spec = json.loads((folder / "model.json").read_text())
    spec["factory"] = "slow_net:build"
    (folder / "model.json").write_text(json.dumps(spec))
    return folder


class LocalRun:
    """A run directory, looked at from outside.

    Args:
        folder: Where it is.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self.uri = str(folder)

    def files(self):
        """{name: what is another where it was written again}."""
        found = {}
        for file in self.folder.rglob("*"):
            with suppress(FileNotFoundError):
                stat = file.stat()
                if S_ISREG(stat.st_mode):
                    name = file.relative_to(self.folder).as_posix()
                    found[name] = (stat.st_ino, stat.st_mtime_ns)
        return found

    def read(self, name):
        return (self.folder / name).read_bytes()


class S3Run:
    """The same in a bucket.

    Args:
        server: See s3_server.py.
        bucket: A bucket of it.
        prefix: The folder in it.
    """

    def __init__(self, server, bucket, prefix="run"):
        self._server, self._bucket, self._prefix = server, bucket, f"{prefix}/"
        self.uri = f"s3://{bucket}/{prefix}"

    def files(self):
        return {
            name.removeprefix(self._prefix): stamp
            for name, stamp in self._server.stamps(self._bucket).items()
            if name.startswith(self._prefix) and not name.endswith("/")
        }

    def read(self, name):
        return self._server.get(self._bucket, f"{self._prefix}{name}")


def parts_of(run):
    """Those of a run's files that are activations, not such as are being written."""
    return {
        name: stamp
        for name, stamp in run.files().items()
        if name.startswith("activations/") and not name.endswith(".aside")
    }


def wait_until(condition, process=None, timeout_s=240):
    """Whether something came to be; False where the process ended before."""
    ends = time.monotonic() + timeout_s
    while not condition():
        if process is not None and process.poll() is not None:
            return False
        assert time.monotonic() < ends, condition
        time.sleep(0.01)
    return True


def assert_clean(run):
    """No claim and no file that was being written is left."""
    left = run.files()
    assert "run.json" in left
    assert not [n for n in left if n.startswith("claim") or n.endswith(".aside")], left
