"""Fitting a map: principal components, the neighbor graph and UMAP's layout."""

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from raylatent.errors import MapError
from raylatent.mapping.fitted_map import (
    FORMAT_VERSION,
    KEYS,
    LOWER_PERCENTILE,
    MARGIN,
    NEAREST,
    ROW_ENGINE,
    UMAP_ENGINE,
    UPPER_PERCENTILE,
    FittedMap,
    Frame,
    check_features,
    fit_frame,
    library_versions,
    normalize,
)
from raylatent.mapping.umap_learn import (
    ROW_METRICS,
    MapParameters,
    make_umap,
    metric_distances,
    run_umap,
    umap_curve,
)

if TYPE_CHECKING:
    from raylatent.mapping.sample_index import Projection, Sample


logger = logging.getLogger(__name__)

MAX_SAMPLE_BYTES = 1 << 30
KNN_PERCENTILE = 99.9

_THRESHOLD_ROWS = 2_000  # of the slow metrics
MIN_DISTINCT = 8
"""With fewer distinct rows a neighbor graph says nothing: principal components do."""

_MAX_COORDINATE = 10.0  # as umap-learn scales its start

MAX_COMPONENTS = 64

_BLOCK_ROWS = 2048
# Directions with less than this share of the largest variance are rounding noise.
_NULL_SHARE = 1e-10


@dataclass(frozen=True, kw_only=True, eq=False)
class _Fit:
    """What fitting gives, whichever way: arrays, map.json's parts, distances."""

    arrays: dict[str, NDArray[Any]]
    layout: str
    placement: dict[str, Any]
    nearest: NDArray[np.float64]


