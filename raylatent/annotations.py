"""The annotations file: one row a slide, labels in columns."""

import csv
import io
from collections.abc import Mapping, Sequence

from raylatent.errors import AnnotationsError, StorageError
from raylatent.storage import open_input

SLIDE_COLUMN = "slide"
MAX_BYTES = 256 << 20

Row = Mapping[str, str]


def read_annotations(uri: str) -> list[Row]:
    """Rows of a CSV file with a `slide` column; all values stay strings.

    Raises:
        AnnotationsError: It cannot be read, or has no `slide` column.
    """
    try:
        with open_input(uri) as file:
            if file.size() > MAX_BYTES:
                message = f"annotations {uri} have {file.size()} bytes: is it a CSV?"
                raise AnnotationsError(message)
            text = file.read().decode("utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        rows = [dict(row) for row in reader]
    except StorageError as error:
        message = f"annotations {uri} cannot be read: {error}"
        raise AnnotationsError(message) from error
    except (UnicodeDecodeError, csv.Error) as error:
        message = f"annotations {uri} are no CSV in UTF-8: {error}"
        raise AnnotationsError(message) from error
    columns = reader.fieldnames or []
    if SLIDE_COLUMN not in columns:
        have = ", ".join(columns[:10]) or "none"
        message = f"annotations {uri} have no column {SLIDE_COLUMN!r} (they have {have})"
        raise AnnotationsError(message)
    return [{k: v or "" for k, v in row.items() if k is not None} for row in rows]


def slide_labels(rows: Sequence[Row], column: str, *, where: str) -> dict[str, str]:
    """The label of each slide that has one.

    Raises:
        AnnotationsError: There is no such column, or a slide has two labels.

    >>> slide_labels([{"slide": "a", "subtype": "x"}], "subtype", where="here")
    {'a': 'x'}
    """
    if rows and column not in rows[0]:
        have = ", ".join(rows[0])
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
