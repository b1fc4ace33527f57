"""Processes by /proc: who descends from whom, and what Ray calls them."""

import os
import signal
from contextlib import suppress
from pathlib import Path


def _parents():
    """{process: its parent}."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):
            stat = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            found[int(folder.name)] = int(stat[1])
    return found


def descendants(*pids):
    """All processes below some, these too, parents first."""
    parents = _parents()
    found = [pid for pid in pids if pid in parents]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def title(pid):
    """What a process calls itself; Ray's workers `ray::` and what they run."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    return ""


def kill(*pids, number=signal.SIGKILL):
    """Send a signal to processes that may be gone already."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
