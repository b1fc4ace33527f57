"""Work items through an actor pool: one read task = one item = one block = one row."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from raylatent.engine.cluster import READ_CPUS, Pool, own_error, quiet_ray_data

Row = dict[str, Any]


class ItemDatasource(Datasource):
    """One row from each of some functions, each in a read task of its own.

    Args:
        name: What the items are, for Ray's dashboard.
        reads: Each gives a table of one row.
    """

    def __init__(self, name: str, reads: Sequence[Callable[[], pa.Table]]) -> None:
        """See the class."""
        super().__init__()
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
        RaylatentError: An actor raised it.
    """
    if not reads:
        return
    largest = min(share.largest, len(reads))
    compute = ActorPoolStrategy(
        min_size=min(share.smallest, largest), max_size=largest
    )
    with quiet_ray_data():
        items = ray.data.read_datasource(
            ItemDatasource(name, reads),
            num_cpus=READ_CPUS,
            override_num_blocks=len(reads),  # else Ray cuts each into many
        )
        answers = items.map_batches(
            actor,
            batch_size=1,
            batch_format="pyarrow",
            compute=compute,
            fn_constructor_args=arguments,
            num_cpus=share.num_cpus,
            num_gpus=share.num_gpus or None,
        )
        try:
            yield from answers.iter_rows()
        except ray.exceptions.RayError as error:
            ours = own_error(error)
            if ours is not None:
                raise ours from error
            raise
