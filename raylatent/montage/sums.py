"""Exact sums of columns by cell, and their means.

Values are cut into digits of 32 bits at places that are the same for all, and these are
summed as integers: neither the order of rows nor the way in which parts are merged shows.
Of each cell and column the leading places are kept, so that a huge value hides small
ones in its own cell and column alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raylatent.errors import MapError

_BITS = 32  # so that 2**31 values add up in 63
_BASE = 2.0**_BITS
_POINT = 24  # bits of digit 0 below 1: values of 2**-24 up to 2**8 lead with it
_LEAST = -31  # place of the leading digit of what is below 2**-984, as 0
_CHUNK_VALUES = 1 << 21  # 16 MiB as float64, in which so many digits add up exactly
_CHUNK_ROWS = 1 << 13  # so many values of float16 do


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
