"""Numbers about a map: whether it can be trusted, clusters and neighborhoods of points.

Trustworthiness as of Venna and Kaski 2001 (doi:10.1007/3-540-44668-0_68); recall as the
share of a row's nearest sample rows that are among its nearest on the map.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from warnings import catch_warnings, filterwarnings

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylatent import schema
from raylatent.errors import MapError
from raylatent.mapping.fitted_map import FittedMap, normalize
from raylatent.mapping.umap_learn import ROW_METRICS

QUALITY_ROWS = 1_000
"""Rows beside the sample on which a map is measured."""

FEWEST_HELD = 200
"""With fewer of them the sample's own rows say more."""

_NEIGHBORS = 15
_BLOCK_ROWS = 256
_BLOCK_FEATURES = 256
_ERROR = 1e-9  # of a matrix product in float64, far more than it can be
_ROW_METRIC = "euclidean"

_SEARCHED_ROWS = 100_000


def with_counts(fitted: FittedMap, points: pa.Table) -> FittedMap:
    """A map whose map.json tells of these points, where it tells of others.

    Then it does not tell the run's rows any more, since not all of them are there.
    """
    told = fitted.info.get("points")
    xy = schema.places(points)
    distance = points[schema.KNN_DISTANCE].to_numpy()  # NaN is not novel
    frame = fitted.frame
    counts = {
        "rows": len(xy),
        "outside": int(((xy < frame.lower) | (xy > frame.upper)).any(axis=1).sum()),
        "novel": int((distance > fitted.knn_threshold).sum()),
    }
    if told is None or told == counts:
        return fitted
    kept = {key: value for key, value in fitted.info.items() if key != "rows"}
    return FittedMap(info={**kept, "points": counts}, arrays=fitted.arrays)


class Quality(NamedTuple):
    """Of placed rows among the sample.

    Attributes:
        trustworthiness: 1 is best, random about 0.5.
        knn_recall: 1 is best, random about k / n.
    """

    trustworthiness: float
    knn_recall: float


