"""A full rectangle of tiles: some points of a map, each in a cell of its own.

The points are drawn by their hash, so that parts of them merge and their order does not
show. They go to cells so that the sum of their squared ways is small, both measured in
cells: then neighbors stay neighbors.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raylatent.mapping.statistics import quality
from raylatent.montage.grid import Bounds, EvenGrid, check_bounds
from raylatent.montage.points import Parts, Points, tile_hashes
from raylatent.stable_hash import tile_hash

MOST_CELLS = 100_000
_EXACT_CELLS = 1_024  # takes a second; 2,500 take ten
_WINDOW = 16  # cells a side, within which tiles change places
_SHIFTS = ((8, 8), (0, 0), (8, 0), (0, 8))  # of these windows, one after the other
_NEIGHBORS = 15
_MEASURED = 1_000
_MOST_DISTANCES = 4_000_000

Places = NDArray[np.float64]


class Lot(NamedTuple):
    """Some points by their hash, uint64 (k,), each at another place, float64 (k, 2)."""

    xy: Places
    hashes: NDArray[np.uint64]


def draw_lot(points: Points, n: int, seed: int) -> Lot:
    """At most n of some points, by their hash; of arrays, by that of their number."""
    if points.reference is None:
        hashes = tile_hash(seed, "", points.index)
    else:
        hashes = tile_hashes(points.reference, seed)
    finite = np.isfinite(points.xy).all(axis=1)
    return _drawn(Lot(points.xy[finite], hashes[finite]), n)


def merge_lots(a: Lot, b: Lot, n: int) -> Lot:
    """At most n of both; any order, any grouping."""
    return _drawn(Lot(*(np.concatenate(both) for both in zip(a, b, strict=True))), n)


def _drawn(lot: Lot, n: int) -> Lot:
    """The n of smallest hash, after all but one at each place are left out."""
    xy, hashes = lot
    order = np.lexsort((hashes, xy[:, 1], xy[:, 0]))
    before = np.roll(order, 1)
    other = (xy[order] != xy[before]).any(axis=1)
    other[:1] = True
    kept = order[other]
    kept = kept[np.lexsort((xy[kept, 1], xy[kept, 0], hashes[kept]))[:n]]
    return Lot(xy[kept], hashes[kept])


def even_grid(parts: Parts, bounds: Bounds, num_tiles_x: int, seed: int) -> EvenGrid:
    """The rectangle over points, of at most `num_tiles_x` columns, and its cells' places.

    Raises:
        MapError: There are no points.
    """
    check_bounds(bounds, num_tiles_x)
    shape = rectangle(bounds, bounds.n, num_tiles_x)
    n = math.prod(shape)
    lot = parts.fold(partial(draw_lot, n=n, seed=seed), partial(merge_lots, n=n))
    if len(lot.xy) < n:  # several points are at one place
        shape = rectangle(bounds, len(lot.xy), num_tiles_x)
    xy = lot.xy[: math.prod(shape)]
    n_rows, n_cols = shape
    centers = xy[assigned(xy, shape)]
    return EvenGrid(bounds=bounds, centers=centers, n_cols=n_cols, n_rows=n_rows)


def rectangle(bounds: Bounds, n: int, num_tiles_x: int) -> tuple[int, int]:
    """Rows and columns of at most n cells, about as wide and high as the map.

    >>> square = Bounds.of([(0, 0), (1, 1)])
    >>> rectangle(square, 10_000, 50), rectangle(square, 30, 50)
    ((50, 50), (6, 5))
    """
    n = min(n, MOST_CELLS)
    if not bounds.width:
        return min(n, num_tiles_x), 1
    ratio = max(bounds.height / bounds.width, 1 / n)
    most = min(num_tiles_x, n)
    n_cols = max(1, min(most, math.floor(math.sqrt(n / ratio))))
    if n_cols < most:
        return n // n_cols, n_cols
    return max(1, min(n // n_cols, round(min(n_cols * ratio, n)))), n_cols


def assigned(xy: Places, shape: tuple[int, int]) -> NDArray[np.int64]:
    """Which point (n, 2) goes to each cell, by row, then column.

    Up to 1,024 cells it is the assignment of least cost. Of more, the points are halved
    again and again, and tiles change places within windows, each to the least cost in
    it: both time and memory grow as the number of cells.

    Args:
        xy: As many as there are cells; the result depends on their order only where
            several are as good.
        shape: Rows and columns.
    """
    low, extent = xy.min(axis=0), np.ptp(xy, axis=0)
    places = (xy - low) / np.where(extent > 0, extent, 1.0) * shape[::-1]
    taken = np.empty(shape, np.int64)
    if taken.size <= _EXACT_CELLS:
        return _solved(places, np.arange(len(xy)), shape).ravel()
    _halve(places, np.arange(len(xy)), taken)
    for down, right in _SHIFTS:
        for row in range(-down, shape[0], _WINDOW):
            for col in range(-right, shape[1], _WINDOW):
                window = taken[max(0, row) : row + _WINDOW, max(0, col) : col + _WINDOW]
                window[:] = _solved(places, np.sort(window, axis=None), window.shape)
    return taken.ravel()


def _halve(places: Places, own: NDArray[np.int64], taken: NDArray[np.int64]) -> None:
    """Fill cells with points: half of them to either half of the longer side."""
    if taken.size <= _WINDOW * _WINDOW:
        taken[:] = _solved(places, own, taken.shape)
        return
    along = int(np.argmax(taken.shape[::-1]))  # 0: x
    ordered = own[np.argsort(places[own, along], kind="stable")]
    halves = np.split(taken, [taken.shape[1 - along] // 2], axis=1 - along)
    for half, some in zip(halves, np.split(ordered, [halves[0].size]), strict=True):
        _halve(places, np.sort(some), half)


def _solved(
    places: Places, own: NDArray[np.int64], shape: Sequence[int]
) -> NDArray[np.int64]:
    """Some of the points in cells of a shape, at the least sum of squared ways."""
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415  (slow)

    rows, cols = (axis.ravel() for axis in np.indices(tuple(shape)))
    x, y = places[own].T
    # Of |point - cell|^2 only the mixed term depends on who goes where.
    cost = -(np.multiply.outer(x, cols + 0.5) + np.multiply.outer(y, rows + 0.5))
    found = np.empty(len(own), np.int64)
    found[linear_sum_assignment(cost)[1]] = own
    return found.reshape(tuple(shape))


def trustworthiness(xy: Places, cells: Places) -> float | None:
    """How far neighbors in a picture (n, 2) are neighbors on the map (n, 2), 1 at best.

    As of Venna and Kaski, of 15 neighbors, measured on at most 1,000 of the tiles, each
    among all; on fewer of many. None for fewer than 4 tiles.
    """
    k = min(_NEIGHBORS, (len(xy) - 2) // 2)
    if k < 1:
        return None
    measured = max(1, min(_MEASURED, _MOST_DISTANCES // len(xy)))
    own = np.unique(np.linspace(0, len(xy) - 1, measured).astype(np.intp))
    return quality(xy[own], cells[own], xy, cells, k, own).trustworthiness
