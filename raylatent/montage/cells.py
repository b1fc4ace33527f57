"""Which tile stands for each cell of a mosaic, and the table of the cells.

Everything is a partial result that merges: `partial_cells` of any parts of the
points, joined by `merge_cells` in any order, are the cells of all points, to the bit.
`medoid` goes through the features twice: `partial_sums` comes before. The steps are the
same wherever points come from: something that goes through them part by part and merges
what each part says, here or on a cluster.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raylatent import schema
from raylatent.config import NUM_TILES_X
from raylatent.errors import MapError
from raylatent.mapping.labels import MOST_LABELS, say_too_many_labels
from raylatent.montage.even import even_grid
from raylatent.montage.grid import Bounds, EvenGrid, Grid, make_grid, suitable_columns
from raylatent.montage.points import (
    FEATURES,
    LABELS,
    PREDICTIONS,
    REFERENCE,
    Parts,
    Points,
    Rule,
    cell_ids,
    coded,
    slide_codes,
    split_ids,
    tile_hashes,
)
from raylatent.montage.tally import (
    CellSums,
    Tally,
    chunks,
    entropies,
    label_counts,
    means_of,
    merge_sums,
    slide_numbers,
    sums_by_cell,
)

CELL = "cell"
TIED = "tied"
PLACE_X, PLACE_Y = "place_x", "place_y"
_HASH = "hash"


def partial_sums(points: Points, grid: Grid) -> CellSums:
    """Sums of the features of some points by cell.

    Raises:
        MapError: There are no features, or they are not finite.
    """
    cell, inside = cell_ids(grid, points.xy)
    ids, code = coded(cell)
    return sums_by_cell(ids, code, features_of(points), inside)


def distances_to_means(
    cell: NDArray[np.int64], features: NDArray[np.floating], sums: CellSums
) -> NDArray[np.float32]:
    """From each point to the mean of its cell, euclidean, shape (n,), float32.

    The two points of a cell of two are as far from their mean: with the last bits of
    float64 their tie would be decided by rounding.

    Args:
        cell: The points' cells, shape (n,).
        features: Shape (n, d).
        sums: Of all points; all cells are in it.
    """
    means = sums.means()
    at = np.searchsorted(sums.cell, cell)
    distance = np.empty(len(cell))
    for rows in chunks(features.shape):
        away = features[rows].astype(np.float64) - means[at[rows]]
        distance[rows] = np.sqrt(np.square(away).sum(axis=1))
    return np.minimum(distance, np.finfo(np.float32).max).astype(np.float32)


def features_of(points: Points) -> NDArray[np.floating]:
    """The points' features; MapError without."""
    if points.features is None:
        message = (
            "select='medoid' needs features, an array of a row for each point: give "
            "features=, or use select='nearest'"
        )
        raise MapError(message)
    return points.features


@dataclass(frozen=True, kw_only=True, eq=False)
class PartialCells:
    """What some points say of the cells.

    Attributes:
        best: One row a cell, ascending: `cell`, `n`, `index`, `distance`, `tied` (how
            many are as near), `hash`, the place and the reference of the best tile so
            far.
        rule: By which it is the best.
        tally: What is in the cells.
        n_points: Points seen.
        n_dropped: Those of them that fall in no cell, as NaN.
    """

    best: pa.Table
    rule: Rule
    tally: Tally = field(default_factory=Tally)
    n_points: int = 0
    n_dropped: int = 0


def partial_cells(
    points: Points, grid: Grid, rule: Rule, sums: CellSums | None = None
) -> PartialCells:
    """The best tile of each cell among some points, and what is in the cells.

    Args:
        points: Some of a mosaic's.
        grid: Over all points.
        rule: How to choose.
        sums: Of all points, for `medoid`.
    """
    cell, inside = cell_ids(grid, points.xy)
    kept = points if len(inside) == len(points.xy) else points.take(inside)
    ids, code = coded(cell)
    distance = _distances(grid, kept, rule, cell, sums)
    least = np.full(len(ids), np.inf)
    np.minimum.at(least, code, distance)
    near = np.flatnonzero(distance == least[code])  # the others need no hash
    best = _reduce(_candidates(kept, rule, near, cell[near], distance[near]), rule)
    n = pa.array(np.bincount(code, minlength=len(ids)), pa.int64())
    return PartialCells(
        best=best.set_column(best.schema.get_field_index(schema.N), schema.N, n),
        rule=rule,
        tally=Tally.of(ids, code, kept),
        n_points=len(points.xy),
        n_dropped=len(points.xy) - len(inside),
    )


