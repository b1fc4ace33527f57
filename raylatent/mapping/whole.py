"""The nearest sample row in all features: exact, though few rows are looked at in all.

What the projection leaves out of two rows, their rests, differs at least by the
difference of their lengths, and at least by as much as in some features. Both rule out
nearly all sample rows that are near among the principal components. In some features
rests are kept in 8 bits, and how far each is from what it stands for, so that the bound
is one.

Importing this module imports numba.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raylatent.kernel import kernel
from raylatent.mapping.projection import Projection, Sample

SUMS = 32  # of every 32nd feature
TOGETHER = 4
_MOST_FEATURES = 1_024  # of the rests, a multiple of the step
_STEP = 128  # of those, between looks at the bound
_BLOCK_ROWS = 1_024
_MOST = 127  # in 8 bits
_CLIP = 5.0  # of the root of the mean square
_SLACK = 1e-6  # of squared distances to the mean: rounding of the lengths, generously
_ROUNDING = 1e-5  # of the distance to the mean: of a row's rest, in float32


class Rest(NamedTuple):
    """What the projection leaves out of the sample, in the features where it is most.

    Attributes:
        features: int64 (e,), which; the arrays below are filled up with zeros.
        mean: float64 (f,), of the sample.
        components: float32 (m, f), of the projection.
        values: int8 (f / 128, n, 128), of the sample rows, divided by the unit.
        error: float64 (n,), distance of those to the rests.
        unit: Length of which 1 is made.
    """

    features: NDArray[np.int64]
    mean: NDArray[np.float64]
    components: NDArray[np.float32]
    values: NDArray[np.int8]
    error: NDArray[np.float64]
    unit: float


class Room(NamedTuple):
    """Scratch of one thread.

    Attributes:
        lanes: float64 (4, 32).
        some: int64 (4,).
        kept: int32 (n,), sample rows.
        reach: float64 (n,), what their rests may differ by.
    """

    lanes: NDArray[np.float64]
    some: NDArray[np.int64]
    kept: NDArray[np.int32]
    reach: NDArray[np.float64]


def rest_of(sample: Sample, projection: Projection) -> Rest:
    """The sample's rests, in at most 1,024 features."""
    n, width = sample.rows.shape
    kept = min(_MOST_FEATURES, width) if sample.residual.any() else 0
    energy = _rests(sample, projection, slice(0, _BLOCK_ROWS), np.arange(width))
    order = np.argsort(-(energy * energy).sum(axis=0), kind="stable")
    features = order[:kept]
    filled = -(-kept // _STEP) * _STEP
    mean = np.zeros(filled)
    mean[:kept] = projection.mean[features]
    components = np.zeros((projection.components.shape[1], filled), np.float32)
    components[:, :kept] = projection.components[features].T
    length = float(np.sqrt((sample.residual**2).mean() / width))
    unit = _CLIP * length / _MOST or 1.0
    values = np.zeros((filled // _STEP, n, _STEP), np.int8)
    error = np.zeros(n)
    for start in range(0, n, _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        left = _rests(sample, projection, rows, features) / unit
        whole = np.zeros((len(left), filled))
        whole[:, :kept] = np.clip(np.rint(left), -_MOST, _MOST)
        error[rows] = np.sqrt(((left - whole[:, :kept]) ** 2).sum(axis=1)) * unit
        values[:, rows] = whole.reshape(len(left), -1, _STEP).swapaxes(0, 1)
    return Rest(features, mean, components, values, error, unit)


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
def make_room(rest: Rest) -> Room:
    """What `least_whole` writes into."""
    n = rest.values.shape[1]
    return Room(
        np.empty((TOGETHER, SUMS)),
        np.empty(TOGETHER, dtype=np.int64),
        np.empty(n, dtype=np.int32),
        np.empty(n),
    )


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
    for i in range(count):
        total = 0.0
        for j in range(rest.features.shape[0]):
            value = (rows[i, rest.features[j]] - rest.mean[j]) / rest.unit - left[i, j]
            whole = np.rint(min(max(value, -127.0), 127.0))
            values[i, j] = np.int8(whole)
            total += (value - whole) * (value - whole)
        error[i] = np.sqrt(total) * rest.unit + _ROUNDING * np.sqrt(spread[i])
    return values, error


@kernel
def least_whole(
    row: tuple[NDArray[np.float32], float, float],
    kept_rest: tuple[NDArray[np.int8], float],
    sample: Sample,
    rest: Rest,
    index: NDArray[np.int64],
    found: tuple[NDArray[np.int32], NDArray[np.float32], float, float],
    room: Room,
) -> float:
    """The smallest squared distance in all features to a sample row.

    Args:
        row: Float32 (d,), the length of its rest, and its squared distance to the mean.
        kept_rest: Its rest in 8 bits, and the error.
        sample: The sample of n rows.
        rest: Its rests.
        index: int64 (k,), the nearest among the principal components, nearest first.
        found: Sample rows, all nearer than the nearest of `index` in all features
            among them, with lower bounds of their squared distances among the
            principal components: times the third, plus the fourth.
        room: Is written over.
    """
    values, residual, spread = row
    point, error = kept_rest
    those, bounds, square, base = found
    some = room.some
    for j in range(TOGETHER):
        some[j] = index[min(j, index.shape[0] - 1)]
    best = least_square(values, sample.rows, some, room.lanes)
    kept = 0
    for at in range(those.shape[0]):
        i = those[at]
        delta = residual - sample.residual[i]
        slack = _SLACK * (spread + sample.spread[i])
        left = best - (bounds[at] * square + base - slack)
        if delta * delta < left or np.isnan(left):
            room.kept[kept] = i
            room.reach[kept] = np.sqrt(left) + error + rest.error[i]
            kept += 1
    if point.shape[0] > 0:
        kept = _nearer(point, rest.values, room.kept, room.reach, kept, rest.unit)
    for at in range(0, kept, TOGETHER):
        for j in range(TOGETHER):
            some[j] = room.kept[min(at + j, kept - 1)]
        best = min(best, least_square(values, sample.rows, some, room.lanes))
    return best


@kernel
def _nearer(
    point: NDArray[np.int8],
    values: NDArray[np.int8],
    kept: NDArray[np.int32],
    reach: NDArray[np.float64],
    count: int,
    unit: float,
) -> int:
    """Keep those whose rests differ in some features by no more than their reach."""
    totals = np.zeros(count, dtype=np.int32)
    for step in range(values.shape[0]):
        here, others = point[step * _STEP : (step + 1) * _STEP], values[step]
        nearer = 0
        for at in range(count):
            other = others[kept[at]]
            total = np.int32(0)
            for j in range(_STEP):
                delta = np.int16(np.int16(here[j]) - np.int16(other[j]))
                total = np.int32(total + np.int32(np.int32(delta) * np.int32(delta)))
            total = np.int32(total + totals[at])
            most = reach[at] / unit * (1.0 + 1e-6)
            if not total >= most * most:
                kept[nearer], reach[nearer] = kept[at], reach[at]
                totals[nearer] = total
                nearer += 1
        count = nearer
    return count


@kernel
def least_square(
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
    even = width // SUMS * SUMS
    for start in range(0, even, SUMS):
        for j in range(SUMS):
            value = np.float64(row[start + j])
            d0 = value - np.float64(r0[start + j])
            d1 = value - np.float64(r1[start + j])
            d2 = value - np.float64(r2[start + j])
            d3 = value - np.float64(r3[start + j])
            l0[j] += d0 * d0
            l1[j] += d1 * d1
            l2[j] += d2 * d2
            l3[j] += d3 * d3
    for i in range(TOGETHER):
        for j in range(even, width):
            delta = np.float64(row[j]) - np.float64(rows[some[i], j])
            lanes[i, j - even] += delta * delta
    least = np.inf
    for i in range(TOGETHER):
        total = 0.0
        for j in range(SUMS):
            total += lanes[i, j]
        least = min(least, total)
    return least
