"""The cells and points of an explorer as blocks that the page loads when it needs them.

Rows are in the order of a curve through the square (Morton's: bits of column and row in
turn), so that a block is a neighborhood.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raylatent import schema
from raylatent.explorer.pyramid import SIDE, Square, morton
from raylatent.explorer.reach import Found
from raylatent.explorer.scripts import (
    NO_U1,
    NO_U2,
    NO_U4,
    NULLS,
    TYPES,
    Column,
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
_TOGETHER = 1_000_000  # points that are put in order at once
_MOST_FILES = 256
_BITS = 16  # of each of x and y, by which points are ordered
_BINS = 12  # bits of the curve by which points are counted

Write = Callable[[str, bytes], None]
"""Writes a file below the explorer's folder."""


@dataclass(frozen=True, kw_only=True)
class Names:
    """What numbers in blocks stand for.

    Attributes:
        slides: All slides of the map, each with the name that is shown, ascending by it.
        labels: The labels that have a color, in order.
        others: Whether the last of them is of all others.
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

    def slide_numbers(self, slides: pa.ChunkedArray) -> NDArray[np.int64]:
        """Of a column of slides (n,)."""
        return _coded(slides.combine_chunks(), self._numbers.__getitem__, 0)

    def label_numbers(self, labels: pa.Array) -> NDArray[np.int64]:
        """Of a column of labels (n,), `NO_U1` where there is none."""
        known = {name: number for number, name in enumerate(self.labels)}
        other = len(self.labels) - 1 if self.others else NO_U1
        return _coded(labels, lambda name: known.get(name, other), NO_U1)


def _coded(
    words: pa.Array, number: Callable[[str], int], null: int
) -> NDArray[np.int64]:
    encoded = words.dictionary_encode()
    own = [*map(number, encoded.dictionary.to_pylist()), null]
    at = pc.fill_null(encoded.indices, len(own) - 1)
    found: NDArray[np.int64] = np.array(own)[at.to_numpy(zero_copy_only=False)]
    return found


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
) -> dict[str, Column]:
    def numbers(name: str, kind: str) -> Column:
        return kind, _filled(table[name], kind)

    n = table[schema.N].to_numpy()
    counts = _label_matrix(table[schema.LABEL_COUNTS], names)
    means = _mean_matrix(table[schema.PREDICTIONS_MEAN], names.n_classes)
    label, of_label = _largest(np.where(counts > 0, counts, np.nan), NO_U1)
    pred, pred_mean = _largest(means, NO_U2)
    columns: dict[str, Column] = {
        "row": numbers(schema.ROW, "u4"),
        "col": numbers(schema.COL, "u4"),
        "n": ("u4", n),
        "slides": numbers(schema.N_SLIDES, "u4"),
        "slide": ("u4", names.slide_numbers(table[schema.SLIDE])),
        "tile": numbers(schema.TILE_INDEX, "u4"),
        "loc_x": numbers(schema.LOC_X, "i4"),
        "loc_y": numbers(schema.LOC_Y, "i4"),
        "x": numbers(schema.X, "f4"),
        "y": numbers(schema.Y, "f4"),
        "label": ("u1", label),
        "share": ("f4", np.nan_to_num(of_label) / n),
        "top_slide": ("u4", names.slide_numbers(table[schema.TOP_SLIDE])),
        "top_share": ("f4", table[schema.TOP_SLIDE_N].to_numpy() / n),
        "novelty": numbers(schema.KNN_DISTANCE_MEAN, "f4"),
        "pred": ("u2", pred),
        "pred_mean": ("f4", pred_mean),
        "level": numbers(schema.SINCE, "u1"),
        "of": numbers(schema.SINCE_N, "u4"),
        "tied": numbers(schema.TIED, "u4"),
        "picture": numbers(schema.PICTURE, "u4"),
        "slot": numbers(schema.SLOT, "u1"),
        "width": ("u2", sizes[:, 0]),
        "height": ("u2", sizes[:, 1]),
    }
    columns |= {f"count_{i}": ("u4", own) for i, own in enumerate(counts.T)}
    return columns | {f"mean_{i}": ("f4", own) for i, own in enumerate(means.T)}


def _largest(
    values: NDArray[np.floating], null: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Where the largest of each row (n, k) is, and it; `null` and NaN if all are NaN."""
    known = np.where(np.isnan(values), -np.inf, values)
    known = np.c_[known, np.full(len(values), -np.inf)]  # one where there are none
    at = known.argmax(axis=1)
    most = known[np.arange(len(at)), at]
    none = most == -np.inf
    return np.where(none, null, at), np.where(none, np.nan, most)


def _label_matrix(counts: pa.ChunkedArray, names: Names) -> NDArray[np.int64]:
    """How many tiles of each cell have each label that has a color, (cells, labels)."""
    found = np.zeros((len(counts), len(names.labels)), np.int64)
    if names.labels:
        maps = counts.combine_chunks()
        offsets = maps.offsets.to_numpy()
        some = slice(offsets[0], offsets[-1])
        cell = np.repeat(np.arange(len(maps)), np.diff(offsets))
        label, n = names.label_numbers(maps.keys[some]), maps.items[some].to_numpy()
        known = label != NO_U1
        np.add.at(found, (cell[known], label[known]), n[known])
    return found


def _mean_matrix(means: pa.ChunkedArray, n_classes: int) -> NDArray[np.float32]:
    """Mean predictions of each cell, (cells, classes), NaN where there are none."""
    found = np.full((len(means), n_classes), np.nan, np.float32)
    if n_classes:
        values = means.drop_null().combine_chunks().flatten().to_numpy()
        found[means.is_valid().to_numpy()] = values.reshape(-1, n_classes)
    return found


