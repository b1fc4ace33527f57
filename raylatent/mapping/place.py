"""A row's place on a fitted map: a pure function of the row and the map.

Like umap-learn's `transform` (McInnes, Healy and Melville, arXiv:1802.03426), but by
row: weights of the nearest sample rows, their weighted mean as start, then some epochs
of stochastic gradient descent with the sample held still. Differences, so that no bit
depends on the rows beside it: the neighbors are exact, sums run in a fixed order in
float64, the largest weight and the floor of the bandwidth are the map's and not the
batch's, and all rows draw the same random stream. Nothing here is compiled with
fast-math or run in parallel, so any number of threads may call it.

In the descent each row waits for its own last step only, so that many go side by side
in the lanes of a core's vector unit. All is add, subtract, multiply and divide of
float64, rounded once each as IEEE 754 has it, the power too: so no bit depends on the
system's libm, or on how wide the lanes are.

Importing this module imports numba.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raylatent.caches import kernel
from raylatent.mapping.neighbors import metric_distance, nearest
from raylatent.mapping.sample_index import Projection, Sample, Screen

_LANES = 32  # rows that descend side by side

_FRACTION = np.uint64(0x000FFFFFFFFFFFFF)  # of a float64
_EXPONENT_SHIFT = np.uint64(52)
_ONE = np.uint64(0x3FF0000000000000)  # 1.0
_WHOLE = np.uint64(0x4330000000000000)  # 2**52: integers below it are its last bits
_EXPONENT_OFFSET = 2.0**52 + 1023.0
_ROUNDER = 1.5 * 2.0**52  # added and taken away, it leaves the nearest integer
_MOST_DOUBLINGS = 1000.0
_SQRT_2 = float(np.sqrt(2.0))
_LN_2 = float(np.log(2.0))
_TWO_OVER_LN_2 = 2.0 / _LN_2
_SMALLEST = float(np.finfo(np.float64).tiny)
_BANDWIDTH_STEPS = 64
_BANDWIDTH_TOLERANCE = 1e-5
_BANDWIDTH_FLOOR = 1e-3  # share of the mean distance
_LARGEST = float(np.finfo(np.float32).max)

_CONSTANT = np.float32(1e-12)  # what centering leaves of a constant row is rounding
_MAXIMUM_LANES = 32  # of which the largest is taken at once
_NORMED_ROWS = 4  # whose sums run side by side: each waits for itself only


class Layout(NamedTuple):
    """Where the sample lies, and umap-learn's parameters of the descent.

    Attributes:
        xy: float64 (n, 2).
        stream: int64 (3,), state of the random stream, each in 0..2**32 - 1.
        a: Of the curve 1 / (1 + a d^(2b)).
        b: Of the same.
        learning_rate: At the start of a placement: a quarter of the fit's.
        repulsion: Weight of negative samples.
        negative_rate: Negative samples for each positive one.
        epochs: Of the descent.
        local_connectivity: That of the fit, less 1, at least 0.
        mean_distance: Mean over the sample's own neighbor distances.
        halved: Whether the metric's distance is d^2 / 2 (else d).
        n_neighbors: Sample rows that hold a row.
    """

    xy: NDArray[np.float64]
    stream: NDArray[np.int64]
    a: float
    b: float
    learning_rate: float
    repulsion: float
    negative_rate: float
    epochs: int
    local_connectivity: float
    mean_distance: float
    halved: bool
    n_neighbors: int


@kernel
def _draw(state: NDArray[np.int64]) -> int:
    """The next integer of the combined Tausworthe generator taus88, as int32.

    L'Ecuyer 1996, doi:10.1090/S0025-5718-96-00696-5.
    """
    mask = 0xFFFFFFFF
    first, second, third = state[0], state[1], state[2]
    first = (((first & 0xFFFFFFFE) << 12) & mask) ^ (
        (((first << 13) & mask) ^ first) >> 19
    )
    second = (((second & 0xFFFFFFF8) << 4) & mask) ^ (
        (((second << 2) & mask) ^ second) >> 25
    )
    third = (((third & 0xFFFFFFF0) << 17) & mask) ^ (
        (((third << 3) & mask) ^ third) >> 11
    )
    state[0], state[1], state[2] = first, second, third
    drawn = int(first ^ second ^ third)
    return drawn - (mask + 1) if drawn > 0x7FFFFFFF else drawn


@kernel
def drawn_rows(layout: Layout) -> NDArray[np.int32]:
    """The sample rows that the random stream draws: the same for every row placed."""
    most = layout.n_neighbors * layout.epochs * int(np.ceil(layout.negative_rate))
    state = layout.stream.copy()
    drawn = np.empty(most, dtype=np.int32)
    for at in range(most):
        drawn[at] = _draw(state) % layout.xy.shape[0]
    return drawn


@kernel
def descend(
    start: NDArray[np.float64],
    index: NDArray[np.int64],
    weights: NDArray[np.float64],
    layout: Layout,
    drawn: NDArray[np.int32],
) -> None:
    """Stochastic gradient descent of rows among the sample's places, each by itself.

    A neighbor of weight w is visited every 1 / w epochs; one that would not be visited
    is left out.

    Args:
        start: float64 (q, 2), where the rows start; then where they end.
        index: int64 (q, k), the neighbors.
        weights: float64 (q, k), of the neighbors.
        layout: Where the sample lies.
        drawn: Of `drawn_rows`.
    """
    count, k = index.shape
    most = k * layout.epochs + drawn.shape[0]
    other = np.empty((most, _LANES), dtype=np.int32)
    rate = np.empty((most, _LANES))
    steps = np.zeros(_LANES, dtype=np.int64)
    x = np.zeros(_LANES)
    y = np.zeros(_LANES)
    for first in range(0, count, _LANES):
        some = min(_LANES, count - first)
        steps[some:] = 0
        for i in range(some):
            x[i], y[i] = start[first + i]
            steps[i] = _schedule(
                index[first + i],
                weights[first + i],
                layout,
                drawn,
                (other[:, i], rate[:, i]),
            )
        longest = steps.max()
        for i in range(_LANES):  # those that are through take no more steps
            other[steps[i] : longest, i] = 0
            rate[steps[i] : longest, i] = 0.0
        _walk(x, y, other[:longest], rate[:longest], layout)
        for i in range(some):
            start[first + i] = x[i], y[i]


@kernel
def _schedule(
    index: NDArray[np.int64],
    weights: NDArray[np.float64],
    layout: Layout,
    drawn: NDArray[np.int32],
    into: tuple[NDArray[np.int32], NDArray[np.float64]],
) -> int:
    """The steps of one row, which do not depend on where it is; their number.

    Each has a sample row and a rate, negative for a step away.
    """
    other, rates = into
    k = index.shape[0]
    period = np.empty(k)
    for j in range(k):
        period[j] = 1.0 / weights[j] if weights[j] * layout.epochs >= 1.0 else np.inf
    visit = period.copy()
    pause = period / layout.negative_rate if layout.negative_rate > 0.0 else period * 0
    repel = pause.copy()
    rate = layout.learning_rate
    count = 0
    used = 0
    for epoch in range(layout.epochs):
        for j in range(k):
            if visit[j] > epoch:
                continue
            visit[j] += period[j]
            other[count] = index[j]
            rates[count] = rate
            count += 1
            if layout.negative_rate <= 0.0:
                continue
            draws = int((epoch - repel[j]) / pause[j])
            for _ in range(draws):
                other[count] = drawn[used]
                rates[count] = -rate
                used += 1
                count += 1
            repel[j] += draws * pause[j]
        rate = layout.learning_rate * (1.0 - epoch / layout.epochs)
    return count


@kernel
def _walk(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    other: NDArray[np.int32],
    rate: NDArray[np.float64],
    layout: Layout,
) -> None:
    """All steps of some rows: towards a neighbor, or away from one drawn at random.

    The rows are at x and y, float64 (lanes,). Steps are (steps, lanes): int32, from or
    to which sample row, and float64, how far, below 0 for away, 0 for no step.
    """
    lanes = x.shape[0]
    dx = np.empty(lanes)
    dy = np.empty(lanes)
    square = np.empty(lanes)
    power = np.empty(lanes)
    scratch = np.empty((3, lanes))
    pull = -2.0 * layout.a * layout.b
    push = 2.0 * layout.repulsion * layout.b
    for step in range(other.shape[0]):
        for i in range(lanes):
            at = other[step, i]
            dx[i] = x[i] - layout.xy[at, 0]
            dy[i] = y[i] - layout.xy[at, 1]
        for i in range(lanes):
            square[i] = dx[i] * dx[i] + dy[i] * dy[i]
        powers(square, layout.b, power, scratch)
        for i in range(lanes):
            towards = rate[step, i] > 0.0
            length = abs(rate[step, i]) if square[i] >= _SMALLEST else 0.0
            curve = layout.a * power[i] + 1.0
            above = pull * power[i] if towards else push
            below = max(square[i], _SMALLEST) if towards else square[i] + 0.001
            force = above / (below * curve)
            x[i] += min(max(force * dx[i], -4.0), 4.0) * length
            y[i] += min(max(force * dy[i], -4.0), 4.0) * length


@kernel
def powers(
    base: NDArray[np.float64],
    exponent: float,
    power: NDArray[np.float64],
    scratch: NDArray[np.float64],
) -> None:
    """`base ** exponent` to about 13 digits, in lanes.

    2 ** (exponent * log2(base)): the logarithm by the series of the inverse hyperbolic
    tangent to the 15th power, the power of two by Taylor's to the 11th.

    Args:
        base: float64 (lanes,), not negative; normal, or the result is only small.
        exponent: Such that the result is between 2**-1000 and 2**1000.
        power: float64 (lanes,), the result.
        scratch: float64 (3, lanes).
    """
    lanes = base.shape[0]
    mantissa, whole, doublings = scratch[0], scratch[1], scratch[2]
    bits = base.view(np.uint64)
    mantissa_bits = mantissa.view(np.uint64)
    whole_bits = whole.view(np.uint64)
    for i in range(lanes):
        mantissa_bits[i] = (bits[i] & _FRACTION) | _ONE
        whole_bits[i] = (bits[i] >> _EXPONENT_SHIFT) | _WHOLE
    for i in range(lanes):
        large = mantissa[i] > _SQRT_2
        m = mantissa[i] * 0.5 if large else mantissa[i]
        e = whole[i] - _EXPONENT_OFFSET
        e = e + 1.0 if large else e
        t = (m - 1.0) / (m + 1.0)
        s = t * t
        p = s * (1.0 / 15.0) + 1.0 / 13.0
        p = p * s + 1.0 / 11.0
        p = p * s + 1.0 / 9.0
        p = p * s + 1.0 / 7.0
        p = p * s + 1.0 / 5.0
        p = p * s + 1.0 / 3.0
        p = p * s + 1.0
        z = exponent * (e + _TWO_OVER_LN_2 * (t * p))
        z = min(max(z, -_MOST_DOUBLINGS), _MOST_DOUBLINGS)
        doublings[i] = z + _ROUNDER
        f = (z - (doublings[i] - _ROUNDER)) * _LN_2
        p = f * (1.0 / 39916800.0) + 1.0 / 3628800.0
        p = p * f + 1.0 / 362880.0
        p = p * f + 1.0 / 40320.0
        p = p * f + 1.0 / 5040.0
        p = p * f + 1.0 / 720.0
        p = p * f + 1.0 / 120.0
        p = p * f + 1.0 / 24.0
        p = p * f + 1.0 / 6.0
        p = p * f + 0.5
        p = p * f + 1.0
        power[i] = p * f + 1.0
    power_bits = power.view(np.uint64)
    doublings_bits = doublings.view(np.uint64)
    for i in range(lanes):
        power_bits[i] += doublings_bits[i] << _EXPONENT_SHIFT


@kernel
def weights_of(
    distance: NDArray[np.float64], local_connectivity: float, mean_distance: float
) -> NDArray[np.float64]:
    """Membership weights of one row's neighbors, as umap-learn's transform has them.

    Distances, float64 (k,), ascend; the connectivity is that of the fit, less 1, at
    least 0; the mean distance floors the bandwidth of a row with `rho` 0.
    """
    k = distance.shape[0]
    positive = distance[distance > 0.0]
    rho = 0.0
    whole = int(np.floor(local_connectivity))
    part = local_connectivity - whole
    if positive.shape[0] >= local_connectivity:
        if whole > 0:
            rho = positive[whole - 1]
            if part > _BANDWIDTH_TOLERANCE and whole < positive.shape[0]:
                rho += part * (positive[whole] - positive[whole - 1])
        elif positive.shape[0] > 0:
            rho = part * positive[0]
    elif positive.shape[0] > 0:
        rho = positive[-1]
    sigma = _bandwidth(distance, rho)
    floor = float(np.mean(distance)) if rho > 0.0 else mean_distance
    sigma = max(sigma, _BANDWIDTH_FLOOR * floor)
    weights = np.ones(k)
    for j in range(k):
        if distance[j] > rho and sigma > 0.0:
            weights[j] = np.exp(-(distance[j] - rho) / sigma)
    return weights


@kernel
def _bandwidth(distance: NDArray[np.float64], rho: float) -> float:
    """The bandwidth at which the weights sum to log2(k), by bisection."""
    k = distance.shape[0]
    target = np.log2(np.float64(k))
    low = 0.0
    high = _LARGEST
    middle = 1.0
    for _ in range(_BANDWIDTH_STEPS):
        total = 0.0
        for j in range(1, k):
            beyond = distance[j] - rho
            total += np.exp(-beyond / middle) if beyond > 0.0 else 1.0
        if abs(total - target) < _BANDWIDTH_TOLERANCE:
            break
        if total > target:
            high = middle
            middle = (low + high) / 2.0
        else:
            low = middle
            middle = middle * 2.0 if high >= _LARGEST else (low + high) / 2.0
    return middle


@kernel
def start_of(
    index: NDArray[np.int64], weights: NDArray[np.float64], xy: NDArray[np.float64]
) -> tuple[float, float]:
    """The weighted mean of the neighbors' places; the first's of weight 1, if any.

    Where all weights are 0, so far off is the row, the nearest's place.
    """
    total = 0.0
    x = 0.0
    y = 0.0
    for j in range(index.shape[0]):
        if weights[j] == 1.0:
            return xy[index[j], 0], xy[index[j], 1]
        total += weights[j]
        x += weights[j] * xy[index[j], 0]
        y += weights[j] * xy[index[j], 1]
    if total == 0.0:
        return xy[index[0], 0], xy[index[0], 1]
    return x / total, y / total


@kernel
def place_rows(
    rows: NDArray[np.float32],
    projection: Projection,
    sample: Sample,
    screen: Screen,
    layout: Layout,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Place normalized rows (q, d), each by itself.

    A row equal to a sample row lies where that one does; where several are equal, on
    the first of them, which has the lowest key.

    Returns:
        Places float32 (q, 2), and the metric's distance in all features to the closest
        sample row, float32 (q,), at most the largest one.
    """
    count = rows.shape[0]
    own = np.full(count, -1, dtype=np.int64)
    k = min(layout.n_neighbors, sample.rows.shape[0])
    index, square, whole, equal = nearest(rows, own, projection, sample, screen, k)
    weights = np.empty((count, k))
    start = np.empty((count, 2))
    for row in range(count):
        distance = metric_distance(square[row], layout.halved)
        weights[row] = weights_of(
            distance, layout.local_connectivity, layout.mean_distance
        )
        if equal[row] >= 0:
            weights[row] = 0.0  # takes no step
        start[row] = start_of(index[row], weights[row], layout.xy)
    descend(start, index, weights, layout, drawn_rows(layout))
    for row in range(count):
        if equal[row] >= 0:
            start[row] = layout.xy[equal[row]]
    distance = metric_distance(whole, layout.halved)
    return start.astype(np.float32), np.minimum(distance, _LARGEST).astype(np.float32)


