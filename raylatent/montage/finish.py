"""The table of a mosaic's cells, out of the partial results of all points."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raylatent import schema
from raylatent.montage.cells import CELL, TIED, PartialCells
from raylatent.montage.grid import Grid
from raylatent.montage.points import REFERENCE, Rule, split_ids
from raylatent.montage.tally import entropies, label_counts, means_of, slide_numbers


def finish_cells(grid: Grid, partial: PartialCells) -> pa.Table:
    """The table `schema.CELLS`, by row, then column.

    A cell whose points are all out of `max_dist` is left out.
    """
    best = partial.best.filter(pc.is_finite(partial.best[schema.DISTANCE]))
    ids, tally = best[CELL].to_numpy(), partial.tally
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
        schema.PREDICTIONS_MEAN: _lists(len(ids), *means_of(ids, tally.predictions)),
        schema.KNN_DISTANCE_MEAN: _values(len(ids), *means_of(ids, tally.knn_distance)),
        schema.WHY: reasons(best, partial.rule, grid.cell),
    }
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


def _values(n: int, means: NDArray[np.float64], at: NDArray[np.int64]) -> pa.Array:
    """Means (m, 1) of some of n cells, null for the others."""
    values, missing = np.zeros(n), np.ones(n, bool)
    values[at], missing[at] = means[:, 0] if len(at) else 0.0, False
    return pa.array(values, mask=missing)


def _lists(n: int, means: NDArray[np.float64], at: NDArray[np.int64]) -> pa.Array:
    """Means (m, d) of some of n cells as lists, null for the others."""
    values = np.zeros((n, means.shape[1]), np.float32)
    missing = np.ones(n, bool)
    values[at], missing[at] = means, False
    offsets = np.arange(n + 1, dtype=np.int32) * means.shape[1]
    return pa.ListArray.from_arrays(
        pa.array(offsets), pa.array(values.ravel()), mask=pa.array(missing)
    )
