"""Placing by umap-learn's own `transform`, for metrics without a row-wise form."""

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray


def transform_by_umap(
    model: Any,  # noqa: ANN401
    sample: NDArray[np.float32],
    rows: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Places (n, 2) and nearest distances (n,) by umap-learn's own transform.

    A sample row goes ahead as sentinel: its weight of 1 sets the scale that otherwise
    would be the batch's. Rows equal to sample rows take the first one's place.
    """
    from threadpoolctl import threadpool_limits  # noqa: PLC0415  (with umap-learn)

    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        xy = model.transform(np.concatenate([sample[:1], rows]))[1:].astype(np.float32)
    first: dict[bytes, int] = {}
    for i, row in enumerate(sample):
        first.setdefault(row.tobytes(), i)
    nearest = np.empty(len(rows), dtype=np.float32)
    for start in range(0, len(rows), 512):
        block = rows[start : start + 512]
        nearest[start : start + 512] = metric_distances(model, block, sample).min(
            axis=1
        )
    for i, row in enumerate(rows):
        if (equal := first.get(row.tobytes())) is not None:
            xy[i] = model.embedding_[equal]
            nearest[i] = 0.0
    return xy, nearest


def metric_distances(
    model: Any,  # noqa: ANN401
    rows: NDArray[np.float32],
    sample: NDArray[np.float32],
) -> NDArray[np.float64]:
    """The metric's distances (q, n), by scikit-learn's or else umap-learn's code."""
    from sklearn.metrics import pairwise_distances  # noqa: PLC0415  (slow)
    from sklearn.metrics.pairwise import (  # noqa: PLC0415
        PAIRWISE_DISTANCE_FUNCTIONS,
    )

    metric = model.metric
    if metric not in PAIRWISE_DISTANCE_FUNCTIONS and metric not in {
        "braycurtis",
        "canberra",
        "chebyshev",
        "minkowski",
    }:
        metric = model._input_distance_func
    keywords = model.metric_kwds or {}
    with np.errstate(all="ignore"):  # what is not finite is refused by `fit_map`
        distances = pairwise_distances(rows, sample, metric=metric, **keywords)
    return np.asarray(distances, dtype=np.float64)
