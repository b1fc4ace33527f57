"""Rows to unit length and to principal components: no bit of a row depends on another row.

Importing this module imports numba.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raylatent.kernel import kernel

_ROWS = 4  # that share a look at the components, and features
_CONSTANT = np.float32(1e-12)  # what centering leaves of a constant row is rounding
_LANES = 32  # of which the largest is taken at once
_NORMED_ROWS = 4  # whose sums run side by side: each waits for itself only


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
    lanes = np.zeros(_LANES)
    even = values.shape[0] // _LANES * _LANES
    for start in range(0, even, _LANES):
        for j in range(_LANES):
            value = abs(np.float64(values[start + j]))
            lanes[j] = value if value > lanes[j] else lanes[j]
    for j in range(even, values.shape[0]):
        lanes[0] = max(lanes[0], abs(np.float64(values[j])))
    return float(lanes.max())
