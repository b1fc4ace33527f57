"""Which sample rows may be near a row: a matrix product in float32 rules out the rest.

By a bound on its error it never rules out a near one, so that its bits, which depend on
the rows beside, do not matter.

Importing this module imports numba.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raylatent.kernel import kernel
from raylatent.mapping.projection import Projection, Sample
from raylatent.mapping.whole import SUMS, TOGETHER, Rest, least_square, rest_of

TILE_ROWS = 256  # of one matrix product, and sample rows: it fits a core's cache
_TILE_COLUMNS = 512
_LOOKS = (2, 8)  # after so many tiles the likely nearest is compared in all features
_WORD = 8  # flags in 64 bits
_LANE = 16  # values of which the least is taken
_UNIT = 2.0**-24  # relative rounding of float32
_TINY = 1e-30  # what underflow may cost, of lengths up to 1
_HUGE = 1e15  # a row so many times longer than the sample's is compared to all


class Screen(NamedTuple):
    """The sample as the matrix product takes it; made from it, never stored.

    Attributes:
        columns: float32 (tiles, m + 1, 512), sample rows side by side: -2 times the
            reduced rows, then their squared lengths less twice the slack; all scaled
            to lengths up to 1. The last tile is filled up with zeros.
        square: float64 (n,), the squared lengths, scaled.
        reduced: float64 (n, m), the reduced rows.
        scale: Length of which 1 is made.
        slack: Bounds the product's error: it is at most the slack times the squared
            length of the row plus twice that of the sample row.
        rest: What the projection leaves out.
    """

    columns: NDArray[np.float32]
    square: NDArray[np.float64]
    reduced: NDArray[np.float64]
    scale: float
    slack: float
    rest: Rest


class Candidates(NamedTuple):
    """Of rows (q,): how many sample rows were written down, and their bounds' meaning.

    Attributes:
        counts: int64 (q,), how many.
        limit: float32 (q,); a bound above it is of none of the k nearest.
        base: float64 (q,); a bound times the squared scale, plus this, is not above
            the squared distance among the principal components.
    """

    counts: NDArray[np.int64]
    limit: NDArray[np.float32]
    base: NDArray[np.float64]


def screen_of(sample: Sample, projection: Projection) -> Screen:
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
    rest = rest_of(sample, projection)
    return Screen(columns, square, reduced, scale, slack, rest)


@kernel
def candidates(
    rows: tuple[NDArray[np.float32], NDArray[np.float64]],
    own: NDArray[np.int64],
    sample: Sample,
    screen: Screen,
    k: int,
    into: tuple[NDArray[np.int32], NDArray[np.float32]],
) -> Candidates:
    """Write down, ascending, all that may be near rows (q, d).

    Those are the k nearest among the principal components, and all that are nearer
    there than the nearest in all features.

    Args:
        rows: Float32 (q, d), and their principal components (q, m).
        own: int64 (q,), the sample row to pass over, or -1.
        sample: The sample of n rows.
        screen: Of the sample.
        k: Neighbors.
        into: int32 (q, n) and float32 (q, n): for each row sample rows, and lower
            bounds of their distances.
    """
    reduced = rows[1]
    found, bounds = into
    count = reduced.shape[0]
    left, length, reach = _scaled(reduced, screen)
    n = screen.square.shape[0]
    width = 4.0 * screen.slack
    some = np.zeros(count, dtype=np.int64)
    lower = np.empty((count, _TILE_COLUMNS), dtype=np.float32)
    near = np.empty(_TILE_COLUMNS, dtype=np.bool_)
    best = np.full((count, k), np.inf)
    beyond = np.empty(count)
    for tile in range(screen.columns.shape[0]):
        first = tile * _TILE_COLUMNS
        np.dot(left, screen.columns[tile], lower)
        for row in range(count):
            whole = lower[row, : min(_TILE_COLUMNS, n - first)]
            limit = best[row, k - 1]
            if first == 0:
                limit = _first_limit(whole, k) + width
                least = _least(whole, own[row])
                square = _whole_square(rows[0][row], sample, least)
                beyond[row] = square / (screen.scale * screen.scale) - length[row]
            elif tile in _LOOKS:
                least = found[row, np.argmin(bounds[row, : some[row]])]
                square = _whole_square(rows[0][row], sample, least)
                square = square / (screen.scale * screen.scale) - length[row]
                beyond[row] = min(beyond[row], square)
            some[row] = _collect(
                (whole, near, _above(limit + reach[row])),
                (first, own[row], reach[row], width, beyond[row]),
                screen.square,
                best[row],
                (found[row], bounds[row], some[row]),
            )
    limits = np.empty(count, dtype=np.float32)
    for row in range(count):
        limits[row] = _above(best[row, k - 1] + reach[row])
    base = (length - reach) * (screen.scale * screen.scale)
    return Candidates(some, limits, base)


@kernel
def _scaled(
    reduced: NDArray[np.float64], screen: Screen
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]:
    """Rows as the product takes them, their squared lengths, and what it leaves open.

    Float32 (q, m + 1), of ones at the end, and float64 (q,) and (q,).
    """
    count, size = reduced.shape
    left = np.ones((count, size + 1), dtype=np.float32)
    lengths = np.empty(count)
    reach = np.empty(count)
    for row in range(count):
        length = 0.0
        for c in range(size):
            value = reduced[row, c] / screen.scale
            left[row, c] = min(max(value, -_HUGE), _HUGE)
            length += value * value
        lengths[row] = length
        reach[row] = 2.0 * screen.slack * length + _TINY
        if length >= _HUGE * _HUGE:
            reach[row] = np.inf
    return left, lengths, reach


@kernel
def _least(lower: NDArray[np.float32], own: int) -> int:
    """Where the least is, own passed over; -1 if there is none."""
    least = -1
    for j in range(lower.shape[0]):
        if j != own and (least < 0 or lower[j] < lower[least]):
            least = j
    return least


@kernel
def _whole_square(row: NDArray[np.float32], sample: Sample, i: int) -> float:
    """The squared distance in all features to a sample row; infinite for none."""
    if i < 0:
        return float(np.inf)
    some = np.full(TOGETHER, i)
    return least_square(row, sample.rows, some, np.empty((TOGETHER, SUMS)))


@kernel
def _above(limit: float) -> np.float32:
    """As float32, not below it."""
    return np.float32(limit + 1e-6 * abs(limit))


@kernel
def _first_limit(lower: NDArray[np.float32], k: int) -> float:
    """A value that more than k are not above: so many stretches have one.

    (One more than k, since one may be passed over.)
    """
    n = lower.shape[0] // _LANE
    if n <= k:
        return float(np.inf)
    least = np.empty(n, dtype=np.float32)
    for lane in range(n):
        value = lower[lane * _LANE]
        for j in range(lane * _LANE + 1, (lane + 1) * _LANE):
            value = min(value, lower[j])
        least[lane] = value
    least.sort()
    return float(least[k])


@kernel
def _collect(
    tile: tuple[NDArray[np.float32], NDArray[np.bool_], np.float32],
    known: tuple[int, int, float, float, float],
    square: NDArray[np.float64],
    best: NDArray[np.float64],
    into: tuple[NDArray[np.int32], NDArray[np.float32], int],
) -> int:
    """Add those of one tile whose lower bound is within reach of the k-th upper one.

    Args:
        tile: float32 (columns,), lower bounds less a constant of the row, room for as
            many flags, and the limit so far.
        known: The tile's first sample row, the one to pass over, what the constant
            leaves open, how far an upper bound is above a lower one for a square of 1,
            and how far off all are wanted.
        square: Squared lengths of all sample rows.
        best: float64 (k,), the least upper bounds so far, ascending.
        into: Sample rows, their lower bounds, and how many there are.

    Returns:
        How many there are now.
    """
    lower, near, limit = tile
    first, own, reach, width, beyond = known
    always = _above(beyond + reach)
    limit = max(limit, always)
    found, bounds, count = into
    k = best.shape[0]
    n = lower.shape[0]
    for j in range(n):
        near[j] = lower[j] <= limit
    near[n:] = False
    words = near.view(np.uint64)
    for word in range(0, words.shape[0], 2):
        if words[word] | words[word + 1] == 0:
            continue
        for half in range(word, word + 2):
            if words[half] == 0:
                continue
            for j in range(half * _WORD, min((half + 1) * _WORD, n)):
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
                limit = max(always, min(limit, _above(best[k - 1] + reach)))
    return count
