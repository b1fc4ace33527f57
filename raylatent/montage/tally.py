"""What is in each cell of a mosaic: slides, labels, predictions, distances.

As all of a mosaic, a tally of parts merges to that of the whole, to the bit. Sums of
numbers are exact: values are cut into digits of 32 bits at places that are the same for
all, and these are summed as integers, so that neither the order of rows nor the way in
which parts are merged shows. Of each cell and column the leading places are kept, so that
a huge value hides small ones in its own cell and column alone.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylatent import schema
from raylatent.errors import MapError
from raylatent.montage.points import Points

_BITS = 32  # so that 2**31 values add up in 63
_BASE = 2.0**_BITS
_POINT = 24  # bits of digit 0 below 1: values of 2**-24 up to 2**8 lead with it
_LEAST = -31  # place of the leading digit of what is below 2**-984, as 0
_CHUNK_VALUES = 1 << 21  # 16 MiB as float64, in which so many digits add up exactly
_CHUNK_ROWS = 1 << 13  # so many values of float16 do
_CELL = "cell"
_LABEL = "label"
_COUNT = "count"

Ids = NDArray[np.int64]
"""Of cells, as `points.cell_ids` gives them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CellSums:
    """Sums of some columns by cell.

    Attributes:
        cell: Ids, ascending, shape (c,).
        n: Points of each, shape (c,).
        lead: Place of the leading digit, that of the largest value, shape (c, d): the
            digit at place p is worth 2**(32 p - 24).
        digits: Sums of it and of those after it, shape (k, c, d), int64.
    """

    cell: NDArray[np.int64]
    n: NDArray[np.int64]
    lead: NDArray[np.int16]
    digits: NDArray[np.int64]

    def means(self, cells: NDArray[Any] | slice = slice(None)) -> NDArray[np.float64]:
        """The means of some cells that have points, shape (m, d)."""
        digits = self.digits[:, cells].copy()
        totals = np.zeros(digits.shape[1:])
        for place in reversed(range(len(digits))):  # the smallest first
            if place:  # of equal sums the digits may differ, until they are carried
                carry = digits[place] >> _BITS
                digits[place - 1] += carry
                digits[place] -= carry << _BITS
            totals += digits[place] * _BASE**-place
        exponents = _BITS * self.lead[cells].astype(np.int32) - _POINT
        found: NDArray[np.float64] = np.ldexp(totals / self.n[cells, None], exponents)
        return found


def sums_by_cell(
    ids: NDArray[np.int64],
    code: NDArray[np.int64],
    values: NDArray[np.floating],
    rows: NDArray[np.int64],
) -> CellSums:
    """Sums of some rows of values (m, d).

    Args:
        ids: Of cells, shape (c,).
        code: In which of them each of the rows is, shape (n,).
        values: Of float16 no bit is lost, of float32 none that is worth more than
            2**-33 of the cell's largest in that column, of others 2**-65.
        rows: Which of the values, shape (n,).

    Raises:
        MapError: A value in these rows is not finite.
    """
    half = values.dtype == np.float16
    n_digits = 2 if half or values.dtype == np.float32 else 3
    shape = (len(ids), values.shape[1])
    lead = np.full(shape, _LEAST, np.int16)
    digits = np.zeros((n_digits, *shape), np.int64)
    order = np.argsort(code, kind="stable")
    for some in chunks((len(rows), values.shape[1])):
        groups, starts = np.unique(code[order[some]], return_index=True)
        chunk = values[rows[order[some]]].astype(np.float64)
        if half:
            own, found = _halves(chunk, starts)
        else:
            own, found = _digits(chunk, starts, n_digits)
        # Only the first of these cells may have rows in the chunk before.
        at = groups[0]
        most = np.maximum(lead[at], own[0])
        both = _moved(digits[:, at], most - lead[at])
        both = both + _moved(found[:, 0], most - own[0])
        lead[groups], digits[:, groups] = own, found
        lead[at], digits[:, at] = most, both
    n = np.bincount(code, minlength=len(ids)).astype(np.int64)
    return CellSums(cell=ids, n=n, lead=lead, digits=digits)


