"""The sample rows nearest to a row: exact, whatever rows are asked for together.

A matrix product in float32 rules out nearly all sample rows; by a bound on its error it
never rules out a near one, so that its bits, which depend on the rows beside, do not
matter. Distances of the others are sums in a fixed order in float64, and ties go to the
lower index.

Importing this module imports numba.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raylatent.kernel import kernel

_TILE_ROWS = 64  # of one matrix product, and sample rows: it fits a core's cache
_TILE_COLUMNS = 2048
_LANE = 64  # values that are looked at together
_SUMS = 32
_UNIT = 2.0**-24  # relative rounding of float32
_TINY = 1e-30  # what underflow may cost, of lengths up to 1
_HUGE = 1e15  # a row so many times longer than the sample's is compared to all


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
def _add_products(
    values: NDArray[np.float32],
    components: NDArray[np.float64],
    total: NDArray[np.float64],
) -> None:
    """Add values (d,) @ components (d, m), feature by feature."""
    width, size = components.shape
    even = width // 4 * 4
    for j in range(0, even, 4):  # four at once spare loads and change no sum
        v0, v1 = np.float64(values[j]), np.float64(values[j + 1])
        v2, v3 = np.float64(values[j + 2]), np.float64(values[j + 3])
        if v0 == 0.0 and v1 == 0.0 and v2 == 0.0 and v3 == 0.0:
            continue
        w0, w1 = components[j], components[j + 1]
        w2, w3 = components[j + 2], components[j + 3]
        for c in range(size):
            part = total[c] + v0 * w0[c]
            part += v1 * w1[c]
            part += v2 * w2[c]
            total[c] = part + v3 * w3[c]
    for j in range(even, width):
        for c in range(size):
            total[c] += np.float64(values[j]) * components[j, c]


class Screen(NamedTuple):
    """The sample as the matrix product takes it; made from it, never stored.

    Attributes:
        columns: float32 (tiles, m + 1, 2048), sample rows side by side: -2 times the
            reduced rows, then their squared lengths less twice the slack; all scaled
            to lengths up to 1. The last tile is filled up with zeros.
        square: float64 (n,), the squared lengths, scaled.
        reduced: float64 (n, m), the reduced rows.
        scale: Length of which 1 is made.
        slack: Bounds the product's error: it is at most the slack times the squared
            length of the row plus twice that of the sample row.
    """

    columns: NDArray[np.float32]
    square: NDArray[np.float64]
    reduced: NDArray[np.float64]
    scale: float
    slack: float


def screen_of(sample: Sample) -> Screen:
    """What `nearest` needs beside the sample.

    The error of a sum of m products of rounded factors is at most (m + 2) units of the
    sum of their magnitudes (Higham, Accuracy and Stability, section 3.1), in whatever
    order they are summed; those are at most the lengths multiplied. Taken twice.
    """
    reduced = np.ascontiguousarray(sample.reduced.T)
    longest = math.sqrt(float((reduced * reduced).sum(axis=1).max(initial=0.0)))
    scale = 2.0 ** math.ceil(math.log2(longest)) if longest > 0.0 else 1.0
    scaled = reduced / scale
    square = (scaled * scaled).sum(axis=1)
    slack = 2.0 * (reduced.shape[1] + 8) * _UNIT
    n, size = reduced.shape
    columns = np.zeros((-(-n // _TILE_COLUMNS), size + 1, _TILE_COLUMNS), np.float32)
    for tile, start in enumerate(range(0, n, _TILE_COLUMNS)):
        some = slice(start, start + _TILE_COLUMNS)
        columns[tile, :size, : len(scaled[some])] = -2.0 * scaled[some].T
        columns[tile, size, : len(scaled[some])] = square[some] * (1.0 - 2.0 * slack)
    return Screen(columns, square, reduced, scale, slack)


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
    spread = np.zeros(count)
    for row in range(count):
        reduced[row] = -projection.offset
    for row in range(count):
        _add_products(rows[row], projection.components, reduced[row])
        for j in range(width):
            delta = np.float64(rows[row, j]) - projection.mean[j]
            spread[row] += delta * delta
    for row in range(count):
        kept = 0.0
        for c in range(size):
            kept += reduced[row, c] * reduced[row, c]
        residual[row] = np.sqrt(max(spread[row] - kept, 0.0))
    return reduced, residual, spread


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
    found = np.empty((min(count, _TILE_ROWS), sample.rows.shape[0]), dtype=np.int64)
    bounds = np.empty(found.shape, dtype=np.float32)
    squares = np.empty(sample.rows.shape[0])
    lanes = np.empty(_SUMS)
    for start in range(0, count, _TILE_ROWS):
        stop = min(start + _TILE_ROWS, count)
        reduced, residual, spread = project(rows[start:stop], projection)
        some = _candidates(reduced, own[start:stop], screen, k, found, bounds)
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
def _candidates(
    reduced: NDArray[np.float64],
    own: NDArray[np.int64],
    screen: Screen,
    k: int,
    found: NDArray[np.int64],
    bounds: NDArray[np.float32],
) -> NDArray[np.int64]:
    """Write down, ascending, all that may be among the k nearest of rows (q, m).

    Returns:
        How many are in each row of `found`, int64 (q,).
    """
    count, size = reduced.shape
    left = np.ones((count, size + 1), dtype=np.float32)
    reach = np.empty(count)
    for row in range(count):
        length = 0.0
        for c in range(size):
            value = reduced[row, c] / screen.scale
            left[row, c] = min(max(value, -_HUGE), _HUGE)
            length += value * value
        reach[row] = 2.0 * screen.slack * length + _TINY
        if length >= _HUGE * _HUGE:
            reach[row] = np.inf
    n = screen.square.shape[0]
    some = np.zeros(count, dtype=np.int64)
    lower = np.empty((count, _TILE_COLUMNS), dtype=np.float32)
    best = np.full((count, k), np.inf)
    for tile in range(screen.columns.shape[0]):
        first = tile * _TILE_COLUMNS
        np.dot(left, screen.columns[tile], lower)
        for row in range(count):
            some[row] = _collect(
                lower[row, : min(_TILE_COLUMNS, n - first)],
                (first, own[row], reach[row], 4.0 * screen.slack),
                screen.square,
                best[row],
                (found[row], bounds[row], some[row]),
            )
    for row in range(count):
        limit = _above(best[row, k - 1] + reach[row])
        kept = 0
        for at in range(some[row]):
            if bounds[row, at] <= limit:
                found[row, kept] = found[row, at]
                kept += 1
        some[row] = kept
    return some


@kernel
def _above(limit: float) -> np.float32:
    """As float32, not below it."""
    return np.float32(limit + 1e-6 * abs(limit))


@kernel
def _collect(
    lower: NDArray[np.float32],
    known: tuple[int, int, float, float],
    square: NDArray[np.float64],
    best: NDArray[np.float64],
    into: tuple[NDArray[np.int64], NDArray[np.float32], int],
) -> int:
    """Add those of one tile whose lower bound is within reach of the k-th upper one.

    Args:
        lower: float32 (columns,), lower bounds less a constant of the row.
        known: The tile's first sample row, the one to pass over, what the constant
            leaves open, and how far an upper bound is above a lower one for a square
            of 1.
        square: Squared lengths of all sample rows.
        best: float64 (k,), the least upper bounds so far, ascending.
        into: Sample rows, their lower bounds, and how many there are.

    Returns:
        How many there are now.
    """
    first, own, reach, width = known
    found, bounds, count = into
    k = best.shape[0]
    limit = _above(best[k - 1] + reach)
    for start in range(0, lower.shape[0], _LANE):
        if start + _LANE <= lower.shape[0]:
            below = 0
            for j in range(_LANE):  # counted, since that runs side by side
                below += lower[start + j] <= limit
            if below == 0:
                continue
        for j in range(start, min(start + _LANE, lower.shape[0])):
            value = lower[j]
            if value > limit or first + j == own:
                continue
            found[count] = first + j
            bounds[count] = value
            count += 1
            upper = value + width * square[first + j]
            if upper >= best[k - 1]:
                continue
            at = k - 1
            while at > 0 and best[at - 1] > upper:
                best[at] = best[at - 1]
                at -= 1
            best[at] = upper
            limit = _above(best[k - 1] + reach)
    return count


@kernel
def _exact(
    row: NDArray[np.float64],
    sample: NDArray[np.float64],
    found: NDArray[np.int64],
    squares: NDArray[np.float64],
) -> None:
    """Squared distances of a reduced row (m,) to some of the sample (n, m)."""
    for at in range(found.shape[0]):
        other = sample[found[at]]
        total = 0.0
        for c in range(row.shape[0]):
            delta = row[c] - other[c]
            total += delta * delta
        squares[at] = total


@kernel
def _smallest(
    squares: NDArray[np.float64],
    found: NDArray[np.int64],
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
    found: NDArray[np.int64],
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
    its lengths, so some neighbors are ruled out without a look at all features.
    """
    residual, spread = rest
    squares, index = near
    best = np.inf
    for at in range(index.shape[0]):
        i = index[at]
        delta = residual - sample.residual[i]
        # Rounding of the lengths, generously.
        slack = 1e-7 * (spread + sample.spread[i])
        if squares[at] + delta * delta - slack < best:
            best = min(best, _full_square(row, sample.rows[i], lanes))
    return best


@kernel
def _full_square(
    left: NDArray[np.float32], right: NDArray[np.float32], lanes: NDArray[np.float64]
) -> float:
    """Squared distance: sums of every 32nd feature, so that they run side by side."""
    width = left.shape[0]
    lanes[:] = 0.0
    even = width // _SUMS * _SUMS
    for start in range(0, even, _SUMS):
        for j in range(_SUMS):
            delta = np.float64(left[start + j]) - np.float64(right[start + j])
            lanes[j] += delta * delta
    for j in range(even, width):
        delta = np.float64(left[j]) - np.float64(right[j])
        lanes[j - even] += delta * delta
    total = 0.0
    for j in range(_SUMS):
        total += lanes[j]
    return total