@kernel
def unit_rows(
    rows: NDArray[np.float32],
    centered: bool,  # noqa: FBT001  (compiled functions take no keyword-only ones)
) -> NDArray[np.float32]:
    """Scale rows (n, d) to length 1, or leave them zero; float32 (n, d).

    Sums are in float64, over the features in order. Values are divided by the largest
    first, so that no square overflows or vanishes.
    """
    count, width = rows.shape
    result = np.empty_like(rows)
    block = np.zeros((_NORMED_ROWS, width))
    for first in range(0, count, _NORMED_ROWS):
        some = min(_NORMED_ROWS, count - first)
        block[:some] = rows[first : first + some]
        if centered:
            _center(block, rows[first : first + some])
        for i in range(some):
            largest = _largest(block[i])
            block[i] /= largest if largest > 0.0 else 1.0
        squares = _squares(block)
        for i in range(some):
            length = np.sqrt(squares[i])
            row = block[i] / (length if length > 0.0 else 1.0)
            for j in range(width):
                result[first + i, j] = np.float32(row[j])
    return result


@kernel
def _center(block: NDArray[np.float64], rows: NDArray[np.float32]) -> None:
    """Take each row's mean away; a constant row becomes zero."""
    s0 = s1 = s2 = s3 = 0.0
    width = block.shape[1]
    for j in range(width):
        s0 += block[0, j]
        s1 += block[1, j]
        s2 += block[2, j]
        s3 += block[3, j]
    sums = (s0, s1, s2, s3)
    for i in range(rows.shape[0]):
        block[i] -= sums[i] / width
        if _largest(block[i]) <= _CONSTANT * np.float32(_largest(rows[i])):
            block[i] = 0.0


@kernel
def _squares(block: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Sums of squares."""
    s0 = s1 = s2 = s3 = 0.0
    for j in range(block.shape[1]):
        s0 += block[0, j] * block[0, j]
        s1 += block[1, j] * block[1, j]
        s2 += block[2, j] * block[2, j]
        s3 += block[3, j] * block[3, j]
    return s0, s1, s2, s3


@kernel
def _largest(values: NDArray[np.floating]) -> float:
    """The largest magnitude, in lanes: a maximum does not depend on the order."""
    lanes = np.zeros(_MAXIMUM_LANES)
    even = values.shape[0] // _MAXIMUM_LANES * _MAXIMUM_LANES
    for start in range(0, even, _MAXIMUM_LANES):
        for j in range(_MAXIMUM_LANES):
            value = abs(np.float64(values[start + j]))
            lanes[j] = value if value > lanes[j] else lanes[j]
    for j in range(even, values.shape[0]):
        lanes[0] = max(lanes[0], abs(np.float64(values[j])))
    return float(lanes.max())