def merge_cells(a: PartialCells, b: PartialCells) -> PartialCells:
    """What both sets of points say together; any order, any grouping."""
    if a.rule != b.rule:
        message = f"cells chosen by {a.rule} and {b.rule} cannot be merged"
        raise MapError(message)
    return PartialCells(
        best=_reduce(pa.concat_tables([a.best, b.best]), a.rule),
        rule=a.rule,
        tally=a.tally.merge(b.tally),
        n_points=a.n_points + b.n_points,
        n_dropped=a.n_dropped + b.n_dropped,
    )


def slide_shares(
    grid: Grid, parts: Iterable[Points], cells: pa.Table, slide: str
) -> NDArray[np.float64]:
    """For each row of `cells`, which part of its points is of a slide, 0 to 1."""
    own_cells = []
    for points in parts:
        if points.reference is None:
            message = "focus_slide needs slides, and this mosaic is made of arrays"
            raise MapError(message)
        own = pc.equal(points.reference[schema.SLIDE], slide).to_numpy()
        own_cells.append(cell_ids(grid, points.xy[own])[0])
    ids, n = np.unique(np.concatenate(own_cells), return_counts=True)
    if not len(ids):
        message = f"no point is of the slide {slide!r} that focus_slide names"
        raise MapError(message)
    rows, cols = (cells[name].to_numpy() for name in (schema.ROW, schema.COL))
    wanted = (rows.astype(np.int64) << 32) | cols
    shares = np.zeros(len(cells))
    _, at, found = np.intersect1d(wanted, ids, return_indices=True)
    shares[at] = n[found] / cells[schema.N].to_numpy()[at]
    return shares


def _candidates(
    points: Points,
    rule: Rule,
    rows: NDArray[np.int64],
    cell: NDArray[np.int64],
    distance: NDArray[np.float64],
) -> pa.Table:
    """Some points as rows of `PartialCells.best`."""
    if points.reference is None:
        nulls = [pa.nulls(len(rows), column.type) for column in REFERENCE]
        reference = pa.table(nulls, schema=REFERENCE)
    else:
        reference = points.reference.take(pa.array(rows))
    ones = np.ones(len(rows), np.int64)
    own = {
        CELL: cell,
        schema.N: ones,
        schema.INDEX: points.index[rows],
        schema.DISTANCE: distance,
        TIED: ones,
        _HASH: _hashes(reference, rule),
        PLACE_X: points.xy[rows, 0],
        PLACE_Y: points.xy[rows, 1],
    }
    return pa.table({**own, **{n: reference[n] for n in REFERENCE.names}})


def _distances(
    grid: Grid,
    points: Points,
    rule: Rule,
    cell: NDArray[np.int64],
    sums: CellSums | None,
) -> NDArray[np.float64]:
    """By the rule of selection; infinite for points that cannot be chosen."""
    rows, cols = split_ids(cell)
    away = points.xy - grid.center(rows, cols)
    # As np.linalg.norm, of which Slideflow takes the lowest.
    to_center = np.sqrt(np.square(away).sum(axis=1))
    if rule.select == "first":
        distance = np.zeros(len(cell))
        choosable = np.ones(len(cell), bool)
    else:
        # Slideflow's grid may put points beyond its last column or row.
        choosable = (rows < grid.n_rows) & (cols < grid.n_cols)
        distance = to_center
    if rule.select == "medoid":
        if sums is None:
            message = "select='medoid' needs the sums of the first pass"
            raise MapError(message)
        to_mean = distances_to_means(cell, features_of(points), sums)
        distance = to_mean.astype(np.float64)
    if rule.max_dist is not None:
        choosable &= to_center < rule.max_dist * grid.cell
    return np.where(choosable, distance, np.inf)


