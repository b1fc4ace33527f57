"""The cells and points of an explorer as blocks that the page loads when it needs them.

Rows are in the order of a curve through the square (Morton's: bits of column and row in
turn), so that a block is a neighborhood.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raylatent import schema
from raylatent.explorer.pyramid import SIDE, Square
from raylatent.explorer.reach import Found
from raylatent.explorer.scripts import (
    MOST_CLASSES,
    NO_I4,
    NO_U1,
    NO_U2,
    NO_U4,
    Columns,
    block_script,
)
from raylatent.montage.points import (
    LABELS,
    PREDICTIONS,
    Parts,
    Points,
    split_ids,
    tile_hashes,
)

CELLS_OF_BLOCK = 16_384
POINTS_OF_BLOCK = 65_536

_BLOCK_NUMBERS = 1_000_000
_TOGETHER = 2_000_000  # points that are put in order at once
_BITS = 16  # of each of x and y, by which points are ordered
_BINS = 12  # bits of the curve by which points are counted

Write = Callable[[str, bytes], None]
"""Writes a file below the explorer's folder."""
Rows = dict[str, NDArray[Any]]
"""Points as the page holds them: arrays (n,) by the names of `POINT_TYPES`."""


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
        slides: All slides of the map, each with the name that is shown, by which they
            are in order.
        labels: The labels that have a color, in order; others count as the last one
            where there are more.
        others: Whether the last of the labels is of all others.
        n_classes: Of the predictions, 0 without.
    """

    slides: Sequence[tuple[str, str]]
    labels: Sequence[str] = ()
    others: bool = False
    n_classes: int = 0

    @cached_property
    def _numbers(self) -> dict[str, int]:
        """Of slides by either name."""
        return {name: at for at, both in enumerate(self.slides) for name in both}

    def slide_numbers(self, slides: pa.ChunkedArray) -> NDArray[np.uint32]:
        """Of a column of slides (n,)."""
        encoded = slides.combine_chunks().dictionary_encode()
        own = [self._numbers[name] for name in encoded.dictionary.to_pylist()]
        at: NDArray[np.int32] = encoded.indices.to_numpy()
        return np.array([*own, 0], np.uint32)[at]

    def label_numbers(self, labels: pa.Array) -> NDArray[np.uint8]:
        """Of a column of labels (n,), `NO_U1` where there is none."""
        known = {name: number for number, name in enumerate(self.labels)}
        other = len(self.labels) - 1 if self.others else NO_U1
        encoded = labels.dictionary_encode()
        own = [known.get(name, other) for name in encoded.dictionary.to_pylist()]
        filled = pc.fill_null(encoded.indices, len(own))
        at: NDArray[np.int32] = filled.to_numpy(zero_copy_only=False)
        return np.array([*own, NO_U1], np.uint8)[at]


def write_cells(
    write: Write,
    level: int,
    table: pa.Table,
    names: Names,
    sizes: NDArray[np.uint16],
    square: Square,
) -> list[dict[str, int]]:
    """Write the scripts of a level's cells; of each the first place, and the cells.

    `table` is as `schema.EXPLORER_CELLS`; `sizes` are width and height of each cell's
    tile at its own size, shape (n, 2), in pixels, 0 where it is not stored.
    """
    rows, cols = (table[name].to_numpy() for name in (schema.ROW, schema.COL))
    curve = morton(rows, cols)
    order = np.argsort(curve, kind="stable")
    columns = _cell_columns(table, names, sizes)
    cell = square.side / (SIDE << table[schema.SINCE].to_numpy().astype(np.int64))
    columns["distance"] = ("f4", table[schema.DISTANCE].to_numpy() / cell)
    about = []
    # Of very many columns few rows, so that no script is large.
    rows_of_block = min(CELLS_OF_BLOCK, max(512, _BLOCK_NUMBERS // len(columns)))
    for block, some in enumerate(_pieces(order, rows_of_block)):
        own = {key: (kind, values[some]) for key, (kind, values) in columns.items()}
        _put(write, f"cells/{level}/{block}", own)
        about.append({"first": int(curve[some[0]]), "cells": len(some)})
    return about


def _put(write: Write, name: str, columns: Columns) -> None:
    write(f"data/{name}.js", block_script(name, columns))


def _cell_columns(
    table: pa.Table, names: Names, sizes: NDArray[np.uint16]
) -> dict[str, tuple[str, NDArray[Any]]]:
    n = table[schema.N].to_numpy()
    every = np.arange(len(n))
    # A column more, so that there is a largest one also where there are none.
    counts = label_matrix(table[schema.LABEL_COUNTS], names)
    most = np.c_[counts, np.zeros_like(n)].argmax(axis=1)
    most_n = np.c_[counts, np.zeros_like(n)][every, most]
    means = mean_matrix(table[schema.PREDICTIONS_MEAN], names.n_classes)
    known = np.c_[np.where(np.isnan(means), -1, means), np.full(len(n), -1.0)]
    best = known.argmax(axis=1)
    best_mean = known[every, best].astype(np.float32)
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
        "pred": ("u2", np.where(best_mean < 0, NO_U2, best)),
        "pred_mean": ("f4", np.where(best_mean < 0, np.nan, best_mean)),
        "level": ("u1", table[schema.SINCE].to_numpy()),
        "of": ("u4", table[schema.SINCE_N].to_numpy()),
        "tied": ("u4", table[schema.TIED].to_numpy()),
        "picture": ("u4", np.where(stored, _filled(table[schema.PICTURE], 0), NO_U4)),
        "slot": ("u1", np.where(stored, _filled(table[schema.SLOT], 0), NO_U1)),
        "width": ("u2", sizes[:, 0]),
        "height": ("u2", sizes[:, 1]),
    }
    columns |= {f"count_{i}": ("u4", own) for i, own in enumerate(counts.T)}
    if names.n_classes <= MOST_CLASSES:
        columns |= {f"mean_{i}": ("f4", own) for i, own in enumerate(means.T)}
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
    values: NDArray[Any] = pc.fill_null(column, pa.scalar(null, column.type)).to_numpy()
    return values.astype(np.int64)


def write_slides(write: Write, level: int, slides: pa.Table, names: Names) -> None:
    """Write how many tiles of each slide (`PartialLevel.slides`) each cell has."""
    cell, label, count = slides.columns
    own = names.slide_numbers(label)
    order = np.lexsort((own, cell.to_numpy()))
    columns = {
        "cell": ("u4", cell_numbers(level, cell.to_numpy())[order]),
        "slide": ("u4", own[order]),
        "n": ("u4", count.to_numpy()[order]),
    }
    _put(write, f"slides/{level}", columns)


def cell_numbers(level: int, ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ids of cells as the page has them: the row times the cells a side, and column."""
    rows, cols = split_ids(ids)
    return rows * (SIDE << level) + cols


