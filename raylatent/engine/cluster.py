"""The cluster: how actors share its cores, and tasks whose answers are waited for.

What Ray raises becomes an error of ours: in one sentence, with Ray's reason in it. Units
of whole slides are handed out so that workers stay with the slide they hold.
"""

import logging
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raylatent.engine.connection import connect
from raylatent.errors import ConfigError, IncompleteError, RaylatentError

if TYPE_CHECKING:
    from raylatent.source.protocol import UnitPlan

logger = logging.getLogger(__name__)

READ_CPUS = 0.25
MOST_THREADS = 16
"""Of one actor: more than decode a GPU's tiles, and a model gains little from more."""
UNITS_AT_ONCE_ON_GPU = 5
"""Of TFRecords: a GPU does not wait for a unit to be begun, nor for a part to be written."""
_IN_FLIGHT = 256  # tasks
FEW_CALLS = 2
"""Are made by the driver: no cluster is worth being started for them."""
_SAY_EVERY_S = 60.0
_CPU_STEPS = 10_000  # Ray counts in ten-thousandths
STALL_TIMEOUT_S = 2 * 3600.0
"""Nothing done for this long ends the work; a large model's unit may take an hour."""
AGAIN = "What is written is kept, and the same command again goes on from here"
"""Ends what is said of work that did not end well."""

T = TypeVar("T")
Ticket = tuple[str, int]
"""Slide and number of a unit."""

_RAISED = re.compile(r"[\w.]*(Error|Exception|Exit|Interrupt)(\(\w+\))?: ")
_MOST_CHARACTERS = 400  # of Ray's own text

# What Ray's text has in it, and what that means; the first that fits is said.
_MEANINGS = (
    (
        re.compile(r"class_name: (\w+\.)*SlideQueue\b"),
        "the node on which this program runs was lost, and with it the list of what is "
        "left to do",
    ),
    (
        re.compile(r"low on memory|OutOfMemoryError|OOM"),
        "a node ran out of memory: try fewer --actors or a smaller --batch-size",
    ),
    (
        re.compile(r"node (has died|was terminated|is dead|died)|[Rr]aylet.* died"),
        "a node of the cluster was lost",
    ),
    (
        re.compile(r"owner has (died|exited)|OwnerDiedError"),
        "the process that had its inputs was lost",
    ),
    (
        re.compile(r"worker process has died|worker died|Worker (exits|unexpectedly)"),
        "its process was killed, perhaps for want of memory",
    ),
)


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
    room for a task: else restarted actors would fill the surviving nodes, and no task
    could ever run again, or would wait for a place for ever with the units that they
    were sent.

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


