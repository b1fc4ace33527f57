"""A folder in a run directory for what is measured there, and nothing kept."""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raylatent.claim import host_id, new_token, process_start
from raylatent.storage import Store, absolute

_SCRATCH = re.compile(r"bench-[0-9a-f]{12}-(?P<host>[0-9a-f]{8})-pid(?P<pid>\d+)")


@contextmanager
def scratch(out: str) -> Iterator[Store]:
    """A folder of this process below a run directory, there or not.

    It is gone at the end, with all folders that were made for it and are empty.

    Args:
        out: The run directory.
    """
    base = Store(out)
    name = f"bench-{new_token()}-{_host()}-pid{os.getpid()}"
    lacking = _lacking(Path(absolute(out))) if base.is_local else []
    try:
        yield base.child(name)
    finally:
        base.delete_folder(name)
        for folder in lacking:
            if not folder.is_dir() or any(folder.iterdir()):
                break  # others have put something there
            folder.rmdir()


def _lacking(folder: Path) -> list[Path]:
    """Those of a folder and its parents that are not there, the innermost first."""
    return [path for path in (folder, *folder.parents) if not path.exists()]


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
