"""The sample rows nearest to a row: exact, whatever rows are asked for together.

Distances are sums in a fixed order in float64, and ties go to the lower index.

Importing this module imports numba.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raylatent.kernel import kernel

_TILE_ROWS = 16  # rows that share one pass over the sample, for the cache's sake
_BLOCK_COLUMNS = 512


class Projection(NamedTuple):
    """Normalized row to principal components.

    Attributes:
        mean: float64 (d,).
        components: float64 (d, m), C-contiguous.
        offset: float64 (m,), `mean @ components`.
    """

    mean: NDArray[np.float64]
    components: NDArray[np.float64]
    offset: NDArray[np.float64]


class Sample(NamedTuple):
    """The rows that the map was fitted on, ascending by key.

    Attributes:
        rows: float32 (n, d), normalized as the metric does.
        reduced: float64 (m, n), their projection.
        residual: float64 (n,), length of what the projection leaves out.
        spread: float64 (n,), squared distance to the mean.
    """

    rows: NDArray[np.float32]
    reduced: NDArray[np.float64]
    residual: NDArray[np.float64]
    spread: NDArray[np.float64]


@kernel
def project(
    rows: NDArray[np.float32], projection: Projection
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Project normalized rows (q, d).

    Returns:
        Principal components (q, m), residual lengths (q,) and squared distances to
        the mean (q,), in float64.
    """
    count, width = rows.shape
    size = projection.offset.shape[0]
    reduced = np.empty((count, size))
    residual = np.empty(count)
    spread = np.empty(count)
    for row in range(count):
        total = -projection.offset
        square = 0.0
        for j in range(width):
            value = np.float64(rows[row, j])
            delta = value - projection.mean[j]
            square += delta * delta
            if value != 0.0:
                weights = projection.components[j]
                for c in range(size):
                    total[c] += value * weights[c]
        kept = 0.0
        for c in range(size):
            reduced[row, c] = total[c]
            kept += total[c] * total[c]
        spread[row] = square
        residual[row] = np.sqrt(max(square - kept, 0.0))
    return reduced, residual, spread


@kernel
def nearest(
    rows: NDArray[np.float32],
    own: NDArray[np.int64],
    projection: Projection,
    sample: Sample,
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
        k: Neighbors, at most n, or n - 1 where one is passed over.

    Returns:
        The k nearest among the principal components by (distance, index): int64
        (q, k) and squared distances float64 (q, k). Then the squared distance to the
        nearest in all features, float64 (q,), and the lowest index of an equal sample
        row, int64 (q,), or -1.
    """
    count = rows.shape[0]
    index = np.empty((count, k), dtype=np.int64)
    square = np.empty((count, k))
    whole = np.empty(count)
    equal = np.empty(count, dtype=np.int64)
    buffer = np.empty((_TILE_ROWS, sample.rows.shape[0]))
    for start in range(0, count, _TILE_ROWS):
        stop = min(start + _TILE_ROWS, count)
        reduced, residual, spread = project(rows[start:stop], projection)
        _squares(reduced, sample.reduced, buffer)
        for i in range(stop - start):
            row = start + i
            _smallest(buffer[i], own[row], index[row], square[row])
            equal[row] = -1
            if square[row, 0] == 0.0:
                equal[row] = _equal(rows[row], own[row], sample.rows, buffer[i])
            if equal[row] >= 0:
                whole[row] = 0.0
            else:
                whole[row] = _whole(
                    rows[row],
                    own[row],
                    (residual[i], spread[i]),
                    sample,
                    (buffer[i], index[row]),
                )
    return index, square, whole, equal


@kernel
def _squares(
    reduced: NDArray[np.float64],
    sample: NDArray[np.float64],
    buffer: NDArray[np.float64],
) -> None:
    """Squared distances of (q, m) to (m, n), into the first q rows of the buffer."""
    n = sample.shape[1]
    for low in range(0, n, _BLOCK_COLUMNS):
        high = min(low + _BLOCK_COLUMNS, n)
        for row in range(reduced.shape[0]):
            out = buffer[row, low:high]
            out[:] = 0.0
            for c in range(reduced.shape[1]):
                value = reduced[row, c]
                column = sample[c, low:high]
                for i in range(high - low):
                    delta = value - column[i]
                    out[i] += delta * delta


@kernel
def _smallest(
    squares: NDArray[np.float64],
    own: int,
    index: NDArray[np.int64],
    square: NDArray[np.float64],
) -> None:
    """The smallest, ascending by (square, index), by insertion."""
    k = index.shape[0]
    found = 0
    for i in range(squares.shape[0]):
        value = squares[i]
        if i == own or (found == k and value >= square[k - 1]):
            continue
        at = found if found < k else k - 1
        while at > 0 and square[at - 1] > value:
            square[at] = square[at - 1]
            index[at] = index[at - 1]
            at -= 1
        square[at] = value
        index[at] = i
        found = min(found + 1, k)


@kernel
def _equal(
    row: NDArray[np.float32],
    own: int,
    rows: NDArray[np.float32],
    squares: NDArray[np.float64],
) -> int:
    """The lowest sample row equal to `row`, or -1: only at square 0 can one be."""
    for i in range(squares.shape[0]):
        if i != own and squares[i] == 0.0 and np.array_equal(rows[i], row):
            return i
    return -1


@kernel
def _whole(
    row: NDArray[np.float32],
    own: int,
    rest: tuple[float, float],
    sample: Sample,
    near: tuple[NDArray[np.float64], NDArray[np.int64]],
) -> float:
    """The smallest squared distance in all features.

    What the projection leaves out of two rows differs by at least the difference of
    its lengths, so most sample rows are ruled out without a look at all features.
    """
    residual, spread = rest
    squares, index = near
    best = np.inf
    for i in index:
        best = min(best, _full_square(row, sample.rows[i], best))
    for i in range(squares.shape[0]):
        delta = residual - sample.residual[i]
        # Rounding of the lengths, generously.
        slack = 1e-7 * (spread + sample.spread[i])
        if i != own and squares[i] + delta * delta - slack < best:
            best = min(best, _full_square(row, sample.rows[i], best))
    return best


@kernel
def _full_square(
    left: NDArray[np.float32], right: NDArray[np.float32], limit: float
) -> float:
    """Squared distance; given up, and then above the limit, once it passes it."""
    width = left.shape[0]
    total = 0.0
    for start in range(0, width, 64):
        lanes = np.zeros(4)
        stop = min(start + 64, width)
        even = start + (stop - start) // 4 * 4
        for j in range(start, even, 4):
            for lane in range(4):
                delta = np.float64(left[j + lane]) - np.float64(right[j + lane])
                lanes[lane] += delta * delta
        for j in range(even, stop):
            delta = np.float64(left[j]) - np.float64(right[j])
            lanes[0] += delta * delta
        total += float((lanes[0] + lanes[1]) + (lanes[2] + lanes[3]))
        if total > limit:
            return total
    return total
