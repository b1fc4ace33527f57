"""Rows of length 1, each by itself. Importing this module imports numba."""

import numpy as np
from numpy.typing import NDArray

from raylatent.kernel import kernel

_CONSTANT = np.float32(1e-12)  # what centering leaves of a constant row is rounding
_LANES = 32  # of which the largest is taken at once
_ROWS = 4  # whose sums run side by side: each waits for itself only


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
    block = np.zeros((_ROWS, width))
    for first in range(0, count, _ROWS):
        some = min(_ROWS, count - first)
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
