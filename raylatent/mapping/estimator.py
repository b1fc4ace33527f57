"""umap-learn's estimator, seeded and on one thread: the only module that imports it."""

import logging
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raylatent.caches import use_private_caches
from raylatent.errors import MapError
from raylatent.mapping.parameters import MapParameters

logger = logging.getLogger(__name__)


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
    with threadpool_limits(1), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model.fit(rows)
        except ValueError as error:
            message = f"UMAP refuses metric={model.metric!r} on these rows: {error}"
            raise MapError(message) from error
    for warning in caught:
        logger.debug("umap-learn: %s", warning.message)


def restore_umap(
    params: MapParameters,
    placement: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]],
) -> Any:  # noqa: ANN401
    """umap-learn's estimator as it was fitted, from a map's arrays.

    Its neighbor index is made anew from the same rows and seed; its layout is not
    computed again but taken from the map.

    Args:
        params: What the map was asked to be.
        placement: Of map.json.
        arrays: `rows` (n, d) of the sample and its `embedding` (n, 2).
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