def _hashes(reference: pa.Table, rule: Rule) -> NDArray[np.uint64]:
    """Of each tile, zeros where the rule has no use for them."""
    if rule.ties == "row" or rule.select == "first" or not len(reference):
        return np.zeros(len(reference), np.uint64)
    return tile_hashes(reference, rule.seed)


def _reduce(candidates: pa.Table, rule: Rule) -> pa.Table:
    """The best candidate of each cell, with the cell's whole counts."""
    if not len(candidates):
        return candidates
    cell = candidates[CELL].to_numpy()
    distance = candidates[schema.DISTANCE].to_numpy()
    keys = [candidates[schema.INDEX].to_numpy()]  # least significant first
    if rule.ties == "hash":
        keys.append(candidates[schema.TILE_INDEX].to_numpy())
        if rule.select == "first":
            keys.append(slide_codes(candidates[schema.SLIDE])[0])
        else:
            keys.append(candidates[_HASH].to_numpy())
    order = np.lexsort((*keys, distance, cell))
    ordered = cell[order]
    first = np.r_[True, ordered[1:] != ordered[:-1]]
    starts = np.flatnonzero(first)
    best = candidates.take(pa.array(order[starts]))
    least = best[schema.DISTANCE].to_numpy()[np.cumsum(first) - 1]
    tied = np.where(distance[order] == least, candidates[TIED].to_numpy()[order], 0)
    whole = {schema.N: candidates[schema.N].to_numpy()[order], TIED: tied}
    for name, values in whole.items():
        counts = pa.array(np.add.reduceat(values, starts), pa.int64())
        best = best.set_column(best.schema.get_field_index(name), name, counts)
    return best.combine_chunks()


def finish_cells(grid: Grid, partial: PartialCells) -> pa.Table:
    """The table `schema.CELLS`, by row, then column.

    A cell whose points are all out of `max_dist` is left out.
    """
    best = partial.best.filter(pc.is_finite(partial.best[schema.DISTANCE]))
    ids, tally, n = best[CELL].to_numpy(), partial.tally, len(best)
    rows, cols = split_ids(ids)
    centers = grid.center(rows, cols)
    counts = label_counts(ids, tally.labels)
    names = (*REFERENCE.names, schema.N, schema.INDEX, schema.DISTANCE)
    columns: dict[str, object] = {name: best[name] for name in names}
    columns |= {
        schema.ROW: pa.array(rows, pa.int32()),
        schema.COL: pa.array(cols, pa.int32()),
        schema.X: centers[:, 0],
        schema.Y: centers[:, 1],
        schema.LABEL_COUNTS: counts,
        schema.N_SLIDES: slide_numbers(ids, tally.slides),
        schema.LABEL_ENTROPY: entropies(counts),
        schema.PREDICTIONS_MEAN: mean_lists(n, *means_of(ids, tally.predictions)),
        schema.KNN_DISTANCE_MEAN: mean_values(n, *means_of(ids, tally.knn_distance)),
        schema.WHY: reasons(best, partial.rule, grid.cell),
    }
    if isinstance(grid, EvenGrid) and partial.rule.select == "nearest":
        columns[schema.WHY] = [
            f"drawn by lot, for the {n:,} tiles that are nearest to it"
            for n in best[schema.N].to_pylist()
        ]
    if partial.rule.select == "first":
        columns[schema.DISTANCE] = pa.nulls(len(ids), pa.float64())
    return pa.table([columns[name] for name in schema.CELLS.names], schema.CELLS)


def reasons(best: pa.Table, rule: Rule, cell: float) -> list[str]:
    """Why each cell's tile was chosen.

    Args:
        best: As of `PartialCells`.
        rule: By which it was chosen.
        cell: Side of a cell, in units of the map.
    """
    names = (schema.N, TIED, schema.DISTANCE)
    columns = (best[name].to_pylist() for name in names)
    return [_reason(rule, cell, *row) for row in zip(*columns, strict=True)]


