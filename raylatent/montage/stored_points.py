"""Points of a map in its folder, read block by block each time that they are needed."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylatent import schema
from raylatent.mapping.fitted import read_info
from raylatent.mapping.points import iter_points, points_parts, read_vectors
from raylatent.montage.points import Points, as_reference
from raylatent.run import Part, RunDirectory
from raylatent.storage import Store

_BLOCK_ROWS = 1 << 12
_BLOCK_FEATURE_BYTES = 256 << 20


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

    @cached_property
    def _parts(self) -> list[tuple[str, str]]:
        return points_parts(self.store)

    @cached_property
    def _parts_of_run(self) -> Callable[[str], list[Part]]:
        # Blocks in turn are of one slide: its footers are read once.
        return lru_cache(maxsize=8)(self.run.parts_of)

    @cached_property
    def layer(self) -> str:
        """The layer that was mapped."""
        return str(read_info(self.store).get("layer") or next(iter(self.run.layers())))

    @property
    def slides(self) -> list[str]:
        """Names of the slides on the map, sorted."""
        return sorted({slide for slide, _ in self._parts})

    def tables(self, block_rows: int = _BLOCK_ROWS) -> Iterator[pa.Table]:
        """The points in blocks, as `mapping.points.MAP_POINTS`."""
        return iter_points(self.store, self._parts, block_rows)

    def features(self, table: pa.Table) -> NDArray[np.floating]:
        """Activations (n, n_features) of a block's points."""
        return read_vectors(self.run, table, self.layer, self._parts_of_run)

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
        label: The labels of a block's slides, None where points have none.
        with_features: Read the activations, too.
    """

    stored: StoredPoints
    label: Callable[[pa.ChunkedArray, int], pa.StringArray] | None
    with_features: bool

    def __iter__(self) -> Iterator[Points]:
        """Blocks, numbered through."""
        first = 0
        rows = self.stored.feature_rows if self.with_features else _BLOCK_ROWS
        for table in self.stored.tables(rows):
            n = table.num_rows
            columns = (table[name].to_numpy() for name in (schema.X, schema.Y))
            xy = np.stack([column.astype(np.float64) for column in columns], axis=1)
            yield Points(
                xy=xy,
                index=np.arange(first, first + n, dtype=np.int64),
                reference=as_reference(table),
                labels=self.label(table[schema.SLIDE], n) if self.label else None,
                features=self.stored.features(table) if self.with_features else None,
            )
            first += n
