"""A fitted map: what it was asked to be, plain arrays, and a JSON object.

What it was asked to be are parameters of UMAP; those that cannot be are refused.
"""

import io
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from raylatent.config import PLACEMENTS
from raylatent.errors import MapError
from raylatent.seal import FILES, content_digest

LOWER_PERCENTILE = 1.0
UPPER_PERCENTILE = 99.0
MARGIN = 0.1
FORMAT_VERSION = 1
MODEL_NPZ = "model.npz"
ROW_ENGINE = "raylatent-rows"
UMAP_ENGINE = "umap-learn"

_PACKAGES = (
    *("numpy", "numba", "scipy", "scikit-learn", "umap-learn", "pynndescent"),
    "raylatent",
)
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


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """A range on each axis.

    Attributes:
        lower: Per axis (2,), becomes 0.
        upper: Per axis (2,), becomes 1.
    """

    lower: NDArray[np.floating]
    upper: NDArray[np.floating]

    def apply(self, layout: NDArray[np.floating]) -> NDArray[np.floating]:
        """Clip points (n, 2) to the frame and scale it to [0, 1] on each axis.

        An axis without extent becomes 0.
        """
        clipped = np.clip(layout, self.lower, self.upper)
        extent = self.upper - self.lower
        scale = np.where(extent > 0, extent, np.ones_like(extent))
        scaled: NDArray[np.floating] = (clipped - self.lower) / scale
        return scaled


def fit_frame(layout: NDArray[np.floating]) -> Frame:
    """The frame of points (n, 2), in their dtype.

    Raises:
        MapError: There is no point.

    >>> frame = fit_frame(np.array([[0.0, 0.0], [1.0, 2.0]]))
    >>> frame.apply(np.array([[-9.0, 9.0]])).tolist()
    [[0.0, 1.0]]
    """
    if not len(layout):
        message = "a frame needs at least 1 point, and the layout has 0"
        raise MapError(message)
    ordered = np.sort(layout, axis=0)
    lower = _percentile(ordered, LOWER_PERCENTILE)
    upper = _percentile(ordered, UPPER_PERCENTILE)
    # The second margin is of the range that the first one widened: so in Slideflow.
    lower -= MARGIN * (upper - lower)
    upper += MARGIN * (upper - lower)
    return Frame(lower=lower, upper=upper)


