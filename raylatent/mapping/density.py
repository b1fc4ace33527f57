"""Points counted in square cells; counts of parts add up to those of the whole."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

MAX_LABELS = 64
"""Labels that are counted each by itself, and told apart in a picture of counts."""

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
        by_label: Of those with one of the labels of most points, by name; None where
            no point was to have one.
        others: Of those with another label; None where there is no other.
        n_others: How many others there are.
        lower: Least x and y of the points.
        upper: Largest.
    """

    extent: Extent
    counts: Counts
    by_label: dict[str, Counts] | None
    others: Counts | None = None
    n_others: int = 0
    lower: NDArray[np.floating] = field(default_factory=lambda: np.zeros(2))
    upper: NDArray[np.floating] = field(default_factory=lambda: np.zeros(2))


def most_frequent(counts: Mapping[Any, int]) -> list[Any]:
    """The labels of most points, at most 64, in the order given.

    Each takes an image of counts, and more colors could not be told apart.
    """
    order = {name: i for i, name in enumerate(counts)}
    ranked = sorted(counts, key=lambda name: (-counts[name], order[name]))
    return sorted(ranked[:MAX_LABELS], key=lambda name: order[name])


Labels = Sequence[str | None]
"""Of each point, None where it has none; a `pa.StringArray` is one, too."""
Block = tuple[NDArray[np.floating], Labels | None]


def density(parts: Callable[[], Iterable[Block]]) -> Density:
    """Points counted part by part, in two passes: how far they reach, then counts.

    Args:
        parts: Gives points (n, 2) and a label for each, or None, from the first again
            each time that it is called.
    """
    lower, upper = np.full(2, np.inf), np.full(2, -np.inf)
    n_of: Counter[str] = Counter()
    labeled = False
    for xy, labels in parts():
        lower = np.minimum(lower, xy.min(axis=0))
        upper = np.maximum(upper, xy.max(axis=0))
        labeled = labeled or labels is not None
        if labels is not None:
            names, codes = _encoded(labels)
            counts = np.bincount(codes[codes >= 0], minlength=len(names))
            n_of.update(dict(zip(names, counts.tolist(), strict=True)))
    if not np.isfinite(lower).all():
        message = "there are no points to count"
        raise ValueError(message)
    kept = most_frequent(dict(sorted(n_of.items())))
    code_of = {name: code for code, name in enumerate(kept)}
    found = Density(
        extent=extent_of(lower, upper),
        counts=np.zeros(0),
        by_label={} if labeled else None,
        n_others=len(n_of) - len(kept),
        lower=lower,
        upper=upper,
    )
    found.counts = binned(np.zeros((0, 2)), None, found.extent)[0]
    shares = [np.zeros_like(found.counts) for _ in kept]
    if found.n_others:
        found.others = np.zeros_like(found.counts)
    for xy, labels in parts():
        found.counts += binned(xy, None, found.extent)[0]
        if labels is None:
            continue
        # -1: without label, the number of names: another label.
        names, codes = _encoded(labels)
        as_kept = np.array([code_of.get(name, len(kept)) for name in names] + [-1])
        codes = as_kept[codes]
        for code in np.unique(codes[codes >= 0]):
            share = found.others if code == len(kept) else shares[code]
            if share is not None:
                share += binned(xy[codes == code], None, found.extent)[0]
    if labeled:
        found.by_label = dict(zip(kept, shares, strict=True))
    return found


def _encoded(labels: Labels) -> tuple[list[str], NDArray[np.int64]]:
    """Names, and for each label its number among them, -1 for none."""
    encoded = pa.array(labels, pa.string()).dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy().astype(np.int64)
    return encoded.dictionary.to_pylist(), codes
