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
from raylatent.mapping.whole import (
    LANE_SUMS,
    TILE_COLUMNS,
    Rest,
    above,
    look_nearer,
    rest_of,
    rests_of,
    square_between,
    touch,
)

TILE_ROWS = 256  # of one matrix product, and sample rows: it fits a core's cache
_WORD = 8  # flags in 64 bits
_LANE = 16  # values of which the least is taken
_UNIT = 2.0**-24  # relative rounding of float32
_TINY = 1e-30  # what underflow may cost, of lengths up to 1
_HUGE = 1e15  # a row so many times longer than the sample's is compared to all


class Projected(NamedTuple):
    """Rows to look for.

    Attributes:
        rows: float32 (q, d), normalized.
        reduced: float64 (q, m), their principal components.
        residual: float64 (q,), length of what the projection leaves out.
        spread: float64 (q,), squared distance to the mean.
    """

    rows: NDArray[np.float32]
    reduced: NDArray[np.float64]
    residual: NDArray[np.float64]
    spread: NDArray[np.float64]


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
    columns = np.zeros((-(-n // TILE_COLUMNS), size + 1, TILE_COLUMNS), np.float32)
    for tile, start in enumerate(range(0, n, TILE_COLUMNS)):
        some = slice(start, start + TILE_COLUMNS)
        columns[tile, :size, : len(scaled[some])] = -2.0 * scaled[some].T
        columns[tile, size, : len(scaled[some])] = square[some] * (1.0 - 2.0 * slack)
    rest = rest_of(sample, projection)
    return Screen(columns, square, reduced, scale, slack, rest)


@kernel
def candidates(
    rows: Projected,
    own: NDArray[np.int64],
    sample: Sample,
    screen: Screen,
    k: int,
    into: tuple[NDArray[np.int32], NDArray[np.float32]],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Write down, ascending, all that may be among the k nearest of some rows.

    Args:
        rows: Of q rows.
        own: int64 (q,), the sample row to pass over, or -1.
        sample: The sample of n rows.
        screen: Of the sample.
        k: Neighbors.
        into: int32 (q, n), sample rows, and float32 (q, n), is written over.

    Returns:
        How many are in each row of `into`, int64 (q,), and the squared distance to the
        nearest sample row in all features, float64 (q,).
    """
    found, bounds = into
    left, base, reach = _scaled(rows.reduced, screen)
    count = left.shape[0]
    points, errors = rests_of(rows.rows, rows.reduced, rows.spread, screen.rest)
    n = screen.square.shape[0]
    width, area = 4.0 * screen.slack, screen.scale * screen.scale
    some = np.zeros(count, dtype=np.int64)
    lower = np.empty((count, TILE_COLUMNS), dtype=np.float32)
    near = np.empty(TILE_COLUMNS, dtype=np.bool_)
    best = np.full((count, k), np.inf)
    nearest, lanes = np.full(count, np.inf), np.empty(LANE_SUMS)
    touched = 0
    for tile in range(screen.columns.shape[0]):
        first = tile * TILE_COLUMNS
        np.dot(left, screen.columns[tile], lower)
        touched += touch(screen.rest, tile)
        for row in range(count):
            here = lower[row, : min(TILE_COLUMNS, n - first)]
            limit = best[row, k - 1]
            if first == 0:
                limit = _first_limit(here, k) + width
                least = _least(here, own[row])
                if least >= 0:
                    other = sample.rows[least]
                    nearest[row] = square_between(rows.rows[row], other, lanes)
            some[row] = _collect(
                (here, near, above(limit + reach[row])),
                (first, own[row], reach[row], width),
                screen.square,
                best[row],
                (found[row], bounds[row], some[row]),
            )
            slack = screen.rest.slack + 1e-6 * rows.spread[row]
            nearest[row] = look_nearer(
                (here, near, tile, own[row]),
                (rows.rows[row], points[row], errors[row], rows.residual[row]),
                (area, (base[row] - reach[row]) * area - slack),
                sample,
                screen.rest,
                nearest[row],
                lanes,
            )
    near[0] = touched > 0  # so that it is done
    for row in range(count):
        limit = above(best[row, k - 1] + reach[row])
        kept = 0
        for at in range(some[row]):
            if bounds[row, at] <= limit:
                found[row, kept] = found[row, at]
                kept += 1
        some[row] = kept
    return some, nearest


@kernel
def _scaled(
    reduced: NDArray[np.float64], screen: Screen
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]:
    """Rows as the product takes them, their squared lengths, and what it leaves open.

    Float32 (q, m + 1), of ones at the end, and float64 (q,) and (q,).
    """
    count, size = reduced.shape
    left = np.ones((count, size + 1), dtype=np.float32)
    lengths, reach = np.zeros(count), np.empty(count)
    for row in range(count):
        for c in range(size):
            value = reduced[row, c] / screen.scale
            left[row, c] = min(max(value, -_HUGE), _HUGE)
            lengths[row] += value * value
        reach[row] = 2.0 * screen.slack * lengths[row] + _TINY
        if lengths[row] >= _HUGE * _HUGE:
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
    known: tuple[int, int, float, float],
    square: NDArray[np.float64],
    best: NDArray[np.float64],
    into: tuple[NDArray[np.int32], NDArray[np.float32], int],
) -> int:
    """Add those of one tile whose lower bound is within reach of the k-th upper one.

    Args:
        tile: float32 (columns,), lower bounds less a constant of the row, room for as
            many flags, and the limit so far.
        known: The tile's first sample row, the one to pass over, what the constant
            leaves open, and how far an upper bound is above a lower one for a square
            of 1.
        square: Squared lengths of all sample rows.
        best: float64 (k,), the least upper bounds so far, ascending.
        into: Sample rows, their lower bounds, and how many there are.

    Returns:
        How many there are now.
    """
    lower, near, limit = tile
    first, own, reach, width = known
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
        for j in range(word * _WORD, min((word + 2) * _WORD, n)):
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
            limit = min(limit, above(best[k - 1] + reach))
    return count
