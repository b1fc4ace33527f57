"""Rows to principal components, row by row: the bits of one never depend on another.

Importing this module imports numba.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raylatent.kernel import kernel

_ROWS = 4  # that share a look at the components, and features


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
