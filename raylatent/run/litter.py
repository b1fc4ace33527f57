"""What processes leave that are killed: temporary files, and folders of benchmarks."""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from raylatent.claim import host_id, new_token, process_start
from raylatent.run.directory import RunDirectory
from raylatent.storage import ASIDE_SUFFIX, Store, absolute

# `.<token of a driver>-...` or `.pid<process>-...`, see Store.
TEMPORARY = re.compile(
    r"\.(?:(?P<token>[0-9a-f]{12})|pid(?P<pid>\d+))-[0-9a-f]{32}\.aside"
)
_SCRATCH = re.compile(r"bench-[0-9a-f]{12}-(?P<host>[0-9a-f]{8})-pid(?P<pid>\d+)")


def temporary_files(store: Store, folders: Iterable[str]) -> list[str]:
    """Files at a run's root and in its folders that are, or were, being written."""
    names = [name for name in store.root_files() if name.endswith(ASIDE_SUFFIX)]
    for folder in sorted(set(folders)):
        names += [f"{folder}/{name}" for name in store.child(folder).asides()]
    return names


def remove_litter(run: RunDirectory) -> None:
    """Delete temporary files of drivers that are gone, and folders of benchmarks.

    The claim must be held.

    Only files of our own naming, and only in the run's own folders: a folder below
    may be another's. What a process of this host is still writing, as a mosaic, for
    which no claim is needed, stays.
    """
    for name in temporary_files(run.store, run.folders):
        match = TEMPORARY.fullmatch(name.rsplit("/", 1)[-1])
        if match is None or (match["pid"] and process_start(int(match["pid"]))):
            continue
        run.store.delete(name)
    remove_scratch(run.store)


@contextmanager
def scratch(out: str) -> Iterator[Store]:
    """A folder of this process below a run directory for what is measured, not kept.

    It is gone at the end, with all folders that were made for it and are empty.

    Args:
        out: The run directory, there or not.
    """
    base = Store(out)
    name = f"bench-{new_token()}-{_host()}-pid{os.getpid()}"
    folders = [Path(absolute(out)), *Path(absolute(out)).parents]
    lacking = [path for path in folders if base.is_local and not path.exists()]
    try:
        yield base.child(name)
    finally:
        base.delete_folder(name)
        for folder in lacking:
            if not folder.is_dir() or any(folder.iterdir()):
                break  # others have put something there
            folder.rmdir()


def _host() -> str:
    """This host since its last boot, for a folder's name."""
    return hashlib.sha256(host_id().encode()).hexdigest()[:8]


def remove_scratch(store: Store) -> None:
    """Delete such folders of this host's processes that are gone."""
    for name in store.root_folders():
        match = _SCRATCH.fullmatch(name)
        if match is None or match["host"] != _host():
            continue
        if not process_start(int(match["pid"])):
            store.delete_folder(name)
