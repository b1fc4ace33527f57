"""Clusters and neighborhoods of points."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from raylatent.errors import MapError

_BLOCK_ROWS = 100_000


def cluster(
    features: NDArray[np.floating], n_clusters: int, *, seed: int = 0
) -> NDArray[np.int32]:
    """The k-means cluster of each row (n, d): the best of 10 starts.

    Raises:
        MapError: `n_clusters` is not in 1..n.
    """
    if not 1 <= n_clusters <= len(features):
        message = f"{n_clusters} clusters of {len(features)} points: give 1 to as many"
        raise MapError(message)
    from sklearn.cluster import KMeans  # noqa: PLC0415  (slow)
    from threadpoolctl import threadpool_limits  # noqa: PLC0415

    with threadpool_limits(1):  # sums of several threads do not repeat
        model = KMeans(n_clusters, n_init=10, random_state=seed).fit(features)
    return np.asarray(model.labels_, dtype=np.int32)


def neighbor_statistics(
    places: NDArray[np.floating],
    slides: Sequence[str],
    categories: Mapping[str, object] | None = None,
    *,
    k: int = 100,
) -> tuple[NDArray[np.int32], NDArray[np.float64] | None]:
    """From how many slides each point's neighbors are, and how many are of its kind.

    As in Slideflow, a point is among its own k nearest, and "percent" is a share.

    Args:
        places: Points (n, d).
        slides: Slide of each.
        categories: Category of each slide.
        k: Neighbors, at most n.

    Returns:
        Number of distinct slides among the neighbors, int32 (n,), and the share of
        neighbors in the same category, float64 (n,), or None without categories.

    Raises:
        MapError: `k` is below 1, or a slide has no category.
    """
    if k < 1:
        message = f"k={k} neighbors: give at least 1"
        raise MapError(message)
    from sklearn.neighbors import NearestNeighbors  # noqa: PLC0415  (slow)

    names, codes = np.unique(np.asarray(slides, dtype=str), return_inverse=True)
    kinds = _category_codes(names.tolist(), categories)
    k = min(k, len(places))
    search = NearestNeighbors(n_neighbors=k).fit(places)
    unique = np.empty(len(places), dtype=np.int32)
    share = np.empty(len(places))
    for start in range(0, len(places), _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        near = codes[search.kneighbors(places[rows], return_distance=False)]
        if kinds is not None:
            share[rows] = (kinds[near] == kinds[codes[rows], None]).mean(axis=1)
        near.sort(axis=1)
        unique[rows] = 1 + (np.diff(near, axis=1) != 0).sum(axis=1)
    return unique, None if kinds is None else share


def _category_codes(
    names: list[str], categories: Mapping[str, object] | None
) -> NDArray[np.intp] | None:
    if categories is None:
        return None
    missing = [name for name in names if name not in categories]
    if missing:
        message = (
            f"{len(missing)} of {len(names)} slides have no category, among them "
            f"{missing[0]!r}: give one for each"
        )
        raise MapError(message)
    values = [str(categories[name]) for name in names]
    return np.unique(values, return_inverse=True)[1]