def _percentile(ordered: NDArray[np.floating], percentile: float) -> NDArray[Any]:
    """A percentile of sorted points (n, 2), interpolated in their dtype throughout.

    So did the numpy that Slideflow runs on. Later ones find the position between two
    points in float64, which gives other last digits.
    """
    kind = ordered.dtype.type
    position = kind(len(ordered) - 1) * (kind(percentile) / kind(100))
    below = int(position)
    share = position - kind(below)
    low = ordered[below]
    high = ordered[min(below + 1, len(ordered) - 1)]
    step = high - low
    result = low + step * share if share < 0.5 else high - step * (kind(1) - share)
    return np.asarray(result)


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedMap:
    """A map on which rows can be placed.

    Attributes:
        info: The content of map.json: what the map was fitted with, and how rows are
            placed on it.
        arrays: What the placement needs, by name. `embedding`, float32 (n, 2), is the
            place of each sample row; the sample is in ascending order of its keys.
    """

    info: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]

    @property
    def parameters(self) -> MapParameters:
        """What the map was asked to be."""
        return MapParameters.from_json(self.info["parameters"])

    @property
    def embedding(self) -> NDArray[np.float32]:
        """Places of the sample rows, float32 (n, 2)."""
        return self.arrays["embedding"]

    @property
    def n_features(self) -> int:
        """Length of the rows that can be placed."""
        return int(self.info["n_features"])

    @property
    def knn_threshold(self) -> float:
        """The 99.9th percentile of the sample's own nearest distances.

        A row whose `knn_distance` is above it is unlike nearly all of the sample.
        """
        return float(self.info["knn"]["threshold"])

    @property
    def frame(self) -> Frame:
        """The frame that takes places to [0, 1], as Slideflow's maps have it."""
        frame = self.info["frame"]
        return Frame(
            lower=np.array(frame["lower"], dtype=np.float32),
            upper=np.array(frame["upper"], dtype=np.float32),
        )

    def with_info(self, **values: Any) -> "FittedMap":  # noqa: ANN401
        """The same map with more in map.json, such as the layer's name."""
        return FittedMap(info={**self.info, **values}, arrays=self.arrays)

    def place(
        self, features: NDArray[np.floating]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Place rows, each by itself: no bit depends on the rows beside it.

        (With the engine `umap-learn`, for metrics that are not Euclidean, a row can
        depend on its batch in the last bits; map.json names the engine.)

        Args:
            features: Activations (n, n_features).

        Returns:
            Places float32 (n, 2), and the metric's distance in all features to the
            closest sample row, float32 (n,): 0 for a row of the sample, which keeps
            its place.

        Raises:
            MapError: Another number of features, or values that are not finite.
        """
        rows = check_features(features)
        if rows.shape[1] != self.n_features:
            message = (
                f"rows of {rows.shape[1]} features do not fit a map of "
                f"{self.n_features} features: use the layer that it was fitted on"
            )
            raise MapError(message)
        if not len(rows):
            return np.zeros((0, 2), np.float32), np.zeros(0, np.float32)
        if self.info["placement"]["engine"] == UMAP_ENGINE:
            from raylatent.mapping import umap_learn  # noqa: PLC0415  (slow)

            return umap_learn.transform_by_umap(self._umap, self.arrays["rows"], rows)
        from raylatent.mapping.place import place_rows  # noqa: PLC0415  (numba)

        normalized = normalize(rows, self.info["placement"]["metric"])
        xy, distance = place_rows(normalized, *self._model)
        return xy, distance

    @cached_property
    def _model(self) -> tuple[Any, Any, Any, Any]:
        from raylatent.mapping import place, sample_index  # noqa: PLC0415  (numba)

        placement, arrays = self.info["placement"], self.arrays
        kinds = place.Layout.__annotations__.items()
        layout = place.Layout(
            xy=np.ascontiguousarray(self.embedding, dtype=np.float64),
            stream=np.ascontiguousarray(arrays["stream"]),
            **{name: of(placement[name]) for name, of in kinds if name in placement},
        )
        there = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        names = sample_index.Projection._fields, sample_index.Sample._fields
        plane = sample_index.Projection(*(there[name] for name in names[0]))
        sample = sample_index.Sample(*(there[name] for name in names[1]))
        return plane, sample, sample_index.screen_of(sample, plane), layout

    @cached_property
    def _umap(self) -> Any:  # noqa: ANN401  (umap-learn has no types)
        from raylatent.mapping.umap_learn import restore_umap  # noqa: PLC0415  (slow)

        return restore_umap(self.parameters, self.info["placement"], self.arrays)

    def __getstate__(self) -> dict[str, Any]:
        """Travel without what is made anew from the arrays."""
        return {"info": self.info, "arrays": self.arrays}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over info and arrays."""
        self.__dict__.update(state)

    def model_file(self) -> bytes:
        """The content of model.npz: all arrays, without pickle."""
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **self.arrays)
        return buffer.getvalue()

    @cached_property
    def digest(self) -> str:
        """Of model.npz: tells this map from others."""
        return model_digest(self.info) or content_digest(self.model_file())


def model_digest(info: Mapping[str, Any]) -> str | None:
    """The digest of model.npz, None in a map.json without it, as of points alone."""
    files = info.get(FILES)
    return str(files[MODEL_NPZ]) if isinstance(files, dict) and files else None


def library_versions(packages: Iterable[str] = _PACKAGES) -> dict[str, str]:
    """Versions of packages that are installed, by default of those that decide a map."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def normalize(features: NDArray[np.floating], metric: str) -> NDArray[np.float32]:
    """Normalize each row (n, d) by itself, as the metric does.

    `euclidean` leaves it, `cosine` scales it to length 1, `correlation` centers it
    first. A row without length stays zero. Sums run over the features in order, row by
    row alike, so a row's result never depends on the rows beside it.

    Raises:
        MapError: Not an (n, d) array with d > 0, values that are not finite, or
            another metric.

    >>> normalize(np.array([[3.0, 4.0]]), "cosine").tolist()
    [[0.6000000238418579, 0.800000011920929]]
    """
    rows = check_features(features)
    if metric not in ROW_METRICS:
        message = f"metric {metric!r} has no row-wise form: {sorted(ROW_METRICS)} have"
        raise MapError(message)
    if metric == "euclidean":
        return rows
    from raylatent.mapping.place import unit_rows  # noqa: PLC0415  (numba)

    return unit_rows(rows, metric == "correlation")


def check_features(features: NDArray[np.floating]) -> NDArray[np.float32]:
    """Features as contiguous float32 (n, d).

    Raises:
        MapError: Not an (n, d) array with d > 0, or values that are not finite.
    """
    rows = np.ascontiguousarray(features, dtype=np.float32)
    if rows.ndim != 2 or rows.shape[1] == 0:
        message = f"features have shape {rows.shape}: give an array (rows, features)"
        raise MapError(message)
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        message = (
            f"features of row {int(np.argmin(finite))} are not finite, as are "
            f"{int((~finite).sum())} of {len(rows)} rows: leave them out"
        )
        raise MapError(message)
    return rows
