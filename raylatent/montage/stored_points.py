"""Points of a map in its folder, read block by block each time that they are needed."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylatent import schema
from raylatent.mapping.fitted_map import read_info
from raylatent.mapping.point_files import iter_points, points_parts, read_vectors
from raylatent.montage.cells import FEATURES, LABELS, PREDICTIONS, Parts, fold
from raylatent.montage.points import Points, as_reference, knn_distances
from raylatent.run import Part, RunDirectory
from raylatent.storage import Store

T = TypeVar("T")

_BLOCK_ROWS = 1 << 16
_BLOCK_FEATURE_BYTES = 64 << 20

Label = Callable[[pa.Table], pa.StringArray]
"""The labels of a block of points."""


class StoredPoints:
    """A map of a run as what a mosaic is made of, however many points it has.

    Args:
        folder: The map's, local or a URI.
        run: The run that it belongs to.
    """

    def __init__(self, folder: str | os.PathLike[str], run: RunDirectory) -> None:
        """See the class."""
        self.store = Store(folder)
        self.run = run

    def __reduce__(self) -> tuple[type["StoredPoints"], tuple[object, ...]]:
        """The same points, whatever was kept of them, for another process."""
        return StoredPoints, (self.store.uri, RunDirectory(self.run.uri))

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
        """The layer that was mapped."""
        return str(read_info(self.store).get("layer") or next(iter(self.run.layers())))

    @cached_property
    def has_predictions(self) -> bool:
        """Whether the run has any."""
        return has_predictions(self.run)

    @property
    def has_tile_labels(self) -> bool:
        """Whether tiles have labels of their own."""
        return self.run.has_tile_labels

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
class StoredParts:
    """Stored points as parts of a mosaic's; may be gone through again and again.

    Attributes:
        stored: The points.
        label: Of a block; None: points have no labels.
    """

    stored: StoredPoints
    label: Label | None = None

    def read(self, *columns: str) -> Iterator[Points]:
        """All points, see `Parts`."""
        return self.some(self.stored.part_names, columns)

    def fold(
        self,
        work: Callable[[Points], T],
        merge: Callable[[T, T], T],
        columns: Iterable[str] = (),
    ) -> T:
        """One block after the other."""
        return fold(self.read(*columns), work, merge)

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
        predicted = PREDICTIONS in wanted and stored.has_predictions
        rows = stored.feature_rows if FEATURES in wanted else _BLOCK_ROWS
        for table in stored.blocks(names, rows):
            n = table.num_rows
            labeled = self.label is not None and LABELS in wanted
            yield Points(
                xy=schema.places(table),
                index=np.arange(first, first + n, dtype=np.int64),
                reference=as_reference(table),
                labels=self.label(table)
                if self.label is not None and labeled
                else None,
                features=stored.vectors(table, stored.layer)
                if FEATURES in wanted
                else None,
                predictions=stored.vectors(table, schema.PREDICTIONS)
                if predicted
                else None,
                knn_distance=knn_distances(table),
            )
            first += n


def tile_labels(points: pa.Table) -> pa.StringArray:
    """The labels that tiles have of their own."""
    return points[schema.LABEL].combine_chunks()


def has_predictions(run: RunDirectory) -> bool:
    """Whether predictions are stored beside the activations."""
    return bool(run.settings().get("fields", {}).get("predictions"))
