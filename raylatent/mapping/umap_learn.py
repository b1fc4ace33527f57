"""umap-learn's estimator and its `transform`: the only module that imports umap-learn.

Metrics without a row-wise form are placed by `transform`.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from inspect import signature
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from raylatent.caches import use_private_caches
from raylatent.errors import MapError
from raylatent.mapping.fitted_map import MapParameters

logger = logging.getLogger(__name__)

_OF_SCIPY = ("braycurtis", "canberra", "chebyshev", "minkowski")  # by scikit-learn


def make_umap(params: MapParameters, **values: Any) -> Any:  # noqa: ANN401
    """umap-learn's estimator, seeded and on one thread."""
    use_private_caches()
    import umap  # noqa: PLC0415  (slow)

    other = {
        name: value
        for name, value in params.other
        if name not in {"n_epochs", "init", "transform_seed", "metric_kwds"}
    }
    return umap.UMAP(
        n_components=2,
        min_dist=params.min_dist,
        random_state=params.seed,
        transform_seed=params.option("transform_seed", params.seed),
        n_jobs=1,
        **other,
        **values,
    )


def run_umap(model: Any, rows: NDArray[np.float32]) -> None:  # noqa: ANN401
    """Fit on one thread: the spectral start depends on the number of BLAS threads."""
    from threadpoolctl import threadpool_limits  # noqa: PLC0415  (with umap-learn)

    # What umap-learn warns of (no search index, parts of the graph that do not
    # connect, a seed that forbids threads) is either wanted here or dealt with.
    with (
        threadpool_limits(1),
        _seeded_arpack(model.random_state),
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        try:
            model.fit(rows)
        except ValueError as error:
            message = f"UMAP refuses metric={model.metric!r} on these rows: {error}"
            raise MapError(message) from error
    for warning in caught:
        logger.debug("umap-learn: %s", warning.message)


@contextmanager
def _seeded_arpack(seed: int) -> Iterator[None]:
    """Let ARPACK start again from a seed where it has to.

    From SciPy 1.17 on it otherwise starts again from numbers that no seed decides, as
    for the start of a map whose neighbor graph has more than four parts.
    """
    from scipy.sparse import linalg  # noqa: PLC0415  (slow)
    from sklearn.manifold import _spectral_embedding  # noqa: PLC0415  (slow)

    if "rng" not in signature(linalg.eigsh).parameters:
        yield
        return
    seeded = partial(linalg.eigsh, rng=seed)
    with (
        patch.object(linalg, "eigsh", seeded),
        patch.object(_spectral_embedding, "eigsh", seeded),
    ):
        yield


def restore_umap(
    params: MapParameters,
    placement: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]],
) -> Any:  # noqa: ANN401
    """umap-learn's estimator as it was fitted, from a map.json's placement and arrays.

    Its neighbor index is made anew from the same rows and seed; its layout is not
    computed again but taken from the map.
    """
    model = make_umap(
        params,
        metric=params.metric,
        metric_kwds=params.option("metric_kwds", {}),
        n_neighbors=placement["n_neighbors"],
        n_epochs=0,
        init="random",
    )
    run_umap(model, arrays["rows"])
    model.embedding_ = arrays["embedding"]
    # transform() takes a third of these; and never the rows for the sample itself.
    model.n_epochs = 3 * placement["epochs"]
    model._input_hash = None
    return model


def umap_curve(params: MapParameters) -> tuple[float, float]:
    """The parameters a and b of the layout's curve."""
    a, b = params.option("a", None), params.option("b", None)
    if a is None or b is None:
        use_private_caches()
        from umap.umap_ import find_ab_params  # noqa: PLC0415  (slow)

        a, b = find_ab_params(params.option("spread", 1.0), params.min_dist)
    return float(a), float(b)


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
        distances = metric_distances(model, rows[start : start + 512], sample)
        nearest[start : start + 512] = distances.min(axis=1)
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
    if metric not in {*PAIRWISE_DISTANCE_FUNCTIONS, *_OF_SCIPY}:
        metric = model._input_distance_func
    keywords = model.metric_kwds or {}
    with np.errstate(all="ignore"):  # what is not finite is refused by `fit_map`
        distances = pairwise_distances(rows, sample, metric=metric, **keywords)
    return np.asarray(distances, dtype=np.float64)
