"""Means by cell, in feature space and of other columns, and how far points are from them.

Sums are of integers, so that neither the order of rows nor the way in which parts are
merged shows in them: sums of floats would differ in the last bits.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import frexp

import numpy as np
from numpy.typing import NDArray

from raylatent.errors import MapError
from raylatent.montage.grid import Grid
from raylatent.montage.points import Points, cell_ids, coded

_CHUNK_VALUES = 1 << 21  # features looked at together: 16 MiB as float64


@dataclass(frozen=True, kw_only=True, eq=False)
class CellSums:
    """Sums of some columns by cell.

    Attributes:
        cell: Ids, ascending, shape (c,).
        n: Points of each, shape (c,).
        sums: Of values times `scale`, rounded, shape (c, d), int64.
        scale: A power of two.
    """

    cell: NDArray[np.int64]
    n: NDArray[np.int64]
    sums: NDArray[np.int64]
    scale: float

    def means(self) -> NDArray[np.float64]:
        """The cells' means, shape (c, d)."""
        return self.sums / (self.n[:, None] * self.scale)


def feature_scale(max_abs: float, n: int) -> float:
    """The power of two by which `n` values up to `max_abs` are summed as integers.

    As fine as 62 bits allow. Sums of floats would depend on the order of adding.

    >>> feature_scale(1.0, 1)
    5.764607523034235e+17
    """
    _, exponent = frexp(max_abs)
    return float(2.0 ** min(61 - exponent - int(n).bit_length(), 1000))


def largest_feature(features: NDArray[np.floating]) -> float:
    """The largest absolute value; MapError where one is not finite."""
    largest = 0.0
    for rows in _chunks(features.shape):
        part = features[rows]
        if part.size:
            largest = max(largest, float(np.abs(part).max()))  # NaN: see below
            if not np.isfinite(part).all():
                message = (
                    "the features hold values that are not finite, so that a cell has "
                    "no medoid: leave out their rows or use select='nearest'"
                )
                raise MapError(message)
    return largest


def partial_sums(points: Points, grid: Grid, scale: float) -> CellSums:
    """Sums of the features of some points by cell, each times `scale`."""
    cell, inside = cell_ids(grid, points.xy)
    ids, code = coded(cell)
    return sums_by_cell(ids, code, features_of(points), scale, inside)


def sums_by_cell(
    ids: NDArray[np.int64],
    code: NDArray[np.int64],
    values: NDArray[np.floating],
    scale: float,
    rows: NDArray[np.int64],
) -> CellSums:
    """Sums of some rows of values (m, d), each times `scale`.

    Args:
        ids: Of cells, shape (c,).
        code: In which of them each of the rows is, shape (n,).
        values: Finite in these rows.
        scale: Of `feature_scale`.
        rows: Which of the values, shape (n,).
    """
    sums = np.zeros((len(ids), values.shape[1]), np.int64)
    for some in _chunks((len(rows), values.shape[1])):
        order = np.argsort(code[some], kind="stable")
        scaled = values[rows[some][order]].astype(np.float64) * scale
        groups, starts = np.unique(code[some][order], return_index=True)
        sums[groups] += np.add.reduceat(np.rint(scaled).astype(np.int64), starts)
    n = np.bincount(code, minlength=len(ids)).astype(np.int64)
    return CellSums(cell=ids, n=n, sums=sums, scale=scale)


def merge_sums(a: CellSums, b: CellSums) -> CellSums:
    """Of both sets of points together."""
    if a.scale != b.scale:
        message = f"sums of scale {a.scale:g} and {b.scale:g} cannot be merged"
        raise MapError(message)
    ids, inverse = np.unique(np.concatenate([a.cell, b.cell]), return_inverse=True)
    n = np.zeros(len(ids), np.int64)
    sums = np.zeros((len(ids), max(a.sums.shape[1], b.sums.shape[1])), np.int64)
    for part, at in ((a, inverse[: len(a.cell)]), (b, inverse[len(a.cell) :])):
        n[at] += part.n
        sums[at] += part.sums
    return CellSums(cell=ids, n=n, sums=sums, scale=a.scale)


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
    for rows in _chunks(features.shape):
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


def _chunks(shape: tuple[int, ...]) -> Iterator[slice]:
    n, width = shape
    step = max(1, _CHUNK_VALUES // max(1, width))
    for start in range(0, n, step):
        yield slice(start, min(n, start + step))
