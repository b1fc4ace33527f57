"""Work items through an actor pool: one read task = one item = one block = one row."""

import platform
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask
from ray.data.exceptions import ExecutionTimeoutError, SystemException

from raylatent.engine.cluster import READ_CPUS, Pool, as_ours, quiet_ray_data
from raylatent.engine.waiting import Watch
from raylatent.errors import IncompleteError, RaylatentError

Row = dict[str, Any]

_RESTARTS = 4  # times the number of actors

_FAILURES = (ray.exceptions.RayError, ExecutionTimeoutError, SystemException)


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


class Ledger:
    """What actors tell the driver beside their answers; an actor itself.

    Ray Data hands on the text of an error only, so the error itself is kept here. And
    Ray starts an actor that died again without end: one whose items kill it, for want
    of memory say, would die for ever, so it is counted how often they did since the
    last item was done.
    """

    def __init__(self) -> None:
        """Nothing has happened."""
        self._restarts = 0
        self._failure: RaylatentError | None = None

    def failed(self, failure: RaylatentError) -> None:
        """An actor failed; the first error counts."""
        self._failure = self._failure or failure

    def failure(self) -> RaylatentError | None:
        """The first error."""
        return self._failure

    def restarted(self) -> int:
        """An actor was started again; how many since the last item."""
        self._restarts += 1
        return self._restarts

    def done(self) -> None:
        """An item was done."""
        self._restarts = 0


class _Telling:
    """Tells the ledger of an error that passes through, whatever it is."""

    def __init__(self, ledger: Any) -> None:  # noqa: ANN401  (see Worker)
        self._ledger = ledger

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            ray.get(self._ledger.failed.remote(as_ours(error)))


class Worker:
    """An actor around one of ours, which gives up when actors die again and again.

    Args:
        ledger: Of the stream.
        most_restarts: Without an item done in between.
        actor: The class that does the work.
        arguments: Of its constructor.
    """

    def __init__(
        self,
        ledger: Any,  # noqa: ANN401  (a handle: its methods are made when it runs)
        most_restarts: int,
        actor: type,
        arguments: tuple[Any, ...],
    ) -> None:
        """Make the actor; that it dies again and again is said by the first call."""
        again = ray.get_runtime_context().was_current_actor_reconstructed
        n: int = ray.get(ledger.restarted.remote()) if again else 0
        self._ledger = ledger
        self._restarts = n
        with _Telling(ledger):
            self._inner = None if n > most_restarts else actor(*arguments)

    def __call__(self, item: pa.Table) -> pa.Table:
        """Hand an item on."""
        with _Telling(self._ledger):
            if self._inner is None:
                message = (
                    f"actors died and were started again {self._restarts} times "
                    f"without one item done, last on {platform.node()}: they may lack "
                    "memory, try fewer --actors or a smaller --batch-size"
                )
                raise IncompleteError(message)
            return self._inner(item)


def stream(
    name: str,
    reads: Sequence[Callable[[], pa.Table]],
    actor: type,
    arguments: tuple[Any, ...],
    share: Pool,
) -> Iterator[Row]:
    """Send each item to one of the actors; rows of their answers as they come.

    Args:
        name: What the items are.
        reads: Each gives an item: a table of one row.
        actor: Made once for each actor, then called with an item's table; gives a
            table.
        arguments: Of its constructor.
        share: How many actors, and what each gets.

    Raises:
        RaylatentError: An actor raised it, or failed otherwise.
    """
    if not reads:
        return
    largest = min(share.largest, len(reads))
    compute = ActorPoolStrategy(min_size=min(share.smallest, largest), max_size=largest)
    ledger: Any = ray.remote(num_cpus=0)(Ledger).remote()
    most_restarts = _RESTARTS * largest
    with quiet_ray_data(), Watch(share) as watch:
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
            fn_constructor_args=(ledger, most_restarts, actor, arguments),
            num_cpus=share.num_cpus,
            num_gpus=share.num_gpus or None,
        )
        try:
            for row in answers.iter_rows():
                watch.alive()
                ledger.done.remote()
                yield row
        except _FAILURES as error:
            raise _told(ledger) or as_ours(error) from error


def _told(ledger: Any) -> RaylatentError | None:  # noqa: ANN401
    """The error that an actor told of, None where none did."""
    try:
        failure: RaylatentError | None = ray.get(ledger.failure.remote(), timeout=30)
    except ray.exceptions.RayError:  # its node is gone, too
        return None
    return failure
