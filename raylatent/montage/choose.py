"""The cells of all points: where they lie, then what is in each cell.

The steps are the same wherever points come from: something that goes through them part
by part and merges what each part says, here or on a cluster.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial, reduce
from typing import Protocol, TypeVar

from raylatent.montage.cells import PartialCells, merge_cells, partial_cells
from raylatent.montage.grid import Bounds, Grid, make_grid
from raylatent.montage.medoid import partial_sums
from raylatent.montage.points import Points, Rule
from raylatent.montage.sums import merge_sums

T = TypeVar("T")

FEATURES = "features"
PREDICTIONS = "predictions"
LABELS = "labels"


class Parts(Protocol):
    """Points that may be gone through again and again."""

    def read(self, *columns: str) -> Iterable[Points]:
        """All points in parts, with these of their columns if they have them."""

    def fold(
        self,
        work: Callable[[Points], T],
        merge: Callable[[T, T], T],
        columns: Iterable[str] = (),
    ) -> T:
        """What all parts say together: `merge` of `work`'s results, in any order."""


class HeldParts:
    """Points in memory, in one part."""

    def __init__(self, points: Points) -> None:
        """All of them."""
        self._points = points

    def read(self, *columns: str) -> Iterable[Points]:  # noqa: ARG002  (it has all)
        """The points."""
        return [self._points]

    def fold(
        self,
        work: Callable[[Points], T],
        merge: Callable[[T, T], T],  # noqa: ARG002  (of one part)
        columns: Iterable[str] = (),  # noqa: ARG002
    ) -> T:
        """What they say."""
        return work(self._points)


def fold(
    parts: Iterable[Points], work: Callable[[Points], T], merge: Callable[[T, T], T]
) -> T:
    """The plain loop of `Parts.fold`."""
    return reduce(merge, map(work, parts))


@dataclass(frozen=True, kw_only=True, eq=False)
class Chosen:
    """The cells of all points.

    Attributes:
        grid: Over the points.
        bounds: Of the points.
        cells: What the points say of the cells.
    """

    grid: Grid
    bounds: Bounds
    cells: PartialCells


def choose_cells(parts: Parts, kind: str, num_tiles_x: int, rule: Rule) -> Chosen:
    """The grid over all points, and the tile of each of its cells.

    Args:
        parts: The points; where they lie is looked at first, then what is in the
            cells. For `medoid` features are read twice: for sums, then distances.
        kind: Of grid.
        num_tiles_x: Its columns.
        rule: How to choose.
    """
    medoid = rule.select == "medoid"
    features = [FEATURES] if medoid else []
    bounds = parts.fold(_bounds, Bounds.merge)
    grid = make_grid(kind, bounds, num_tiles_x)
    sums = None
    if medoid:
        sums = parts.fold(partial(partial_sums, grid=grid), merge_sums, features)
    pick = partial(partial_cells, grid=grid, rule=rule, sums=sums)
    cells = parts.fold(pick, merge_cells, [*features, PREDICTIONS, LABELS])
    return Chosen(grid=grid, bounds=bounds, cells=cells)


def _bounds(points: Points) -> Bounds:
    return Bounds.of(points.xy)