def merge_sums(a: CellSums, b: CellSums) -> CellSums:
    """Of both sets of points together."""
    if not len(a.cell) or not len(b.cell):
        return a if len(a.cell) else b
    (*k, _, d), (*other_k, _, other_d) = a.digits.shape, b.digits.shape
    if (k, d) != (other_k, other_d):
        message = (
            f"sums of {d} and {other_d} columns, or of two types, cannot be merged"
        )
        raise MapError(message)
    ids, inverse = np.unique(np.concatenate([a.cell, b.cell]), return_inverse=True)
    n = np.zeros(len(ids), np.int64)
    lead = np.full((len(ids), d), _LEAST, np.int16)
    digits = np.zeros((*k, len(ids), d), np.int64)
    parts = ((a, inverse[: len(a.cell)]), (b, inverse[len(a.cell) :]))
    for part, at in parts:
        lead[at] = np.maximum(lead[at], part.lead)
    for part, at in parts:
        n[at] += part.n
        digits[:, at] += _moved(part.digits, lead[at] - part.lead)
    return CellSums(cell=ids, n=n, lead=lead, digits=digits)


def _digits(
    chunk: NDArray[np.float64], starts: NDArray[np.int64], n_digits: int
) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
    """Leading places (g, d) of groups of rows, and sums of digits (k, g, d)."""
    largest = np.maximum.reduceat(np.abs(chunk), starts, axis=0)  # NaN stays NaN
    _refuse_not_finite(largest)
    places = (np.frexp(largest)[1] - 1 + _POINT) // _BITS
    lead = np.where(largest > 0, np.maximum(places, _LEAST), _LEAST).astype(np.int16)
    unit = np.ldexp(1.0, _POINT - _BITS * lead.astype(np.int32))
    chunk *= np.repeat(unit, np.diff(np.r_[starts, len(chunk)]), axis=0)
    digits = np.empty((n_digits, *lead.shape), np.int64)
    for place in range(n_digits):
        digit = np.trunc(chunk)
        digits[place] = np.add.reduceat(digit, starts, axis=0)
        chunk -= digit
        chunk *= _BASE
    return lead, digits


def _halves(
    chunk: NDArray[np.float64], starts: NDArray[np.int64]
) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
    """As `_digits` of values of float16, which all have the same two places.

    They are multiples of 2**-24 below 2**16: thousands of them add up exactly.
    """
    sums = np.add.reduceat(chunk, starts, axis=0)
    _refuse_not_finite(sums)
    sums *= 2.0**_POINT
    first = np.floor(sums / _BASE)
    digits = np.stack([first, sums - first * _BASE]).astype(np.int64)
    return np.ones(sums.shape, np.int16), digits


def _refuse_not_finite(found: NDArray[np.float64]) -> None:
    if not np.isfinite(found).all():
        message = (
            "the features hold values that are not finite, so that a cell has "
            "no medoid: leave out their rows or use select='nearest'"
        )
        raise MapError(message)


def _moved(
    digits: NDArray[np.int64], steps: NDArray[np.integer[Any]]
) -> NDArray[np.int64]:
    """Digits (k, c, d) so many steps (c, d) after where they were; the last are lost."""
    if not steps.any():
        return digits
    moved = np.zeros_like(digits)
    for place in range(len(digits)):
        for before in range(place + 1):
            here = steps == place - before
            moved[place][here] = digits[before][here]
    return moved


def chunks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Rows of an array (n, width), at most 8192, about 2 million values."""
    n, width = shape
    step = min(_CHUNK_ROWS, max(1, _CHUNK_VALUES // max(1, width)))
    for start in range(0, n, step):
        yield slice(start, min(n, start + step))


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
        labels = points.labels
        return cls(
            slides=None if reference is None else _by_slide(ids, code, reference),
            labels=None if labels is None else counts_by_cell(ids, code, labels),
            predictions=_sums(ids, code, points.predictions),
            knn_distance=_sums(ids, code, column),
        )

    def merge(self, other: "Tally") -> "Tally":
        """Of both sets of points together."""
        return Tally(
            slides=_merge_slides(self.slides, other.slides),
            labels=merge_counts(self.labels, other.labels),
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


def counts_by_cell(ids: Ids, code: Ids, labels: pa.Array) -> pa.Table:
    """How many points of each cell have each label: `cell`, `label`, `count`.

    `ids` (c,) are of the cells, ascending; `code` (n,) says in which each point is.
    """
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


def merge_counts(a: pa.Table | None, b: pa.Table | None) -> pa.Table | None:
    """Counts of both sets of points together, see `counts_by_cell`."""
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
