"""The cells of the explorer: grids of 8 * 2**L cells a side, and the tile of each cell.

At every level L the cells say what they hold, as those of a mosaic do (`montage.cells`),
and show one of their tiles. The choice is nested: a cell shows the tile of the larger
cell around it, one level above, if that tile lies in it, and else the one that the rule
chooses among its own. So what one sees stays where it is when one zooms in. All of it is
the same bits however the points are divided and merged.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raylatent import schema
from raylatent.errors import MapError
from raylatent.explorer.scripts import MOST_CLASSES
from raylatent.montage.cells import (
    CELL,
    PLACE_X,
    PLACE_Y,
    PartialCells,
    mean_lists,
    mean_values,
    merge_cells,
    partial_cells,
    reasons,
)
from raylatent.montage.grid import Bounds, SquareGrid
from raylatent.montage.points import (
    PREDICTIONS,
    ChangedParts,
    Parts,
    Points,
    Rule,
    cell_ids,
    coded,
    split_ids,
)
from raylatent.montage.tally import (
    CellSums,
    counts_by_cell,
    label_counts,
    means_of,
    merge_counts,
    merge_sums,
    sums_by_cell,
)

SIDE = 8
"""Cells a side of the grid of level 0, and of a block of pictures at every level."""
DEEPEST = 13
MOST_CELLS = 4_000_000
"""No level with more cells is written."""
SHOWN_SHARE = 0.85
"""Where more of all tiles have a cell of their own, no deeper level is written."""

CONTRAST_LEVEL = 4
"""The deepest level whose tiles are counted by cell and slide, for contrasts."""
MOST_PAIRS = 1_000_000
"""Of cells and slides of a level, that a contrast can be made of."""
LABEL, COUNT, SLIDES = "label", "count", "slides"

Ids = NDArray[np.int64]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Square:
    """The smallest square, anchored at the lower left, that holds all points.

    Attributes:
        x: Of the lower left corner, in units of the map.
        y: Likewise.
        side: 1 where all points share a place.
    """

    x: float
    y: float
    side: float

    @classmethod
    def around(cls, bounds: Bounds) -> "Square":
        """Around all finite points; MapError where there is none, or side is none.

        >>> Square.around(Bounds.of([(1, 2), (5, 3)]))
        Square(x=1.0, y=2.0, side=4.0)
        """
        if not bounds.n:
            message = "no point of the map has a finite place: there is nothing to show"
            raise MapError(message)
        side = max(bounds.width, bounds.height)
        if not np.isfinite(side):
            message = "the points are too far apart for a grid: scale the coordinates"
            raise MapError(message)
        return cls(x=bounds.xmin, y=bounds.ymin, side=side or 1.0)

    def grid(self, level: int) -> SquareGrid:
        """The grid of a level; points on the upper edges are in its last cells.

        A cell is four of the next level: the side of a cell is divided by 2, which
        changes no bit of where a point lies in it.
        """
        n = SIDE << level
        cell = self.side / n
        return SquareGrid(xmin=self.x, ymin=self.y, cell=cell, n_cols=n, n_rows=n)


def with_few_classes(parts: Parts) -> tuple[Parts, Ids]:
    """Points with the predictions of some classes, then the largest of all others.

    Sums of very many classes would be held for each cell. Kept are those of the largest
    means over all points: their numbers, ascending, shape (k,).
    """
    means = parts.fold(_predicted, merge_sums, [PREDICTIONS]).means()[0]
    best = np.argsort(-means, kind="stable")[: MOST_CLASSES - 1]
    kept = np.sort(best)
    return ChangedParts(parts, partial(_with_few, kept=kept)), kept


def _predicted(points: Points) -> CellSums:
    """Sums of all predictions, as of one cell."""
    if points.predictions is None:
        message = "the run tells classes, and has no predictions of its tiles"
        raise MapError(message)
    rows = np.flatnonzero(np.isfinite(points.predictions).all(axis=1))
    one = np.zeros(len(rows), np.int64)
    return sums_by_cell(np.zeros(1, np.int64), one, points.predictions, rows)


def _with_few(points: Points, kept: Ids) -> Points:
    if points.predictions is None:
        return points
    others = np.delete(points.predictions, kept, axis=1).max(axis=1)
    return replace(points, predictions=np.c_[points.predictions[:, kept], others])


def morton(rows: NDArray[np.integer], cols: NDArray[np.integer]) -> NDArray[np.uint64]:
    """Positions (n,) on the curve: bits of columns in even places, of rows in odd ones.

    >>> morton(np.array([0, 1, 1, 2]), np.array([1, 0, 1, 3])).tolist()
    [1, 2, 3, 13]
    """
    return _spread(cols) | (_spread(rows) << np.uint64(1))


def _spread(values: NDArray[np.integer]) -> NDArray[np.uint64]:
    """Each bit at twice its place, of values below 2**32."""
    x = values.astype(np.uint64)
    for shift, mask in (
        (16, 0x0000FFFF0000FFFF),
        (8, 0x00FF00FF00FF00FF),
        (4, 0x0F0F0F0F0F0F0F0F),
        (2, 0x3333333333333333),
        (1, 0x5555555555555555),
    ):
        x = (x | (x << np.uint64(shift))) & np.uint64(mask)
    return x


Occupied = tuple[int, NDArray[np.uint64]]
"""A level and those of its cells that have points, ascending on the curve."""


def occupied(points: Points, square: Square) -> Occupied:
    """The deepest level that has no more than `MOST_CELLS`, and its cells."""
    ids, _ = cell_ids(square.grid(DEEPEST), points.xy)
    return _few(DEEPEST, np.sort(morton(*split_ids(ids))))


def merge_occupied(a: Occupied, b: Occupied) -> Occupied:
    """Of both sets of points together."""
    level = min(a[0], b[0])
    both = np.concatenate([at >> np.uint64(2 * (own - level)) for own, at in (a, b)])
    both.sort(kind="stable")  # fast, since there are two ascending runs
    return _few(level, both)


def _few(level: int, curve: NDArray[np.uint64]) -> Occupied:
    curve = _distinct(curve)
    while level and len(curve) > MOST_CELLS:
        level, curve = level - 1, _distinct(curve >> np.uint64(2))
    return level, curve


def _distinct(ascending: NDArray[np.uint64]) -> NDArray[np.uint64]:
    others = ascending[1:][ascending[1:] != ascending[:-1]]
    return np.concatenate([ascending[:1], others])


def count_cells(found: Occupied) -> list[int]:
    """How many cells with points each level has, from level 0 on."""
    level, curve = found
    counts = [len(curve)]
    for _ in range(level):
        curve = _distinct(curve >> np.uint64(2))
        counts.append(len(curve))
    return counts[::-1]


@dataclass(frozen=True, kw_only=True, eq=False)
class PartialLevel:
    """What some points say of a level.

    Attributes:
        cells: Its cells.
        slides: Tiles by cell and slide: `cell`, `label` (slide), `count`, by slide.
        counted: Of levels deeper than `CONTRAST_LEVEL`, and of those with more than
            `MOST_PAIRS`, slides that are not in `slides` since all of their points are
            known: how many of them a cell has (`slides`), and the one with most tiles.
            A cell may have several rows.
    """

    cells: PartialCells
    slides: pa.Table
    counted: pa.Table


def partial_levels(
    points: Points, square: Square, n_levels: int, rule: Rule
) -> list[PartialLevel]:
    """What some of the map's points, with their reference, say of levels from 0 on."""
    if points.reference is None:
        message = "the explorer needs the slides of its tiles"
        raise MapError(message)
    names, found = points.reference[schema.SLIDE].combine_chunks(), []
    for grid in map(square.grid, range(n_levels)):
        own = partial_cells(points, grid, rule)
        own = replace(own, tally=replace(own.tally, slides=None))  # they are below
        cell, inside = cell_ids(grid, points.xy)
        slides = counts_by_cell(*coded(cell), names.take(pa.array(inside)))
        slides = slides.sort_by(LABEL)
        none = _one_each(slides.slice(0, 0))
        found.append(PartialLevel(cells=own, slides=slides, counted=none))
    return found