def measured(
    fitted: FittedMap, sample: NDArray[np.floating], held: NDArray[np.floating]
) -> dict[str, Any]:
    """A map's quality, as map.json has it.

    Args:
        fitted: The map.
        sample: Activations (n, d) that it was fitted on, ascending by key.
        held: Activations (m, d) of other rows. With fewer than 200 the sample's own
            first rows are measured, each among the others, where those are more, and
            `held_out` is 0.

    Returns:
        `trustworthiness`, `knn_recall` (None for fewer than 4 sample rows),
        `n_neighbors`, the `metric`, `rows` measured, and how many of them were
        `held_out`.
    """
    placement = fitted.info["placement"]
    metric = placement["metric"]
    if metric not in ROW_METRICS:
        metric = _ROW_METRIC
    inside = normalize(sample[: len(fitted.embedding)], metric)
    own = None
    if len(held) < min(FEWEST_HELD, len(inside) + 1):
        held, own = held[:0], np.arange(min(len(inside), QUALITY_ROWS))
    if own is None:
        rows, xy = normalize(held, metric), fitted.place(held)[0]
    else:
        rows, xy = inside[own], fitted.embedding[own]
    k = min(_NEIGHBORS, (len(inside) - 2) // 2)
    found: dict[str, float | None] = dict.fromkeys(Quality._fields)
    if k >= 1:
        found = quality(rows, xy, inside, fitted.embedding, k, own)._asdict()
    return {
        **found,
        "n_neighbors": k,
        "metric": metric,
        "rows": len(rows),
        "held_out": len(held),
    }


def in_words(info: Mapping[str, Any]) -> list[str]:
    """What map.json says of a map's quality, for people to read."""
    lines = []
    sample, versions = info.get("sample") or {}, info.get("versions") or {}
    if sample:
        lines.append(
            f"fitted    on {sample['rows']:,} rows, seed {sample['seed']}, umap-learn "
            f"{versions.get('umap-learn', 'unknown')}"
        )
    found = info.get("quality") or {}
    if found.get("trustworthiness") is not None:
        which = "held-out" if found["held_out"] else "sample"
        lines.append(
            f"quality   trustworthiness {found['trustworthiness']:.3f}, "
            f"{found['knn_recall']:.1%} of {found['n_neighbors']} neighbours kept "
            f"({found['rows']:,} {which} rows)"
        )
    points = info.get("points") or {}
    if points.get("rows"):
        outside, novel = (points[key] for key in ("outside", "novel"))
        lines.append(
            f"rows      {points['rows']:,} placed: {outside:,} "
            f"({outside / points['rows']:.1%}) outside the frame, {novel:,} "
            f"({novel / points['rows']:.1%}) unlike the sample"
        )
    return lines


def quality(
    features: NDArray[np.floating],
    xy: NDArray[np.floating],
    sample_features: NDArray[np.floating],
    sample_xy: NDArray[np.floating],
    n_neighbors: int = _NEIGHBORS,
    own: NDArray[np.intp] | None = None,
) -> Quality:
    """Trustworthiness of placed rows among the sample, and recall of their neighbors.

    For each row, its nearest sample rows on the map are penalized by how far they are
    beyond the nearest in feature space (Euclidean: give rows as `normalize` has them).
    The penalty is scaled by the largest possible one.

    Args:
        features: Placed rows (m, d).
        xy: Their places (m, 2).
        sample_features: Sample rows (n, d).
        sample_xy: Their places (n, 2).
        n_neighbors: At least 1 and less than n / 2.
        own: For rows of the sample (m,), which they are: passed over.

    Raises:
        MapError: `n_neighbors` is out of range, or there is no row.

    >>> line = np.arange(10.0)[:, None] * [1.0, 1.0]
    >>> quality(line + 0.1, line + 0.1, line, line, n_neighbors=3).trustworthiness
    1.0
    """
    n, k = len(sample_features) - (own is not None), n_neighbors
    if not 1 <= k < n / 2 or not len(features):
        message = (
            f"{len(features)} rows and {k} neighbors among {n} sample rows: give at "
            "least 1 row, and neighbors from 1 to less than half the sample"
        )
        raise MapError(message)
    penalty, hits = 0.0, 0
    for start in range(0, len(features), _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        truly = _squares(features[rows], sample_features)
        seen = _squares(xy[rows], sample_xy)
        if own is not None:
            at = np.arange(len(seen)), own[rows]
            truly[at] = seen[at] = np.inf
        near = np.argpartition(seen, k - 1, axis=1)[:, :k]
        for row, columns in zip(truly, near, strict=True):
            rank = np.searchsorted(np.sort(row), row[columns]) + 1
            penalty += float(np.maximum(rank - k, 0).sum())
            hits += int((rank <= k).sum())
    worst = len(features) * k * (2 * n - 3 * k + 1) / 2
    return Quality(1.0 - penalty / worst, hits / (len(features) * k))


def _squares(
    left: NDArray[np.floating], right: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Squared distances (m, n); some features at a time, so that no copy is large."""
    squares = np.zeros((len(left), len(right)))
    for start in range(0, right.shape[1], _BLOCK_FEATURES):
        some = slice(start, start + _BLOCK_FEATURES)
        a, b = left[:, some].astype(np.float64), right[:, some].astype(np.float64)
        center = b.mean(axis=0)  # the expansion below cancels less around the center
        a -= center
        b -= center
        squares += (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1)
        squares -= 2.0 * (a @ b.T)
    return squares


def nearest_rows(rows: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """The k other rows nearest to each row (n, d), int64 (n, k); -1 where there are fewer.

    Euclidean in float64, each sum in one order; of equal ones the first row comes first.
    A matrix product only rules out those that are farther by more than its error.

    >>> nearest_rows(np.float32([[0], [1], [3]]), 3).tolist()
    [[1, 2, -1], [0, 2, -1], [1, 0, -1]]
    """
    found = np.full((len(rows), k), -1)
    longest = float(np.square(rows, dtype=np.float64).sum(axis=1).max(initial=0.0))
    last = min(k, len(rows) - 1) - 1
    for start in range(0, len(rows) if last >= 0 else 0, _BLOCK_ROWS):
        about = _squares(rows[start : start + _BLOCK_ROWS], rows)
        at = np.arange(len(about))
        about[at, start + at] = np.inf
        limit = np.partition(about, last, axis=1)[:, last] + _ERROR * longest
        for i, own in enumerate(about <= limit[:, None]):
            near = np.flatnonzero(own)
            away = rows[near].astype(np.float64) - rows[start + i]
            order = np.argsort(np.square(away).sum(axis=1), kind="stable")[: last + 1]
            found[start + i, : last + 1] = near[order]
    return found


def cluster(
    features: NDArray[np.floating], n_clusters: int, *, seed: int = 0
) -> NDArray[np.int32]:
    """The k-means cluster of each row (n, d): the best of 10 starts.

    Raises:
        MapError: `n_clusters` is not in 1..n.
    """
    return np.asarray(_k_means(features, n_clusters, seed).labels_, dtype=np.int32)


def cluster_centers(
    rows: NDArray[np.float32], n_clusters: int, *, seed: int = 0
) -> NDArray[np.float64]:
    """Centers (k, d) of the k-means clusters of a sample (n, d), the largest first.

    Of clusters of one size the one with the first row comes first. Where rows are equal
    there may be fewer than were asked for.

    Raises:
        MapError: `n_clusters` is not in 1..n.
    """
    centers = _k_means(rows, n_clusters, seed).cluster_centers_.astype(np.float64)
    own = nearest_centers(rows, centers)
    sizes = np.bincount(own, minlength=len(centers))
    first = np.full(len(centers), len(rows))
    np.minimum.at(first, own, np.arange(len(rows)))
    order = np.lexsort((first, -sizes))
    return np.ascontiguousarray(centers[order[: (sizes > 0).sum()]])


def nearest_centers(
    rows: NDArray[np.float32], centers: NDArray[np.float64]
) -> NDArray[np.int64]:
    """The nearest of some centers (k, d) to each row (n, d), the first of equal ones.

    Each distance is summed in float64, row by row: none depends on the other rows.

    >>> nearest_centers(np.float32([[0, 1], [2, 2]]), np.array([[0, 0], [3.0, 3.0]]))
    array([0, 1])
    """
    found = np.empty(len(rows), np.int64)
    for start in range(0, len(rows), _BLOCK_ROWS):
        some = rows[start : start + _BLOCK_ROWS].astype(np.float64)
        squares = [np.square(some - center).sum(axis=1) for center in centers]
        found[start : start + len(some)] = np.argmin(squares, axis=0)
    return found


def _k_means(features: NDArray[np.floating], n_clusters: int, seed: int) -> Any:  # noqa: ANN401
    if not 1 <= n_clusters <= len(features):
        message = f"{n_clusters} clusters of {len(features)} points: give 1 to as many"
        raise MapError(message)
    from sklearn.cluster import KMeans  # noqa: PLC0415  (slow)
    from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415
    from threadpoolctl import threadpool_limits  # noqa: PLC0415

    # Sums of several threads do not repeat; that equal rows make fewer is no news.
    with threadpool_limits(1), catch_warnings():
        filterwarnings("ignore", "Number of distinct clusters", ConvergenceWarning)
        return KMeans(n_clusters, n_init=10, random_state=seed).fit(features)


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
    for start in range(0, len(places), _SEARCHED_ROWS):
        rows = slice(start, start + _SEARCHED_ROWS)
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
