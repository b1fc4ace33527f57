"""The sample's neighbor graph, and its layout where a graph says nothing."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from raylatent.mapping.nearest import nearest as search
from raylatent.mapping.place import metric_distance
from raylatent.mapping.projection import Projection, Sample
from raylatent.mapping.screen import screen_of

MIN_DISTINCT = 8
"""With fewer distinct rows a neighbor graph says nothing: principal components do."""

_MAX_COORDINATE = 10.0  # as umap-learn scales its start
_MAX_THREADS = 8
_SEARCH_ROWS = 512


def neighbors(
    projection: Projection,
    sample: Sample,
    k: int,
    *,
    halved: bool,
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float64]]:
    """Each sample row's k neighbors, itself first, and its nearest other in full.

    Returns:
        Indices int32 (n, k), the metric's distances float32 (n, k), and the distances
        in all features to the closest other sample row, float64 (n,).
    """
    n = len(sample.rows)
    from threadpoolctl import threadpool_limits  # noqa: PLC0415  (with umap-learn)

    index = np.zeros((n, k), dtype=np.int32)
    distance = np.zeros((n, k), dtype=np.float32)
    whole = np.zeros(n)
    index[:, 0] = np.arange(n)
    if n == 1:
        return index, distance, whole

    screen = screen_of(sample, projection)

    def fill(start: int) -> None:
        rows = slice(start, start + _SEARCH_ROWS)
        own = np.arange(n)[rows]
        near, square, full, _ = search(
            sample.rows[rows], own, projection, sample, screen, max(1, k - 1)
        )
        index[rows, 1:] = near[:, : k - 1]
        distance[rows, 1:] = metric_distance(square[:, : k - 1], halved)
        whole[rows] = metric_distance(full, halved)

    threads = min(_MAX_THREADS, os.cpu_count() or 1)
    with threadpool_limits(1), ThreadPoolExecutor(threads) as pool:
        list(pool.map(fill, range(0, n, _SEARCH_ROWS)))
    return index, distance, whole


def spread_out(reduced: NDArray[np.float64]) -> NDArray[np.float32]:
    """The first two principal components, scaled as umap-learn's start."""
    plane = np.zeros((len(reduced), 2))
    plane[:, : min(2, reduced.shape[1])] = reduced[:, :2]
    largest = np.abs(plane).max()
    if largest > 0:
        plane *= _MAX_COORDINATE / largest
    return plane.astype(np.float32)


def some_distinct(rows: NDArray[np.float32]) -> int:
    """The number of distinct rows, counted only as far as it matters."""
    seen: set[bytes] = set()
    for row in rows:
        seen.add(row.tobytes())
        if len(seen) >= MIN_DISTINCT:
            break
    return len(seen)
