"""The cells of the explorer: grids of 8 * 2**L cells a side, and the tile of each cell.

At every level L the cells say what they hold, as those of a mosaic do (`montage.cells`),
and show one of their tiles. The choice is nested: a cell shows the tile of the larger
cell around it, one level above, if that tile lies in it, and else the one that the rule
chooses among its own. So what one sees stays where it is when one zooms in. All of it is
the same bits however the points are divided and merged.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raylatent import schema
from raylatent.errors import MapError
from raylatent.montage.cells import (
    CELL,
    PLACE_X,
    PLACE_Y,
    TIED,
    PartialCells,
    mean_lists,
    mean_values,
    merge_cells,
    partial_cells,
    reasons,
)
from raylatent.montage.grid import Bounds, SquareGrid
from raylatent.montage.points import Points, Rule, cell_ids, coded, split_ids
from raylatent.montage.tally import (
    counts_by_cell,
    label_counts,
    means_of,
    merge_counts,
)

SIDE = 8
"""Cells a side of the grid of level 0, and of a block of pictures at every level."""
DEEPEST = 13
BITMAP_LEVEL = 10
"""The deepest level at which cells of very many points are counted."""
FEW_POINTS = 4_000_000
"""Of so many points the cells of every level are counted."""
SHOWN_SHARE = 0.85
"""Where more of all tiles have a cell of their own, no deeper level is written."""

CONTRAST_LEVEL = 4
"""The deepest level whose tiles are counted by cell and slide, for contrasts."""
MOST_PAIRS = 1_000_000
"""Of cells and slides of a level, that a contrast can be made of."""
SINCE, SINCE_N, WHY = "since", "since_n", "why"
LABEL, COUNT, SLIDES = "label", "count", "slides"

Ids = NDArray[np.int64]


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
        """Around all points that are finite.

        Raises:
            MapError: There is none, or they are too far apart.

        >>> Square.around(Bounds.of([(1, 2), (5, 3)]))
        Square(x=1.0, y=2.0, side=4.0)
        """
        if not bounds.n:
            message = (
                "the map has no point with a finite place: there is nothing to show"
            )
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
        return SquareGrid(
            xmin=self.x, ymin=self.y, cell=self.side / n, n_cols=n, n_rows=n
        )


def occupied(points: Points, square: Square, *, few: bool) -> NDArray[np.integer]:
    """Which cells of the deepest level that is counted have points.

    Args:
        points: Some of the map's.
        square: Around all of them.
        few: Whether all of them are few: then ids of cells (n,), ascending, of level
            `DEEPEST`; else a bitmap of level `BITMAP_LEVEL`, row by row, uint8.
    """
    if few:
        return np.unique(cell_ids(square.grid(DEEPEST), points.xy)[0])
    rows, cols = split_ids(np.unique(cell_ids(square.grid(BITMAP_LEVEL), points.xy)[0]))
    bitmap = np.zeros((SIDE << BITMAP_LEVEL) ** 2 // 8, np.uint8)
    at = rows * (SIDE << BITMAP_LEVEL) + cols
    np.bitwise_or.at(bitmap, at >> 3, (1 << (at & 7)).astype(np.uint8))
    return bitmap


def merge_occupied(
    a: NDArray[np.integer], b: NDArray[np.integer]
) -> NDArray[np.integer]:
    """Of both sets of points together."""
    if a.dtype == np.uint8:
        either: NDArray[np.integer] = np.bitwise_or(a, b)
        return either
    return np.union1d(a, b)


def count_cells(found: NDArray[np.integer]) -> list[int]:
    """How many cells with points each level has, from level 0 on.

    Args:
        found: Of all points, see `occupied`.
    """
    counts = []
    if found.dtype == np.uint8:
        side = SIDE << BITMAP_LEVEL
        bits = np.unpackbits(found.astype(np.uint8), bitorder="little")
        cells: NDArray[np.uint8] = bits.reshape(side, side)
        while side >= SIDE:
            counts.append(int(cells.sum(dtype=np.int64)))
            side //= 2
            four = cells.reshape(side, 2, side, 2)
            cells = np.asarray(four.any(axis=(1, 3)), np.uint8)
        return counts[::-1]
    ids = found.astype(np.int64)
    for _ in range(DEEPEST + 1):
        counts.append(len(ids))
        ids = np.unique(parents(ids))
    return counts[::-1]


def parents(ids: Ids, levels: int = 1) -> Ids:
    """The cells so many levels above that hold these, as ids."""
    rows, cols = split_ids(ids)
    return ((rows >> levels) << 32) | (cols >> levels)


@dataclass(frozen=True, kw_only=True, eq=False)
class PartialLevel:
    """What some points say of a level.

    Attributes:
        cells: Its cells.
        slides: Tiles by cell and slide: `cell`, `label` (slide), `count`.
        counted: Of levels deeper than `CONTRAST_LEVEL`, and of those with more than
            `MOST_PAIRS`, slides that are not in `slides` since all of their points are
            known: how many of them a cell has (`slides`), and the one with most tiles.
    """

    cells: PartialCells
    slides: pa.Table
    counted: pa.Table


def partial_levels(
    points: Points,
    square: Square,
    n_levels: int,
    rule: Rule,
) -> list[PartialLevel]:
    """What some of the map's points, with their reference, say of levels from 0 on."""
    if points.reference is None:
        message = "the explorer needs the slides of its tiles"
        raise MapError(message)
    found = []
    for level in range(n_levels):
        grid = square.grid(level)
        own = partial_cells(points, grid, rule)
        own = replace(own, tally=replace(own.tally, slides=None))  # they are below
        cell, inside = cell_ids(grid, points.xy)
        names = points.reference[schema.SLIDE].combine_chunks().take(pa.array(inside))
        slides = counts_by_cell(*coded(cell), names)
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
    return [
        _merge(one, other, level)
        for level, (one, other) in enumerate(zip(a, b, strict=True))
    ]


