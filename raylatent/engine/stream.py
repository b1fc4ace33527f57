"""Work items through an actor pool: one read task = one item = one block = one row."""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask
from ray.data.exceptions import ExecutionTimeoutError, SystemException

from raylatent import schema
from raylatent.engine.cluster import (
    AGAIN,
    READ_CPUS,
    STALL_TIMEOUT_S,
    Pool,
    quiet_ray_data,
)
from raylatent.engine.failures import as_ours
from raylatent.engine.ledger import Teller, asked, start_ledger
from raylatent.engine.waiting import GaveUpError, Watch
from raylatent.errors import IncompleteError

Row = dict[str, Any]

_RESTARTS = 4  # times the number of actors

_FAILURES = (ray.exceptions.RayError, ExecutionTimeoutError, SystemException)


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


class ItemDatasource(Datasource):
    """One row from each of some functions, each in a read task of its own.

    Args:
        name: What the items are, for Ray's dashboard.
        reads: Each gives a table of one row.
    """

    def __init__(self, name: str, reads: Sequence[Callable[[], pa.Table]]) -> None:
        """See the class."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._name = name
        self._reads = list(reads)

    def get_name(self) -> str:
        """For Ray's dashboard."""
        return self._name

    def estimate_inmemory_data_size(self) -> int | None:
        """References are small; a size would only make Ray cut and bundle them."""
        return None

    def get_read_tasks(
        self,
        parallelism: int,  # noqa: ARG002  (Ray's signature)
        per_task_row_limit: int | None = None,
        data_context: object = None,  # noqa: ARG002
    ) -> list[ReadTask]:
        """A task for each item, whatever Ray asks for."""
        metadata = BlockMetadata(
            num_rows=1, size_bytes=None, input_files=None, exec_stats=None
        )
        return [
            ReadTask(_Blocks(read), metadata, per_task_row_limit=per_task_row_limit)
            for read in self._reads
        ]


class _Blocks:
    """What Ray calls to read: an iterable of one block."""

    def __init__(self, read: Callable[[], pa.Table]) -> None:
        self._read = read

    def __call__(self) -> list[pa.Table]:
        return [self._read()]


class Worker:
    """An actor around one of ours, which gives up when actors die again and again.

    Args:
        ledger: Of the stream.
        most_restarts: Without an item done in between.
        actor: The class that does the work.
        arguments: Of its constructor.
        advice: What to try then.
    """

    def __init__(
        self,
        ledger: Any,  # noqa: ANN401  (a handle: its methods are made when it runs)
        most_restarts: int,
        actor: type,
        arguments: tuple[Any, ...],
        advice: Advice,
    ) -> None:
        """Make the actor; that it dies again and again is said by the first call."""
        self._teller = Teller(ledger)
        self._advice = advice
        again = ray.get_runtime_context().was_current_actor_reconstructed
        # What killed an actor may kill the next: that it begins is heard before.
        self._wait = again
        n = self._teller.restarted() if again else 0
        self._deaths = self._teller.deaths() if n > most_restarts else ""
        if self._deaths:
            return
        self._teller.begins("at its start", wait=True)
        with self._teller:
            self._inner = actor(*arguments)
            if hasattr(actor, "on_unit"):
                self._inner.on_unit = self._begins

    def __call__(self, item: pa.Table) -> pa.Table:
        """Hand an item on."""
        with self._teller:
            if self._deaths:
                advice = self._advice.if_short_of_memory
                message = f"{self._deaths}: they may lack memory, try {advice}"
                raise IncompleteError(message)
            row = item.to_pylist()[0]
            if schema.SLIDE in row:
                self._begins(row[schema.SLIDE], row.get(schema.UNIT))
            return self._inner(item)

    def _begins(self, slide: str, unit: int | None) -> None:
        self._teller.begins(f"at slide {slide!r}, unit {unit}", wait=self._wait)


def stream(
    name: str,
    reads: Sequence[Callable[[], pa.Table]],
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
        reads: Each gives an item: a table of one row.
        actor: Made once for each actor, then called with an item's table; gives a
            table.
        arguments: Of its constructor.
        share: How many actors, and what each gets.
        advice: What to do where it ends early.
        stall_timeout_s: With no item done for this long the work ends.

    Raises:
        RaylatentError: An actor raised it, or failed otherwise.
        IncompleteError: Nothing was done for `stall_timeout_s`.
    """
    if not reads:
        return
    largest = min(share.largest, len(reads))
    compute = ActorPoolStrategy(
        min_size=min(share.smallest, largest),
        max_size=largest,
        max_concurrent_calls_per_actor=share.at_once,
        enable_true_multi_threading=share.at_once > 1,
    )
    ledger = start_ledger()
    watch = Watch(share, stall_timeout_s, advice.again)
    with quiet_ray_data(stall_timeout_s), watch:
        items = ray.data.read_datasource(
            ItemDatasource(name, reads),
            num_cpus=READ_CPUS,
            override_num_blocks=len(reads),  # else Ray cuts each into many
        )
        answers = items.map_batches(
            Worker,
            batch_size=1,
            batch_format="pyarrow",
            compute=compute,
            fn_constructor_args=(ledger, _RESTARTS * largest, actor, arguments, advice),
            num_cpus=share.num_cpus,
            num_gpus=share.num_gpus or None,
        )
        try:
            rows: Any = iter(answers.iter_rows())
            with closing(rows):  # or Ray Data goes on, and is not quiet any more
                while True:
                    with watch.waiting():
                        row = next(rows, None)
                    if row is None:
                        break
                    ledger.done.remote()
                    yield row
        except (ExecutionTimeoutError, GaveUpError) as error:
            raise IncompleteError(watch.stalled(asked(ledger.deaths))) from error
        except _FAILURES as error:
            raise asked(ledger.failure) or as_ours(error) from error
