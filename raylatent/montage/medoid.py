"""Means of cells in feature space, and how far points are from them."""

import numpy as np
from numpy.typing import NDArray

from raylatent.errors import MapError
from raylatent.montage.grid import Grid
from raylatent.montage.points import Points, cell_ids, coded
from raylatent.montage.sums import CellSums, chunks, sums_by_cell


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
