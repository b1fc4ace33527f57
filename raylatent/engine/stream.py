"""Work items through a pool of actors: one item = one block = one row of Ray Data's."""

import logging
import platform
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from uuid import uuid4

import pyarrow as pa
import ray
from ray import cloudpickle
from ray.experimental import internal_kv

from raylatent.engine.cluster import (
    AGAIN,
    STALL_TIMEOUT_S,
    CarriedError,
    Pool,
    alive_nodes,
    as_ours,
)
from raylatent.engine.progress import duration
from raylatent.errors import IncompleteError

logger = logging.getLogger(__name__)

Row = dict[str, Any]

EVERY_S = 60.0
_RESTARTS = 4  # times the number of actors
_ITEM = "item"
_ANSWER_S = 15.0  # for the cluster to say which nodes are up
_LEAVE_S = 1.0  # for the watching thread to end; it may be waiting for an answer
_PATIENCE = 10  # times EVERY_S before a wait without known cause is worth a line


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What the last line of work that ends early says.

    Attributes:
        if_short_of_memory: What to try when actors die again and again.
        again: What the same command does once more.
    """

    if_short_of_memory: str = "nodes with more memory"
    again: str = AGAIN


_PLAIN_ADVICE = Advice()


def stream(
    name: str,
    items: Sequence[Any],
    actor: type,
    arguments: tuple[Any, ...],
    share: Pool,
    *,
    advice: Advice = _PLAIN_ADVICE,
    stall_timeout_s: float = STALL_TIMEOUT_S,
) -> Generator[Row, None, None]:
    """Send each item to one of the actors; rows of their answers as they come.

    Close it when leaving early, as `contextlib.closing` does: the actors go on else.

    Args:
        name: What the items are.
        items: What pickle takes, one after another.
        actor: Made once for each actor, then called with an item; gives a table. Where
            it has a method `on_unit` it is to call that before each unit (slide and
            number) that it begins.
        arguments: Of its constructor.
        share: How many actors, and what each gets.
        advice: What to do where it ends early.
        stall_timeout_s: With no item done for this long the work ends.

    Raises:
        RaylatentError: An actor raised it, or failed otherwise.
        IncompleteError: Nothing was done for `stall_timeout_s`.
    """
    if not items:
        return
    from ray.data import ActorPoolStrategy, exceptions, from_items  # noqa: PLC0415

    largest = min(share.largest, len(items))
    compute = ActorPoolStrategy(
        min_size=min(share.smallest, largest),
        max_size=largest,
        max_concurrent_calls_per_actor=share.at_once,
        enable_true_multi_threading=share.at_once > 1,
    )
    deaths = Deaths(uuid4().hex)
    watch = Watch(share, stall_timeout_s, advice.again)
    with _ray_data_as_we_use_it(stall_timeout_s), watch, closing(deaths):
        pickled = [{_ITEM: cloudpickle.dumps(item)} for item in items]  # type: ignore[no-untyped-call]
        answers = from_items(pickled, override_num_blocks=len(items)).map_batches(
            Worker,
            batch_size=1,
            batch_format="pyarrow",
            compute=compute,
            fn_constructor_args=(deaths, _RESTARTS * largest, actor, arguments, advice),
            num_cpus=share.num_cpus,
            num_gpus=share.num_gpus or None,
        )
        answers.set_name(name)
        try:
            rows: Any = iter(answers.iter_rows())
            with closing(rows):  # or Ray Data goes on, and is not quiet any more
                while True:
                    with watch.waiting():
                        row = next(rows, None)
                    if row is None:
                        break
                    deaths.forget()
                    yield row
        except exceptions.ExecutionTimeoutError as error:
            raise IncompleteError(watch.stalled(deaths.in_words())) from error
        except (ray.exceptions.RayError, exceptions.SystemException) as error:
            raise as_ours(error) from error


class Worker:
    """An actor around one of ours, which gives up when actors die again and again.

    Args:
        deaths: Of the stream's actors.
        most_restarts: Without an item done in between.
        actor: The class that does the work.
        arguments: Of its constructor.
        advice: What to try then.
    """

    def __init__(
        self,
        deaths: "Deaths",
        most_restarts: int,
        actor: type,
        arguments: tuple[Any, ...],
        advice: Advice,
    ) -> None:
        """Make the actor; that it dies again and again is said by the first call."""
        self._deaths = deaths
        self._advice = advice
        again = ray.get_runtime_context().was_current_actor_reconstructed
        n_restarts = deaths.restarted() if again else 0
        self._died = deaths.in_words() if n_restarts > most_restarts else ""
        if self._died:
            return
        deaths.begins("at its start")
        self._inner = actor(*arguments)
        if hasattr(actor, "on_unit"):
            self._inner.on_unit = self._begins

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Hand an item on."""
        if self._died:
            advice = self._advice.if_short_of_memory
            message = f"{self._died}: they may lack memory, try {advice}"
            raise IncompleteError(message)
        (pickled,) = batch[_ITEM].to_pylist()
        try:
            return self._inner(cloudpickle.loads(pickled))
        except Exception as error:  # whatever the work raises
            raise CarriedError(as_ours(error)) from error

    def _begins(self, slide: str, unit: int) -> None:
        self._deaths.begins(f"at slide {slide!r}, unit {unit}")


