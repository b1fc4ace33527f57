"""A row's place on a fitted map: a pure function of the row and the map.

Like umap-learn's `transform` (McInnes, Healy and Melville, arXiv:1802.03426), but by
row: weights of the nearest sample rows, their weighted mean as start, then some epochs
of stochastic gradient descent with the sample held still. Differences, so that no bit
depends on the rows beside it: the neighbors are exact, sums run in a fixed order in
float64, the largest weight and the floor of the bandwidth are the map's and not the
batch's, and all rows draw the same random stream. Nothing here is compiled with
fast-math or run in parallel, so any number of threads may call it.

Importing this module imports numba.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raylatent.kernel import kernel
from raylatent.mapping.nearest import Projection, Sample, Screen, nearest

_BANDWIDTH_STEPS = 64
_BANDWIDTH_TOLERANCE = 1e-5
_BANDWIDTH_FLOOR = 1e-3  # share of the mean distance
_TOGETHER = 8  # rows that descend side by side
_LARGEST = float(np.finfo(np.float32).max)


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
def weights_of(
    distance: NDArray[np.float64], local_connectivity: float, mean_distance: float
) -> NDArray[np.float64]:
    """Membership weights of one row's neighbors, as umap-learn's transform has them.

    Args:
        distance: float64 (k,), ascending.
        local_connectivity: That of the fit, less 1, at least 0.
        mean_distance: Floors the bandwidth of a row with `rho` 0.
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
def _clip(value: float) -> float:
    return min(max(value, -4.0), 4.0)


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

    A neighbor of weight w is visited every 1 / w epochs; one that would not be
    visited is left out. Several rows go step by step together: each waits for its own
    last step only, so that a core has something to do meanwhile.

    Args:
        start: float64 (q, 2), where the rows start; then where they end.
        index: int64 (q, k), the neighbors.
        weights: float64 (q, k), theirs.
        layout: Where the sample lies.
        drawn: Of `drawn_rows`.
    """
    count, k = index.shape
    most = k * layout.epochs + drawn.shape[0]
    other = np.empty((_TOGETHER, most), dtype=np.int32)
    rate = np.empty((_TOGETHER, most))
    steps = np.zeros(_TOGETHER, dtype=np.int64)
    for first in range(0, count, _TOGETHER):
        some = min(_TOGETHER, count - first)
        longest = 0
        for i in range(some):
            row = first + i
            steps[i] = _schedule(
                index[row], weights[row], layout, drawn, (other[i], rate[i])
            )
            longest = max(longest, steps[i])
        for step in range(longest):
            for i in range(some):
                if step < steps[i]:
                    x, y = _step(
                        (start[first + i, 0], start[first + i, 1]),
                        other[i, step],
                        rate[i, step],
                        layout,
                    )
                    start[first + i, 0] = x
                    start[first + i, 1] = y


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
def _step(
    place: tuple[float, float], other: int, rate: float, layout: Layout
) -> tuple[float, float]:
    """One step towards a neighbor, or away from a sample row drawn at random."""
    x, y = place
    dx = x - layout.xy[other, 0]
    dy = y - layout.xy[other, 1]
    square = dx * dx + dy * dy
    if square <= 0.0:
        return x, y
    power = square**layout.b
    curve = layout.a * power + 1.0
    if rate > 0.0:
        force = -2.0 * layout.a * layout.b * power / square / curve
    else:
        force = 2.0 * layout.repulsion * layout.b / ((0.001 + square) * curve)
        rate = -rate
    return x + _clip(force * dx) * rate, y + _clip(force * dy) * rate


@kernel
def metric_distance(
    square: NDArray[np.float64],
    halved: bool,  # noqa: FBT001  (compiled functions take no keyword-only ones)
) -> NDArray[np.float64]:
    """The metric's distance of squared Euclidean distances (k,)."""
    return square / 2.0 if halved else np.sqrt(square)


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
        of the neighbors, float32 (q,).
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
    return start.astype(np.float32), distance.astype(np.float32)
