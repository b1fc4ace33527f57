"""UMAP's parameters, and umap-learn: no other module imports it.

Parameters that cannot be are refused. Metrics without a row-wise form are placed by
umap-learn's `transform`.
"""

import json
import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from inspect import signature
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from raylatent.caches import use_private_caches
from raylatent.config import PLACEMENTS
from raylatent.errors import MapError

logger = logging.getLogger(__name__)

_ALIASES = {"l2": "euclidean"}

ROW_METRICS = frozenset({"euclidean", "cosine", "correlation"})
"""Metrics that become a Euclidean distance once each row is normalized by itself."""

METRICS = ROW_METRICS | {
    *("braycurtis", "canberra", "chebyshev", "dice", "hamming", "haversine"),
    *("hellinger", "jaccard", "kulsinski", "l1", "linf", "linfinity", "linfty"),
    *("mahalanobis", "manhattan", "matching", "minkowski", "rogerstanimoto"),
    *("russellrao", "seuclidean", "sokalmichener", "sokalsneath"),
    *("standardised_euclidean", "symmetric_kl", "taxicab", "weighted_minkowski"),
    *("wminkowski", "yule"),
}
"""Metrics by name; those of `ROW_METRICS` are placed row by row."""

_INITS = frozenset({"spectral", "pca", "random"})

# Smallest and largest value of umap-learn's other numbers.
_NUMBERS: dict[str, tuple[float, float]] = {
    "a": (0.0, math.inf),
    "b": (0.0, math.inf),
    "learning_rate": (0.0, math.inf),
    "local_connectivity": (0.0, math.inf),
    "n_epochs": (1, math.inf),
    "negative_sample_rate": (0, math.inf),
    "repulsion_strength": (0.0, math.inf),
    "set_op_mix_ratio": (0.0, 1.0),
    "spread": (0.0, math.inf),
    "transform_seed": (0, 2**32 - 1),
}
_WHOLE = frozenset({"n_epochs", "negative_sample_rate", "transform_seed"})
# These choose how umap-learn works, not what it computes here.
_WITHOUT_EFFECT = frozenset(
    (
        *("angular_rp_forest", "force_approximation_algorithm", "low_memory"),
        *("n_jobs", "tqdm_kwds", "transform_queue_size", "verbose"),
    )
)
# What is refused but where its value says that it is off.
_OFF = frozenset({"densmap", "output_dens", "unique"})
_REFUSED = {
    "densmap": "a density-preserving map cannot place rows one by one",
    "disconnection_distance": "rows cut off would have no place",
    "precomputed_knn": "neighbors are found here, exactly",
    "transform_mode": "a map is an embedding",
    "unique": "equal rows share a place anyway",
    **dict.fromkeys(
        ("dens_frac", "dens_lambda", "dens_var_shift", "output_dens"),
        "it belongs to densmap",
    ),
    **dict.fromkeys(
        ("output_metric", "output_metric_kwds"), "maps are Euclidean planes"
    ),
    **dict.fromkeys(
        (
            *("target_metric", "target_metric_kwds", "target_n_neighbors"),
            "target_weight",
        ),
        "maps are not supervised",
    ),
}
_OF_SCIPY = ("braycurtis", "canberra", "chebyshev", "minkowski")  # by scikit-learn