class Deaths:
    """How often actors of a stream died since its last item was done, and at what.

    Ray starts an actor that died again without end: one whose items kill it, for want
    of memory say, would die for ever. What is known of it is kept by Ray's head node,
    where it outlives the actors. That the head is gone is no error of this class.

    Args:
        stream: Tells this stream from others of the cluster.
    """

    def __init__(self, stream: str) -> None:
        """See the class."""
        self._folder = f"raylatent/{stream}"

    def begins(self, what: str) -> None:
        """An actor says what comes next, so that it is known if that kills it."""
        actor = ray.get_runtime_context().get_actor_id()
        with suppress(ray.exceptions.RayError):
            internal_kv._internal_kv_put(
                f"{self._folder}/at/{actor}", f"{what} on {platform.node()}"
            )

    def restarted(self) -> int:
        """An actor says that it was started again; how many were."""
        actor = ray.get_runtime_context().get_actor_id()
        with suppress(ray.exceptions.RayError):
            at = internal_kv._internal_kv_get(f"{self._folder}/at/{actor}") or b""
            key = f"{self._folder}/restarts/{time.time_ns():020d}-{actor}"
            internal_kv._internal_kv_put(key, at)
        return len(self._restarts())

    def forget(self) -> None:
        """An item was done."""
        self._delete(f"{self._folder}/restarts/")

    def in_words(self) -> str:
        """How many actors died since the last item was done, empty if none did."""
        restarts = self._restarts()
        if not restarts:
            return ""
        last = b""
        with suppress(ray.exceptions.RayError):
            last = internal_kv._internal_kv_get(max(restarts)) or b""
        times = f"{len(restarts)} times" if len(restarts) > 1 else "once"
        at = f", last {last.decode()}" if last else ""
        return f"actors died and were started again {times} without one item done{at}"

    def close(self) -> None:
        """Forget everything."""
        self._delete(f"{self._folder}/")

    def _restarts(self) -> list[bytes]:
        with suppress(ray.exceptions.RayError):
            return internal_kv._internal_kv_list(f"{self._folder}/restarts/")
        return []

    def _delete(self, prefix: str) -> None:
        with suppress(ray.exceptions.RayError):
            internal_kv._internal_kv_del(prefix, del_by_prefix=True)


