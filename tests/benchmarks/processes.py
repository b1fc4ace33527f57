"""What a command and all the processes that it starts cost: CPU seconds and memory."""

import ctypes
import os
import resource
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

EVERY_S = 0.05
MARK = "RAYLATENT_BENCH"
_TICKS = os.sysconf("SC_CLK_TCK")
_SUBREAPER = 36  # prctl: orphans below become this process' children
_MISSED = 0.05


@dataclass
class Cost:
    """What a command cost.

    Attributes:
        cpu_s: User and system seconds of all its processes.
        output: What it printed.
        peaks: Largest resident memory in bytes, by kind of process.
        by_kind: CPU seconds likewise, as they were last looked at.
    """

    cpu_s: float
    output: str
    peaks: dict = field(default_factory=dict)
    by_kind: dict = field(default_factory=dict)


class Watch(threading.Thread):
    """Looks at a command's processes: those that are not waited for count as well."""

    def __init__(self, mark, main):
        super().__init__(daemon=True)
        self._mark, self._main = f"{MARK}={mark}\0".encode(), main
        self._known = {}
        self.seconds, self.peaks, self.kinds = {}, {}, {}
        self.stop = threading.Event()

    def run(self):
        while True:
            last = self.stop.is_set()
            for folder in Path("/proc").glob("[0-9]*"):
                self._look(folder, int(folder.name))
            if last:
                return
            self.stop.wait(EVERY_S)

    def _look(self, folder, pid):
        try:
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            key = (pid, stat[19])  # with the moment of its start: numbers come again
            if key not in self._known:
                self._known[key] = self._mark in (folder / "environ").read_bytes()
            if not self._known[key]:
                return
            if stat[0] != "Z":
                self.kinds[key] = self._kind(folder, pid)
                status = (folder / "status").read_text()
                peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024
                self.peaks[key] = max(peak, self.peaks.get(key, 0))
        except (OSError, IndexError):  # it has ended meanwhile
            return
        self.seconds[key] = (int(stat[11]) + int(stat[12])) / _TICKS

    def _kind(self, folder, pid):
        if pid == self._main:
            return "driver"
        command = (folder / "cmdline").read_bytes().split(b"\0")[0].decode()
        if "Worker" in command or "Actor" in command or "MapWorker" in command:
            return "actor"
        return "worker" if command.startswith("ray::") else "ray"


def cost_of(words):
    """Run a Python program; its output, CPU seconds and peaks.

    Two sums are held against each other: what was last seen of each process, and the
    kernel's over all children that were waited for, orphans included. The larger counts:
    Ray waits for none of its workers, so that the kernel's lacks them. That processes
    were not seen is said.

    Args:
        words: The program's file and arguments.
    """
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    mark = f"{os.getpid()}-{time.monotonic_ns()}"
    env = {**os.environ, MARK: mark, "RAY_AUTH_MODE": "disabled"}
    before = _waited_s()
    child = subprocess.Popen(  # noqa: S603
        [sys.executable, *map(str, words)], env=env, stdout=subprocess.PIPE, text=True
    )
    watch = Watch(mark, child.pid)
    watch.start()
    output, _ = child.communicate()
    watch.stop.set()
    watch.join()
    if child.returncode:
        sys.exit(f"{' '.join(map(str, words))} failed")
    _reap()
    waited, seen = _waited_s() - before, sum(watch.seconds.values())
    if waited - seen > _MISSED * waited:
        print(f"(CPU seconds: {waited:.2f} waited for, {seen:.2f} seen)")
    cost = Cost(cpu_s=max(waited, seen), output=output)
    for key, kind in watch.kinds.items():
        cost.peaks[kind] = max(cost.peaks.get(kind, 0), watch.peaks.get(key, 0))
        cost.by_kind[kind] = cost.by_kind.get(kind, 0.0) + watch.seconds.get(key, 0.0)
    return cost


def _waited_s():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _reap():
    """Wait for what the command left behind: Ray's processes end a little later."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            time.sleep(EVERY_S)
