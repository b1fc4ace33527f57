"""What a map is asked to be: UMAP's parameters, and which are refused."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from raylatent.config import PLACEMENTS
from raylatent.errors import MapError

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