def threads_of(cpus: float, actors: float) -> int:
    """Threads of one of some actors that share some cores.

    >>> threads_of(16, 4), threads_of(2, 3), threads_of(96, 1)
    (4, 1, 16)
    """
    return max(1, min(MOST_THREADS, int(cpus // max(1, actors))))


def threads_here(threads: int, num_gpus: float) -> int:
    """Threads of the actor that calls this.

    An actor with a GPU has a GPU's share of its own node's cores, which may have joined
    after the driver looked.

    Args:
        threads: As the driver reckoned.
        num_gpus: Of the actor.
    """
    if not num_gpus:
        return threads
    here = ray.get_runtime_context().get_node_id()
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    for node in nodes:
        if node["NodeID"] == here:
            resources = node["Resources"]
            actors = resources.get("GPU", 0) // num_gpus
            return threads_of(resources.get("CPU", 1), actors)
    return threads


def spread(
    work: Callable[..., T],
    calls: Iterable[tuple[Any, ...]],
    stall_timeout_s: float = STALL_TIMEOUT_S,
    *,
    num_cpus: float = READ_CPUS,
) -> Iterator[T]:
    """Call `work` with each of the arguments; answers in their order.

    A few calls are made here. More are tasks of the cluster, which is connected for
    them; a bounded number of them is in flight.

    Args:
        work: A function that workers can import.
        calls: Its arguments, asked for as they are needed.
        stall_timeout_s: How long nothing may be finished.
        num_cpus: Of a task.

    Raises:
        RaylatentError: A task raised it, or failed otherwise.
        IncompleteError: None was done for `stall_timeout_s`.
    """
    calls = iter(calls)
    first = [*islice(calls, FEW_CALLS + 1)]
    if len(first) <= FEW_CALLS:
        yield from (work(*arguments) for arguments in first)
        return
    connect()
    remote = ray.remote(num_cpus=num_cpus)(work)
    pending: list[ray.ObjectRef[Any]] = []
    for arguments in chain(first, calls):
        pending.append(remote.remote(*arguments))
        if len(pending) >= _IN_FLIGHT:
            yield from gather(pending[: _IN_FLIGHT // 2], stall_timeout_s)
            del pending[: _IN_FLIGHT // 2]
    yield from gather(pending, stall_timeout_s)


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


class CarriedError(Exception):
    """Carries an error from an actor: to the text of others Ray Data adds its own."""

    @property
    def cause(self) -> BaseException:
        """The error."""
        return self.args[0]  # type: ignore[no-any-return]


def as_ours(error: BaseException) -> RaylatentError:
    """Our error inside one of Ray's, else an IncompleteError in one sentence.

    >>> str(as_ours(ValueError("odd")))[:34]
    'a worker failed (ValueError: odd):'
    """
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, RaylatentError):
            return cause
    # Ray Data raises its internal errors from an empty one.
    last = [cause for cause in causes if str(cause).strip()][-1:] or causes[-1:]
    message = (
        f"a worker failed ({_what_happened(last[0])}): what is written is kept, and the "
        "same command again goes on from here"
    )
    return IncompleteError(message)


def _what_happened(error: BaseException) -> str:
    kind, text = type(error).__name__, str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not isinstance(error, ray.exceptions.RayError):
        return f"{kind}: {lines[0]}" if lines else kind
    # A text that holds a stack trace says in its last such line what happened.
    raised = [line for line in lines if _RAISED.match(line)]
    if raised:
        said = raised[-1]
    else:  # lines with tabs have the ids of the actor
        told = [line for line in text.splitlines() if not line.startswith("\t")]
        said = f"{kind}: {' '.join(' '.join(told).split())}" if lines else kind
    said = f"{said[:_MOST_CHARACTERS]}..." if len(said) > _MOST_CHARACTERS else said
    meaning = next((words for sign, words in _MEANINGS if sign.search(text)), None)
    return said if meaning is None else f"{meaning}; Ray says {said}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what it came from, Ray's error of both classes left out.

    For an error of a task Ray makes one that is of both classes, its text a trace.
    """
    current: BaseException | None = error
    while current is not None:
        inner = getattr(current, "cause", None)
        inner = inner if isinstance(inner, BaseException) else current.__cause__
        if inner is None or not isinstance(current, ray.exceptions.RayTaskError):
            yield current
        current = inner


class SlideQueue:
    """Which unit of a slide a worker is to do next.

    A worker goes on with its slide; else it helps with one that its node holds already
    (a copy of a remote slide is made once a node); else it begins one that nobody
    holds; else it helps where most is left. The longest begins first.

    Args:
        plans: All units.
        nodes: The node that has a copy of a slide already, from looking at it.
    """

    def __init__(
        self, plans: Sequence["UnitPlan"], nodes: Mapping[str, str] | None = None
    ) -> None:
        """See the class."""
        self._copies = dict(nodes or {})
        self._left: dict[str, deque[UnitPlan]] = {}
        for plan in plans:
            self._left.setdefault(plan.source.slide, deque()).append(plan)
        self._given: dict[Ticket, UnitPlan] = {}
        self._holds: dict[str, str] = {}  # worker: slide
        self._node: dict[str, str] = {}  # worker: node

    def take(self, ticket: Ticket, worker: str, node: str) -> "UnitPlan":
        """The unit for a ticket: the same again if the ticket comes again.

        Args:
            ticket: Each unit's (slide, number) once; which one does not matter.
            worker: Who asks.
            node: Where it is.

        Raises:
            ValueError: There are more tickets than units.
        """
        if ticket not in self._given:
            slide = self._choose(worker, node)
            self._given[ticket] = self._left[slide].popleft()
            if not self._left[slide]:
                del self._left[slide]
            self._holds[worker], self._node[worker] = slide, node
        return self._given[ticket]

    def _choose(self, worker: str, node: str) -> str:
        own = self._holds.get(worker)
        if own in self._left:
            return str(own)
        held = Counter(self._holds.values())
        here = {slide for w, slide in self._holds.items() if self._node[w] == node}

        def rank(slide: str) -> tuple[int, int, int]:
            copy = self._copies.get(slide, node)
            if slide in here or (slide in self._copies and copy == node):
                place = 0
            elif held[slide]:
                place = 3
            else:
                place = 1 if copy == node else 2
            return place, held[slide], -sum(plan.count for plan in self._left[slide])

        return min(self._left, key=rank)


def start_queue(plans: Sequence["UnitPlan"], nodes: Mapping[str, str]) -> Any:  # noqa: ANN401  (a handle)
    """The queue as an actor beside the driver, None where there is no unit."""
    if not plans:
        return None
    actor: Any = ray.remote(num_cpus=0)(SlideQueue)
    return actor.options(scheduling_strategy=beside_driver()).remote(
        list(plans), dict(nodes)
    )


def take(queue: Any, ticket: Ticket) -> "UnitPlan":  # noqa: ANN401
    """The unit for a ticket, for the actor that calls this."""
    context = ray.get_runtime_context()
    plan: UnitPlan = ray.get(
        queue.take.remote(ticket, context.get_actor_id(), context.get_node_id())
    )
    return plan