def write_similar(
    write: Write, level: int, ids: NDArray[np.int64], near: NDArray[np.int64]
) -> None:
    """Write which cells of a level, with ids (n,), are alike: positions (n, k), -1: none."""
    numbers = cell_numbers(level, ids)
    columns = {"cell": ("u4", numbers)}
    for i, own in enumerate(near.T):
        columns[f"s{i}"] = ("u4", np.where(own < 0, NO_U4, numbers[own]))
    _put(write, f"similar/{level}", columns)


POINT_TYPES = {
    "x": "f4",
    "y": "f4",
    "loc_x": "i4",
    "loc_y": "i4",
    "slide": "u4",
    "tile": "u4",
    "label": "u1",
    "novelty": "f4",
    "pred": "u2",
}


def point_rows(points: Points, names: Names) -> Rows:
    """Some of the map's points with what the page shows of them."""
    reference = points.reference
    if reference is None:
        raise TypeError(points)
    none = np.full(len(points.xy), NO_U1)
    novelty, predictions = points.knn_distance, points.predictions
    values = {
        "x": points.xy[:, 0],
        "y": points.xy[:, 1],
        "loc_x": _filled(reference[schema.LOC_X], NO_I4),
        "loc_y": _filled(reference[schema.LOC_Y], NO_I4),
        "slide": names.slide_numbers(reference[schema.SLIDE]),
        "tile": reference[schema.TILE_INDEX].to_numpy(),
        "label": none if points.labels is None else names.label_numbers(points.labels),
        "novelty": np.full(len(none), np.nan) if novelty is None else novelty,
        "pred": none if predictions is None else predictions.argmax(axis=1),
    }
    return {name: values[name].astype(f"<{kind}") for name, kind in POINT_TYPES.items()}


