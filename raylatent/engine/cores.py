"""Cores of a machine, and how actors share those of their node."""

import os
from pathlib import Path
from typing import Any

import ray

MOST_THREADS = 16
"""Of one actor: more than decode a GPU's tiles, and a model gains little from more."""
UNITS_AT_ONCE_ON_GPU = 5
"""Of TFRecords: a GPU does not wait for a unit to be begun, nor for a part to be written."""
_CGROUPS = Path("/sys/fs/cgroup")
_OF_PROCESS = Path("/proc/self/cgroup")


def usable_cores(cgroups: Path = _CGROUPS, of_process: Path = _OF_PROCESS) -> int:
    """Cores that this process may use: by affinity, and by quotas of control groups.

    Args:
        cgroups: Where control groups are mounted.
        of_process: The kernel's file of those that the process is in.
    """
    cores = len(os.sched_getaffinity(0))
    quotas = (_quota(folder) for folder in _groups(cgroups, of_process))
    return max(1, min([cores, *(int(quota) for quota in quotas if quota is not None)]))


def _groups(cgroups: Path, of_process: Path) -> list[Path]:
    """Folders of the control groups that the process is in, and of all above them."""
    folders = [cgroups, cgroups / "cpu"]
    try:
        lines = of_process.read_text().splitlines()
    except OSError:
        return folders
    for line in lines:
        number, controllers, path = line.split(":", 2)
        root = cgroups if number == "0" else cgroups / "cpu"
        if number == "0" or "cpu" in controllers.split(","):
            below = root / path.lstrip("/")
            folders += [f for f in (below, *below.parents) if f.is_relative_to(root)]
    return folders


def _quota(folder: Path) -> float | None:
    """Cores that a control group's quota allows, None where there is none."""
    try:
        quota, period = (folder / "cpu.max").read_text().split()
    except (OSError, ValueError):
        files = (folder / f"cpu.cfs_{name}_us" for name in ("quota", "period"))
        try:
            quota, period = (file.read_text().strip() for file in files)
        except OSError:
            return None
    unlimited = not quota.isdecimal() or not int(quota)  # "max", "-1"
    return None if unlimited else int(quota) / int(period)


def threads_of(cpus: float, actors: float) -> int:
    """Threads of one of some actors that share some cores.

    >>> threads_of(16, 4), threads_of(2, 3), threads_of(96, 1)
    (4, 1, 16)
    """
    return max(1, min(MOST_THREADS, int(cpus // max(1, actors))))


def threads_here(threads: int, num_gpus: float) -> int:
    """Threads of the actor that calls this.

    An actor with a GPU has a GPU's share of its own node's cores, which may have joined
    after the driver looked.

    Args:
        threads: As the driver reckoned.
        num_gpus: Of the actor.
    """
    if not num_gpus:
        return threads
    here = ray.get_runtime_context().get_node_id()
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    for node in nodes:
        if node["NodeID"] == here:
            resources = node["Resources"]
            actors = resources.get("GPU", 0) // num_gpus
            return threads_of(resources.get("CPU", 1), actors)
    return threads
