"""Points with many ties, and the cells of points in any parts."""

import functools

import numpy as np
import pyarrow as pa

from raylatent.montage.cells import (
    finish_cells,
    merge_cells,
    partial_cells,
    partial_sums,
)
from raylatent.montage.grid import Bounds, SquareGrid
from raylatent.montage.points import Points
from raylatent.montage.tally import merge_sums

SELECTS = ["nearest", "medoid", "first"]


def some_points(seed, n=80, *, coarse=True, labels=True):
    """Points with many exact ties: places and features are on a coarse lattice."""
    rng = np.random.default_rng(seed)
    xy = rng.integers(0, 9, (n, 2)) / 2 if coarse else rng.random((n, 2)) * 4
    slides = rng.choice(["b", "a", "é", "10"], n).tolist()
    reference = pa.table(
        {
            "slide": slides,
            "tile_index": rng.permutation(n),
            "offset": np.arange(n) * 100,
        }
    )
    names = rng.choice(["x", "y", None], n).tolist() if labels else None
    return Points.of(
        xy,
        reference=reference,
        labels=None if names is None else pa.array(names, pa.string()),
        features=rng.integers(-3, 4, (n, 5)).astype(np.float32),
        predictions=rng.dirichlet(np.ones(3), n).astype(np.float32),
        knn_distance=np.where(rng.random(n) < 0.8, rng.random(n), np.nan),
    )


def grid_of(points, nx=4):
    return SquareGrid.fit(Bounds.of(points.xy), nx)


def chosen(grid, parts, rule):
    """Each pass over parts in their order, merged one after the other."""
    sums = None
    if rule.select == "medoid":
        sums = functools.reduce(merge_sums, [partial_sums(p, grid) for p in parts])
    found = [partial_cells(part, grid, rule, sums) for part in parts]
    return functools.reduce(merge_cells, found)


def whole(grid, points, rule):
    return finish_cells(grid, chosen(grid, [points], rule))
