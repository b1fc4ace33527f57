"""Which tile stands for each cell of a mosaic.

Everything is a partial result that merges: `partial_cells` of any parts of the
points, joined by `merge_cells` in any order, are the cells of all points, to the bit.
`medoid` takes two passes, `medoid.partial_sums` before.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raylatent import schema
from raylatent.errors import MapError
from raylatent.montage.grid import Grid
from raylatent.montage.medoid import (
    CellSums,
    distances_to_means,
    feature_scale,
    features_of,
    largest_feature,
    merge_sums,
    partial_sums,
)
from raylatent.montage.points import REFERENCE, Points, Rule, cell_ids, split_ids
from raylatent.stable_hash import tile_hash

_CELL = "cell"
_HASH = "hash"
_LABEL = "label"
_COUNT = "count"


@dataclass(frozen=True, kw_only=True, eq=False)
class PartialCells:
    """What some points say of the cells.

    Attributes:
        best: One row a cell, ascending: `cell`, `n`, `index`, `distance`, `hash` and
            the reference of the best tile so far.
        rule: By which it is the best.
        labels: `cell`, `label`, `count`; None without labels.
        n_points: Points seen.
        n_dropped: Those of them that fall in no cell, as NaN.
    """

    best: pa.Table
    rule: Rule
    labels: pa.Table | None = None
    n_points: int = 0
    n_dropped: int = 0


def partial_cells(
    grid: Grid, points: Points, rule: Rule, sums: CellSums | None = None
) -> PartialCells:
    """The best tile of each cell among some points.

    Args:
        grid: Over all points.
        points: Some of them.
        rule: How to choose.
        sums: Of all points, for `medoid`.
    """
    cell, inside = cell_ids(grid, points.xy)
    kept = points if len(inside) == len(points.xy) else points.take(inside)
    reference = kept.reference
    if reference is None:
        nulls = [pa.nulls(len(inside), column.type) for column in REFERENCE]
        reference = pa.table(nulls, schema=REFERENCE)
    own = {
        _CELL: cell,
        schema.N: np.ones(len(cell), np.int64),
        schema.INDEX: kept.index,
        schema.DISTANCE: _distances(grid, kept, rule, cell, sums),
        _HASH: _hashes(reference, rule),
    }
    candidates = pa.table({**own, **{n: reference[n] for n in REFERENCE.names}})
    labels = None if kept.labels is None else _count_labels(cell, kept.labels)
    return PartialCells(
        best=_reduce(candidates, rule),
        rule=rule,
        labels=labels,
        n_points=len(points.xy),
        n_dropped=len(points.xy) - len(inside),
    )


def merge_cells(a: PartialCells, b: PartialCells) -> PartialCells:
    """What both sets of points say together; any order, any grouping."""
    if a.rule != b.rule:
        message = f"cells chosen by {a.rule} and {b.rule} cannot be merged"
        raise MapError(message)
    labels = [part.labels for part in (a, b) if part.labels is not None]
    return PartialCells(
        best=_reduce(pa.concat_tables([a.best, b.best]), a.rule),
        rule=a.rule,
        labels=_sum_labels(pa.concat_tables(labels)) if labels else None,
        n_points=a.n_points + b.n_points,
        n_dropped=a.n_dropped + b.n_dropped,
    )


def finish_cells(grid: Grid, partial: PartialCells) -> pa.Table:
    """The table `schema.CELLS`, by row, then column.

    A cell whose points are all out of `max_dist` is left out.
    """
    best = partial.best.filter(pc.is_finite(partial.best[schema.DISTANCE]))
    ids = best[_CELL].to_numpy()
    rows, cols = split_ids(ids)
    centers = grid.center(rows, cols)
    columns: dict[str, object] = {name: best[name] for name in REFERENCE.names}
    columns |= {name: best[name] for name in (schema.N, schema.INDEX, schema.DISTANCE)}
    columns |= {schema.ROW: pa.array(rows, pa.int32())}
    columns |= {schema.COL: pa.array(cols, pa.int32())}
    columns |= {schema.X: centers[:, 0], schema.Y: centers[:, 1]}
    columns[schema.LABEL_COUNTS] = _label_maps(ids, partial.labels)
    if partial.rule.select == "first":
        columns[schema.DISTANCE] = pa.nulls(len(ids), pa.float64())
    return pa.table([columns[name] for name in schema.CELLS.names], schema.CELLS)


def select_cells(grid: Grid, parts: Iterable[Points], rule: Rule) -> PartialCells:
    """The cells of all points, with both passes where the rule needs them.

    Args:
        grid: Over all points.
        parts: The points in parts; gone through up to three times.
        rule: How to choose.
    """
    sums = None
    if rule.select == "medoid":
        largest, n = 0.0, 0
        for points in parts:
            features = features_of(points)
            largest, n = max(largest, largest_feature(features)), n + len(features)
        scale = feature_scale(largest, n)
        sums = reduce(merge_sums, (partial_sums(grid, p, scale) for p in parts))
    return reduce(merge_cells, (partial_cells(grid, p, rule, sums) for p in parts))


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
    hashes = np.zeros(len(reference), np.uint64)
    if rule.ties == "row" or rule.select == "first" or not len(reference):
        return hashes
    codes, names = _slide_codes(reference[schema.SLIDE])
    tiles = reference[schema.TILE_INDEX].to_numpy()
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(len(names) + 1))
    for name, start, stop in zip(names, starts, starts[1:], strict=False):
        rows = order[start:stop]
        hashes[rows] = tile_hash(rule.seed, name, tiles[rows])
    return hashes


def _slide_codes(slides: pa.ChunkedArray) -> tuple[NDArray[np.int64], list[str]]:
    """For each row the rank of its slide's name among the names, and these."""
    encoded = slides.combine_chunks().dictionary_encode()
    order = pc.array_sort_indices(encoded.dictionary).to_numpy()
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    return ranks[codes], encoded.dictionary.take(pa.array(order)).to_pylist()


