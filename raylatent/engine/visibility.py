"""What the cluster's nodes see: the run directory, the sources, the model."""

import platform
import secrets
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raylatent.engine.cluster import alive_nodes, gather
from raylatent.errors import RunError, StorageError, VisibilityError
from raylatent.run import RunDirectory
from raylatent.source.kinds import kind_of
from raylatent.source.protocol import Request
from raylatent.storage import (
    ASIDE_SUFFIX,
    FileStat,
    Store,
    absolute,
    is_uri,
)

if TYPE_CHECKING:
    from raylatent.model.spec import ModelSpec

T = TypeVar("T")

# Where Ray unpacks what --working-dir ships: deleted after the job.
_TEMPORARY_COPY = "/runtime_resources/"
_CHECKED_SOURCES = 64
_SHARED = "use a path that all nodes share, or a URI such as s3://bucket/folder"


def refuse_temporary_copy(what: str, paths: Sequence[str]) -> None:
    """Refuse paths in the copy of the working directory that Ray makes for a job."""
    for path in paths:
        local = absolute(path)
        if not is_uri(local) and _TEMPORARY_COPY in local:
            message = (
                f"{what} {path} lies in the temporary copy that --working-dir makes, "
                "which Ray deletes: give an absolute path or a URI"
            )
            raise VisibilityError(message)


@dataclass(frozen=True, kw_only=True)
class Sights:
    """What a node is to see.

    Attributes:
        store: The run directory.
        name: A file in it.
        proof: Its content.
        stats: Some of the sources.
        model: The model and a digest of its files, None for one without files.
    """

    store: Store
    name: str
    proof: str
    stats: tuple[tuple[Request, FileStat], ...] = ()
    model: "tuple[ModelSpec, str] | None" = None


def check_visibility(
    store: Store,
    sources: Sequence[Request] = (),
    spec: "ModelSpec | None" = None,
) -> None:
    """Every node proves that it sees the run directory, the sources and the model.

    Raises:
        VisibilityError: A node does not; the message names node and path.
    """
    with_files = spec is not None and spec.module is None and not spec.hub
    step = max(1, len(sources) // _CHECKED_SOURCES)
    some = [kind_of(one).glimpse(one) for one in sources[::step]]
    sights = Sights(
        store=store,
        name=f".{store.writer}-{uuid.uuid4().hex}{ASIDE_SUFFIX}",  # litter if we die
        proof=secrets.token_hex(16),
        stats=tuple((one, kind_of(one).stat(one)) for one in some),
        model=(spec, _digest(spec)) if spec is not None and with_files else None,
    )
    store.write(sights.name, sights.proof.encode())
    try:
        complaints = on_each_node(lambda: unseen(sights))
    finally:
        store.delete(sights.name)
    for node, complaint in complaints:
        if complaint is not None:
            message = f"node {node} does not see {complaint}: {_SHARED}"
            raise VisibilityError(message)


def on_each_node(action: Callable[[], T]) -> list[tuple[str, T]]:
    """What `action` gives on each node that has CPUs, with the node's address."""
    remote = ray.remote(num_cpus=0, max_retries=2)(action)
    nodes = [node for node in alive_nodes() if node["Resources"].get("CPU", 0) > 0]
    pending = [
        remote.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(
                node["NodeID"], soft=False
            )
        ).remote()
        for node in nodes
    ]
    names = [str(node["NodeManagerAddress"]) for node in nodes]
    return list(zip(names, gather(pending), strict=True))


def unseen(sights: Sights) -> str | None:
    """What this node does not see, None where it sees all."""
    return _unseen_run(sights) or _unseen_source(sights) or _unseen_model(sights)


def _unseen_run(sights: Sights) -> str | None:
    store = sights.store
    try:
        if store.exists(sights.name):
            seen = store.read(sights.name).decode() == sights.proof
            return None if seen else f"the same run directory {store.uri}"
    except StorageError as error:
        return f"the run directory {store.uri} ({error})"
    return f"the run directory {store.uri}"


def _unseen_source(sights: Sights) -> str | None:
    for one, stat in sights.stats:
        try:
            if kind_of(one).stat(one) != stat:
                return f"the same source {one.uri} (its size or time differs)"
        except StorageError:
            return f"the source {one.uri}"
    return None


def _unseen_model(sights: Sights) -> str | None:
    if sights.model is None:
        return None
    spec, digest = sights.model
    try:
        return None if _digest(spec) == digest else f"the same model {spec.name}"
    except (StorageError, OSError):
        return f"the model {spec.folder or spec.weights}"


def _digest(spec: "ModelSpec") -> str:
    from raylatent.model.load import file_digest  # noqa: PLC0415  (torch: slow)

    return file_digest(spec)


def check_run(run: RunDirectory, fingerprint: str) -> None:
    """Refuse to work on a node that does not see the driver's run.

    Nodes that join later were not there for `check_visibility`.

    Raises:
        VisibilityError: This node sees no run there, or another.
    """
    try:
        found = run.settings().get("fingerprint")
    except (RunError, StorageError) as error:
        found, problem = None, f"the run directory {run.uri} ({error})"
    else:
        problem = f"the same run directory {run.uri}"
    if found != fingerprint:
        message = f"node {platform.node()} does not see {problem}: {_SHARED}"
        raise VisibilityError(message)
