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

import numpy as np
from numpy.typing import NDArray

from raylatent.kernel import kernel
from raylatent.mapping.descent import Layout, descend, drawn_rows
from raylatent.mapping.nearest import nearest
from raylatent.mapping.projection import Projection, Sample
from raylatent.mapping.screen import Screen

_BANDWIDTH_STEPS = 64
_BANDWIDTH_TOLERANCE = 1e-5
_BANDWIDTH_FLOOR = 1e-3  # share of the mean distance
_LARGEST = float(np.finfo(np.float32).max)


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