def merge_levels(
    a: Sequence[PartialLevel], b: Sequence[PartialLevel]
) -> list[PartialLevel]:
    """What both sets of points say together, in any grouping.

    The slides of `a` come before those of `b`, but for one that may be in both: so only
    the first and the last slide can go on in other points, and of the others it is kept
    how many there are in each cell, not which.

    Raises:
        MapError: Slides are in another order.
    """
    return list(map(_merge, a, b, range(len(a))))


def _merge(a: PartialLevel, b: PartialLevel, level: int) -> PartialLevel:
    cells = merge_cells(a.cells, b.cells)
    # Copied: a slice would hold all that came with it from another process.
    slides = _joined(a.slides, b.slides).combine_chunks()
    counted = pa.concat_tables([a.counted, b.counted]).combine_chunks()
    many = level > CONTRAST_LEVEL or (level > 0 and len(slides) > MOST_PAIRS)
    if len(slides) and (many or len(counted)):
        open_ = pc.is_in(slides[LABEL], slides[LABEL].take([0, len(slides) - 1]))
        done = _one_each(slides.filter(pc.invert(open_)))
        counted, slides = pa.concat_tables([counted, done]), slides.filter(open_)
        if len(counted) > 2 * len(cells.best):  # not each time: it takes long
            counted = _by_cell(counted)
    return PartialLevel(cells=cells, slides=slides, counted=counted)


def _joined(a: pa.Table, b: pa.Table) -> pa.Table:
    """Tiles by cell and slide of both; only a's last slide and b's first are one."""
    if not len(a) or not len(b):
        return a if len(a) else b
    last, first = a[LABEL][-1], b[LABEL][0]
    if last.as_py() > first.as_py():
        message = f"points of slide {last} come before those of slide {first}"
        raise MapError(message)
    if last != first:
        return pa.concat_tables([a, b])
    start, stop = pc.index(a[LABEL], first).as_py(), pc.sum(pc.equal(b[LABEL], first))
    both = merge_counts(a.slice(start), b.slice(0, stop.as_py()))
    return pa.concat_tables([a.slice(0, start), both, b.slice(stop.as_py())])


