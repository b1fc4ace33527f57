"""Connecting to Ray: the cluster at RAY_ADDRESS, or a local one of this machine's.

A local Ray needs some things of its surroundings that are not always as it wants them.
"""

import atexit
import ctypes
import logging
import os
import resource
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import ray
from ray._private import ray_constants
from ray._private.node import Node

from raylatent.caches import use_private_caches
from raylatent.engine.progress import duration
from raylatent.errors import ConfigError

logger = logging.getLogger(__name__)

_PORT_S = 5.0  # for a port to answer
_PORTS_S = 30.0  # for a port to answer at last: the cluster may be starting
_SAY_AFTER_S = 10.0  # and twice that, and so on
_MOST_S = 180.0  # for Ray to let a driver in; it may be sent the working directory
_LOOK_EVERY_S = 5.0
# Without an answer, before it is said. Ray ends the process after 60 s without the head,
# and about 15 s after its node has died.
_HEAD_GONE_S = 20.0
_NODE_GONE_S = 5.0
_MOST_CHARACTERS = 700  # of Ray's reasons
_NOT_READY = f"it was not ready after {duration(_MOST_S)}"
_LOCAL = frozenset({"", "local"})  # RAY_ADDRESS where a Ray of our own is started

_forked = threading.Event()
_ahead: "tuple[Future[str], str] | None" = None  # a local Ray that is being started
_own = ""  # the address of the last one
_lock = threading.RLock()  # of these
_watching: object = None  # the last watch: others end
_ends_with: int | None = None  # see `end_soon`
_FILES = 4096  # as Ray recommends
# What Ray adds to its temporary folder for the longest name of a socket, at most.
_SOCKET = "/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
_MOST_BYTES = 107  # of the name of a Unix socket
_SHORT = Path("/tmp")  # noqa: S108  (what is made there is private)
_CGROUPS = Path("/sys/fs/cgroup")
_OF_PROCESS = Path("/proc/self/cgroup")
_LEVEL_LINE = "Set ray log level from environment variable"
_NO_TOKEN = frozenset({"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"})


def _look_for_ray() -> None:
    """In a forked process: Ray's client of the parent's is there, and answers never."""
    if ray.is_initialized():
        _forked.set()


os.register_at_fork(after_in_child=_look_for_ray)


def connect() -> bool:
    """Use the cluster already connected, else RAY_ADDRESS, else start a local one.

    Returns:
        Whether it is a local one that was started here; it ends with the process.

    Raises:
        ConfigError: There is no cluster at RAY_ADDRESS, or none could be started, or this
            process was forked from one that uses Ray.
    """
    if _forked.is_set():
        message = (
            "this process was forked from one that uses Ray, which does not work in "
            "both: start it anew, as multiprocessing.get_context('spawn') does"
        )
        raise ConfigError(message)
    with _lock:
        if _ahead is None and ray.is_initialized():
            return _address() == _own
        address = os.environ.get("RAY_ADDRESS", "")
        if _ahead is None and address not in _LOCAL:
            check_address(address)
            _join(address)
            return False
        _start()
    return True


def start_ahead() -> None:
    """Begin to start a local Ray where `connect` will, and do not wait for it.

    It takes seconds, in which torch can be imported and a model be loaded. If that is
    refused, the next call of `connect` in this process finds the Ray.
    """
    global _ahead  # noqa: PLW0603  (a process has one Ray)
    local = os.environ.get("RAY_ADDRESS", "") in _LOCAL
    with _lock:
        if local and _ahead is None and not (ray.is_initialized() or _forked.is_set()):
            _ahead = _begin_local()
            atexit.register(_leave, _ahead[0])  # not to be left half begun


def end_soon(code: int) -> None:
    """The process is about to end: a local Ray is not waited for.

    An orderly end takes Ray seconds, in which there is nothing left to do. Its
    processes are killed with this one.

    Args:
        code: The exit code of the process.
    """
    global _ends_with  # noqa: PLW0603  (a process ends once)
    _ends_with = code


