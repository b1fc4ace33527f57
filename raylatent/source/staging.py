"""Slides at a URI are copied whole to scratch of the node, which is bounded.

The scratch is `$RAYLATENT_SCRATCH`, else a folder of the user's own below the system's
temporary one; at most `$RAYLATENT_SCRATCH_GB` (10^9 bytes, default half of what is free)
are used. All workers of a node share it. A copy that is in use is never taken away, of
the others the longest unused go first.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from raylatent.errors import ConfigError, StorageError
from raylatent.storage import FileStat, open_input, retry

logger = logging.getLogger(__name__)

ROOT_VARIABLE = "RAYLATENT_SCRATCH"
CAPACITY_VARIABLE = "RAYLATENT_SCRATCH_GB"
_CHUNK_BYTES = 16 << 20
_ASIDE = ".aside"
_LOCK = ".lock"
_RESERVED = "reserved"
_PATIENCE_S = 600.0  # for others to need their copies no more
_WAIT_S = 1.0


class Staged:
    """A slide's copy on this node, kept while this object is alive.

    Args:
        folder: Where its files are.
        lock: An open file that holds a shared lock.
    """

    def __init__(self, folder: Path, lock: int) -> None:
        """See the class."""
        self.folder = folder
        weakref.finalize(self, os.close, lock)


def stage(files: Sequence[str], stat: FileStat) -> Staged:
    """The copy of a slide on this node, made if it is not there.

    Args:
        files: URIs of all its files; of a folder beside the first, names are kept.
        stat: Of all of them; a changed slide is copied again.

    Raises:
        StorageError: It cannot be read, or there is no room for it.
    """
    try:
        return _stage(files, stat)
    except OSError as error:
        message = f"cannot copy {files[0]} to the scratch of this node: {error}"
        raise StorageError(message) from error


def _stage(files: Sequence[str], stat: FileStat) -> Staged:
    root = _root()
    key = hashlib.blake2b(
        repr((list(files), stat)).encode(), digest_size=16
    ).hexdigest()
    folder = root / key
    lock = os.open(root / f"{key}{_LOCK}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)  # waits for a worker that is copying it
        while not folder.is_dir():  # or was taken away between the two locks
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.is_dir():
                _copy(root, folder, files, stat.size)
            fcntl.flock(lock, fcntl.LOCK_SH)
        os.utime(folder)
    except BaseException:
        os.close(lock)
        raise
    return Staged(folder, lock)


def _root() -> Path:
    given = os.environ.get(ROOT_VARIABLE)
    root = Path(given or Path(tempfile.gettempdir()) / f"raylatent-{os.getuid()}")
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        foreign = root.stat().st_uid != os.getuid()
    except OSError as error:
        message = f"the scratch {root} cannot be made ({error}): set {ROOT_VARIABLE}"
        raise StorageError(message) from error
    if foreign:
        message = f"the scratch {root} is another user's: set {ROOT_VARIABLE}"
        raise StorageError(message)
    return root


@dataclass(frozen=True)
class _Copy:
    path: Path
    size: int
    used: float


def _copy(root: Path, folder: Path, files: Sequence[str], size: int) -> None:
    aside = root / f"{folder.name}{_ASIDE}"
    shutil.rmtree(aside, ignore_errors=True)  # of a worker that died
    _reserve(root, aside, size)
    base = files[0].rsplit("/", 1)[0]
    try:
        for file in files:
            target = aside / "files" / file.removeprefix(f"{base}/")
            target.parent.mkdir(parents=True, exist_ok=True)
            _download(file, target)
        (aside / "files").rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _reserve(root: Path, aside: Path, size: int) -> None:
    """Make room, or wait until others need theirs no more."""
    until = time.monotonic() + _PATIENCE_S
    while True:
        with _only_one(root):
            complaint = _make_room(root, size)
            if complaint is None:
                aside.mkdir(mode=0o700)
                with (aside / _RESERVED).open("wb") as reserved:
                    reserved.truncate(size)  # counted by the next to make room
                return
        if time.monotonic() > until:
            raise StorageError(complaint)
        time.sleep(_WAIT_S)


def _download(uri: str, target: Path) -> None:
    with open_input(uri) as source, target.open("wb") as file:
        size = source.size()
        for start in range(0, size, _CHUNK_BYTES):
            n = min(_CHUNK_BYTES, size - start)
            file.write(retry(partial(source.read_at, n, start), f"read {uri}"))


@contextmanager
def _only_one(root: Path) -> Iterator[None]:
    """One worker of the node at a time counts and makes room."""
    with (root / f"room{_LOCK}").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make_room(root: Path, size: int) -> str | None:
    """Take away copies that nobody uses until `size` bytes fit.

    Returns:
        What is in the way of it now, None where there is room.

    Raises:
        StorageError: There is less room than that in all.
    """
    folders = [entry for entry in root.iterdir() if entry.is_dir()]
    copies = [_Copy(f, _bytes(f), f.stat().st_mtime) for f in folders]
    used = sum(copy.size for copy in copies)
    capacity = _capacity(root, used)
    for copy in sorted(copies, key=lambda copy: copy.used):
        if used + size <= capacity:
            break
        if _remove_unused(root, copy.path):
            used -= copy.size
    if used + size <= capacity:
        return None
    message = (
        f"no room to copy a slide of {size:,} bytes to {root}: {used:,} of "
        f"{capacity:,} are in use; set {CAPACITY_VARIABLE} or {ROOT_VARIABLE}"
    )
    if size > capacity:
        raise StorageError(message)
    return message


def _capacity(root: Path, used: int) -> int:
    given = os.environ.get(CAPACITY_VARIABLE)
    if not given:
        return (shutil.disk_usage(root).free + used) // 2
    try:
        return int(float(given) * 1e9)
    except ValueError as error:
        message = f"{CAPACITY_VARIABLE} is {given!r}, no number of 10^9 bytes"
        raise ConfigError(message) from error


def _bytes(folder: Path) -> int:
    reserved = folder / _RESERVED
    with contextlib.suppress(FileNotFoundError):
        if reserved.is_file():  # being copied: what it will be
            return reserved.stat().st_size
    total = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # moved into place meanwhile
            total += file.stat().st_size if file.is_file() else 0
    return total


def _remove_unused(root: Path, folder: Path) -> bool:
    """Take away a copy unless somebody holds its lock."""
    name = folder.name.removesuffix(_ASIDE)
    lock = os.open(
        root / f"{name}{_LOCK}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
    )
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        logger.info("scratch: %s is taken away to make room", folder)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True
