"""What is in each cell of a mosaic: slides, labels, predictions, distances.

As all of a mosaic, a tally of parts merges to that of the whole, to the bit.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylatent import schema
from raylatent.montage.points import Points
from raylatent.montage.sums import CellSums, merge_sums, sums_by_cell

_CELL = "cell"
_LABEL = "label"
_COUNT = "count"

Ids = NDArray[np.int64]
"""Of cells, as `points.cell_ids` gives them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Tally:
    """What some points say of what is in the cells.

    Attributes:
        slides: For each slide the cells that it is in, ascending; None without slides.
        labels: `cell`, `label`, `count`; None without labels.
        predictions: Sums of each, None without.
        knn_distance: Sums of those that are known, None without.
    """

    slides: Mapping[str, Ids] | None = None
    labels: pa.Table | None = None
    predictions: CellSums | None = None
    knn_distance: CellSums | None = None

    @classmethod
    def of(cls, ids: Ids, code: Ids, points: Points) -> "Tally":
        """Of points that are in cells.

        Args:
            ids: Of the cells, ascending, shape (c,).
            code: In which of them each point is, shape (n,).
            points: All are in one.
        """
        reference, distance = points.reference, points.knn_distance
        column = None if distance is None else distance[:, None]
        return cls(
            slides=None if reference is None else _by_slide(ids, code, reference),
            labels=None if points.labels is None else _count(ids, code, points.labels),
            predictions=_sums(ids, code, points.predictions),
            knn_distance=_sums(ids, code, column),
        )

    def merge(self, other: "Tally") -> "Tally":
        """Of both sets of points together."""
        return Tally(
            slides=_merge_slides(self.slides, other.slides),
            labels=_merge_labels(self.labels, other.labels),
            predictions=_merge_sums(self.predictions, other.predictions),
            knn_distance=_merge_sums(self.knn_distance, other.knn_distance),
        )


def slide_numbers(cells: Ids, slides: Mapping[str, Ids] | None) -> pa.Array:
    """Distinct slides of each cell, null without slides."""
    if slides is None or not len(cells):
        return pa.nulls(len(cells), pa.int64())
    numbers = np.zeros(len(cells), np.int64)
    for own in slides.values():
        at = np.minimum(np.searchsorted(cells, own), len(cells) - 1)
        numbers[at[cells[at] == own]] += 1
    return pa.array(numbers)


def means_of(cells: Ids, sums: CellSums | None) -> tuple[NDArray[np.float64], Ids]:
    """Means of some cells (m, d), and which of the cells these are (m,)."""
    if sums is None:
        return np.empty((0, 0)), np.empty(0, np.int64)
    known = np.isin(sums.cell, cells) & (sums.n > 0)
    return sums.means(known), np.searchsorted(cells, sums.cell[known])


def label_counts(cells: Ids, labels: pa.Table | None) -> pa.Array:
    """For each cell its labels' counts by name; null without labels."""
    kind = schema.CELLS.field(schema.LABEL_COUNTS).type
    if labels is None:
        return pa.nulls(len(cells), kind)
    labels = labels.filter(np.isin(labels[_CELL].to_numpy(), cells))
    labels = labels.sort_by([(_CELL, "ascending"), (_LABEL, "ascending")])
    starts = np.searchsorted(labels[_CELL].to_numpy(), cells)
    offsets = pa.array(np.r_[starts, len(labels)], pa.int32())
    names, counts = (labels[n].combine_chunks() for n in (_LABEL, _COUNT))
    return pa.MapArray.from_arrays(offsets, names, counts)


def label_points(labels: pa.Table | None) -> dict[str, int]:
    """How many points have each label, in all cells together."""
    if labels is None:
        return {}
    summed = labels.group_by(_LABEL).aggregate([(_COUNT, "sum")])
    columns = (summed[name].to_pylist() for name in (_LABEL, f"{_COUNT}_sum"))
    return dict(zip(*columns, strict=True))


def entropies(counts: pa.Array) -> pa.Array:
    """Of the labels of each cell, in bits; null where it has none.

    0: all points have one label; 1: two labels are as frequent.

    >>> kind = schema.CELLS.field("label_counts").type
    >>> entropies(pa.array([[("a", 2), ("b", 2)], [("a", 3)], []], kind)).to_pylist()
    [1.0, 0.0, None]
    """
    found: list[float | None] = []
    for cell in counts.to_pylist():
        numbers = np.array([n for _, n in cell or ()], np.float64)
        shares = numbers / max(1.0, numbers.sum())
        bits = -float((shares * np.log2(shares)).sum())
        found.append(bits + 0.0 if len(numbers) else None)  # not -0.0
    return pa.array(found, pa.float64())


def _by_slide(ids: Ids, code: Ids, reference: pa.Table) -> dict[str, Ids]:
    """The cells of each slide."""
    slides = reference[schema.SLIDE].combine_chunks().dictionary_encode()
    own = slides.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    width = max(1, len(ids))
    pairs = np.unique(own * width + code)
    names = slides.dictionary.to_pylist()
    edges = np.searchsorted(pairs, np.arange(len(names) + 1) * width)
    return {
        name: ids[pairs[start:stop] % width]
        for name, start, stop in zip(names, edges, edges[1:], strict=False)
    }


def _merge_slides(
    a: Mapping[str, Ids] | None, b: Mapping[str, Ids] | None
) -> Mapping[str, Ids] | None:
    if a is None or b is None:
        return b if a is None else a
    merged = dict(a)
    for name, cells in b.items():
        merged[name] = np.union1d(merged[name], cells) if name in merged else cells
    return merged


def _count(ids: Ids, code: Ids, labels: pa.Array) -> pa.Table:
    known = np.flatnonzero(labels.is_valid().to_numpy(zero_copy_only=False))
    encoded = labels.take(pa.array(known)).dictionary_encode()
    names = encoded.dictionary
    own = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    width = max(1, len(names))
    pairs, counts = np.unique(code[known] * width + own, return_counts=True)
    columns = {
        _CELL: ids[pairs // width],
        _LABEL: names.take(pa.array(pairs % width)),
        _COUNT: counts.astype(np.int64),
    }
    return pa.table(columns)


def _merge_labels(a: pa.Table | None, b: pa.Table | None) -> pa.Table | None:
    if a is None or b is None:
        return b if a is None else a
    table = pa.concat_tables([a, b])
    summed = table.group_by([_CELL, _LABEL]).aggregate([(_COUNT, "sum")])
    return summed.rename_columns([_CELL, _LABEL, _COUNT])


def _sums(ids: Ids, code: Ids, values: NDArray[np.floating] | None) -> CellSums | None:
    """Of the rows that are finite."""
    if values is None:
        return None
    rows = np.flatnonzero(np.isfinite(values).all(axis=1))
    return sums_by_cell(ids, code[rows], values, rows)


def _merge_sums(a: CellSums | None, b: CellSums | None) -> CellSums | None:
    if a is None or b is None:
        return b if a is None else a
    return merge_sums(a, b)