def fit_map(
    features: NDArray[np.floating],
    params: MapParameters,
    keys: NDArray[np.uint64] | None = None,
) -> FittedMap:
    """Fit a map on the sample's activations.

    The same features and parameters give the same map on one type of CPU with one
    version of the libraries, whatever the number of threads.

    Args:
        features: Activations (n, d) of the sample, ascending by key. More than
            `MAX_SAMPLE_BYTES` are cut to the first rows, and map.json says so.
        params: What the map is to be.
        keys: Of these rows (n,), by which they are known when they are placed.

    Raises:
        MapError: There is no row, a value is not finite, or UMAP refuses.
    """
    rows = check_features(features)
    given = len(rows)
    if not given:
        message = "a map needs at least 1 row to be fitted on, and there are 0"
        raise MapError(message)
    rows = rows[: max(1, MAX_SAMPLE_BYTES // (4 * rows.shape[1]))]
    distinct = _distinct(normalize(rows, params.metric) if params.by_row else rows)
    if params.by_row or distinct < MIN_DISTINCT:
        result = _fit_by_row(rows, params, distinct)
    else:
        result = _fit_by_umap(rows, params)
    frame = fit_frame(result.arrays["embedding"])
    threshold = float(np.percentile(result.nearest, KNN_PERCENTILE))
    _check_finite(params, result, frame, threshold)
    info = {
        "format_version": FORMAT_VERSION,
        "versions": library_versions(),
        "parameters": params.as_json(),
        "n_features": rows.shape[1],
        "sample": {"rows": len(rows), "rows_given": given, "seed": params.seed},
        "layout": result.layout,
        "frame": {
            "lower": frame.lower.tolist(),
            "upper": frame.upper.tolist(),
            "percentiles": [LOWER_PERCENTILE, UPPER_PERCENTILE],
            "margin": MARGIN,
            "clipped": False,
        },
        "knn": {
            "metric": result.placement["metric"],
            "percentile": KNN_PERCENTILE,
            "threshold": threshold,
        },
        "placement": result.placement,
    }
    known = {} if keys is None else {KEYS: keys[: len(rows)]}
    return FittedMap(info=info, arrays={**result.arrays, **known})


def _check_finite(
    params: MapParameters, result: _Fit, frame: Frame, threshold: float
) -> None:
    """Refuse a map with NaN in it, as some metrics give for some rows."""
    for what, values in (
        ("places of the sample", result.arrays["embedding"]),
        ("frame", [frame.lower, frame.upper]),
        ("distances between sample rows", threshold),
    ):
        if not np.isfinite(values).all():
            message = (
                f"metric={params.metric!r} gives {what} that are not finite for these "
                f"{len(result.nearest)} rows: use another metric or more rows"
            )
            raise MapError(message)


def _fit_by_row(
    rows: NDArray[np.float32], params: MapParameters, distinct: int
) -> _Fit:
    """Principal components, exact neighbors, and UMAP's layout of those."""
    from raylatent.mapping.neighbors import neighbor_graph  # noqa: PLC0415  (numba)

    metric = _row_metric(params, distinct)
    projection, sample = projected_sample(normalize(rows, metric))
    reduced = np.ascontiguousarray(sample.reduced.T)
    k = max(1, min(params.n_neighbors, len(rows) - 1))
    halved = metric != "euclidean"
    index, distance, nearest = neighbor_graph(projection, sample, k, halved=halved)
    a, b = umap_curve(params)
    # The state of the random stream that every row draws.
    seed = params.option("transform_seed", params.seed)
    stream = np.random.default_rng(seed).integers(128, 2**32, size=3, dtype=np.int64)
    if distinct < MIN_DISTINCT:
        layout, embedding = "pca", _spread_out(reduced)
    else:
        layout = "umap"
        embedding = _embed(reduced, params, k, (index, distance))
    arrays = {
        **projection._asdict(),
        **sample._asdict(),
        "embedding": embedding,
        "stream": stream,
        NEAREST: nearest.astype(np.float32),
    }
    placement = {
        "engine": ROW_ENGINE,
        "metric": metric,
        "n_neighbors": k,
        "n_components": int(projection.components.shape[1]),
        "fit_epochs": params.fit_epochs(len(rows)),
        "epochs": params.placement_epochs,
        "a": a,
        "b": b,
        "learning_rate": params.option("learning_rate", 1.0) / 4.0,
        "repulsion": params.option("repulsion_strength", 1.0),
        "negative_rate": params.option("negative_sample_rate", 5),
        "local_connectivity": max(0.0, params.option("local_connectivity", 1.0) - 1.0),
        "mean_distance": float(distance[:, 1:].mean()) if k > 1 else 0.0,
        "halved": halved,
    }
    return _Fit(arrays=arrays, layout=layout, placement=placement, nearest=nearest)


def _row_metric(params: MapParameters, distinct: int) -> str:
    """The metric, or for rows too few to matter to umap-learn one by row; that is said."""
    metric = params.metric if params.metric in ROW_METRICS else "euclidean"
    if not params.by_row:
        logger.warning(
            "only %d sample rows are distinct: they are placed by row, with the metric "
            "%s, and not by umap-learn with %s",
            *(distinct, metric, params.metric),
        )
    return metric


def _embed(
    reduced: NDArray[np.float64],
    params: MapParameters,
    k: int,
    neighbors: tuple[NDArray[np.int32], NDArray[np.float32]],
) -> NDArray[np.float32]:
    """UMAP's layout of the sample."""
    model = make_umap(
        params,
        metric="euclidean",
        n_neighbors=k,
        n_epochs=params.fit_epochs(len(reduced)),
        init=params.option("init", "spectral"),
        precomputed_knn=neighbors,
    )
    run_umap(model, reduced.astype(np.float32))
    embedding = np.ascontiguousarray(model.embedding_, dtype=np.float32)
    if not np.isfinite(embedding).all():
        bad = int((~np.isfinite(embedding).all(axis=1)).sum())
        message = (
            f"UMAP gave no finite place to {bad} of {len(embedding)} sample rows: try "
            "a smaller learning_rate"
        )
        raise MapError(message)
    return embedding


def _fit_by_umap(rows: NDArray[np.float32], params: MapParameters) -> _Fit:
    """For metrics that no normalization makes Euclidean: all by umap-learn."""
    k = min(params.n_neighbors, len(rows) - 1)
    model = make_umap(
        params,
        metric=params.metric,
        metric_kwds=params.option("metric_kwds", {}),
        n_neighbors=k,
        n_epochs=params.fit_epochs(len(rows)),
        init=params.option("init", "spectral"),
    )
    run_umap(model, rows)
    first = rows[:_THRESHOLD_ROWS]
    own = metric_distances(model, first, rows)
    own[np.arange(len(first)), np.arange(len(first))] = np.inf
    a, b = umap_curve(params)
    return _Fit(
        arrays={
            "rows": rows,
            "embedding": np.ascontiguousarray(model.embedding_, dtype=np.float32),
        },
        layout="umap",
        placement={
            "engine": UMAP_ENGINE,
            "metric": params.metric,
            "n_neighbors": k,
            "fit_epochs": params.fit_epochs(len(rows)),
            "epochs": params.placement_epochs,
            "a": a,
            "b": b,
        },
        nearest=own.min(axis=1),
    )


def _spread_out(reduced: NDArray[np.float64]) -> NDArray[np.float32]:
    """The first two principal components, scaled as umap-learn's start."""
    plane = np.zeros((len(reduced), 2))
    plane[:, : min(2, reduced.shape[1])] = reduced[:, :2]
    largest = np.abs(plane).max()
    if largest > 0:
        plane *= _MAX_COORDINATE / largest
    return plane.astype(np.float32)


def _distinct(rows: NDArray[np.float32]) -> int:
    """The number of distinct rows, counted only as far as it matters."""
    seen: set[bytes] = set()
    for row in rows:
        seen.add(row.tobytes())
        if len(seen) >= MIN_DISTINCT:
            break
    return len(seen)


def projected_sample(rows: NDArray[np.float32]) -> tuple["Projection", "Sample"]:
    """A projection of normalized rows (n, d) to principal components, and they along it."""
    from raylatent.mapping import sample_index  # noqa: PLC0415  (numba)

    mean, components = principal_components(rows)
    projection = sample_index.Projection(mean, components, mean @ components)
    reduced, residual, spread = sample_index.project(rows, projection)
    along = np.ascontiguousarray(reduced.T)
    return projection, sample_index.Sample(rows, along, residual, spread)


def principal_components(
    rows: NDArray[np.float32],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Principal components of rows (n, d): at most min(64, d, n - 1), at least 1.

    The mean (d,), and orthonormal columns (d, m), largest variance first; in each the
    entry of largest magnitude is positive. Directions without variance are left out;
    where none has any, the one component is the first axis. Computed in float64 by one
    thread, so that it repeats.

    >>> principal_components(np.zeros((3, 5), np.float32))[1].shape
    (5, 1)
    """
    from threadpoolctl import threadpool_limits  # noqa: PLC0415  (with umap-learn)

    n, d = rows.shape
    mean = rows.mean(axis=0, dtype=np.float64)
    limit = max(1, min(MAX_COMPONENTS, d, n - 1))
    with threadpool_limits(1):
        scatter = _scatter(rows, mean) if d <= n else _gram(rows, mean)
        value, vector = np.linalg.eigh(scatter)
        order = np.argsort(value, kind="stable")[::-1][:limit]
        order = order[value[order] > _NULL_SHARE * max(value.max(), 0.0)]
        vector = vector[:, order]
        components = vector if d <= n else _lift(rows, mean, vector)
    if not len(order):
        components = np.eye(d, 1)
    columns = np.arange(components.shape[1])
    sign = np.sign(components[np.abs(components).argmax(axis=0), columns])
    return mean, np.ascontiguousarray(components * sign)


def _scatter(
    rows: NDArray[np.float32], mean: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Centered scatter (d, d)."""
    total = np.zeros((rows.shape[1], rows.shape[1]))
    for start in range(0, len(rows), _BLOCK_ROWS):
        block = rows[start : start + _BLOCK_ROWS] - mean
        total += block.T @ block
    return total


def _gram(rows: NDArray[np.float32], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centered inner products (n, n): the smaller problem where d > n."""
    centered = rows - mean
    gram: NDArray[np.float64] = centered @ centered.T
    return gram


def _lift(
    rows: NDArray[np.float32], mean: NDArray[np.float64], vector: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Orthonormal directions (d, m) of the gram matrix's eigenvectors (n, m)."""
    lifted = (rows - mean).T @ vector
    orthonormal, _ = np.linalg.qr(lifted)
    return np.asarray(orthonormal, dtype=np.float64)