class Watch:
    """Says now and then why nothing comes from the cluster, in a thread of its own.

    Args:
        share: What each actor asks for.
        stall_timeout_s: When Ray Data gives up, in seconds.
        again: What the same command does once more, for the last message.
        every_s: How long nothing may come, and how often to warn then, in seconds.
    """

    def __init__(
        self,
        share: Pool,
        stall_timeout_s: float = STALL_TIMEOUT_S,
        again: str = AGAIN,
        every_s: float = EVERY_S,
    ) -> None:
        """See the class."""
        self._share = share
        self._stall_timeout_s = stall_timeout_s
        self._again = again
        self._every_s = every_s
        self._since: float | None = None  # while the consumer waits
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Watch":
        """Start to look."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Look no more."""
        self._stop.set()
        self._thread.join(_LEAVE_S)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """While the next answer is waited for; a consumer may take its time over it."""
        self._since = time.monotonic()
        try:
            yield
        finally:
            self._since = None

    def stalled(self, deaths: str) -> str:
        """Why the work ends, in a sentence.

        Args:
            deaths: Of actors, see Deaths.
        """
        why = self._obstacle() or deaths or "units may take longer than that"
        return (
            f"nothing was finished for {duration(self._stall_timeout_s)} "
            f"(--stall-timeout-s {self._stall_timeout_s:g}): {why}. {self._again}"
        )

    def _look(self) -> None:
        n_quiet = 0
        while not self._stop.wait(self._every_s):
            since = self._since
            quiet_s = 0.0 if since is None else time.monotonic() - since
            n_quiet = n_quiet + 1 if quiet_s >= self._every_s else 0
            problem = self._obstacle() if n_quiet else None
            if problem is not None:
                logger.warning("waiting for %s: %s", duration(quiet_s), problem)
            elif n_quiet and n_quiet % _PATIENCE == 0:
                logger.warning(
                    "nothing was finished for %s: units take long, or actors cannot "
                    "be placed (`ray status` shows what they wait for)",
                    duration(quiet_s),
                )

    def _obstacle(self) -> str | None:
        """Of `obstacle`, which a cluster that does not answer cannot hold up."""
        found: list[str | None] = []

        def ask() -> None:
            try:
                found.append(obstacle(self._share))
            except Exception as error:  # noqa: BLE001  (whatever Ray raises: it is said)
                found.append(f"the cluster does not answer ({type(error).__name__})")

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(_ANSWER_S)
        return found[0] if found else "the cluster does not answer"


def obstacle(share: Pool) -> str | None:
    """Why no actor can be placed on the nodes that are up, None where one can."""
    nodes = [node["Resources"] for node in alive_nodes()]
    if not any(node.get("CPU", 0) >= share.num_cpus for node in nodes):
        return f"no node with {share.num_cpus:g} CPUs for an actor is up"
    most_gpus = max(float(node.get("GPU", 0)) for node in nodes)
    if share.num_gpus > most_gpus:
        return (
            f"no node has the {share.num_gpus:g} GPUs that each actor asks for "
            f"(--num-gpus), the most is {most_gpus:g}; the work begins when one joins"
        )
    return None


@contextmanager
def _ray_data_as_we_use_it(stall_timeout_s: float) -> Iterator[None]:
    """Ray Data's settings while it works for us, and afterwards the user's own.

    Progress is shown in tiles, and errors end as one sentence: Ray Data's own bars,
    lines and stack traces are in its log file alone.

    Args:
        stall_timeout_s: When Ray Data gives up if nothing moves.
    """
    from ray.data import DataContext  # noqa: PLC0415  (slow)

    wanted = {
        "enable_progress_bars": False,
        "print_on_execution_start": False,
        "execution_no_progress_timeout_s": stall_timeout_s,
        "raise_original_map_exception": True,
    }
    context = DataContext.get_current()
    before = {name: getattr(context, name) for name in wanted}
    handlers = logging.getLogger("ray.data").handlers
    consoles = {h: h.level for h in handlers if h.name == "console"}
    for name, value in wanted.items():
        setattr(context, name, value)
    for handler in consoles:
        handler.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)
        for handler, level in consoles.items():
            handler.setLevel(level)
