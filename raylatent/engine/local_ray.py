"""What a local Ray needs of its surroundings, where these are not as Ray wants them."""

import atexit
import logging
import os
import resource
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ray._private import ray_constants

from raylatent.errors import ConfigError

logger = logging.getLogger(__name__)

_FILES = 4096  # as Ray recommends
# What Ray adds to its temporary folder for the longest name of a socket, at most.
_SOCKET = "/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
_MOST_BYTES = 107  # of the name of a Unix socket
_SHORT = Path("/tmp")  # noqa: S108  (what is made there is private)
_CGROUPS = Path("/sys/fs/cgroup")
_OF_PROCESS = Path("/proc/self/cgroup")
_LEVEL_LINE = "Set ray log level from environment variable"
_NO_TOKEN = frozenset({"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"})


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


def temporary_folder() -> str:
    """Ray's folder below RAY_TMPDIR, TMPDIR or /tmp, by a name that is short enough.

    A name that is too long for sockets, as batch systems make them, is reached by a
    link in /tmp, which goes when the process ends: the files stay where they belong.

    Raises:
        ConfigError: The folder cannot be written, or it needs a link and /tmp cannot be
            written.
    """
    variable = next(
        (v for v in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(v)), "TMPDIR"
    )
    folder = Path(os.environ.get(variable) or _SHORT).absolute() / "ray"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        message = (
            f"Ray cannot write its temporary files in {folder} ({error.strerror or error}): set "
            f"RAY_TMPDIR to a folder that can be written ({variable} names this one)"
        )
        raise ConfigError(message) from error
    if len(os.fsencode(f"{folder}{_SOCKET}")) <= _MOST_BYTES:
        return str(folder)
    try:
        made = tempfile.mkdtemp(prefix="rl", dir=_SHORT)
        link = Path(made) / "ray"
        link.symlink_to(folder)
    except OSError as error:
        message = (
            f"the name of {variable}={folder.parent} is too long for Ray's sockets, "
            f"and {_SHORT} cannot be written ({error.strerror or error}): set RAY_TMPDIR to a "
            f"folder whose name has at most {_MOST_BYTES - len(_SOCKET) - 4} bytes"
        )
        raise ConfigError(message) from error
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return str(link)


def token() -> None:
    """Give Ray a token where it cannot keep one in the user's home.

    With it Ray's ports, which others on the network can reach, take no commands of
    theirs.
    """
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    if _NO_TOKEN & os.environ.keys():
        return
    try:
        folder = Path.home() / ".ray"
        if (folder / "auth_token").exists():
            return
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * 64)
    except (OSError, RuntimeError):  # there may be no home at all
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def warn_of_few_files() -> None:
    """Say that Ray may open too few files, with which its processes die."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # Ray uses all it may
    if most != resource.RLIM_INFINITY and most < _FILES:
        logger.warning(
            "at most %d files may be open at once (ulimit -n), with which Ray's "
            "processes may die: %d or more are better",
            *(most, _FILES),
        )


@contextmanager
def started_by_uv_is_ignored() -> Iterator[None]:
    """Keep Ray from packing the current folder where `uv run` started the program.

    Ray sends it to the nodes: this machine has it, with all slides that are in it. The
    variable RAY_ENABLE_UV_RUN_RUNTIME_ENV is read when Ray is imported, which may have
    been before.
    """
    before = ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV
    ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = False
    try:
        yield
    finally:
        ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = before


@contextmanager
def without_level_line() -> Iterator[None]:
    """Take the line that Ray's C++ part writes of its log level out of stderr.

    It is written before any level holds. Without that level there is a longer line for
    each stage. All else goes through at once: the filter is a process, which outlives
    this one.
    """
    try:
        saved = os.dup(2)
        command = ["sed", "-u", f"/{_LEVEL_LINE}/d"]
        sed = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.PIPE, stdout=saved, start_new_session=True
        )
    except OSError:  # no stderr, or no sed
        yield
        return
    _flush()
    assert sed.stdin is not None  # noqa: S101  (for mypy)
    os.dup2(sed.stdin.fileno(), 2)
    sed.stdin.close()
    try:
        yield
    finally:
        _flush()
        os.dup2(saved, 2)
        os.close(saved)
        with suppress(subprocess.TimeoutExpired):
            sed.wait(1)


def _flush() -> None:
    with suppress(OSError, ValueError, AttributeError):  # closed, or there is none
        sys.stderr.flush()
