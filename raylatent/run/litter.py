"""What writers left behind when they were killed: aside files, folders of benchmarks."""

import re

from raylatent.claim import process_start
from raylatent.run.directory import RunDirectory
from raylatent.run.scratch import remove_scratch
from raylatent.storage import ASIDE_SUFFIX

# `.<token of a driver>-...` or `.pid<process>-...`, see Store.
ASIDE = re.compile(r"\.(?:(?P<token>[0-9a-f]{12})|pid(?P<pid>\d+))-[0-9a-f]{32}\.aside")


def asides(run: RunDirectory) -> list[str]:
    """Files at the run's root and in its folders that are, or were, being written."""
    names = [name for name in run.store.root_files() if name.endswith(ASIDE_SUFFIX)]
    for folder in dict.fromkeys(run.folders):
        names += [f"{folder}/{name}" for name in run.store.child(folder).asides()]
    return names


def remove_litter(run: RunDirectory) -> None:
    """Delete aside files of drivers that are gone, and benchmarks' folders.

    The claim must be held.

    Only files of our own naming, and only in the run's own folders: a folder below
    may be another's. What a process of this host is still writing, as a mosaic, for
    which no claim is needed, stays.
    """
    for name in asides(run):
        match = ASIDE.fullmatch(name.rsplit("/", 1)[-1])
        if match is None or (match["pid"] and process_start(int(match["pid"]))):
            continue
        run.store.delete(name)
    remove_scratch(run.store)