def _merged(a: Rows, b: Rows) -> Rows:
    return {name: np.concatenate([values, b[name]]) for name, values in a.items()}


def curve_of(xy: NDArray[np.floating], square: Square) -> NDArray[np.uint64]:
    """Positions (n,) of points (n, 2) on the curve of 16 bits each way."""
    corner = np.array([square.x, square.y])
    steps = np.floor((xy.astype(np.float64) - corner) / square.side * (1 << _BITS))
    cols, rows = np.clip(steps, 0, (1 << _BITS) - 1).astype(np.int64).T
    return morton(rows, cols)


def write_points(
    write: Write, parts: Parts, found: Found, names: Names
) -> list[dict[str, Any]]:
    """Write the scripts of the points, or of a sample; number and extent of each.

    Of very many, stretches of the curve are put in order one after another. A point is
    in a sample by a hash, however points are divided into parts.
    """
    share = min(1.0, found.extent.sample / found.bounds.n)
    most = None if found.extent.all_points else int(share * float((1 << 64) - 2048))
    # To tasks nothing goes but this: all cells would be large.
    take = partial(_sampled, most=most, seed=found.rule.seed)
    count = partial(_count_bins, take=take, square=found.square)
    about: list[dict[str, Any]] = []
    for low, high in stretches(parts.fold(count, np.add), _TOGETHER):
        work = partial(
            _rows_of, take=take, square=found.square, names=names, bins=(low, high)
        )
        rows = parts.fold(work, _merged, [PREDICTIONS, LABELS])
        xy = np.stack([rows["x"], rows["y"]], axis=1)
        order = np.lexsort((rows["tile"], rows["slide"], curve_of(xy, found.square)))
        for some in _pieces(order, POINTS_OF_BLOCK):
            own = {name: (kind, rows[name][some]) for name, kind in POINT_TYPES.items()}
            _put(write, f"points/{len(about)}", own)
            box = [*xy[some].min(axis=0).tolist(), *xy[some].max(axis=0).tolist()]
            about.append({"n": len(some), "bbox": box})
    return about


def _pieces(order: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(order), size):
        yield order[start : start + size]


def stretches(counts: NDArray[np.int64], most: int) -> list[tuple[int, int]]:
    """Bins in runs of about so many points, [low, high).

    >>> stretches(np.array([3, 3, 0, 5, 1]), 6)
    [(0, 3), (3, 5)]
    """
    found, low, total = [], 0, 0
    for i, n in enumerate(counts.tolist()):
        if total and total + n > most:
            found.append((low, i))
            low, total = i, 0
        total += n
    return [*found, (low, len(counts))] if total else found


def _sampled(points: Points, most: int | None, seed: int) -> Points:
    """All points, or those of a sample: with a hash of at most so much."""
    if most is None or points.reference is None:
        return points
    small = tile_hashes(points.reference, seed) <= np.uint64(most)
    return points.take(np.flatnonzero(small))


def _bins(points: Points, square: Square) -> NDArray[np.int64]:
    return (curve_of(points.xy, square) >> np.uint64(2 * _BITS - _BINS)).astype(int)


def _count_bins(
    points: Points, take: Callable[[Points], Points], square: Square
) -> NDArray[np.int64]:
    return np.bincount(_bins(take(points), square), minlength=1 << _BINS)


def _rows_of(
    points: Points,
    take: Callable[[Points], Points],
    square: Square,
    names: Names,
    bins: tuple[int, int],
) -> Rows:
    own = take(points)
    at = _bins(own, square)
    return point_rows(own.take(np.flatnonzero((at >= bins[0]) & (at < bins[1]))), names)
