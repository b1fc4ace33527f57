"""Points of a mosaic, held in memory or stored, and the rule that chooses among them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from raylatent import schema
from raylatent.annotations import tidy
from raylatent.config import SELECTS
from raylatent.errors import MapError
from raylatent.mapping.labels import MOST_LABELS
from raylatent.montage.grid import Grid
from raylatent.source.names import SlideLabels, is_table, labels_of_slides, match
from raylatent.stable_hash import tile_hash

FEATURES = "features"
PREDICTIONS = "predictions"
LABELS = "labels"

T = TypeVar("T")


Labels = SlideLabels | Sequence[object]
"""By slide, or one for each point."""

TIES = ("hash", "row")
_SLIDEFLOW_SELECTS = {"centroid": "medoid"}

REFERENCE = pa.schema(
    [
        pa.field(schema.SLIDE, pa.string()),
        *(pa.field(column.name, column.type) for column in schema.REFERENCE),
    ]
)
"""Slide and reference of a tile; null for arrays."""


def select_of(word: str) -> str:
    """How a cell's tile is chosen, where Slideflow's word may be given.

    >>> select_of("centroid"), select_of("first")
    ('medoid', 'first')
    """
    return _SLIDEFLOW_SELECTS.get(word, word)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How a cell's tile is chosen.

    Attributes:
        select: `nearest` to the cell's center on the map, `medoid`: nearest to the mean
            of the cell in feature space, `first`: smallest (slide, tile index).
        ties: `hash`: the smallest hash of (seed, slide, tile index), so that the order
            of rows does not matter; `row`: the lowest row (`first`: the first row).
        seed: Of that hash.
        max_dist: Only tiles nearer to the cell's center than this, in cells.
    """

    select: str = "nearest"
    ties: str = "hash"
    seed: int = 0
    max_dist: float | None = None

    def __post_init__(self) -> None:
        """Refuse unknown words."""
        if self.select not in SELECTS:
            message = f"unknown select {self.select!r}: choose nearest, medoid or first"
            raise MapError(message)
        if self.ties not in TIES:
            message = f"unknown ties {self.ties!r}: choose hash or row"
            raise MapError(message)
        if self.max_dist is not None and not self.max_dist > 0:
            message = f"max_dist must be above 0 cells, not {self.max_dist}"
            raise MapError(message)


@dataclass(frozen=True, kw_only=True, eq=False)
class Points:
    """Some of a mosaic's points.

    Attributes:
        xy: Places on the map, shape (n, 2), float64; not finite ones are dropped.
        index: Which of all given points each is, shape (n,), int64.
        reference: Columns `slide` and `schema.REFERENCE`, n rows; None for arrays.
        labels: A label for each point, null where it has none.
        features: Activations, shape (n, d); for `medoid`.
        predictions: Shape (n, classes); None where there are none.
        knn_distance: To the sample that the map was fitted on, shape (n,), NaN where
            it is not known.
    """

    xy: NDArray[np.float64]
    index: NDArray[np.int64]
    reference: pa.Table | None = None
    labels: pa.Array | None = None
    features: NDArray[np.floating] | None = None
    predictions: NDArray[np.floating] | None = None
    knn_distance: NDArray[np.floating] | None = None

    @classmethod
    def of(
        cls,
        xy: NDArray[np.float64],
        *,
        reference: pa.Table | None = None,
        **columns: Any,  # noqa: ANN401  (arrays of n rows)
    ) -> "Points":
        """All points, numbered from 0; lacking reference columns become null.

        Args:
            xy: Shape (n, 2).
            reference: Slide and what else is known of `schema.REFERENCE`.
            **columns: As of the class: `labels`, `features`, and so on.
        """
        return cls(
            xy=np.asarray(xy, np.float64).reshape(-1, 2),
            index=np.arange(len(xy), dtype=np.int64),
            reference=None if reference is None else as_reference(reference),
            **columns,
        )

    def take(self, rows: NDArray[np.int64]) -> "Points":
        """Some of these points, which keep their `index`."""
        return Points(
            xy=self.xy[rows],
            index=self.index[rows],
            reference=None if self.reference is None else self.reference.take(rows),
            labels=None if self.labels is None else self.labels.take(pa.array(rows)),
            features=None if self.features is None else self.features[rows],
            predictions=None if self.predictions is None else self.predictions[rows],
            knn_distance=None if self.knn_distance is None else self.knn_distance[rows],
        )


