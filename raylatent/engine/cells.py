"""A mosaic's cells chosen by the cluster: points in groups of parts, results merged.

`ClusterPoints` is the twin of `stored.map_points.StoredPoints`: tasks go through the
same points. What they say merges to the same bits, however they are grouped.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from math import ceil
from typing import Any, TypeVar

import ray

from raylatent.engine.cluster import STALL_TIMEOUT_S, Pool, gather, pool
from raylatent.engine.connection import connect
from raylatent.engine.done import check_seen
from raylatent.montage.points import Label, Points, fold
from raylatent.parts import read_footer
from raylatent.run import RunDirectory
from raylatent.storage import Store
from raylatent.stored.map_points import StoredParts, StoredPoints
from raylatent.stored.maps import MAP_JSON

T = TypeVar("T")

_MOST_TOGETHER = 64  # parts of a task
_FEW_PARTS = 64  # are gone through here: no cluster is worth being started for them
_WAVES = 4  # tasks for each place, so that the last ones end together

Names = Sequence[tuple[str, str]]


class ClusterPoints(StoredPoints):
    """Points of a map in its folder, gone through by the cluster.

    Args:
        folder: The map's, local or a URI.
        run: The run that it belongs to.
        layer: The layer that was mapped; by default map.json tells it.
        few_parts: With no more parts than these the driver goes through them itself.
        stall_timeout_s: How long nothing may be finished.
    """

    def __init__(
        self,
        folder: str,
        run: RunDirectory,
        layer: str | None = None,
        *,
        few_parts: int = _FEW_PARTS,
        stall_timeout_s: float = STALL_TIMEOUT_S,
    ) -> None:
        """See the class."""
        super().__init__(folder, run, layer)
        self._few_parts = few_parts
        self._stall_timeout_s = stall_timeout_s

    def labeled(self, label: Label | None) -> StoredParts:
        """As parts of a mosaic's, with these labels."""
        here = StoredParts(stored=self, label=label)
        if len(self.part_names) <= self._few_parts:
            return here
        connect()
        share = pool(None, 0)
        return ClusterParts(
            stored=self,
            label=label,
            groups=group(self.part_names, _WAVES * share.largest),
            share=share,
            stall_timeout_s=self._stall_timeout_s,
        )


@dataclass(frozen=True, kw_only=True)
class ClusterParts(StoredParts):
    """Stored points as parts of a mosaic's, gone through in groups by tasks.

    Attributes:
        groups: Of parts, in order.
        share: What a task gets.
        stall_timeout_s: How long nothing may be finished.
    """

    groups: Sequence[Names]
    share: Pool
    stall_timeout_s: float = STALL_TIMEOUT_S

    def fold(
        self,
        work: Callable[[Points], T],
        merge: Callable[[T, T], T],
        columns: Iterable[str] = (),
    ) -> T:
        """Groups side by side; their results are merged as they come.

        Raises:
            MapError: Another map has taken the place of this one, before or meanwhile.
        """
        self.stored.same()
        parts = ray.put(StoredParts(stored=self.stored, label=self.label))
        shared = ray.put((work, merge, tuple(columns)))
        found = self._tasks(
            fold_group,
            [
                (parts, shared, names, first)
                for names, first in zip(self.groups, self._firsts, strict=True)
            ],
        )
        whole: T = next(found)
        for result in found:
            whole = merge(whole, result)
        self.stored.same()
        return whole

    @cached_property
    def _firsts(self) -> list[int]:
        """The number of each group's first point: rows are in the parts' footers."""
        store = self.stored.store
        rows = self._tasks(count_rows, [(store, names) for names in self.groups])
        return list(accumulate(rows, initial=0))[: len(self.groups)]

    def _tasks(
        self, task: Callable[..., Any], calls: Iterable[tuple[Any, ...]]
    ) -> Iterator[Any]:
        """Answers of a task to all calls, in order; few are under way together."""
        remote = ray.remote(num_cpus=self.share.num_cpus)(task)
        waiting: deque[ray.ObjectRef[Any]] = deque()
        for call in calls:
            waiting.append(remote.remote(*call))
            if len(waiting) > _WAVES * self.share.largest:
                yield self._first(waiting)
        while waiting:
            yield self._first(waiting)

    def _first(self, waiting: "deque[ray.ObjectRef[Any]]") -> Any:  # noqa: ANN401
        answer = next(gather(list(waiting), self.stall_timeout_s))
        waiting.popleft()  # and with it the object
        return answer


def group(names: Names, n_tasks: int) -> list[Names]:
    """Parts in order, in groups for at least so many tasks, none too large.

    >>> group([("a", "1"), ("a", "2"), ("b", "3")], 2)
    [[('a', '1'), ('a', '2')], [('b', '3')]]
    """
    size = max(1, min(_MOST_TOGETHER, ceil(len(names) / n_tasks)))
    return [names[i : i + size] for i in range(0, len(names), size)]


def count_rows(store: Store, names: Names) -> int:
    """Rows of some parts, as their footers say."""
    check_seen(store, MAP_JSON)
    return sum(read_footer(store, name)[0] for _, name in names)


def fold_group(
    parts: StoredParts,
    shared: tuple[Callable[[Points], T], Callable[[T, T], T], tuple[str, ...]],
    names: Names,
    first: int,
) -> T:
    """What a group of parts says; its first point has the number `first`."""
    check_seen(parts.stored.store, MAP_JSON)
    work, merge, columns = shared
    return fold(parts.some(names, columns, first), work, merge)
