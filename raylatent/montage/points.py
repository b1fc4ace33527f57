"""Points of a mosaic, held in memory or stored, and the rule that chooses among them."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, reduce
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylatent import schema
from raylatent.config import SELECTS
from raylatent.errors import MapError
from raylatent.mapping.fitted_map import read_info
from raylatent.mapping.point_files import iter_points, points_parts, read_vectors
from raylatent.montage.grid import Grid
from raylatent.parts import rows_digest
from raylatent.run import Part, RunDirectory
from raylatent.seal import DIGEST
from raylatent.storage import Store

FEATURES = "features"
PREDICTIONS = "predictions"
LABELS = "labels"

T = TypeVar("T")

_BLOCK_ROWS = 1 << 16
_BLOCK_FEATURE_BYTES = 64 << 20

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


class StoredPoints:
    """A map of a run as what a mosaic is made of, however many points it has.

    Args:
        folder: The map's, local or a URI.
        run: The run that it belongs to.
        layer: The layer that was mapped; by default map.json tells it.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        run: RunDirectory,
        layer: str | None = None,
    ) -> None:
        """See the class."""
        self.store = Store(folder)
        self.run = run
        self._layer = layer

    @property
    def name(self) -> str:
        """The map's name, which is that of its folder."""
        return self.store.uri.rpartition("/")[2]

    def __reduce__(self) -> tuple[type["StoredPoints"], tuple[object, ...]]:
        """The same points, whatever was kept of them, for another process."""
        given = (self.store.uri, RunDirectory(self.run.uri), self._layer)
        return StoredPoints, given

    @cached_property
    def info(self) -> dict[str, Any]:
        """What map.json said when it was first read."""
        return read_info(self.store)

    @property
    def n_points(self) -> int | None:
        """Points of the map, None where map.json does not say."""
        rows: int | None = (self.info.get("points") or {}).get("rows")
        return rows

    def is_same(self) -> bool:
        """Whether the map that is there now is still the one that `info` tells of."""
        try:
            return bool(read_info(self.store)[DIGEST] == self.info[DIGEST])
        except MapError:  # there is none any more
            return False

    def same(self) -> Store:
        """The folder; MapError if another map has taken the place of this one."""
        if not self.is_same():
            message = (
                f"the map {self.store.uri} was replaced since it was opened: open it "
                "again"
            )
            raise MapError(message)
        return self.store

    def check_rows(self) -> None:
        """Refuse a map of rows that the run no longer has; the parts' footers are read.

        A map that does not tell its rows is let pass.

        Raises:
            MapError: The map is of other rows.
        """
        told = self.info.get("rows")
        if told is None:
            return
        parts = [part for part in self.run.footers(self.run.slides()) if part.rows]
        if told != rows_digest(parts):
            message = (
                f"the map {self.store.uri} is of other rows than the run has now: run "
                "`raylatent map` again"
            )
            raise MapError(message)

    @cached_property
    def part_names(self) -> list[tuple[str, str]]:
        """Slide and name of each part, in order."""
        return points_parts(self.store)

    @cached_property
    def _parts_of_run(self) -> Callable[[str], list[Part]]:
        # Blocks in turn are of one slide: its footers are read once.
        return lru_cache(maxsize=8)(self.run.parts_of)

    @cached_property
    def layer(self) -> str:
        """The layer that was mapped; MapError as of `only_layer`."""
        return str(self._layer or self.info.get("layer") or only_layer(self.run))

    @property
    def slides(self) -> list[str]:
        """Names of the slides on the map, sorted."""
        return sorted({slide for slide, _ in self.part_names})

    def labeled(self, label: Label | None) -> Parts:
        """As parts of a mosaic's, with these labels."""
        return StoredParts(stored=self, label=label)

    def blocks(self, names: Sequence[tuple[str, str]], rows: int) -> Iterator[pa.Table]:
        """Points of some parts, as `mapping.point_files.MAP_POINTS`, about as many rows."""
        for table in iter_points(self.store, names, rows):
            # Larger ones are cut, since activations are read with them.
            for start in range(0, table.num_rows, 2 * rows):
                yield table.slice(start, 2 * rows)

    def vectors(self, table: pa.Table, column: str) -> NDArray[np.floating]:
        """Activations or predictions (n, width) of a block's points."""
        return read_vectors(self.run, table, column, self._parts_of_run)

    @cached_property
    def feature_rows(self) -> int:
        """Rows of a block, if their activations are read with it."""
        width = int(np.prod(self.run.layers().get(self.layer, (1,))))
        return max(1, min(_BLOCK_ROWS, _BLOCK_FEATURE_BYTES // (4 * max(1, width))))


@dataclass(frozen=True, kw_only=True)
class StoredParts(Parts):
    """Stored points as parts of a mosaic's; may be gone through again and again.

    Attributes:
        stored: The points.
        label: Of a block; None: points have no labels.
    """

    stored: StoredPoints
    label: Label | None = None

    @property
    def labels_of_tiles(self) -> bool:
        """See `Parts`."""
        return self.label is tile_labels

    def read(self, *columns: str) -> Iterator[Points]:
        """All points, see `Parts`.

        Raises:
            MapError: Another map has taken the place of this one, before or meanwhile.
        """
        self.stored.same()
        yield from self.some(self.stored.part_names, columns)
        self.stored.same()

    def some(
        self, names: Sequence[tuple[str, str]], columns: Iterable[str], first: int = 0
    ) -> Iterator[Points]:
        """Points of some parts in blocks.

        Args:
            names: Of `StoredPoints.part_names`.
            columns: What is wanted beside places and references.
            first: Number of the first point.
        """
        stored, wanted = self.stored, set(columns)
        label = self.label if LABELS in wanted else None
        predicted = PREDICTIONS in wanted and has_predictions(stored.run)
        rows = stored.feature_rows if FEATURES in wanted else _BLOCK_ROWS
        for table in stored.blocks(names, rows):
            n = table.num_rows
            yield Points(
                xy=schema.places(table),
                index=np.arange(first, first + n, dtype=np.int64),
                reference=as_reference(table),
                labels=None if label is None else label(table),
                features=stored.vectors(table, stored.layer)
                if FEATURES in wanted
                else None,
                predictions=stored.vectors(table, schema.PREDICTIONS)
                if predicted
                else None,
                knn_distance=knn_distances(table),
            )
            first += n


def only_layer(run: RunDirectory) -> str:
    """The layer of a run; MapError where it has several, of which none was told."""
    layers = list(run.layers())
    if len(layers) != 1:
        message = f"say which layer was mapped, layer=: the run has {layers}"
        raise MapError(message)
    return layers[0]


def tile_labels(points: pa.Table) -> pa.StringArray:
    """The labels that tiles have of their own."""
    return points[schema.LABEL].combine_chunks()


def has_predictions(run: RunDirectory) -> bool:
    """Whether predictions are stored beside the activations."""
    return bool(run.settings().get("fields", {}).get("predictions"))
