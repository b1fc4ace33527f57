"""The cells and points of an explorer as blocks that the page loads when it needs them.

Rows are in the order of a curve through the square (Morton's: bits of column and row in
turn), so that a block is a neighborhood.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raylatent import schema
from raylatent.explorer.pyramid import SIDE, Square
from raylatent.explorer.scripts import NO_I4, NO_U1, NO_U4, Columns, block_script
from raylatent.montage.points import Points

CELLS_OF_BLOCK = 16_384
POINTS_OF_BLOCK = 65_536
POINT_BITS = 16
"""Of each of x and y, by which points are ordered."""

Script = tuple[str, bytes]
"""The name of a file below the explorer's folder, and its content."""


def morton(rows: NDArray[np.integer], cols: NDArray[np.integer]) -> NDArray[np.uint64]:
    """Positions (n,) on the curve: bits of columns in even places, of rows in odd ones.

    >>> morton(np.array([0, 1, 1, 2]), np.array([1, 0, 1, 3])).tolist()
    [1, 2, 3, 13]
    """
    return _spread(cols) | (_spread(rows) << np.uint64(1))


def _spread(values: NDArray[np.integer]) -> NDArray[np.uint64]:
    """Each bit at twice its place, of values below 2**32."""
    x = values.astype(np.uint64)
    for shift, mask in (
        (16, 0x0000FFFF0000FFFF),
        (8, 0x00FF00FF00FF00FF),
        (4, 0x0F0F0F0F0F0F0F0F),
        (2, 0x3333333333333333),
        (1, 0x5555555555555555),
    ):
        x = (x | (x << np.uint64(shift))) & np.uint64(mask)
    return x


@dataclass(frozen=True, kw_only=True)
class Names:
    """What numbers in blocks stand for.

    Attributes:
        slides: All slides of the map by name, and their numbers.
        labels: The labels that have a color, in order; others count as the last one
            where there are more.
        others: Whether the last of the labels is of all others.
        n_classes: Of the predictions, 0 without.
    """

    slides: Mapping[str, int]
    labels: Sequence[str] = ()
    others: bool = False
    n_classes: int = 0

    def slide_numbers(self, slides: pa.ChunkedArray | pa.Array) -> NDArray[np.uint32]:
        """Of a column of slides (n,)."""
        encoded = slides.combine_chunks() if hasattr(slides, "chunks") else slides
        encoded = encoded.dictionary_encode()
        own = [self.slides[name] for name in encoded.dictionary.to_pylist()]
        at = encoded.indices.to_numpy(zero_copy_only=False)
        return np.array(own, np.uint32)[at] if len(at) else np.zeros(0, np.uint32)

    def label_numbers(self, labels: pa.Array) -> NDArray[np.uint8]:
        """Of a column of labels (n,), `NO_U1` where there is none."""
        known = {name: number for number, name in enumerate(self.labels)}
        other = len(self.labels) - 1 if self.others else NO_U1
        encoded = labels.dictionary_encode()
        own = [known.get(name, other) for name in encoded.dictionary.to_pylist()]
        at = pc.fill_null(encoded.indices, len(own)).to_numpy(zero_copy_only=False)
        return np.array([*own, NO_U1], np.uint8)[at]


def cell_blocks(
    level: int,
    table: pa.Table,
    names: Names,
    sizes: NDArray[np.uint16],
    square: Square,
) -> tuple[list[Script], list[dict[str, int]]]:
    """The scripts of a level's cells, and for each the first place and the cells.

    Args:
        level: Which.
        table: Its cells, `schema.EXPLORER_CELLS`.
        names: What numbers stand for.
        sizes: Width and height of each cell's tile at its own size, shape (n, 2), in
            pixels; 0 where it is not stored.
        square: Around all points.
    """
    rows, cols = (table[name].to_numpy() for name in (schema.ROW, schema.COL))
    curve = morton(rows, cols)
    order = np.argsort(curve, kind="stable")
    columns = _cell_columns(table, names, sizes)
    cell = square.side / (SIDE << table[schema.SINCE].to_numpy().astype(np.int64))
    columns["distance"] = ("f4", table[schema.DISTANCE].to_numpy() / cell)
    scripts, about = [], []
    for block, start in enumerate(range(0, len(order), CELLS_OF_BLOCK)):
        some = order[start : start + CELLS_OF_BLOCK]
        name = f"cells/{level}/{block}"
        own = {key: (kind, values[some]) for key, (kind, values) in columns.items()}
        scripts.append((f"data/{name}.js", block_script(name, own)))
        about.append({"first": int(curve[some[0]]), "cells": len(some)})
    return scripts, about


