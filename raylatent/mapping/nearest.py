"""The sample rows nearest to a row: exact, whatever rows are asked for together.

A matrix product in float32 rules out nearly all sample rows; by a bound on its error it
never rules out a near one, so that its bits, which depend on the rows beside, do not
matter. Distances of the others are sums in a fixed order in float64, and ties go to the
lower index. So it is for the k nearest among the principal components, and for the
nearest in all features.

Importing this module imports numba.
"""

import numpy as np
from numpy.typing import NDArray

from raylatent.kernel import kernel
from raylatent.mapping.candidates import TOGETHER_ROWS, Projected, candidates
from raylatent.mapping.projection import Projection, Sample, project
from raylatent.mapping.screen import Screen

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
        features to the closest sample row, which need not be one of them, float64
        (q,), and the lowest index of an equal sample row, int64 (q,), or -1.
    """
    count = rows.shape[0]
    index = np.empty((count, k), dtype=np.int64)
    square = np.empty((count, k))
    whole = np.empty(count)
    equal = np.empty(count, dtype=np.int64)
    n = sample.rows.shape[0]
    together = max(_FEWEST_ROWS, min(TOGETHER_ROWS, _MOST_FOUND // n))
    found = np.empty((min(count, together), n), dtype=np.int32)
    bounds = np.empty(found.shape, dtype=np.float32)
    squares = np.empty(n)
    for start in range(0, count, together):
        stop = min(start + together, count)
        projected = Projected(rows[start:stop], *project(rows[start:stop], projection))
        some, whole[start:stop] = candidates(
            projected, own[start:stop], sample, screen, k, (found, bounds)
        )
        for i in range(stop - start):
            row = start + i
            near = found[i, : some[i]]
            _exact(projected.reduced[i], screen.reduced, near, squares)
            _smallest(squares, near, index[row], square[row])
            equal[row] = -1
            if square[row, 0] == 0.0:
                equal[row] = _equal(rows[row], sample.rows, near, squares)
            if equal[row] >= 0:
                whole[row] = 0.0
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
        if count == k and not _after(square[k - 1], index[k - 1], value, found[i]):
            continue
        at = count if count < k else k - 1
        while at > 0 and _after(square[at - 1], index[at - 1], value, found[i]):
            square[at] = square[at - 1]
            index[at] = index[at - 1]
            at -= 1
        square[at] = value
        index[at] = found[i]
        count = min(count + 1, k)


@kernel
def _after(square: float, index: int, other: float, other_index: int) -> bool:
    """Whether (square, index) comes after another pair."""
    return square > other or (square == other and index > other_index)


@kernel
def _equal(
    row: NDArray[np.float32],
    rows: NDArray[np.float32],
    found: NDArray[np.int32],
    squares: NDArray[np.float64],
) -> int:
    """The lowest sample row equal to `row`, or -1: only at square 0 can one be."""
    lowest = -1
    for at in range(found.shape[0]):
        lower = squares[at] == 0.0 and (lowest < 0 or found[at] < lowest)
        if lower and np.array_equal(rows[found[at]], row):
            lowest = found[at]
    return lowest