@dataclass(frozen=True, kw_only=True)
class MapParameters:
    """How a map is fitted and rows are placed on it.

    Defaults are Slideflow's where it has them.

    Attributes:
        n_neighbors: Of UMAP, at least 2; capped at one less than the sample has rows.
        min_dist: Of UMAP, 0 to `spread`.
        metric: Of UMAP, one of `METRICS`.
        seed: Of sample, fit and placement, 0 to 2**32 - 1.
        sample: Rows that the map is fitted on, at most.
        placement_epochs: Of the descent that places a row.
        placement: `rows`, each by itself, or `umap-learn`: by its own transform, which
            is slower, and where a row depends on its batch.
        other: Other UMAP arguments, as sorted pairs of name and value.
    """

    n_neighbors: int = 50
    min_dist: float = 0.1
    metric: str = "cosine"
    seed: int = 42
    sample: int = 20_000
    placement_epochs: int = 30
    placement: str = "rows"
    other: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot be fitted, or cannot be placed by row.

        Raises:
            MapError: Names the argument and its value.
        """
        metric = _ALIASES.get(self.metric, self.metric)
        object.__setattr__(self, "metric", metric)
        if metric not in METRICS:
            message = f"metric={metric!r} is not one of {', '.join(sorted(METRICS))}"
            raise MapError(message)
        for name, low, high in (
            ("n_neighbors", 2, math.inf),
            ("seed", 0, 2**32 - 1),
            ("sample", 1, math.inf),
            ("placement_epochs", 1, math.inf),
        ):
            _check_number(name, getattr(self, name), low, high, whole=True)
        if self.placement not in PLACEMENTS:
            message = f"placement={self.placement!r} is not {' or '.join(PLACEMENTS)}"
            raise MapError(message)
        given = dict(self.other)
        for name, value in given.items():
            _check_other(name, value)
        _check_number("min_dist", self.min_dist, 0.0, given.get("spread", 1.0))
        object.__setattr__(self, "other", tuple(sorted(given.items())))

    @classmethod
    def of(cls, **keywords: Any) -> Self:  # noqa: ANN401  (as umap-learn takes them)
        """Parameters from UMAP's keyword arguments, `random_state` being the seed.

        Raises:
            MapError: An argument is unknown, refused or out of range.

        >>> MapParameters.of(n_neighbors=10, spread=2.0).other
        (('spread', 2.0),)
        """
        values = {  # numpy's scalars as Python's own
            name: value.item() if hasattr(value, "item") else value
            for name, value in keywords.items()
        }
        if "random_state" in values:
            seed = values.pop("random_state")
            if seed is not None:
                values["seed"] = seed
        if values.pop("n_components", 2) != 2:
            message = (
                f"n_components={keywords['n_components']!r} is refused: maps have 2 "
                "dimensions"
            )
            raise MapError(message)
        names = ("n_neighbors", "min_dist", "metric", "seed", "sample")
        own = {
            name: values.pop(name)
            for name in (*names, "placement_epochs", "placement")
            if name in values
        }
        other = {
            name: value
            for name, value in values.items()
            if name not in _WITHOUT_EFFECT and not (name in _OFF and value in (False,))
        }
        return cls(**own, other=tuple(sorted(other.items())))

    @property
    def by_row(self) -> bool:
        """Whether rows are placed by the row-wise kernel (else by umap-learn)."""
        return self.placement == "rows" and self.metric in ROW_METRICS

    def option(self, name: str, default: Any) -> Any:  # noqa: ANN401
        """The value of another UMAP argument, or the default where it is None."""
        value = dict(self.other).get(name)
        return default if value is None else value

    def fit_epochs(self, n: int) -> int:
        """Epochs of the fit on n rows: umap-learn's own default, made explicit."""
        return int(self.option("n_epochs", 500 if n <= 10_000 else 200))

    def as_json(self) -> dict[str, Any]:
        """As a JSON object; `from_json` is the inverse."""
        return asdict(self) | {"other": dict(self.other)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """From `as_json`.

        >>> MapParameters.from_json(MapParameters().as_json()) == MapParameters()
        True
        """
        return cls(**{**values, "other": tuple(values["other"].items())})


def _check_number(
    name: str,
    value: Any,  # noqa: ANN401
    low: float,
    high: float,
    *,
    whole: bool = False,
) -> None:
    kinds = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds):
        kind = "a whole number" if whole else "a number"
        message = f"{name}={value!r} is not {kind}"
        raise MapError(message)
    if not low <= value <= high or not math.isfinite(value):
        limit = "" if math.isinf(high) else f" and at most {high}"
        message = f"{name}={value!r} is out of range: give at least {low}{limit}"
        raise MapError(message)


def _check_other(name: str, value: Any) -> None:  # noqa: ANN401
    if name in _REFUSED:
        message = f"the UMAP argument {name}={value!r} is refused: {_REFUSED[name]}"
        raise MapError(message)
    if name == "init":
        if value not in _INITS:
            message = f"init={value!r} is not one of {', '.join(sorted(_INITS))}"
            raise MapError(message)
    elif name == "metric_kwds":
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            message = f"metric_kwds={value!r} does not fit in JSON: {error}"
            raise MapError(message) from error
    elif name in _NUMBERS:
        if value is not None:
            _check_number(name, value, *_NUMBERS[name], whole=name in _WHOLE)
    else:
        known = sorted({*_NUMBERS, "init", "metric_kwds", "min_dist", "n_neighbors"})
        message = f"{name!r} is no UMAP argument that maps take: {', '.join(known)}"
        raise MapError(message)


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
    from unittest.mock import patch  # noqa: PLC0415  (slow)

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
    own: NDArray[np.int64],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Places (n, 2) and nearest distances (n,) by umap-learn's own transform.

    A sample row goes ahead as sentinel: its weight of 1 sets the scale that otherwise
    would be the batch's. Rows equal to sample rows take the first one's place. The
    distance to the sample row that a row is by `own` (n,), -1: none, does not count.
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
        known = np.flatnonzero(own[start : start + 512] >= 0)
        distances[known, own[start + known]] = np.inf
        nearest[start : start + 512] = distances.min(axis=1)
    for i, row in enumerate(rows):
        if (equal := first.get(row.tobytes())) is not None:
            xy[i] = model.embedding_[equal]
            nearest[i] = nearest[i] if own[i] >= 0 else 0.0
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