def _cell_columns(
    table: pa.Table, names: Names, sizes: NDArray[np.uint16]
) -> dict[str, tuple[str, NDArray[Any]]]:
    n = table[schema.N].to_numpy()
    counts = label_matrix(table[schema.LABEL_COUNTS], names)
    means = mean_matrix(table[schema.PREDICTIONS_MEAN], names.n_classes)
    most = counts.argmax(axis=1) if counts.shape[1] else np.zeros(len(n), np.int64)
    most_n = counts[np.arange(len(n)), most] if counts.shape[1] else np.zeros(len(n))
    best = np.where(np.isnan(means), -1, means).argmax(axis=1) if means.size else None
    predicted = np.zeros(len(n)) if best is None else means[np.arange(len(n)), best]
    no_class = np.isnan(predicted) if best is not None else np.ones(len(n), bool)
    stored = table[schema.PICTURE].is_valid().to_numpy()
    columns: dict[str, tuple[str, NDArray[Any]]] = {
        "row": ("u4", table[schema.ROW].to_numpy()),
        "col": ("u4", table[schema.COL].to_numpy()),
        "n": ("u4", n),
        "slides": ("u4", table[schema.N_SLIDES].to_numpy()),
        "slide": ("u4", names.slide_numbers(table[schema.SLIDE])),
        "tile": ("u4", table[schema.TILE_INDEX].to_numpy()),
        "loc_x": ("i4", _filled(table[schema.LOC_X], NO_I4)),
        "loc_y": ("i4", _filled(table[schema.LOC_Y], NO_I4)),
        "x": ("f4", table[schema.X].to_numpy()),
        "y": ("f4", table[schema.Y].to_numpy()),
        "label": ("u1", np.where(most_n > 0, most, NO_U1)),
        "share": ("f4", most_n / n),
        "top_slide": ("u4", names.slide_numbers(table[schema.TOP_SLIDE])),
        "top_share": ("f4", table[schema.TOP_SLIDE_N].to_numpy() / n),
        "novelty": ("f4", table[schema.KNN_DISTANCE_MEAN].to_numpy()),
        "pred": (
            "u1",
            np.full(len(n), NO_U1) if best is None else np.where(no_class, NO_U1, best),
        ),
        "pred_mean": ("f4", np.where(no_class, np.nan, predicted)),
        "level": ("u1", table[schema.SINCE].to_numpy()),
        "of": ("u4", table[schema.SINCE_N].to_numpy()),
        "tied": ("u4", table[schema.TIED].to_numpy()),
        "picture": ("u4", np.where(stored, _filled(table[schema.PICTURE], 0), NO_U4)),
        "slot": ("u1", np.where(stored, _filled(table[schema.SLOT], 0), NO_U1)),
        "width": ("u2", sizes[:, 0]),
        "height": ("u2", sizes[:, 1]),
    }
    columns |= {f"count_{i}": ("u4", counts[:, i]) for i in range(counts.shape[1])}
    columns |= {f"mean_{i}": ("f4", means[:, i]) for i in range(means.shape[1])}
    return columns


def label_matrix(counts: pa.ChunkedArray, names: Names) -> NDArray[np.int64]:
    """How many tiles of each cell have each label that has a color, (cells, labels)."""
    found = np.zeros((len(counts), len(names.labels)), np.int64)
    if not names.labels:
        return found
    maps = counts.combine_chunks()
    lengths = np.diff(maps.offsets.to_numpy())
    first, last = maps.offsets[0].as_py(), maps.offsets[-1].as_py()
    cell = np.repeat(np.arange(len(maps)), lengths)
    label = names.label_numbers(maps.keys.slice(first, last - first))
    known = label != NO_U1
    n = maps.items.slice(first, last - first).to_numpy()
    np.add.at(found, (cell[known], label[known]), n[known])
    return found


