"""The sample rows nearest to a row: exact, whatever rows are asked for together.

A matrix product in float32 rules out nearly all sample rows; by a bound on its error it
never rules out a near one, so that its bits, which depend on the rows beside, do not
matter. Distances of the others are sums in a fixed order in float64, and ties go to the
lower index.

Importing this module imports numba.
"""

import numpy as np
from numpy.typing import NDArray

from raylatent.kernel import kernel
from raylatent.mapping.projection import Projection, Sample, project
from raylatent.mapping.screen import TILE_ROWS, Screen, candidates

_SUMS = 32  # of every 32nd feature
_TOGETHER = 4
_FEWEST_ROWS = 16  # looked at together
_MOST_FOUND = 1 << 24  # candidates of theirs: where all rows are equal, all are


@kernel
def nearest(
    rows: NDArray[np.float32],
    own: NDArray[np.int64],
    projection: Projection,
    sample: Sample,
    screen: Screen,
    k: int,
) -> tuple[
    NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]
]:
    """The sample rows nearest to each normalized row.

    Args:
        rows: float32 (q, d), normalized.
        own: int64 (q,), the sample row to pass over, or -1.
        projection: To principal components.
        sample: The sample of n rows.
        screen: Of the sample.
        k: Neighbors, at most n, or n - 1 where one is passed over.

    Returns:
        The k nearest among the principal components by (distance, index): int64
        (q, k) and squared distances float64 (q, k). Then the squared distance in all
        features to the closest of them, float64 (q,), and the lowest index of an equal
        sample row, int64 (q,), or -1.
    """
    count = rows.shape[0]
    index = np.empty((count, k), dtype=np.int64)
    square = np.empty((count, k))
    whole = np.empty(count)
    equal = np.empty(count, dtype=np.int64)
    n = sample.rows.shape[0]
    together = max(_FEWEST_ROWS, min(TILE_ROWS, _MOST_FOUND // n))
    found = np.empty((min(count, together), n), dtype=np.int32)
    bounds = np.empty(found.shape, dtype=np.float32)
    squares = np.empty(n)
    lanes = np.empty((_TOGETHER, _SUMS))
    for start in range(0, count, together):
        stop = min(start + together, count)
        reduced, residual, spread = project(rows[start:stop], projection)
        some = candidates(reduced, own[start:stop], screen, k, found, bounds)
        for i in range(stop - start):
            row = start + i
            near = found[i, : some[i]]
            _exact(reduced[i], screen.reduced, near, squares)
            _smallest(squares, near, index[row], square[row])
            equal[row] = -1
            if square[row, 0] == 0.0:
                equal[row] = _equal(rows[row], sample.rows, near, squares)
            whole[row] = 0.0
            if equal[row] < 0:
                whole[row] = _whole(
                    rows[row],
                    (residual[i], spread[i]),
                    sample,
                    (square[row], index[row]),
                    lanes,
                )
    return index, square, whole, equal


@kernel
def _exact(
    row: NDArray[np.float64],
    sample: NDArray[np.float64],
    found: NDArray[np.int32],
    squares: NDArray[np.float64],
) -> None:
    """Squared distances of a reduced row (m,) to some of the sample (n, m)."""
    even = found.shape[0] // 4 * 4
    for at in range(0, even, 4):  # side by side: each sum waits for itself only
        s0, s1 = sample[found[at]], sample[found[at + 1]]
        s2, s3 = sample[found[at + 2]], sample[found[at + 3]]
        t0 = t1 = t2 = t3 = 0.0
        for c in range(row.shape[0]):
            d0, d1, d2, d3 = (
                row[c] - s0[c],
                row[c] - s1[c],
                row[c] - s2[c],
                row[c] - s3[c],
            )
            t0 += d0 * d0
            t1 += d1 * d1
            t2 += d2 * d2
            t3 += d3 * d3
        squares[at], squares[at + 1] = t0, t1
        squares[at + 2], squares[at + 3] = t2, t3
    for at in range(even, found.shape[0]):
        other = sample[found[at]]
        total = 0.0
        for c in range(row.shape[0]):
            delta = row[c] - other[c]
            total += delta * delta
        squares[at] = total


@kernel
def _smallest(
    squares: NDArray[np.float64],
    found: NDArray[np.int32],
    index: NDArray[np.int64],
    square: NDArray[np.float64],
) -> None:
    """The smallest, ascending by (square, index), by insertion."""
    k = index.shape[0]
    count = 0
    for i in range(found.shape[0]):
        value = squares[i]
        if count == k and value >= square[k - 1]:
            continue
        at = count if count < k else k - 1
        while at > 0 and square[at - 1] > value:
            square[at] = square[at - 1]
            index[at] = index[at - 1]
            at -= 1
        square[at] = value
        index[at] = found[i]
        count = min(count + 1, k)


@kernel
def _equal(
    row: NDArray[np.float32],
    rows: NDArray[np.float32],
    found: NDArray[np.int32],
    squares: NDArray[np.float64],
) -> int:
    """The lowest sample row equal to `row`, or -1: only at square 0 can one be."""
    for at in range(found.shape[0]):
        if squares[at] == 0.0 and np.array_equal(rows[found[at]], row):
            return int(found[at])
    return -1


@kernel
def _whole(
    row: NDArray[np.float32],
    rest: tuple[float, float],
    sample: Sample,
    near: tuple[NDArray[np.float64], NDArray[np.int64]],
    lanes: NDArray[np.float64],
) -> float:
    """The smallest squared distance in all features to one of the neighbors.

    What the projection leaves out of two rows differs by at least the difference of
    its lengths, so some neighbors are ruled out without a look at all features. Four
    are looked at together, so that a core waits for their features at once.
    """
    residual, spread = rest
    squares, index = near
    k = index.shape[0]
    some = np.empty(_TOGETHER, dtype=np.int64)
    best = np.inf
    at = 0
    while at < k:
        count = 0
        while at < k and count < _TOGETHER:
            i = index[at]
            delta = residual - sample.residual[i]
            # Rounding of the lengths, generously.
            slack = 1e-7 * (spread + sample.spread[i])
            if squares[at] + delta * delta - slack < best:
                some[count] = i
                count += 1
            at += 1
        if count > 0:
            some[count:] = some[0]
            best = min(best, _least_square(row, sample.rows, some, lanes))
    return best


@kernel
def _least_square(
    row: NDArray[np.float32],
    rows: NDArray[np.float32],
    some: NDArray[np.int64],
    lanes: NDArray[np.float64],
) -> float:
    """The least squared distance to four rows.

    Sums of every 32nd feature, so that they run side by side.
    """
    width = row.shape[0]
    r0, r1, r2, r3 = rows[some[0]], rows[some[1]], rows[some[2]], rows[some[3]]
    lanes[:] = 0.0
    l0, l1, l2, l3 = lanes[0], lanes[1], lanes[2], lanes[3]
    even = width // _SUMS * _SUMS
    for start in range(0, even, _SUMS):
        for j in range(_SUMS):
            value = np.float64(row[start + j])
            d0 = value - np.float64(r0[start + j])
            d1 = value - np.float64(r1[start + j])
            d2 = value - np.float64(r2[start + j])
            d3 = value - np.float64(r3[start + j])
            l0[j] += d0 * d0
            l1[j] += d1 * d1
            l2[j] += d2 * d2
            l3[j] += d3 * d3
    for i in range(_TOGETHER):
        for j in range(even, width):
            delta = np.float64(row[j]) - np.float64(rows[some[i], j])
            lanes[i, j - even] += delta * delta
    least = np.inf
    for i in range(_TOGETHER):
        total = 0.0
        for j in range(_SUMS):
            total += lanes[i, j]
        least = min(least, total)
    return least
