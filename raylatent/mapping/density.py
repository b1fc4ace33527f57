"""Points counted in square cells."""

import math

import numpy as np
from numpy.typing import NDArray

_GRID = 512

Extent = tuple[float, float, float, float]
"""Left, right, bottom, top."""


def binned(
    xy: NDArray[np.floating],
    weights: NDArray[np.float64] | None = None,
    extent: Extent | None = None,
) -> tuple[NDArray[np.float64], Extent]:
    """Counts, or sums of weights, in square cells (x, y), and what they span."""
    if extent is None:
        (left, bottom), (right, top) = xy.min(axis=0), xy.max(axis=0)
        cell = max(right - left, top - bottom, 1e-6) / _GRID
        nx, ny = (max(1, math.ceil(s / cell)) for s in (right - left, top - bottom))
        extent = (
            float(left),
            float(left + nx * cell),
            float(bottom),
            float(bottom + ny * cell),
        )
    left, right, bottom, top = extent
    cell = max(right - left, top - bottom) / _GRID
    shape = (max(1, round((right - left) / cell)), max(1, round((top - bottom) / cell)))
    column = np.clip(((xy[:, 0] - left) / cell).astype(np.int64), 0, shape[0] - 1)
    row = np.clip(((xy[:, 1] - bottom) / cell).astype(np.int64), 0, shape[1] - 1)
    cells = np.bincount(column * shape[1] + row, weights, minlength=shape[0] * shape[1])
    return cells.reshape(shape).astype(np.float64), extent