def _end_at_once() -> None:
    """What is registered before this, as Ray's own end is, does not run.

    Ray's agents would stay for a minute after it, and hold their ports.
    """
    if _ends_with is not None:
        for pid in _descendants(os.getpid()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        os._exit(_ends_with)


def _descendants(pid: int, processes: Path = Path("/proc")) -> list[int]:
    """Processes that a process started, and what those started; none without /proc."""
    found: list[int] = []
    for file in processes.glob(f"{pid}/task/*/children"):
        with suppress(OSError):  # which has ended
            found += map(int, file.read_text().split())
    return [*found, *(one for child in found for one in _descendants(child, processes))]


def _leave(outcome: "Future[str]") -> None:
    if _ends_with is None:
        wait([outcome], _SAY_AFTER_S)


def _start() -> None:
    global _ahead, _own  # noqa: PLW0603  (a process has one Ray)
    (outcome, folder), _ahead = _ahead or _begin_local(), None
    try:
        _own = _wait("Ray is being started on this machine", outcome)
    except Exception as error:
        message = (
            f"Ray could not be started on this machine: {in_one_line(error)}. Its log "
            f"files are below {folder} (RAY_TMPDIR chooses another folder)"
        )
        raise ConfigError(message) from error


def _begin_local() -> "tuple[Future[str], str]":
    """Begin to start a local Ray; see `_begin`, and the folder of its files."""
    atexit.register(_end_at_once)  # after all that is registered from here on
    options: dict[str, Any] = {"include_dashboard": False}
    if usable_cores() < (os.cpu_count() or 1):  # Ray looks at quotas alone
        options["num_cpus"] = usable_cores()
    folder = temporary_folder()
    token()
    warn_of_few_files()
    use_private_caches()  # of the workers, too
    return _begin(address="local", _temp_dir=folder, **options), folder


def _join(address: str) -> None:
    where = f"RAY_ADDRESS={address}"
    try:
        _wait(f"waiting for Ray at {where}", _begin(address=address))
    except TimeoutError as error:
        message = (
            f"nothing that answers at {where} has let this program in for "
            f"{duration(_MOST_S)}: it must be the address of the cluster's head "
            "(HOST:6379), and the head must be up"
        )
        raise ConfigError(message) from error
    except Exception as error:
        message = f"cannot connect to Ray at {where}: {in_one_line(error)}"
        raise ConfigError(message) from error


def in_one_line(error: BaseException) -> str:
    r"""The whole of Ray's reason in one line, without stack traces.

    >>> in_one_line(RuntimeError("Versions differ.\n  Ray: 2.40\n  Python: 3.12\n"))
    'Versions differ. Ray: 2.40 Python: 3.12'
    """
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.strerror}: {error.filename}"
    text = str(error).partition("Traceback (most recent call last)")[0]
    line = " ".join(text.split()).rstrip(".:") or type(error).__name__
    if "exceeds the maximum size" in line:
        line += (
            ". Ray sends the folder in which `uv run` was started to the nodes: start "
            "it in a folder without data, or set RAY_ENABLE_UV_RUN_RUNTIME_ENV=0 if "
            "raylatent is installed on the nodes"
        )
    if len(line) > _MOST_CHARACTERS:
        line = f"{line[:_MOST_CHARACTERS]}..."
    return line


def check_address(address: str, within_s: float = _PORTS_S) -> None:
    """Wait until the port of RAY_ADDRESS answers.

    Ray itself waits for a quarter of an hour before it says that nothing is there.

    Args:
        address: HOST:PORT, ray://HOST:PORT, or auto, of which Ray knows the port.
        within_s: How long to wait, in seconds.

    Raises:
        ConfigError: It does not answer, or the address is of another kind.
    """
    if address == "auto":
        return
    scheme, colons, rest = address.rpartition("://")
    if scheme in {"http", "https"}:
        message = (
            f"RAY_ADDRESS={address} is the address of Ray's job server, which `ray job "
            "submit` takes: for a program RAY_ADDRESS is the cluster's own, as "
            f"{rest.partition(':')[0]}:6379, or auto on one of its nodes"
        )
        raise ConfigError(message)
    host, colon, port = rest.rpartition(":")
    if not colon or not host or not port.isdecimal():
        message = (
            f"RAY_ADDRESS is {address!r}, not HOST:PORT (as 10.0.0.1:6379) nor auto; "
            "without RAY_ADDRESS the work is done on this machine"
        )
        raise ConfigError(message)
    if not colons or scheme == "ray":
        _wait_for_port((host.strip("[]"), int(port)), address, within_s)


def _wait_for_port(port: tuple[str, int], address: str, within_s: float) -> None:
    began, said = time.monotonic(), False
    while (why := _unanswered(port)) is not None:
        waited_s = time.monotonic() - began
        if waited_s >= within_s:
            message = (
                f"no Ray answers at RAY_ADDRESS={address} ({why}, tried for "
                f"{duration(waited_s)}): start that cluster, set RAY_ADDRESS to one "
                "that is up, or unset it to work on this machine alone"
            )
            raise ConfigError(message)
        if not said:
            logger.warning(
                "waiting for Ray at RAY_ADDRESS=%s (%s), for %s at most",
                *(address, why, duration(within_s)),
            )
        said = True
        time.sleep(min(2.0, within_s))


def _unanswered(port: tuple[str, int]) -> str | None:
    """Why a port does not answer, None if it does."""
    try:
        socket.create_connection(port, timeout=_PORT_S).close()
    except (OSError, OverflowError, UnicodeError) as error:
        return getattr(error, "strerror", None) or str(error)
    return None