def _reduce(candidates: pa.Table, rule: Rule) -> pa.Table:
    """The best candidate of each cell, with the cell's whole count."""
    if not len(candidates):
        return candidates
    cell = candidates[_CELL].to_numpy()
    keys = [candidates[schema.INDEX].to_numpy()]  # least significant first
    if rule.ties == "hash":
        keys.append(candidates[schema.TILE_INDEX].to_numpy())
        if rule.select == "first":
            keys.append(_slide_codes(candidates[schema.SLIDE])[0])
        else:
            keys.append(candidates[_HASH].to_numpy())
    order = np.lexsort((*keys, candidates[schema.DISTANCE].to_numpy(), cell))
    ordered = cell[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    counts = np.add.reduceat(candidates[schema.N].to_numpy()[order], starts)
    best = candidates.take(pa.array(order[starts]))
    at = best.schema.get_field_index(schema.N)
    return best.set_column(at, schema.N, pa.array(counts, pa.int64())).combine_chunks()


def _count_labels(cell: NDArray[np.int64], labels: pa.Array) -> pa.Table:
    ones = pa.array(np.ones(len(cell), np.int64))
    table = pa.table({_CELL: cell, _LABEL: labels, _COUNT: ones})
    return _sum_labels(table.filter(pc.is_valid(table[_LABEL])))


def _sum_labels(table: pa.Table) -> pa.Table:
    summed = table.group_by([_CELL, _LABEL]).aggregate([(_COUNT, "sum")])
    summed = summed.rename_columns([_CELL, _LABEL, _COUNT])
    return summed.sort_by([(_CELL, "ascending"), (_LABEL, "ascending")])


def _label_maps(ids: NDArray[np.int64], labels: pa.Table | None) -> pa.Array:
    """For each cell its labels' counts by name; null without labels."""
    kind = schema.CELLS.field(schema.LABEL_COUNTS).type
    if labels is None:
        return pa.nulls(len(ids), kind)
    labels = labels.filter(np.isin(labels[_CELL].to_numpy(), ids))
    starts = np.searchsorted(labels[_CELL].to_numpy(), ids)
    offsets = pa.array(np.r_[starts, len(labels)], pa.int32())
    names, counts = (labels[n].combine_chunks() for n in (_LABEL, _COUNT))
    return pa.MapArray.from_arrays(offsets, names, counts)
