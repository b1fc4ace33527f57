"""The cluster: connecting to it, its size, and what its nodes can see."""

import logging
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raylatent.errors import (
    ConfigError,
    RaylatentError,
    StorageError,
    VisibilityError,
)
from raylatent.model.load import file_digest
from raylatent.model.spec import ModelSpec
from raylatent.storage import ASIDE_SUFFIX, Store, absolute, file_stat, is_uri

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Where Ray unpacks what --working-dir ships: deleted after the job.
_TEMPORARY_COPY = "/runtime_resources/"
_CHECKED_SOURCES = 64
READ_CPUS = 0.25
_DRIVER_LOGS = ("ray", "ray.data", "ray.tune", "ray.rllib")


def connect() -> bool:
    """Use the cluster already connected, else RAY_ADDRESS, else start a local one.

    Returns:
        Whether a local one was started; it ends with the process.
    """
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # A line of the core worker on actors with arguments is no news to users.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    address = os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address:
        try:
            ray.init(address=address, **options)
        except (ConnectionError, ValueError, RuntimeError) as error:
            message = f"cannot connect to Ray at RAY_ADDRESS={address}: {error}"
            raise ConfigError(message.splitlines()[0]) from error
        return False
    ray.init(address="local", include_dashboard=False, **options)
    return True


@dataclass(frozen=True, kw_only=True)
class Pool:
    """How many actors, and what each gets.

    Attributes:
        smallest: Actors at least.
        largest: Actors at most.
        num_cpus: Logical CPUs of one actor.
        num_gpus: GPUs of one actor.
        threads: Threads of one actor, for the model and for decoding.
    """

    smallest: int
    largest: int
    num_cpus: float
    num_gpus: float
    threads: int


def pool(actors: tuple[int, int] | None, num_gpus: float | None) -> Pool:
    """Share the cluster among actors.

    Actors ask for so few logical CPUs that, with the largest node lost, all of them
    and a read task still fit: else restarted actors would fill the surviving nodes
    and nothing could ever be read again.
    """
    nodes = [n["Resources"] for n in ray.nodes() if n["Alive"]]
    cpus = [float(node.get("CPU", 0)) for node in nodes if node.get("CPU", 0) > 0]
    gpus = sum(float(node.get("GPU", 0)) for node in nodes)
    if not cpus:
        message = "the cluster has no node with CPUs: start workers, then run again"
        raise ConfigError(message)
    each_gpus = (1.0 if gpus else 0.0) if num_gpus is None else num_gpus
    if each_gpus and actors is None:
        count = max(1, int(gpus // each_gpus))
    else:
        count = sum(max(1, int(node // 4)) for node in cpus)
    smallest, largest = actors or (count, count)
    surviving = sum(cpus) - max(cpus) if len(cpus) > 1 else sum(cpus)
    share = (surviving * 0.9 - READ_CPUS) / largest
    return Pool(
        smallest=smallest,
        largest=largest,
        num_cpus=max(0.01, min(1.0, int(share * 100) / 100)),
        num_gpus=each_gpus,
        threads=max(1, min(16, int(sum(cpus) // largest))),
    )


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


def check_visibility(store: Store, sources: Sequence[str], spec: ModelSpec) -> None:
    """Every node proves that it sees the run directory, the sources and the model.

    Raises:
        VisibilityError: A node does not; the message names node and path.
    """
    proof = secrets.token_hex(16)
    name = f".{store.writer}-probe{ASIDE_SUFFIX}"
    step = max(1, len(sources) // _CHECKED_SOURCES)
    stats = [(uri, file_stat(uri).size) for uri in sources[::step]]
    model = None if spec.module is not None or spec.hub else (spec, file_digest(spec))
    store.write(name, proof.encode())
    try:
        complaints = on_each_node(lambda: _sees(store, name, proof, stats, model))
    finally:
        store.delete(name)
    for node, complaint in complaints:
        if complaint is not None:
            message = (
                f"node {node} does not see {complaint}: use a path that all nodes "
                "share, or a URI such as s3://bucket/folder"
            )
            raise VisibilityError(message)


def on_each_node(action: Callable[[], T]) -> list[tuple[str, T]]:
    """What `action` gives on each node that has CPUs, with the node's address."""
    remote = ray.remote(num_cpus=0, max_retries=2)(action)
    nodes = [
        node
        for node in ray.nodes()
        if node["Alive"] and node["Resources"].get("CPU", 0) > 0
    ]
    pending = [
        remote.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(
                node["NodeID"], soft=False
            )
        ).remote()
        for node in nodes
    ]
    names = [str(node["NodeManagerAddress"]) for node in nodes]
    return list(zip(names, ray.get(pending), strict=True))


def _sees(
    store: Store,
    name: str,
    proof: str,
    stats: Sequence[tuple[str, int]],
    model: tuple[ModelSpec, str] | None,
) -> str | None:
    """What this node does not see, None where it sees all."""
    try:
        if not store.exists(name) or store.read(name).decode() != proof:
            return f"the run directory {store.uri}"
    except StorageError as error:
        return f"the run directory {store.uri} ({error})"
    for uri, size in stats:
        try:
            if file_stat(uri).size != size:
                return f"the same {uri}"
        except StorageError:
            return f"the TFRecord {uri}"
    if model is not None:
        spec, digest = model
        try:
            if file_digest(spec) != digest:
                return f"the same model {spec.name}"
        except (StorageError, OSError):
            return f"the model {spec.folder or spec.weights}"
    return None


@contextmanager
def quiet_ray_data() -> Iterator[None]:
    """Ray Data without its own progress bars and start-up lines; ours are in tiles."""
    context = ray.data.DataContext.get_current()
    saved = (context.enable_progress_bars, context.print_on_execution_start)
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    levels = {name: logging.getLogger(name).level for name in _DRIVER_LOGS}
    for log in levels:
        logging.getLogger(log).setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        context.enable_progress_bars, context.print_on_execution_start = saved
        for log, level in levels.items():
            logging.getLogger(log).setLevel(level)


def own_error(error: BaseException) -> RaylatentError | None:
    """Our error inside one of Ray's, None where there is none."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        current = waiting.pop()
        if current is None or id(current) in seen:
            continue
        if isinstance(current, RaylatentError):
            return current
        seen.add(id(current))
        cause = getattr(current, "cause", None)
        waiting += [current.__cause__, current.__context__]
        if isinstance(cause, BaseException):
            waiting.append(cause)
    return None
