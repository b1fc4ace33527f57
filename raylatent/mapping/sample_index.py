"""The sample made ready to look for rows' neighbors in it, by groups and in all features.

Rows are put in groups of near ones, so that whole groups can be passed over; what is
found does not depend on the groups, which only say where to look first.

The nearest sample row in all features is exact, though few rows are looked at in all.
What the projection leaves out of two rows, their rests, differs at least by the
difference of their lengths, and at least by as much as in some features. Both rule out
nearly all sample rows that are near among the principal components. In some features
rests are kept in 8 bits, and how far each is from what it stands for, so that the bound
is one.

Importing this module imports numba.
"""

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raylatent.caches import kernel

_ROWS = 4  # that share a look at the components, and features

_ROUNDS = 6
_CENTERED_ROWS = 4_096
_MOST_CENTERS = 256  # larger groups are cut
LANE_SUMS = 32  # of every 32nd feature
_MOST_FEATURES = 1_024  # of the rests, a multiple of the step
_STEP = 128  # of those, between looks at the bound
_LANES = 16
_BLOCK_ROWS = 1_024
_MOST = 127  # in 8 bits
_CLIP = 5.0  # of the root of the mean square
SLACK = 1e-6  # of squared distances to the mean: rounding of the lengths, generously
_ROUNDING = 1e-5  # of the distance to the mean: of a row's rest, in float32
MOST_ROWS = 512  # of a group: they fit a core's cache
_FAR_ROUNDING = 1e-9  # of distances to groups, generously
_UNIT = 2.0**-24  # relative rounding of float32


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

    Each sum runs over the features in order, in float64.

    Returns:
        Principal components (q, m), residual lengths (q,) and squared distances to
        the mean (q,), in float64.
    """
    count, width = rows.shape
    size = projection.offset.shape[0]
    reduced = np.empty((count, size))
    residual = np.empty(count)
    spread = np.zeros(count)
    total = np.empty((_ROWS, size))
    values = np.zeros((_ROWS, width))
    for first in range(0, count, _ROWS):
        some = min(_ROWS, count - first)
        for i in range(_ROWS):
            total[i] = -projection.offset
        values[:some] = rows[first : first + some]
        _add_products(values, projection.components, total)
        _add_squares(values, projection.mean, spread[first : first + some])
        reduced[first : first + some] = total[:some]
    for row in range(count):
        kept = 0.0
        for c in range(size):
            kept += reduced[row, c] * reduced[row, c]
        residual[row] = np.sqrt(max(spread[row] - kept, 0.0))
    return reduced, residual, spread


@kernel
def _add_products(
    values: NDArray[np.float64],
    components: NDArray[np.float64],
    total: NDArray[np.float64],
) -> None:
    """Add values (4, d) @ components (d, m), feature by feature."""
    width, size = components.shape
    even = width // _ROWS * _ROWS
    for j in range(0, even, _ROWS):
        v, w = values[:, j : j + _ROWS], components[j : j + _ROWS]
        for c in range(size):  # written out, since so it runs in lanes
            w0, w1, w2, w3 = w[0, c], w[1, c], w[2, c], w[3, c]
            t0 = total[0, c] + v[0, 0] * w0
            t1 = total[1, c] + v[1, 0] * w0
            t2 = total[2, c] + v[2, 0] * w0
            t3 = total[3, c] + v[3, 0] * w0
            t0 = t0 + v[0, 1] * w1
            t1 = t1 + v[1, 1] * w1
            t2 = t2 + v[2, 1] * w1
            t3 = t3 + v[3, 1] * w1
            t0 = t0 + v[0, 2] * w2
            t1 = t1 + v[1, 2] * w2
            t2 = t2 + v[2, 2] * w2
            t3 = t3 + v[3, 2] * w2
            total[0, c] = t0 + v[0, 3] * w3
            total[1, c] = t1 + v[1, 3] * w3
            total[2, c] = t2 + v[2, 3] * w3
            total[3, c] = t3 + v[3, 3] * w3
    for j in range(even, width):
        for i in range(_ROWS):
            for c in range(size):
                total[i, c] += values[i, j] * components[j, c]


@kernel
def _add_squares(
    values: NDArray[np.float64], mean: NDArray[np.float64], spread: NDArray[np.float64]
) -> None:
    """Add each row's squared distance to the mean (d,), feature by feature."""
    s0 = s1 = s2 = s3 = 0.0
    for j in range(values.shape[1]):
        d0 = values[0, j] - mean[j]
        d1 = values[1, j] - mean[j]
        d2 = values[2, j] - mean[j]
        d3 = values[3, j] - mean[j]
        s0 += d0 * d0
        s1 += d1 * d1
        s2 += d2 * d2
        s3 += d3 * d3
    sums = (s0, s1, s2, s3)
    for i in range(spread.shape[0]):
        spread[i] += sums[i]