def _filled(column: pa.ChunkedArray, kind: str) -> NDArray[Any]:
    """A column (n,), with what stands for null in that type."""
    if kind == "f4":
        known: NDArray[Any] = column.to_numpy()
        return known
    whole: NDArray[Any] = pc.fill_null(column.cast(pa.int64()), NULLS[kind]).to_numpy()
    return whole


def write_slides(write: Write, level: int, slides: pa.Table, names: Names) -> None:
    """Write how many tiles of each slide (`PartialLevel.slides`) each cell has."""
    cells, labels, counts = slides.columns
    cell, slide = cell_numbers(level, cells.to_numpy()), names.slide_numbers(labels)
    order = np.lexsort((slide, cell))
    columns = {"cell": cell, "slide": slide, "n": counts.to_numpy()}
    own = {name: ("u4", values[order]) for name, values in columns.items()}
    _put(write, f"slides/{level}", own)


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


_POINT_TYPES = {"x": "f4", "y": "f4", "loc_x": "i4", "loc_y": "i4", "slide": "u4"}
_POINT_TYPES |= {"tile": "u4", "label": "u1", "novelty": "f4", "pred": "u2"}
_POINT = np.dtype([(name, TYPES[kind]) for name, kind in _POINT_TYPES.items()])


def _point_rows(points: Points, names: Names) -> NDArray[np.void]:
    """Some of the map's points with what the page shows of them, as records (n,)."""
    reference = points.reference
    if reference is None:
        raise TypeError(points)
    rows = np.empty(len(points.xy), _POINT)
    novelty, labels = points.knn_distance, points.labels
    rows["x"], rows["y"] = points.xy.T
    rows["loc_x"] = _filled(reference[schema.LOC_X], "i4")
    rows["loc_y"] = _filled(reference[schema.LOC_Y], "i4")
    rows["slide"] = names.slide_numbers(reference[schema.SLIDE])
    rows["tile"] = reference[schema.TILE_INDEX].to_numpy()
    rows["label"] = NO_U1 if labels is None else names.label_numbers(labels)
    rows["novelty"] = np.nan if novelty is None else novelty
    rows["pred"] = NO_U2
    if points.predictions is not None:
        rows["pred"] = _largest(points.predictions, NO_U2)[0]
    return rows


def curve_of(xy: NDArray[np.floating], square: Square) -> NDArray[np.uint64]:
    """Positions (n,) of points (n, 2) on the curve of 16 bits each way."""
    corner = np.array([square.x, square.y])
    steps = np.floor((xy.astype(np.float64) - corner) / square.side * (1 << _BITS))
    cols, rows = np.clip(steps, 0, (1 << _BITS) - 1).astype(np.int64).T
    return morton(rows, cols)


def write_points(
    write: Write, parts: Parts, found: Found, names: Names, folder: str
) -> list[dict[str, Any]]:
    """Write the scripts of the points, or of a sample; number and extent of each.

    A stretch of the curve is put in order at a time: points are first divided among
    files without a name in a folder. A point is in a sample by a hash, however points
    are divided into parts; where one has no finite place it is left out.
    """
    share = min(1.0, found.extent.sample / found.bounds.n)
    most = None if found.extent.all_points else int(share * float((1 << 64) - 2048))
    # To tasks nothing goes but this: all cells would be large.
    take = partial(_taken, most=most, seed=found.rule.seed)
    count = partial(_count_bins, take=take, square=found.square)
    counts = parts.fold(count, np.add)
    size = max(_TOGETHER, int(counts.sum()) // _MOST_FILES)
    starts = np.arange(0, counts.sum(), size)
    firsts = np.unique(np.searchsorted(counts.cumsum(), starts, side="right"))
    about: list[dict[str, Any]] = []
    with ExitStack() as stack:
        files = [stack.enter_context(TemporaryFile(dir=folder)) for _ in firsts]
        for points in map(take, parts.read(PREDICTIONS, LABELS)):
            rows, bins = _point_rows(points, names), _bins(points.xy, found.square)
            of = np.searchsorted(firsts, bins, side="right") - 1
            for i in np.unique(of):
                files[i].write(rows[of == i].tobytes())
        for file in files:
            file.seek(0)
            rows = np.frombuffer(file.read(), _POINT)
            xy = np.stack([rows["x"], rows["y"]], axis=1)
            curve = curve_of(xy, found.square)
            order = np.lexsort((rows["tile"], rows["slide"], curve))
            for some in _pieces(order, POINTS_OF_BLOCK):
                own = {n: (kind, rows[n][some]) for n, kind in _POINT_TYPES.items()}
                _put(write, f"points/{len(about)}", own)
                box = [*xy[some].min(axis=0).tolist(), *xy[some].max(axis=0).tolist()]
                about.append({"n": len(some), "bbox": box})
    return about


def _pieces(order: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _taken(points: Points, most: int | None, seed: int) -> Points:
    """All points, or those of a sample, with a hash of at most so much: if placed."""
    own = np.isfinite(points.xy).all(axis=1)
    if most is not None and points.reference is not None:
        own &= tile_hashes(points.reference, seed) <= np.uint64(most)
    return points if own.all() else points.take(np.flatnonzero(own))


def _bins(xy: NDArray[np.floating], square: Square) -> NDArray[np.int64]:
    return (curve_of(xy, square) >> np.uint64(2 * _BITS - _BINS)).astype(np.int64)


def _count_bins(
    points: Points, take: Callable[[Points], Points], square: Square
) -> NDArray[np.int64]:
    return np.bincount(_bins(take(points).xy, square), minlength=1 << _BINS)
