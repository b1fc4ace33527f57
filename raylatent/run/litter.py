"""What writers left behind when they were killed: aside files, folders of benchmarks."""

import re

from raylatent.claim import process_start
from raylatent.run.directory import RunDirectory
from raylatent.run.inventory import asides
from raylatent.run.scratch import remove_scratch

# `.<token of a driver>-...` or `.pid<process>-...`, see Store.
ASIDE = re.compile(r"\.(?:(?P<token>[0-9a-f]{12})|pid(?P<pid>\d+))-[0-9a-f]{32}\.aside")


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