def _one_each(slides: pa.Table) -> pa.Table:
    return slides.append_column(SLIDES, pa.array(np.ones(len(slides), np.int64)))


def _by_cell(slides: pa.Table) -> pa.Table:
    """Slides of each cell, and the one with most tiles: the first of them by name."""
    ordered = slides.sort_by(
        [(CELL, "ascending"), (COUNT, "descending"), (LABEL, "ascending")]
    )
    starts = np.flatnonzero(np.diff(ordered[CELL].to_numpy(), prepend=-1))
    if not len(starts):
        return ordered
    total = np.add.reduceat(ordered[SLIDES].to_numpy(), starts)
    first = ordered.take(pa.array(starts))
    return first.drop_columns(SLIDES).append_column(SLIDES, pa.array(total))


def choose_nested(square: Square, levels: Sequence[PartialLevel]) -> list[pa.Table]:
    """The tile of each cell of each level, ascending by cell.

    Columns are those of `PartialCells.best`, `since` (the first level that shows the
    tile), `since_n` (tiles of its cell there) and `why` (the rule's reason at that level).
    """
    chosen: list[pa.Table] = []
    for level, found in enumerate(levels):
        grid, own = square.grid(level), found.cells.best
        why = reasons(own, found.cells.rule, grid.cell)
        since = np.full(len(own), level, np.int32)
        own = own.append_column(schema.SINCE_N, own[schema.N])
        own = own.append_column(schema.SINCE, pa.array(since))
        own = own.append_column(schema.WHY, pa.array(why, pa.string()))
        chosen.append(keep(grid, chosen[-1], own) if chosen else own)
    return chosen


def keep(grid: SquareGrid, above: pa.Table, own: pa.Table) -> pa.Table:
    """The level's cells, with the tiles of the level above where they lie."""
    ids, inside = cell_ids(grid, places_of(above))
    if len(inside) != len(above):
        message = "a tile of the level above lies in no cell of the level below"
        raise MapError(message)
    take = np.arange(len(own), dtype=np.int64)
    take[np.searchsorted(own[CELL].to_numpy(), ids)] = len(own) + np.arange(len(above))
    joined = pa.concat_tables([own, above]).take(pa.array(take)).combine_chunks()
    for name in (CELL, schema.N):  # what the cell is, and has, is its own
        column = joined.schema.get_field_index(name)
        joined = joined.set_column(column, name, own[name])
    return joined


def places_of(chosen: pa.Table) -> NDArray[np.float64]:
    """Where the tiles of cells lie on the map, shape (n, 2)."""
    return np.stack([chosen[name].to_numpy() for name in (PLACE_X, PLACE_Y)], axis=1)


def level_table(
    level: int,
    chosen: pa.Table,
    found: PartialLevel,
    shown: Callable[[pa.ChunkedArray], object] = lambda slides: slides,
    **pictures: pa.Array,
) -> pa.Table:
    """The cells of a level as `schema.EXPLORER_CELLS`, by row, then column.

    Args:
        level: Which.
        chosen: Its tiles.
        found: What the points say of it.
        shown: What slides are called.
        **pictures: `picture` and `slot`; null where they are not given.
    """
    ids, tally = chosen[CELL].to_numpy(), found.cells.tally
    rows, cols = split_ids(ids)
    slides = _by_cell(pa.concat_tables([found.counted, _one_each(found.slides)]))
    why = zip(*(chosen[n].to_pylist() for n in (schema.SINCE, schema.WHY)), strict=True)
    n, wanted = len(ids), schema.EXPLORER_CELLS
    columns: dict[str, object] = {name: chosen[name] for name in chosen.schema.names}
    columns |= {
        schema.LEVEL: np.full(n, level, np.int32),
        schema.ROW: rows.astype(np.int32),
        schema.COL: cols.astype(np.int32),
        schema.N_SLIDES: slides[SLIDES],
        schema.X: chosen[PLACE_X].cast(pa.float32()),
        schema.Y: chosen[PLACE_Y].cast(pa.float32()),
        schema.WHY: [
            text if first == level else f"kept from level {first}, {text}"
            for first, text in why
        ],
        schema.LABEL_COUNTS: label_counts(ids, tally.labels),
        schema.PREDICTIONS_MEAN: mean_lists(n, *means_of(ids, tally.predictions)),
        schema.KNN_DISTANCE_MEAN: mean_values(n, *means_of(ids, tally.knn_distance)),
        schema.TOP_SLIDE: shown(slides[LABEL]),
        schema.TOP_SLIDE_N: slides[COUNT],
        **pictures,
    }
    return pa.table([columns.get(f.name, pa.nulls(n, f.type)) for f in wanted], wanted)
