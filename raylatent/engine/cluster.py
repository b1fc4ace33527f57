"""The cluster: its size, waiting for its tasks, and what went wrong in it."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raylatent.engine.cores import threads_of
from raylatent.engine.failures import as_ours
from raylatent.errors import ConfigError, IncompleteError

logger = logging.getLogger(__name__)

READ_CPUS = 0.25
_SAY_EVERY_S = 60.0
_CPU_STEPS = 10_000  # Ray counts in ten-thousandths
_DRIVER_LOGS = ("ray", "ray.data", "ray.tune", "ray.rllib")
STALL_TIMEOUT_S = 2 * 3600.0
"""Nothing done for this long ends the work; a large model's unit may take an hour."""
AGAIN = "What is written is kept, and the same command again goes on from here"
"""Ends what is said of work that did not end well."""


def beside_driver() -> NodeAffinitySchedulingStrategy:
    """For actors that must not die with another node: the driver's own."""
    here = ray.get_runtime_context().get_node_id()
    return NodeAffinitySchedulingStrategy(here, soft=True)


@dataclass(frozen=True, kw_only=True)
class Pool:
    """How many actors, and what each gets.

    Attributes:
        smallest: Actors at least.
        largest: Actors at most.
        num_cpus: Logical CPUs of one actor.
        num_gpus: GPUs of one actor.
        threads: Threads of one actor, for the model and for decoding: its share of
            the cores. Of an actor with a GPU they follow the node that it is on.
        at_once: Items that an actor works on at once.
    """

    smallest: int
    largest: int
    num_cpus: float
    num_gpus: float
    threads: int
    at_once: int = 1


def alive_nodes() -> list[dict[str, Any]]:
    """Ray's records of the nodes that are up."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node for node in nodes if node["Alive"]]


def pool(
    actors: tuple[int, int] | None, num_gpus: float | None, *, local: bool = False
) -> Pool:
    """Share the cluster among actors.

    Args:
        actors: Smallest and largest number, default by the cluster's size.
        num_gpus: GPUs of each, default 1 where the cluster has any.
        local: Whether the cluster is our own, to which no node will ever be added.

    Raises:
        ConfigError: There is no node with CPUs, or none will ever have the GPUs.
    """
    nodes = [node["Resources"] for node in alive_nodes()]
    cpus = [float(node.get("CPU", 0)) for node in nodes if node.get("CPU", 0) > 0]
    gpus = [float(node.get("GPU", 0)) for node in nodes]
    if not cpus:
        message = "the cluster has no node with CPUs: start workers, then run again"
        raise ConfigError(message)
    each_gpus = (1.0 if any(gpus) else 0.0) if num_gpus is None else num_gpus
    if local and each_gpus > max(gpus):
        message = (
            f"--num-gpus is {each_gpus:g}, but this machine has {max(gpus):g} GPUs: "
            "leave it out, or connect to a cluster that has them (RAY_ADDRESS)"
        )
        raise ConfigError(message)
    if each_gpus and actors is None:
        count = max(1, sum(int(node // each_gpus) for node in gpus))
    else:
        count = sum(max(1, int(node // 4)) for node in cpus)
    smallest, largest = actors or (count, count)
    return Pool(
        smallest=smallest,
        largest=largest,
        num_cpus=actor_cpus(cpus, largest),
        num_gpus=each_gpus,
        threads=threads_of(sum(cpus), largest),
    )


def actor_cpus(cpus: Sequence[float], n_actors: int) -> float:
    """Logical CPUs that each actor asks for: at most 1, and never too many.

    With the largest node lost, all actors still fit on the others, each of which has
    room for a read task: else restarted actors would fill the surviving nodes, and
    nothing could ever be read again, or would wait for a place for ever with the units
    that they were sent.

    Args:
        cpus: Of each node that has any.
        n_actors: The most there may be.

    >>> actor_cpus([1.0, 1.0], 2), actor_cpus([2.0], 1), actor_cpus([4.0, 1.0, 1.0], 3)
    (0.375, 1.0, 0.375)
    """
    surviving = sorted(cpus)[:-1] if len(cpus) > 1 else list(cpus)
    room = [max(0, round((node - READ_CPUS) * _CPU_STEPS)) for node in surviving]
    low, high = 1, _CPU_STEPS  # the largest share with room for all, by halving
    while low < high:
        share = (low + high + 1) // 2
        if sum(steps // share for steps in room) >= n_actors:
            low = share
        else:
            high = share - 1
    return low / _CPU_STEPS


@contextmanager
def quiet_ray_data(stall_timeout_s: float) -> Iterator[None]:
    """Ray Data without its own progress bars and start-up lines; ours are in tiles.

    Args:
        stall_timeout_s: When Ray Data gives up if nothing moves.
    """
    context = ray.data.DataContext.get_current()
    saved = {
        "enable_progress_bars": context.enable_progress_bars,
        "print_on_execution_start": context.print_on_execution_start,
        "execution_no_progress_timeout_s": context.execution_no_progress_timeout_s,
    }
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = stall_timeout_s
    levels = {name: logging.getLogger(name).level for name in _DRIVER_LOGS}
    for log in levels:
        logging.getLogger(log).setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for name, value in saved.items():
            setattr(context, name, value)
        for log, level in levels.items():
            logging.getLogger(log).setLevel(level)


def gather(
    pending: Sequence["ray.ObjectRef[Any]"], stall_timeout_s: float = STALL_TIMEOUT_S
) -> Iterator[Any]:
    """Results of tasks, in their order.

    Raises:
        RaylatentError: A task raised it, or failed otherwise.
        IncompleteError: None was done for `stall_timeout_s`.
    """
    for i, answer in enumerate(pending):
        _wait(pending[i:], stall_timeout_s)
        try:
            result = ray.get(answer)
        except ray.exceptions.RayError as error:
            raise as_ours(error) from error
        yield result


def _wait(pending: Sequence["ray.ObjectRef[Any]"], stall_timeout_s: float) -> None:
    """Wait for the first of some tasks; say so now and then, and not for ever."""
    first = list(pending[:1])
    n_done, since = -1, time.monotonic()
    while not ray.wait(first, timeout=_SAY_EVERY_S)[0]:
        done = ray.wait(list(pending), num_returns=len(pending), timeout=0)[0]
        if len(done) > n_done:  # others were
            n_done, since = len(done), time.monotonic()
            continue
        quiet_s = time.monotonic() - since
        up = f"{len(alive_nodes())} nodes of the cluster are up"
        if quiet_s >= stall_timeout_s:
            message = (
                f"nothing was finished for {quiet_s:.0f} s, the most that is waited "
                f"for, and {up}. {AGAIN}"
            )
            raise IncompleteError(message)
        logger.warning("nothing was finished for %.0f s; %s", quiet_s, up)
