"""Which tile stands for each cell of a mosaic.

Everything is a partial result that merges: `partial_cells` of any parts of the
points, joined by `merge_cells` in any order, are the cells of all points, to the bit.
`medoid` goes through the features twice: `medoid.partial_sums` comes before.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raylatent import schema
from raylatent.errors import MapError
from raylatent.montage.grid import Grid
from raylatent.montage.medoid import distances_to_means, features_of
from raylatent.montage.points import (
    REFERENCE,
    Points,
    Rule,
    cell_ids,
    coded,
    split_ids,
)
from raylatent.montage.sums import CellSums
from raylatent.montage.tally import Tally
from raylatent.stable_hash import tile_hash

CELL = "cell"
TIED = "tied"
_HASH = "hash"


@dataclass(frozen=True, kw_only=True, eq=False)
class PartialCells:
    """What some points say of the cells.

    Attributes:
        best: One row a cell, ascending: `cell`, `n`, `index`, `distance`, `tied` (how
            many are as near), `hash` and the reference of the best tile so far.
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
    points: Points,
    grid: Grid,
    rule: Rule,
    sums: CellSums | None = None,
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
    """The best candidate of each cell, with the cell's whole counts."""
    if not len(candidates):
        return candidates
    cell = candidates[CELL].to_numpy()
    distance = candidates[schema.DISTANCE].to_numpy()
    keys = [candidates[schema.INDEX].to_numpy()]  # least significant first
    if rule.ties == "hash":
        keys.append(candidates[schema.TILE_INDEX].to_numpy())
        if rule.select == "first":
            keys.append(_slide_codes(candidates[schema.SLIDE])[0])
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