def _merge(a: PartialLevel, b: PartialLevel, level: int) -> PartialLevel:
    cells = merge_cells(a.cells, b.cells)
    slides: pa.Table = merge_counts(a.slides, b.slides)
    counted = pa.concat_tables([a.counted, b.counted])
    many = level > CONTRAST_LEVEL or (level > 0 and len(slides) > MOST_PAIRS)
    if (many or len(counted)) and len(a.slides) and len(b.slides):
        last, first = pc.max(a.slides[LABEL]), pc.min(b.slides[LABEL])
        if last.as_py() > first.as_py():
            message = f"points of slide {last} come before those of slide {first}"
            raise MapError(message)
        ends = pc.min_max(slides[LABEL]).values()
        open_ = pc.is_in(slides[LABEL], pa.array([end.as_py() for end in ends]))
        done = _one_each(slides.filter(pc.invert(open_)))
        counted = _by_cell(pa.concat_tables([counted, done]))
        slides = slides.filter(open_)
    return PartialLevel(cells=cells, slides=slides, counted=counted)


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
        grid, best = square.grid(level), found.cells.best
        own = best.append_column(SINCE, pa.array(np.full(len(best), level), pa.int32()))
        own = own.append_column(SINCE_N, own[schema.N])
        own = own.append_column(
            WHY, pa.array(reasons(best, found.cells.rule, grid.cell))
        )
        if chosen:
            own = keep(grid, chosen[-1], own)
        chosen.append(own)
    return chosen


def keep(grid: SquareGrid, above: pa.Table, own: pa.Table) -> pa.Table:
    """The level's cells, with the tiles of the level above where they lie."""
    places = np.stack([above[name].to_numpy() for name in (PLACE_X, PLACE_Y)], axis=1)
    ids, inside = cell_ids(grid, places)
    if len(inside) != len(above):
        message = "a tile of the level above lies in no cell of the level below"
        raise MapError(message)
    cells = own[CELL].to_numpy()
    at = np.searchsorted(cells, ids)
    take = np.arange(len(own), dtype=np.int64)
    take[at] = len(own) + np.arange(len(above))
    joined = pa.concat_tables([own, above]).take(pa.array(take)).combine_chunks()
    for name in (CELL, schema.N):  # what the cell is, and has, is its own
        column = joined.schema.get_field_index(name)
        joined = joined.set_column(column, name, own[name])
    return joined


def level_table(level: int, chosen: pa.Table, found: PartialLevel) -> pa.Table:
    """The cells of a level as `schema.EXPLORER_CELLS`, by row, then column.

    What the pictures are stored in is null.
    """
    ids, tally = chosen[CELL].to_numpy(), found.cells.tally
    rows, cols = split_ids(ids)
    slides = _by_cell(pa.concat_tables([found.counted, _one_each(found.slides)]))
    since = chosen[SINCE].to_numpy()
    why = [
        text if first == level else f"kept from level {first}, {text}"
        for first, text in zip(since, chosen[WHY].to_pylist(), strict=True)
    ]
    columns: dict[str, object] = {
        name: chosen[name] for name in schema.REFERENCE.names if name != schema.LABEL
    }
    columns |= {
        schema.LEVEL: pa.array(np.full(len(ids), level), pa.int32()),
        schema.ROW: pa.array(rows, pa.int32()),
        schema.COL: pa.array(cols, pa.int32()),
        schema.N: chosen[schema.N],
        schema.N_SLIDES: slides[SLIDES],
        schema.SLIDE: chosen[schema.SLIDE],
        schema.LABEL: chosen[schema.LABEL],
        schema.X: chosen[PLACE_X].cast(pa.float32()),
        schema.Y: chosen[PLACE_Y].cast(pa.float32()),
        schema.WHY: why,
        schema.SINCE: chosen[SINCE],
        schema.SINCE_N: chosen[SINCE_N],
        schema.DISTANCE: chosen[schema.DISTANCE],
        schema.TIED: chosen[TIED],
        schema.LABEL_COUNTS: label_counts(ids, tally.labels),
        schema.PREDICTIONS_MEAN: mean_lists(
            len(ids), *means_of(ids, tally.predictions)
        ),
        schema.KNN_DISTANCE_MEAN: mean_values(
            len(ids), *means_of(ids, tally.knn_distance)
        ),
        schema.TOP_SLIDE: slides[LABEL],
        schema.TOP_SLIDE_N: slides[COUNT],
    }
    wanted = schema.EXPLORER_CELLS
    return pa.table(
        [columns.get(f.name, pa.nulls(len(ids), f.type)) for f in wanted], wanted
    )
