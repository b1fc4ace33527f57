"""Reading rows back: activations for a map, points for a mosaic's cells."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import repeat
from typing import TypeVar

import numpy as np
import pyarrow as pa

from raylatent import schema
from raylatent.bench.rates import Rate
from raylatent.bench.stopwatch import measure
from raylatent.montage.cells import choose_cells
from raylatent.montage.points import Points, Rule, as_reference
from raylatent.parts import part_name, read_part, write_part
from raylatent.run import ACTIVATIONS
from raylatent.storage import Store, is_uri

T = TypeVar("T")

_BLOCK_ROWS = 1 << 16
_MOST_PARTS = 32  # small ones take long, and as long in a job
_NUM_TILES_X = 50
_POINTS = "points"


def load_rate(store: Store, slide: str, layer: str, seconds: float) -> Rate:
    """Activations of a part read back, as they are before they are placed.

    Args:
        store: Where `write_rate` left the part.
        slide: Its slide.
        layer: That is mapped.
        seconds: How long.
    """
    name = part_name(ACTIVATIONS, slide, 0)
    size = store.size(name) or 0

    def load() -> tuple[int, int]:
        table = read_part(store, name, [*schema.REFERENCE.names, layer])
        table[layer].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return len(table), size

    rate = measure(repeat(load), seconds)
    note = "" if is_uri(store.uri) else "parts that were just written"
    return replace(rate, note=note)


class _Again:
    """One block of points, read each time that it is gone through."""

    def __init__(self, read: Callable[[], Points]) -> None:
        """How it is read."""
        self._read = read

    def read(self, *columns: str) -> Iterable[Points]:  # noqa: ARG002  (it has all)
        """The block."""
        return [self._read()]

    def fold(
        self,
        work: Callable[[Points], T],
        merge: Callable[[T, T], T],  # noqa: ARG002  (of one block)
        columns: Iterable[str] = (),  # noqa: ARG002
    ) -> T:
        """What it says."""
        return work(self._read())


def cells_rate(store: Store, slide: str, rows: pa.Table, seconds: float) -> Rate:
    """Points read back and gone through for the cells of a mosaic, `nearest`.

    Args:
        store: Where the points are written to; and where `write_rate` left a part.
        slide: Of the rows.
        rows: As of the part.
        seconds: How long.
    """
    random = np.random.default_rng(0)
    points = rows.select(schema.REFERENCE.names)
    for column in (schema.X, schema.Y, schema.KNN_DISTANCE):
        values = random.standard_normal(len(rows)).astype(np.float32)
        points = points.append_column(column, pa.array(values))
    of_points = part_name(_POINTS, slide, 0)
    write_part(store, of_points, points.cast(schema.POINTS), {})
    of_rows = part_name(ACTIVATIONS, slide, 0)
    predicted = schema.PREDICTIONS in rows.column_names
    n_parts = min(_MOST_PARTS, max(1, _BLOCK_ROWS // len(rows)))

    def read() -> Points:
        tables = [read_part(store, of_points) for _ in range(n_parts)]
        preds = [
            read_part(store, of_rows, [schema.PREDICTIONS])
            for _ in range(n_parts if predicted else 0)
        ]
        return _block(tables, preds, slide)

    def choose() -> tuple[int, int]:
        choose_cells(_Again(read), "square", _NUM_TILES_X, Rule())
        return n_parts * len(rows), 0

    choose()  # compiled from here on
    return measure(repeat(choose), seconds)


def _block(tables: Sequence[pa.Table], preds: Sequence[pa.Table], slide: str) -> Points:
    table = pa.concat_tables(tables)
    n = table.num_rows
    predictions = None
    if preds:
        column = pa.concat_tables(preds)[schema.PREDICTIONS].combine_chunks()
        predictions = column.flatten().to_numpy(zero_copy_only=False).reshape(n, -1)
    slides = pa.array([slide]).take(pa.array(np.zeros(n, np.int64)))
    xy = [table[name].to_numpy() for name in (schema.X, schema.Y)]
    return Points(
        xy=np.stack(xy, axis=1).astype(np.float64),
        index=np.arange(n, dtype=np.int64),
        reference=as_reference(table.append_column(schema.SLIDE, slides)),
        predictions=predictions,
        knn_distance=table[schema.KNN_DISTANCE].to_numpy(),
    )
