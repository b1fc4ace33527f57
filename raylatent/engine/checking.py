"""Files of a run, read whole by the cluster: to verify it, or before a re-run keeps them."""

import platform
from collections.abc import Sequence

from raylatent.engine.cluster import spread
from raylatent.engine.progress import Progress
from raylatent.errors import VisibilityError
from raylatent.run import RUN_JSON
from raylatent.storage import Store
from raylatent.stored.verification import FileState, read_states

_TOGETHER = 32  # files that a task reads


def read_files(
    store: Store,
    names: Sequence[str],
    *,
    what: str,
    unit: str,
    proof: str = RUN_JSON,
) -> dict[str, FileState]:
    """Files of a run as they are; those that are not there are left out.

    Args:
        store: The run directory.
        names: The files.
        what: Begins the line that shows progress.
        unit: What the files are called in it.
        proof: A file of the run, by which a node shows that it sees the run.

    Raises:
        VisibilityError: A node does not see the run directory.
        StorageError: A file cannot be read, after retries.
    """
    store = Store(store.uri, writer=store.writer)
    batches = [names[i : i + _TOGETHER] for i in range(0, len(names), _TOGETHER)]
    states: dict[str, FileState] = {}
    with Progress(what, len(names), unit=unit) as progress:
        arguments = [(store, proof, batch) for batch in batches]
        for batch, found in zip(batches, spread(read_here, arguments), strict=True):
            progress.add(len(batch))
            states |= {state.name: state for state in found}
    return states


def read_here(store: Store, proof: str, names: Sequence[str]) -> list[FileState]:
    """Read some files; the run must be where this node sees it: a task's work."""
    check_seen(store, proof)
    return read_states(store, names)


def check_seen(store: Store, proof: str) -> None:
    """Refuse to read a folder that this node does not see; nothing is written there.

    Args:
        store: The folder.
        proof: A file that is in it.

    Raises:
        VisibilityError: It is not.
    """
    if not store.exists(proof):
        message = (
            f"node {platform.node()} does not see {store.uri}: use a path that all "
            "nodes share, or a URI such as s3://bucket/folder"
        )
        raise VisibilityError(message)
