"""The nearest sample row in all features: exact, though few rows are looked at in all.

What the projection leaves out of two rows, their rests, differs at least by the
difference of their lengths, and at least by as much as in some features. Both rule out
nearly all sample rows that are near among the principal components. In some features
rests are kept in 8 bits, and how far each is from what it stands for, so that the bound
is one.

Importing this module imports numba.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raylatent.kernel import kernel
from raylatent.mapping.projection import Projection, Sample

TILE_COLUMNS = 512  # sample rows that are looked at while they are in a core's cache
LANE_SUMS = 32  # of every 32nd feature
_MOST_FEATURES = 1_024  # of the rests, a multiple of the step
_STEP = 128  # of those, between looks at the bound
_TOUCHED = 2  # steps that are usual
_LANES = 16
_MOST = 127  # in 8 bits
_CLIP = 5.0  # of the root of the mean square
_SLACK = 1e-6  # of squared distances to the mean: rounding of the lengths, generously
_ROUNDING = 1e-5  # of the distance to the mean: of a row's rest, in float32


class Rest(NamedTuple):
    """What the projection leaves out of the sample, in the features where it is most.

    Attributes:
        features: int64 (e,), which; the arrays below are filled up with zeros.
        mean: float32 (f,), of the sample, divided by the unit.
        components: float32 (m, f), of the projection.
        values: int8 (tiles, f / 64, 512, 64), of the sample rows, divided by the
            unit.
        error: float64 (n,), distance of those to the rests.
        unit: Length of which 1 is made.
        slack: Of squared distances, of the sample rows' part.
    """

    features: NDArray[np.int64]
    mean: NDArray[np.float32]
    components: NDArray[np.float32]
    values: NDArray[np.int8]
    error: NDArray[np.float64]
    unit: float
    slack: float


def rest_of(sample: Sample, projection: Projection) -> Rest:
    """The sample's rests, in at most 1,024 features."""
    n, width = sample.rows.shape
    kept = min(_MOST_FEATURES, width) if sample.residual.any() else 0
    energy = _rests(sample, projection, slice(0, 2 * TILE_COLUMNS), np.arange(width))
    order = np.argsort(-(energy * energy).sum(axis=0), kind="stable")
    features = order[:kept]
    steps = -(-kept // _STEP)
    length = math.sqrt(float((sample.residual**2).mean()) / width)
    unit = _CLIP * length / _MOST or 1.0
    mean = np.zeros(steps * _STEP, np.float32)
    mean[:kept] = projection.mean[features] / unit
    components = np.zeros((projection.components.shape[1], steps * _STEP), np.float32)
    components[:, :kept] = projection.components[features].T
    tiles = -(-n // TILE_COLUMNS)
    values = np.zeros((tiles, steps, TILE_COLUMNS, _STEP), np.int8)
    error = np.zeros(n)
    for tile in range(tiles if kept else 0):
        rows = slice(tile * TILE_COLUMNS, (tile + 1) * TILE_COLUMNS)
        left = _rests(sample, projection, rows, features) / unit
        whole = np.zeros((len(left), steps * _STEP))
        whole[:, :kept] = np.clip(np.rint(left), -_MOST, _MOST)
        error[rows] = np.sqrt(((left - whole[:, :kept]) ** 2).sum(axis=1)) * unit
        by_step = whole.reshape(len(left), steps, _STEP).swapaxes(0, 1)
        values[tile, :, : len(left)] = by_step
    slack = _SLACK * float(sample.spread.max(initial=0.0))
    return Rest(features, mean, components, values, error, unit, slack)


def _rests(
    sample: Sample, projection: Projection, rows: slice, features: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Some sample rows' rests in some features, float64."""
    left: NDArray[np.float64] = (
        sample.rows[rows][:, features] - projection.mean[features]
    )
    left -= sample.reduced[:, rows].T @ projection.components[features].T
    return left


@kernel
def rests_of(
    rows: NDArray[np.float32],
    reduced: NDArray[np.float64],
    spread: NDArray[np.float64],
    rest: Rest,
) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
    """Rows' rests as the sample's are kept, int8 (q, f), and their errors (q,).

    The matrix product's bits depend on the rows beside: on a bound they may.
    """
    count, size = rows.shape[0], rest.mean.shape[0]
    values = np.zeros((count, size), dtype=np.int8)
    error = np.zeros(count)
    if size == 0:
        return values, error
    left = np.dot((reduced / rest.unit).astype(np.float32), rest.components)
    part = np.zeros(size, dtype=np.float32)
    lanes = np.empty(_LANES, dtype=np.float32)
    scale = np.float32(1.0 / rest.unit)
    for i in range(count):
        for j in range(rest.features.shape[0]):
            part[j] = rows[i, rest.features[j]]
        here = left[i]
        lanes[:] = np.float32(0.0)
        for start in range(0, size, _LANES):
            for j in range(_LANES):
                at = start + j
                value = part[at] * scale - rest.mean[at] - here[at]
                cut = min(max(value, np.float32(-127.0)), np.float32(127.0))
                whole = np.rint(cut)
                values[i, at] = np.int8(whole)
                lanes[j] += (value - whole) * (value - whole)
        # 1e-3: the sum's own rounding, generously.
        total = 1.001 * float(lanes.sum())
        error[i] = np.sqrt(total) * rest.unit + _ROUNDING * np.sqrt(spread[i])
    return values, error


@kernel
def touch(rest: Rest, tile: int) -> int:
    """Have a tile's first steps in the cache, in the order of memory, which is quick."""
    total = 0
    for step in range(min(_TOUCHED, rest.values.shape[1])):
        for j in range(TILE_COLUMNS):
            total += rest.values[tile, step, j, 0]
    return total


@kernel
def look_nearer(
    tile: tuple[NDArray[np.float32], NDArray[np.bool_], int, int],
    row: tuple[NDArray[np.float32], NDArray[np.int8], float, float],
    floor: tuple[float, float],
    sample: Sample,
    rest: Rest,
    best: float,
    lanes: NDArray[np.float64],
) -> float:
    """The least squared distance in all features so far, those of one tile included.

    Args:
        tile: float32 (columns,), lower bounds of squared distances among the principal
            components, see `floor`; room for as many flags; which tile; and the
            sample row to pass over, or -1.
        row: Float32 (d,), its rest in 8 bits, how far that is from it, and the rest's
            length.
        floor: What a bound is to be multiplied by, and what to be added to it.
        sample: The sample of n rows.
        rest: Its rests.
        best: The least so far.
        lanes: float64 (32,), is written over.
    """
    lower, near, number, own = tile
    values, point, error, length = row
    scale, base = floor
    n = lower.shape[0]
    first = number * TILE_COLUMNS
    limit = above((best - base) / scale)
    for j in range(n):
        near[j] = lower[j] <= limit
    near[n:] = False
    words = near.view(np.uint64)
    kept = rest.values[number]
    for word in range(words.shape[0]):
        if words[word] == 0:
            continue
        for j in range(8 * word, min(8 * word + 8, n)):
            if lower[j] > limit or first + j == own:
                continue
            left = best - (lower[j] * scale + base)
            delta = length - sample.residual[first + j]
            if not delta * delta < left:
                continue
            reach = (np.sqrt(left) + error + rest.error[first + j]) / rest.unit
            if not _within(point, kept, j, reach * reach * (1.0 + 1e-6)):
                continue
            square = square_between(values, sample.rows[first + j], lanes)
            if square < best:
                best = square
                limit = above((best - base) / scale)
    return best


@kernel
def above(limit: float) -> np.float32:
    """As float32, not below it."""
    return np.float32(limit + 1e-6 * abs(limit))


@kernel
def _within(
    point: NDArray[np.int8], kept: NDArray[np.int8], j: int, most: float
) -> bool:
    """Whether a rest's squared distance to the j-th is below the most, in 8 bits."""
    total = np.int32(0)
    for step in range(kept.shape[0]):
        other = kept[step, j]
        here = point[step * _STEP : (step + 1) * _STEP]
        for c in range(_STEP):
            delta = np.int16(np.int16(here[c]) - np.int16(other[c]))
            total = np.int32(total + np.int32(np.int32(delta) * np.int32(delta)))
        if total >= most:
            return False
    return True


@kernel
def square_between(
    row: NDArray[np.float32], other: NDArray[np.float32], lanes: NDArray[np.float64]
) -> float:
    """The squared distance: sums of every 32nd feature, so that they run side by side."""
    width = row.shape[0]
    lanes[:] = 0.0
    even = width // LANE_SUMS * LANE_SUMS
    for start in range(0, even, LANE_SUMS):
        for j in range(LANE_SUMS):
            delta = np.float64(row[start + j]) - np.float64(other[start + j])
            lanes[j] += delta * delta
    for j in range(even, width):
        delta = np.float64(row[j]) - np.float64(other[j])
        lanes[j - even] += delta * delta
    total = 0.0
    for j in range(LANE_SUMS):
        total += lanes[j]
    return total