def _reason(rule: Rule, cell: float, n: int, tied: int, distance: float) -> str:
    by_hash = rule.ties == "hash"
    if n == 1:
        return "the only tile in the cell"
    if rule.select == "first":
        by = "slide and tile index" if by_hash else "the order given"
        return f"the first by {by}, of {n:,} tiles"
    if rule.select == "nearest":
        to, away = "center", f"{distance / cell:.2f} cells away"
    else:
        to, away = "mean of activations", f"{distance:.3g} away"
    why = f"nearest to the cell's {to}, {away}, of {n:,} tiles"
    if tied == 1:
        return why
    last = "smallest hash" if by_hash else "first of them"
    return f"{why}; {tied:,} are as near, this is the {last}"


def mean_values(n: int, means: NDArray[np.float64], at: NDArray[np.int64]) -> pa.Array:
    """Means (m, 1) of some of n cells, null for the others."""
    values, missing = np.zeros(n), np.ones(n, bool)
    values[at], missing[at] = means[:, 0] if len(at) else 0.0, False
    return pa.array(values, mask=missing)


def mean_lists(n: int, means: NDArray[np.float64], at: NDArray[np.int64]) -> pa.Array:
    """Means (m, d) of some of n cells as lists, null for the others."""
    values = np.zeros((n, means.shape[1]), np.float32)
    missing = np.ones(n, bool)
    values[at], missing[at] = means, False
    offsets = np.arange(n + 1, dtype=np.int32) * means.shape[1]
    return pa.ListArray.from_arrays(
        pa.array(offsets), pa.array(values.ravel()), mask=pa.array(missing)
    )


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


def choose_cells(
    parts: Parts, kind: str, num_tiles_x: int | None, rule: Rule
) -> Chosen:
    """The grid over all points, and the tile of each of its cells.

    Args:
        parts: The points; where they lie is looked at first, then what is in the
            cells. For `medoid` features are read twice: for sums, then distances.
        kind: Of grid, `even` for a rectangle without an empty cell.
        num_tiles_x: Its columns, the most of them for `even`; None: as many as suit.
        rule: How to choose.
    """
    medoid = rule.select == "medoid"
    features = [FEATURES] if medoid else []
    labels = [LABELS]
    if parts.labels_of_tiles:
        bounds, names = parts.fold(_bounds_and_labels, _merge_both, labels)
        if names is None:
            say_too_many_labels()
        if not names:
            labels = []
    else:
        bounds = parts.fold(bounds_of, Bounds.merge)
    if num_tiles_x is None:
        num_tiles_x = suitable_columns(bounds) if kind == "square" else NUM_TILES_X
    if kind == EvenGrid.kind:
        grid: Grid = even_grid(parts, bounds, num_tiles_x, rule.seed)
    else:
        grid = make_grid(kind, bounds, num_tiles_x)
    sums = None
    if medoid:
        sums = parts.fold(partial(partial_sums, grid=grid), merge_sums, features)
    pick = partial(partial_cells, grid=grid, rule=rule, sums=sums)
    cells = parts.fold(pick, merge_cells, [*features, PREDICTIONS, *labels])
    return Chosen(grid=grid, bounds=bounds, cells=cells)


def bounds_of(points: Points) -> Bounds:
    """Of some points."""
    return Bounds.of(points.xy)


Names = frozenset[str] | None
"""Labels of points; None where they are too many to color them."""


def _bounds_and_labels(points: Points) -> tuple[Bounds, Names]:
    names = pc.unique(points.labels).drop_null().to_pylist()
    return bounds_of(points), _few(frozenset(names))


def _merge_both(
    a: tuple[Bounds, Names], b: tuple[Bounds, Names]
) -> tuple[Bounds, Names]:
    names = None if a[1] is None or b[1] is None else _few(a[1] | b[1])
    return Bounds.merge(a[0], b[0]), names


def _few(names: frozenset[str]) -> Names:
    return names if len(names) <= MOST_LABELS else None