def mean_matrix(means: pa.ChunkedArray, n_classes: int) -> NDArray[np.float32]:
    """Mean predictions of each cell, (cells, classes), NaN where there are none."""
    found = np.full((len(means), n_classes), np.nan, np.float32)
    if n_classes:
        lists = means.combine_chunks()
        known = lists.is_valid().to_numpy(zero_copy_only=False)
        values = lists.drop_null().flatten().to_numpy(zero_copy_only=False)
        found[known] = values.reshape(-1, n_classes)
    return found


def _filled(column: pa.ChunkedArray, null: int) -> NDArray[Any]:
    return pc.fill_null(column, pa.scalar(null, column.type)).to_numpy()


@dataclass(frozen=True, kw_only=True, eq=False)
class PointRows:
    """Points as the page holds them: arrays (n,) by column, see `POINT_TYPES`."""

    columns: Mapping[str, NDArray[Any]]

    def __len__(self) -> int:
        """How many points."""
        return len(self.columns["x"])


POINT_TYPES = {
    "x": "f4",
    "y": "f4",
    "loc_x": "i4",
    "loc_y": "i4",
    "slide": "u4",
    "tile": "u4",
    "label": "u1",
    "novelty": "f4",
    "pred": "u1",
}


def point_rows(points: Points, names: Names) -> PointRows:
    """Some of the map's points with what the page shows of them."""
    reference = points.reference
    if reference is None:
        raise TypeError(points)
    n = len(points.xy)
    none = np.full(n, NO_U1, np.uint8)
    novelty, predictions = points.knn_distance, points.predictions
    pred = none if predictions is None else predictions.argmax(axis=1).astype(np.uint8)
    values = {
        "x": points.xy[:, 0],
        "y": points.xy[:, 1],
        "loc_x": _filled(reference[schema.LOC_X], NO_I4),
        "loc_y": _filled(reference[schema.LOC_Y], NO_I4),
        "slide": names.slide_numbers(reference[schema.SLIDE]),
        "tile": reference[schema.TILE_INDEX].to_numpy(),
        "label": none if points.labels is None else names.label_numbers(points.labels),
        "novelty": np.full(n, np.nan) if novelty is None else novelty,
        "pred": pred,
    }
    return PointRows(
        columns={
            name: np.asarray(values[name]).astype(f"<{kind}")
            for name, kind in POINT_TYPES.items()
        }
    )


def merge_rows(a: PointRows, b: PointRows) -> PointRows:
    """Both sets of points."""
    return PointRows(
        columns={
            name: np.concatenate([values, b.columns[name]])
            for name, values in a.columns.items()
        }
    )


def curve_of(xy: NDArray[np.floating], square: Square) -> NDArray[np.uint64]:
    """Positions (n,) of points (n, 2) on the curve of `POINT_BITS` bits each way."""
    last = (1 << POINT_BITS) - 1
    corner = np.array([square.x, square.y])
    steps = np.floor((xy.astype(np.float64) - corner) / square.side * (last + 1))
    cols, rows = np.clip(steps, 0, last).astype(np.int64).T
    return morton(rows, cols)


def point_blocks(
    rows: PointRows, square: Square, first: int = 0
) -> Iterator[tuple[Script, dict[str, Any]]]:
    """The scripts of points in order, with the number and extent of each.

    Args:
        rows: All points of a stretch of the curve.
        square: Around all points.
        first: Number of the first block.
    """
    xy = np.stack([rows.columns["x"], rows.columns["y"]], axis=1)
    keys = (rows.columns["tile"], rows.columns["slide"], curve_of(xy, square))
    order = np.lexsort(keys)
    for block, start in enumerate(range(0, len(order), POINTS_OF_BLOCK), first):
        some = order[start : start + POINTS_OF_BLOCK]
        own: Columns = {
            name: (kind, rows.columns[name][some]) for name, kind in POINT_TYPES.items()
        }
        name = f"points/{block}"
        low, high = xy[some].min(axis=0), xy[some].max(axis=0)
        about = {"n": len(some), "bbox": [*map(float, (*low, *high))]}
        yield (f"data/{name}.js", block_script(name, own)), about
