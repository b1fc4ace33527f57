"""Points counted in square cells; counts of parts add up to those of the whole."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

_GRID = 512

Extent = tuple[float, float, float, float]
"""Left, right, bottom, top."""
Counts = NDArray[np.float64]
"""Of cells (x, y)."""


def extent_of(lower: NDArray[np.floating], upper: NDArray[np.floating]) -> Extent:
    """What square cells over points span, at most 512 of them a side.

    Args:
        lower: Least x and y of the points.
        upper: Largest.
    """
    (left, bottom), (right, top) = lower, upper
    cell = max(right - left, top - bottom, 1e-6) / _GRID
    nx, ny = (max(1, math.ceil(s / cell)) for s in (right - left, top - bottom))
    return (
        float(left),
        float(left + nx * cell),
        float(bottom),
        float(bottom + ny * cell),
    )


def binned(
    xy: NDArray[np.floating],
    weights: NDArray[np.float64] | None = None,
    extent: Extent | None = None,
) -> tuple[Counts, Extent]:
    """Counts, or sums of weights, in square cells (x, y), and what they span."""
    if extent is None:
        extent = extent_of(xy.min(axis=0), xy.max(axis=0))
    left, right, bottom, top = extent
    cell = max(right - left, top - bottom) / _GRID
    shape = (max(1, round((right - left) / cell)), max(1, round((top - bottom) / cell)))
    column = np.clip(((xy[:, 0] - left) / cell).astype(np.int64), 0, shape[0] - 1)
    row = np.clip(((xy[:, 1] - bottom) / cell).astype(np.int64), 0, shape[1] - 1)
    cells = np.bincount(column * shape[1] + row, weights, minlength=shape[0] * shape[1])
    return cells.reshape(shape).astype(np.float64), extent


@dataclass(kw_only=True)
class Density:
    """Points in cells, all of them and by label.

    Attributes:
        extent: What the cells span.
        counts: Of all points.
        by_label: Of those with a label; None where no point was to have one.
        lower: Least x and y of the points.
        upper: Largest.
    """

    extent: Extent
    counts: Counts
    by_label: dict[str, Counts] | None
    lower: NDArray[np.floating] = field(default_factory=lambda: np.zeros(2))
    upper: NDArray[np.floating] = field(default_factory=lambda: np.zeros(2))


def density(
    parts: Callable[[], Iterable[tuple[NDArray[np.floating], list[str | None] | None]]],
) -> Density:
    """Points counted part by part, in two passes: how far they reach, then counts.

    Args:
        parts: Gives points (n, 2) and a label for each, or None, from the first again
            each time that it is called.
    """
    lower, upper = np.full(2, np.inf), np.full(2, -np.inf)
    for xy, _ in parts():
        lower = np.minimum(lower, xy.min(axis=0))
        upper = np.maximum(upper, xy.max(axis=0))
    extent = extent_of(lower, upper)
    total: Counts | None = None
    by_label: dict[str, Counts] | None = None
    for xy, labels in parts():
        counts, _ = binned(xy, None, extent)
        total = counts if total is None else total + counts
        if labels is None:
            continue
        by_label = {} if by_label is None else by_label
        names = np.array(labels, dtype=object)
        for name in {label for label in labels if label is not None}:
            share, _ = binned(xy[names == name], None, extent)
            by_label[name] = by_label.get(name, 0.0) + share
    if total is None:
        message = "there are no points to count"
        raise ValueError(message)
    return Density(
        extent=extent,
        counts=total,
        by_label=None if by_label is None else dict(sorted(by_label.items())),
        lower=lower,
        upper=upper,
    )
