"""A fitted map: plain arrays and a JSON object, and how rows are normalized for it."""

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raylatent.errors import MapError
from raylatent.mapping.umap_learn import (
    ROW_METRICS,
    MapParameters,
    restore_umap,
    transform_by_umap,
)
from raylatent.seal import FILES, content_digest

LOWER_PERCENTILE = 1.0
UPPER_PERCENTILE = 99.0
MARGIN = 0.1
FORMAT_VERSION = 1
MODEL_NPZ = "model.npz"
ROW_ENGINE = "raylatent-rows"
UMAP_ENGINE = "umap-learn"
KEYS, NEAREST = "keys", "nearest"
"""Of sample rows: their keys, ascending, and the distance to the closest other row."""

_PACKAGES = (
    *("numpy", "numba", "scipy", "scikit-learn", "umap-learn", "pynndescent"),
    "raylatent",
)


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
        self, features: NDArray[np.floating], keys: NDArray[np.uint64] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Place rows, each by itself: no bit depends on the rows beside it.

        (With the engine `umap-learn`, for metrics that are not Euclidean, a row can
        depend on its batch in the last bits; map.json names the engine.)

        Args:
            features: Activations (n, n_features).
            keys: Of the rows' tiles (n,), see `mapping.sample`: a row of the sample is
                known by its key.

        Returns:
            Places float32 (n, 2), and the metric's distance in all features to the
            closest sample row, float32 (n,): of a row of the sample to the closest
            other one. A row of the sample keeps its place.

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
        own = self._of_sample(keys, len(rows))
        if self.info["placement"]["engine"] == UMAP_ENGINE:
            return transform_by_umap(self._umap, self.arrays["rows"], rows, own)
        from raylatent.mapping.place import place_rows  # noqa: PLC0415  (numba)

        normalized = normalize(rows, self.info["placement"]["metric"])
        xy, distance = place_rows(normalized, *self._model)
        known = own >= 0
        distance[known] = self.arrays[NEAREST][own[known]] if known.any() else 0.0
        return xy, distance

    def _of_sample(self, keys: NDArray[np.uint64] | None, n: int) -> NDArray[np.int64]:
        """Which row of the sample each of n rows is, -1 where it is none."""
        known = self.arrays.get(KEYS)
        if keys is None or known is None:
            return np.full(n, -1)
        at = np.minimum(np.searchsorted(known, keys), len(known) - 1)
        return np.where(known[at] == keys, at, -1)

    @property
    def sample_metric(self) -> str:
        """By which rows are normalized to be comparable with the sample's `rows`."""
        placement = self.info["placement"]
        by_row = placement["engine"] == ROW_ENGINE
        return str(placement["metric"]) if by_row else "euclidean"

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
