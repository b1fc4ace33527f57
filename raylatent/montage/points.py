"""Points of a mosaic, and the rule that chooses among them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylatent import schema
from raylatent.config import SELECTS
from raylatent.errors import MapError
from raylatent.montage.grid import Grid

FEATURES = "features"
PREDICTIONS = "predictions"
LABELS = "labels"

T = TypeVar("T")

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


def split_ids(
    ids: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of cell ids."""
    return ids >> 32, ids & 0xFFFFFFFF


def coded(
    cell: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The distinct ids of cells, ascending, and which of them each one is."""
    ids, code = np.unique(cell, return_inverse=True)
    return ids, code.astype(np.int64, copy=False)


class Parts(ABC):
    """Points that may be gone through again and again."""

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