def near_groups(
    rows: NDArray[np.float64], most: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Groups of rows (n, m) by Lloyd's k-means, a few rounds of it, of `most` rows at most.

    Returns:
        The rows' order int64 (n,), in which each group's are together, and where each
        begins, int64 (groups + 1,), the last one's end included.

    >>> order, start = near_groups(np.array([[0.0], [9.0], [0.1], [9.1]]), 4)
    >>> sorted(sorted(order[a:b].tolist()) for a, b in zip(start, start[1:], strict=False))
    [[0, 2], [1, 3]]
    """
    n = len(rows)
    wanted = min(_MOST_CENTERS, -(-n // max(1, most // 2)))
    along = np.argsort(rows[:, 0], kind="stable")
    centers = rows[along[(np.arange(wanted) * n + n // 2) // wanted]]
    group = _nearest_center(rows, centers)
    for _ in range(_ROUNDS):
        counts = np.bincount(group, minlength=wanted)
        sums = np.zeros_like(centers)
        np.add.at(sums, group, rows)
        filled = counts > 0
        centers[filled] = sums[filled] / counts[filled, None]
        group = _nearest_center(rows, centers)
    order = np.argsort(group, kind="stable").astype(np.int64)
    counts = np.bincount(group, minlength=wanted)
    start, first = [0], 0
    for count in counts[counts > 0]:
        pieces = -(-count // most)
        start += [first + count * (piece + 1) // pieces for piece in range(pieces)]
        first += count
    return order, np.array(start, np.int64)


def _nearest_center(
    rows: NDArray[np.float64], centers: NDArray[np.float64]
) -> NDArray[np.int64]:
    square = (centers * centers).sum(axis=1)
    return np.concatenate(
        [
            (square - 2.0 * rows[i : i + _CENTERED_ROWS] @ centers.T).argmin(axis=1)
            for i in range(0, len(rows), _CENTERED_ROWS)
        ]
    )


class Rest(NamedTuple):
    """What the projection leaves out of the sample, in the features where it is most.

    Attributes:
        features: int64 (e,), which; the arrays below are filled up with zeros.
        mean: float32 (f,), of the sample, divided by the unit.
        components: float32 (m, f), of the projection.
        values: int8 (n * f,), of the sample rows, divided by the unit: for each group
            (f / 128, rows, 128).
        length: float64 (n,), of the sample rows' rests, group by group.
        error: float64 (n,), distance of the values to the rests, likewise.
        unit: Length of which 1 is made.
        slack: Of squared distances, of the sample rows' part.
    """

    features: NDArray[np.int64]
    mean: NDArray[np.float32]
    components: NDArray[np.float32]
    values: NDArray[np.int8]
    length: NDArray[np.float64]
    error: NDArray[np.float64]
    unit: float
    slack: float


def rest_of(
    sample: Sample,
    projection: Projection,
    order: NDArray[np.int64],
    start: NDArray[np.int64],
) -> Rest:
    """The sample's rests, in at most 1,024 features.

    With the order of the sample's rows, group by group, and where each group begins.
    """
    n, width = sample.rows.shape
    kept = min(_MOST_FEATURES, width) if sample.residual.any() else 0
    energy = _rests(sample, projection, np.arange(min(n, _BLOCK_ROWS)), slice(None))
    features = np.argsort(-(energy * energy).sum(axis=0), kind="stable")[:kept]
    steps = -(-kept // _STEP)
    length = math.sqrt(float((sample.residual**2).mean()) / width)
    unit = _CLIP * length / _MOST or 1.0
    mean = np.zeros(steps * _STEP, np.float32)
    mean[:kept] = projection.mean[features] / unit
    components = np.zeros((projection.components.shape[1], steps * _STEP), np.float32)
    components[:, :kept] = projection.components[features].T
    values = np.zeros((n, steps * _STEP), np.int8)
    error = np.zeros(n)
    for first, last in pairwise(start if kept else start[:1]):
        left = _rests(sample, projection, order[first:last], features) / unit
        whole = np.zeros((last - first, steps * _STEP))
        whole[:, :kept] = np.clip(np.rint(left), -_MOST, _MOST)
        off = left - whole[:, :kept]
        error[first:last] = np.sqrt((off * off).sum(axis=1)) * unit
        by_step = whole.reshape(last - first, steps, _STEP).swapaxes(0, 1)
        values[first:last] = by_step.reshape(last - first, -1)
    slack = SLACK * float(sample.spread.max(initial=0.0))
    lengths = sample.residual[order]
    flat = values.reshape(-1)
    return Rest(features, mean, components, flat, lengths, error, unit, slack)


def _rests(
    sample: Sample,
    projection: Projection,
    rows: NDArray[np.int64],
    features: NDArray[np.int64] | slice,
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
def look_nearer(
    group: tuple[NDArray[np.float32], NDArray[np.bool_], int, int],
    order: NDArray[np.int64],
    row: tuple[NDArray[np.float32], NDArray[np.int8], float, float],
    floor: tuple[float, float],
    sample: Sample,
    rest: Rest,
    best: tuple[float, NDArray[np.float64]],
) -> float:
    """The least squared distance in all features so far, those of one group included.

    Args:
        group: float32 (columns,), lower bounds of squared distances among the principal
            components, see `floor`; room for as many flags; where the group begins;
            and the sample row to pass over, or -1.
        order: int64 (n,), sample rows group by group.
        row: Float32 (d,), its rest in 8 bits, how far that is from it, and the rest's
            length.
        floor: What a bound is to be multiplied by, and what to be added to it.
        sample: The sample of n rows.
        rest: Its rests.
        best: The least so far, and room for 32 sums.
    """
    lower, near, first, own = group
    values, point, error, length = row
    scale, base = floor
    least, lanes = best
    n, size = lower.shape[0], point.shape[0]
    if least == 0.0:
        return least
    limit = above((least - base) / scale)
    words = flag(lower, near, limit)
    kept = rest.values[first * size : (first + n) * size]
    for word in range(words.shape[0]):
        if words[word] == 0:
            continue
        for j in range(8 * word, min(8 * word + 8, n)):
            other = order[first + j]
            if lower[j] > limit or other == own:
                continue
            left = least - (lower[j] * scale + base)
            delta = length - rest.length[first + j]
            if not delta * delta < left:
                continue
            reach = (np.sqrt(left) + error + rest.error[first + j]) / rest.unit
            if not _within(point, kept, (n, j), reach * reach * (1.0 + 1e-6)):
                continue
            square = square_between(values, sample.rows[other], lanes)
            if square == 0.0:
                return square
            if square < least:
                least = square
                limit = above((least - base) / scale)
    return least


@kernel
def flag(
    lower: NDArray[np.float32], near: NDArray[np.bool_], limit: np.float32
) -> NDArray[np.uint64]:
    """Flags of those (n,) that are not above a limit, eight in each number.

    There is room for as many, up to a multiple of 16.
    """
    n = lower.shape[0]
    filled = -(-n // 16) * 16
    for j in range(n):
        near[j] = lower[j] <= limit
    near[n:filled] = False
    return near[:filled].view(np.uint64)


@kernel
def above(limit: float) -> np.float32:
    """As float32, not below it."""
    return np.float32(limit + 1e-6 * abs(limit))


@kernel
def _within(
    point: NDArray[np.int8], kept: NDArray[np.int8], which: tuple[int, int], most: float
) -> bool:
    """Whether a rest's squared distance to the j-th of n is below the most, in 8 bits."""
    n, j = which
    total = np.int32(0)
    for step in range(0, point.shape[0], _STEP):
        here = point[step : step + _STEP]
        begin = step * n + j * _STEP
        other = kept[begin : begin + _STEP]
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


class Screen(NamedTuple):
    """The sample as it is looked through; made from it, never stored.

    Attributes:
        order: int64 (n,), the sample rows group by group.
        start: int64 (groups + 1,), where each group begins.
        centers: float64 (m, groups), and their squared lengths below: (m + 1, groups);
            scaled to lengths up to 1.
        radius: float64 (groups,), of each group about its center, scaled.
        columns: float32 (n * (m + 1),), for each group its rows side by side, (m + 1,
            rows): -2 times the reduced rows, then their squared lengths less twice the
            slack; all scaled.
        square: float64 (n,), the squared lengths, scaled, group by group.
        reduced: float64 (n, m), the reduced rows, as in the sample.
        scale: Length of which 1 is made.
        slack: Bounds the product's error: it is at most the slack times the squared
            length of the row plus twice that of the sample row.
        rest: What the projection leaves out.
    """

    order: NDArray[np.int64]
    start: NDArray[np.int64]
    centers: NDArray[np.float64]
    radius: NDArray[np.float64]
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
    order, start = near_groups(reduced, MOST_ROWS)
    scaled = reduced[order] / scale
    square = (scaled * scaled).sum(axis=1)
    slack = 2.0 * (reduced.shape[1] + 8) * _UNIT
    centers, radius, columns = [], [], []
    for first, last in pairwise(start):
        group = scaled[first:last]
        centers.append(group.mean(axis=0))
        radius.append(np.sqrt(((group - centers[-1]) ** 2).sum(axis=1)).max())
        lengths = square[first:last] * (1.0 - 2.0 * slack)
        columns.append(np.vstack([-2.0 * group.T, lengths]).astype(np.float32).ravel())
    middle = np.stack(centers, axis=1)
    return Screen(
        order=order,
        start=start,
        centers=np.vstack([middle, (middle * middle).sum(axis=0)]),
        radius=np.array(radius) * (1.0 + _FAR_ROUNDING),
        columns=np.concatenate(columns),
        square=square,
        reduced=reduced,
        scale=scale,
        slack=slack,
        rest=rest_of(sample, projection, order, start),
    )


@kernel
def far_groups(
    reduced: NDArray[np.float64], base: NDArray[np.float64], screen: Screen
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """How far groups are from scaled rows (q, m) at least, squared, and the nearest.

    float64 (q, groups) and int64 (q,).
    """
    count, size = reduced.shape
    groups = screen.radius.shape[0]
    far = np.dot(reduced, screen.centers[:size])
    home = np.zeros(count, dtype=np.int64)
    for row in range(count):
        least = np.inf
        for group in range(groups):
            lengths = base[row] + screen.centers[size, group]
            square = lengths - 2.0 * far[row, group]
            if square < least:
                least, home[row] = square, group
            # Cancellation may have left it too large.
            away = np.sqrt(max(square - _FAR_ROUNDING * lengths, 0.0))
            away = max(away - screen.radius[group], 0.0)
            far[row, group] = away * away * (1.0 - _FAR_ROUNDING)
    return far, home
