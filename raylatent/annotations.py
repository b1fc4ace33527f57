"""The annotations file: one row a slide, labels in columns."""

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice, zip_longest

from raylatent.errors import AnnotationsError, StorageError
from raylatent.pixel_size import why_not_mpp
from raylatent.storage import open_input, reason, retry

SLIDE_COLUMN = "slide"
MPP_COLUMN = "mpp"
MAX_BYTES = 64 << 20
MAX_ROWS = 1_000_000  # without the header
MAX_CELLS = 10_000_000

Row = Mapping[str, str]


def read_annotations(uri: str) -> list[Row]:
    """Rows of a CSV file with a `slide` column; all values stay strings.

    Raises:
        AnnotationsError: It cannot be read, is too large to be true, or has no `slide`
            column, or a column twice.
    """
    try:
        with open_input(uri) as file:
            if file.size() > MAX_BYTES:
                message = f"annotations {uri} have {file.size()} bytes: is it a CSV?"
                raise AnnotationsError(message)
            text = bytes(retry(file.read, f"read {uri}")).decode("utf-8-sig")
        columns, *rows = _rows(text, uri) or [[]]
    except StorageError as error:
        message = f"annotations {uri} cannot be read: {error}"
        raise AnnotationsError(message) from error
    except (UnicodeDecodeError, csv.Error) as error:
        message = (
            f"annotations {uri} are no CSV in UTF-8, save them as such: {reason(error)}"
        )
        raise AnnotationsError(message) from error
    _check_columns(columns, uri)
    return [
        dict(zip_longest(columns, row[: len(columns)], fillvalue="")) for row in rows
    ]


def _rows(text: str, uri: str) -> list[list[str]]:
    """All rows that are not empty, the header first.

    Raises:
        AnnotationsError: They are too many to be true.
        csv.Error: It is no CSV.
    """
    rows: list[list[str]] = []
    n_cells = text.count(",")  # all may be in one line, which is parsed at once
    if n_cells <= MAX_CELLS:
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        rows = list(islice((row for row in reader if row), MAX_ROWS + 2))
        n_cells = len(rows) * len(rows[0]) if rows else 0  # short ones are filled
    for n, most, what in (
        (len(rows) - 1, MAX_ROWS, "rows"),
        (n_cells, MAX_CELLS, "cells"),
    ):
        if n > most:
            message = f"annotations {uri} have more than {most} {what}: is it the file?"
            raise AnnotationsError(message)
    return rows


def _check_columns(columns: Sequence[str], uri: str) -> None:
    have = ", ".join(map(repr, columns[:10])) or "none"
    if SLIDE_COLUMN not in columns:
        message = (
            f"annotations {uri} have no column {SLIDE_COLUMN!r} (they have {have})"
        )
        raise AnnotationsError(message)
    for column, n in Counter(columns).items():
        if n > 1 and column:
            message = (
                f"annotations {uri} have {n} columns {column!r}: rename all but one"
            )
            raise AnnotationsError(message)


def slide_labels(rows: Sequence[Row], column: str, *, where: str) -> dict[str, str]:
    """The label of each slide that has one.

    Raises:
        AnnotationsError: There is no such column, or a slide has two labels.

    >>> slide_labels([{"slide": "a", "subtype": "x"}], "subtype", where="here")
    {'a': 'x'}
    """
    if rows and column not in rows[0]:
        have = ", ".join(map(repr, list(rows[0])[:10]))
        message = f"annotations {where} have no column {column!r} (they have {have})"
        raise AnnotationsError(message)
    labels: dict[str, str] = {}
    for row in rows:
        slide, label = row[SLIDE_COLUMN], row[column]
        if not slide or not label:
            continue
        if labels.setdefault(slide, label) != label:
            message = (
                f"annotations {where} give slide {slide!r} two labels in {column!r}: "
                f"{labels[slide]!r} and {label!r}"
            )
            raise AnnotationsError(message)
    return labels


def read_labels(uri: str, column: str) -> dict[str, str]:
    """The label of each slide, from a file."""
    return slide_labels(read_annotations(uri), column, where=uri)


def read_mpps(uri: str) -> dict[str, float]:
    """µm a pixel of the slides for which a file's column `mpp` gives it.

    Raises:
        AnnotationsError: The file cannot be read, or a value is no size of a pixel.
    """
    rows = read_annotations(uri)
    if not rows or MPP_COLUMN not in rows[0]:
        return {}
    found = {}
    for slide, text in slide_labels(rows, MPP_COLUMN, where=uri).items():
        try:
            value = float(text)
        except ValueError:
            why_not: str | None = "give micrometers a pixel with a point, as 0.25"
        else:
            why_not = why_not_mpp(value)
        if why_not is not None:
            message = (
                f"annotations {uri} give slide {slide!r} the mpp {text!r}: {why_not}"
            )
            raise AnnotationsError(message)
        found[slide] = value
    return found