def knn_distances(table: pa.Table) -> NDArray[np.floating] | None:
    """The column of points (n,), NaN for null; None where there is none."""
    if schema.KNN_DISTANCE not in table.column_names:
        return None
    column = table[schema.KNN_DISTANCE].cast(pa.float32())
    known: NDArray[np.floating] = column.to_numpy(zero_copy_only=False)
    return known


def as_reference(table: pa.Table) -> pa.Table:
    """The columns of `REFERENCE`, null where the table lacks them."""
    columns = []
    for column in REFERENCE:
        if column.name in table.column_names:
            columns.append(table[column.name].cast(column.type))
        else:
            columns.append(pa.nulls(len(table), column.type))
    return pa.table(columns, schema=REFERENCE)


def cell_ids(
    grid: Grid, xy: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids of the cells that points fall in, and which of the points do.

    An id is `row << 32 | column`.
    """
    rows, cols = grid.bin(xy)
    inside = np.flatnonzero(rows >= 0)
    return (rows[inside] << 32) | cols[inside], inside


def split_ids(ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of cell ids."""
    return ids >> 32, ids & 0xFFFFFFFF


def coded(cell: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The distinct ids of cells, ascending, and which of them each one is."""
    ids, code = np.unique(cell, return_inverse=True)
    return ids, code.astype(np.int64, copy=False)


def slide_codes(slides: pa.ChunkedArray) -> tuple[NDArray[np.int64], list[str]]:
    """For each row the rank of its slide's name among the names, and these."""
    encoded = slides.combine_chunks().dictionary_encode()
    order = pc.array_sort_indices(encoded.dictionary).to_numpy()
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    return ranks[codes], encoded.dictionary.take(pa.array(order)).to_pylist()


def tile_hashes(reference: pa.Table, seed: int) -> NDArray[np.uint64]:
    """The hash of each tile (n,) by seed, slide and tile index."""
    hashes = np.zeros(len(reference), np.uint64)
    codes, names = slide_codes(reference[schema.SLIDE])
    tiles = reference[schema.TILE_INDEX].to_numpy()
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(len(names) + 1))
    for name, start, stop in zip(names, starts, starts[1:], strict=False):
        rows = order[start:stop]
        hashes[rows] = tile_hash(seed, name, tiles[rows])
    return hashes


class Parts(ABC):
    """Points that may be gone through again and again."""

    @property
    def labels_of_tiles(self) -> bool:
        """Whether labels are the tiles' own, of which there may be any number."""
        return False

    @abstractmethod
    def read(self, *columns: str) -> Iterable[Points]:
        """All points in parts, with these of their columns if they have them."""

    def fold(
        self,
        work: Callable[[Points], T],
        merge: Callable[[T, T], T],
        columns: Iterable[str] = (),
    ) -> T:
        """What all parts say together: `merge` of `work`'s results, in any order."""
        return fold(self.read(*columns), work, merge)


def fold(
    parts: Iterable[Points], work: Callable[[Points], T], merge: Callable[[T, T], T]
) -> T:
    """The plain loop of `Parts.fold`."""
    return reduce(merge, map(work, parts))


@dataclass(frozen=True)
class ChangedParts(Parts):
    """Points of which every part is changed first, wherever it is gone through.

    Attributes:
        parts: The points.
        change: What is made of a part; it travels to workers.
        needs: The columns that it needs.
    """

    parts: Parts
    change: Callable[[Points], Points]
    needs: tuple[str, ...] = ()

    def read(self, *columns: str) -> Iterable[Points]:
        """See `Parts`."""
        return map(self.change, self.parts.read(*columns, *self.needs))

    def fold(
        self,
        work: Callable[[Points], T],
        merge: Callable[[T, T], T],
        columns: Iterable[str] = (),
    ) -> T:
        """As all of the parts are gone through."""
        own = partial(_work_on_changed, work=work, change=self.change)
        return self.parts.fold(own, merge, [*columns, *self.needs])


def _work_on_changed(
    points: Points, work: Callable[[Points], T], change: Callable[[Points], Points]
) -> T:
    return work(change(points))


def of_label(parts: Parts, label: str) -> Parts:
    """Those of some points that have a label; they keep their numbers."""
    return ChangedParts(parts, partial(_of_label, label=label), (LABELS,))


def _of_label(points: Points, label: str) -> Points:
    rows = pc.indices_nonzero(pc.equal(points.labels, label))
    return points.take(rows.to_numpy().astype(np.int64))


class HeldParts(Parts):
    """Points in memory, in one part."""

    def __init__(self, points: Points) -> None:
        """All of them."""
        self._points = points

    def read(self, *columns: str) -> Iterable[Points]:  # noqa: ARG002  (it has all)
        """The points."""
        return [self._points]


Label = Callable[[pa.Table], pa.StringArray]
"""The labels of a block of points."""


def as_xy(coords: ArrayLike) -> NDArray[np.float64]:
    """Coordinates as an array of shape (n, 2), float64."""
    try:
        xy = np.asarray(coords, np.float64)
    except (TypeError, ValueError) as error:
        message = "coords are not numbers: give an (x, y) for each image"
        raise MapError(message) from error
    if xy.size == 0:
        return xy.reshape(0, 2)
    if xy.ndim != 2 or xy.shape[1] != 2:
        message = f"coords have shape {xy.shape}: give (n, 2), an (x, y) for each image"
        raise MapError(message)
    return xy


def feature_array(features: ArrayLike, n: int) -> NDArray[np.floating[Any]]:
    """Features as an array of shape (n, d)."""
    array: NDArray[Any] = np.asarray(features)
    if array.ndim != 2 or len(array) != n or array.dtype.kind not in "fiu":
        message = (
            f"features have shape {array.shape} and dtype {array.dtype}: give numbers, "
            f"({n}, n_features), a row for each point"
        )
        raise MapError(message)
    return array


def label_array(
    labels: Labels, slides: pa.ChunkedArray | None, n: int
) -> pa.StringArray:
    """A label for each of n points, null where it has none.

    Args:
        labels: By slide, as of `source.names.labels_given`, or one for each point. A
            Series whose index has no name twice and names slides is by slide.
        slides: Of the points; None for arrays.
        n: Number of points.
    """
    names = None if slides is None else pc.unique(slides).to_pylist()
    if are_by_slide(labels, names):
        if slides is None or names is None:
            message = "labels by slide need slides: give a label for each image"
            raise MapError(message)
        return labels_of(labels_of_slides(labels, names), slides)
    if len(labels) != n:
        message = f"there are {n} points and {len(labels)} labels: give as many"
        raise MapError(message)
    if isinstance(labels, pa.Array | pa.ChunkedArray):
        labels = labels.to_pylist()
    return pa.array([_label(value) for value in labels], pa.string())


def are_by_slide(labels: Labels, slides: list[str] | None) -> bool:
    """Whether labels are by slide; a Series only if its index names slides, each once."""
    if isinstance(labels, pd.Series):
        index = labels.index
        once = slides is not None and index.is_unique and index.dtype.kind not in "iuf"
        return once and bool(match(((str(i), True) for i in index), slides or ()))
    return isinstance(labels, Mapping) or is_table(labels)


def labels_of(
    by_slide: Mapping[str, object], slides: pa.ChunkedArray
) -> pa.StringArray:
    """The label of each point, null where it has none.

    Args:
        by_slide: By the slides' own names.
        slides: Of the points.
    """
    encoded = slides.combine_chunks().dictionary_encode()
    values = [_label(by_slide.get(name)) for name in encoded.dictionary.to_pylist()]
    return pa.array(values, pa.string()).take(encoded.indices)


def labels_of_points(
    by_slide: Mapping[str, object], points: pa.Table
) -> pa.StringArray:
    """The same of a block of points."""
    return labels_of(by_slide, points[schema.SLIDE])


def _label(value: object) -> str | None:
    missing = pd.api.types.is_scalar(value) and pd.isna(value)
    return None if missing else tidy(str(value)) or None


def prediction_array(table: pa.Table) -> NDArray[np.floating[Any]] | None:
    """The column `predictions` of lists of as many numbers (n, classes), if any.

    Raises:
        MapError: Lists are lacking, or differ in length.
    """
    if schema.PREDICTIONS not in table.column_names:
        return None
    column = table[schema.PREDICTIONS].combine_chunks()
    lists = column.cast(pa.list_(pa.float32()))
    lengths = set(lists.value_lengths().to_pylist())
    if len(lengths) > 1 or None in lengths:
        message = "predictions of points must be lists of as many numbers, none null"
        raise MapError(message)
    values = lists.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(lists), -1) if len(lists) else None


def label_words(values: "pd.Series[Any] | None") -> list[object] | None:
    """Labels as frames show them; None where there are none.

    Numbers that nearly each tile has of its own, as predictions, are no labels.
    """
    if values is None:
        return None
    if pd.api.types.is_float_dtype(values) and values.nunique() > MOST_LABELS:
        return None
    return list(values.astype(object).where(values.notna(), None))