def _begin(**options: Any) -> "Future[str]":  # noqa: ANN401  (of several types)
    """Call `ray.init` in a thread that stays until the process ends.

    A local Ray's processes are killed with the thread that started them, which is not
    to be a thread of the user's.

    Args:
        **options: Of `ray.init`.

    Returns:
        Will have the address of the cluster's head, or whatever Ray raises.
    """
    outcome: Future[str] = Future()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # The core worker calls it an error that Ray Data's actors have arguments.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    local = options["address"] == "local"

    def stay() -> None:
        try:
            less = start_for_one_machine() if local else nullcontext()
            with _own_sigterm(), without_level_line(), less:
                ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
        except BaseException as error:  # noqa: BLE001  (raised in the thread that waits)
            outcome.set_exception(error)
            return
        watched = _watched()
        outcome.set_result(_address())
        _watch(watched)

    threading.Thread(target=stay, name="raylatent-ray", daemon=True).start()
    return outcome


def _wait(what: str, outcome: "Future[str]") -> str:
    """What `_begin` gives, once it is there; what is waited for is said now and then.

    Raises:
        TimeoutError: It takes longer than `_MOST_S`.
        Exception: Whatever Ray raises.
    """
    began, say_at_s = time.monotonic(), _SAY_AFTER_S
    try:
        while not outcome.done():
            waited_s = time.monotonic() - began
            if waited_s >= _MOST_S:
                raise TimeoutError(_NOT_READY)
            if waited_s >= say_at_s:
                logger.warning("%s (%s)", what, duration(waited_s))
                say_at_s *= 2
            wait([outcome], timeout=min(say_at_s, _MOST_S) - waited_s)
    except KeyboardInterrupt:
        wait([outcome], timeout=_SAY_AFTER_S)  # C++ code does not like to be left
        raise
    return outcome.result()


def _address() -> str:
    """Of the cluster's head."""
    return str(ray.get_runtime_context().gcs_address)


@dataclass(frozen=True)
class _Watched:
    """A process of Ray's without which it ends this one: what it is, where, how soon."""

    what: str
    port: tuple[str, int]
    gone_s: float


def _watched() -> list[_Watched]:
    """The cluster's head, and the node on which this program runs."""
    context = ray.get_runtime_context()
    host, _, port = _address().rpartition(":")
    watched = [_Watched("head", (host.strip("[]"), int(port)), _HEAD_GONE_S)]
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    for node in nodes:
        if node["NodeID"] == context.get_node_id():
            of_node = (node["NodeManagerAddress"], node["NodeManagerPort"])
            watched.append(_Watched("own node", of_node, _NODE_GONE_S))
    return watched


def _watch(watched: Sequence[_Watched], every_s: float = _LOOK_EVERY_S) -> None:
    """Say that a process of Ray's does not answer, for as long as Ray is connected.

    Some time later Ray ends this process, from C++ code and without a word of why.

    Args:
        watched: Processes.
        every_s: How often to look, in seconds.
    """
    global _watching  # noqa: PLW0603  (a process has one Ray)
    _watching = watched
    answered = dict.fromkeys(watched, time.monotonic())
    said: set[_Watched] = set()
    while True:
        time.sleep(every_s)
        if not ray.is_initialized() or watched is not _watching:
            return  # was shut down; its processes are gone
        for one in watched:
            why = _unanswered(one.port)
            if why is None:
                answered[one] = time.monotonic()
                said.discard(one)
            elif time.monotonic() - answered[one] >= one.gone_s and one not in said:
                said.add(one)
                logger.error(
                    "Ray's %s (%s:%d) does not answer (%s): it was killed, perhaps for "
                    "want of memory or of open files (ulimit -n), or the network is "
                    "down. If it stays away Ray ends this program within a minute; "
                    "what is written is kept, and the same command again goes on from "
                    "here",
                    *(one.what, *one.port, why),
                )


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep the handler of SIGTERM, where Ray's C++ part puts one that aborts.

    Python could do so in the main thread only, so it is the C library that is asked.
    """
    libc = ctypes.CDLL(None)
    kept = ctypes.create_string_buffer(1024)  # struct sigaction, which has about 150
    libc.sigaction(signal.SIGTERM, None, kept)
    try:
        yield
    finally:
        libc.sigaction(signal.SIGTERM, kept, None)


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
def start_for_one_machine() -> Iterator[None]:
    """Keep Ray from what is of use on several machines alone.

    Where `uv run` started the program, Ray packs the current folder, with all slides that
    are in it, and sends it to the nodes; RAY_ENABLE_UV_RUN_RUNTIME_ENV is read when Ray is
    imported, which may have been before.

    Processes that serve Ray's web pages (for which Ray waits a second, also without pages),
    watch the nodes that a cloud gives, and bring drivers the lines of workers, have nothing
    to do.
    """

    def no_pages(node: Any, **_options: object) -> None:  # noqa: ANN401
        node._webui_url = ""

    ours: dict[str, Any] = {
        "start_api_server": no_pages,
        "start_monitor": lambda _: None,
        "start_log_monitor": lambda _: None,
    }
    with (
        patch.object(ray_constants, "RAY_ENABLE_UV_RUN_RUNTIME_ENV", new=False),
        patch.multiple(Node, create=True, **ours),
    ):
        yield


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
