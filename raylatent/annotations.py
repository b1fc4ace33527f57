"""The annotations file: one row a slide, labels in columns."""

import csv
import io
import logging
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice, zip_longest

from raylatent.config.options import why_not_mpp
from raylatent.errors import AnnotationsError, StorageError
from raylatent.storage import open_input, reason, retry

logger = logging.getLogger(__name__)

SLIDE_COLUMN = "slide"
MPP_COLUMN = "mpp"
MAX_BYTES = 64 << 20
MAX_ROWS = 1_000_000  # without the header
MAX_CELLS = 10_000_000

_DELIMITERS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}
_HEADER_CHARS = 1 << 20  # the first line is looked for in these
_EXCELS_LINE = re.compile(r'"?sep=(.)"?\r?\n?', re.IGNORECASE)
_MARKS = {  # of UTF-32 first: that of UTF-16 begins it
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
_OTHER_FILES = {
    b"PK\x03\x04": "a spreadsheet (.xlsx, .ods) or a zip",
    b"\xd0\xcf\x11\xe0": "a spreadsheet (.xls)",
    b"\x1f\x8b": "a gzip'ed file",
    b"PAR1": "a Parquet file",
}
_SAVE = "save the table as CSV in UTF-8"
_SPACES = re.compile("[\u00a0\u2007\u202f]")  # that no line breaks at
_UNSEEN = re.compile("[\u00ad\u200b\u2060\ufeff]")  # without width, and of no meaning
MISSING_WORDS = frozenset({"na", "n/a", "nan", "none", "null", "#n/a"})

Row = Mapping[str, str]


def tidy(text: str) -> str:
    r"""A name or label as it is compared: what looks the same is the same.

    Letters are composed (Unicode NFC; macOS decomposes them in file names), spaces and
    characters without width are taken off the ends, no-break spaces are spaces.

    >>> tidy("tumor\u00a0"), tidy("Mu\u0308ller 3") == "M\u00fcller 3"
    ('tumor', True)
    """
    text = _SPACES.sub(" ", _UNSEEN.sub("", unicodedata.normalize("NFC", text)))
    first = next((i for i, char in enumerate(text) if _is_ink(char)), len(text))
    last = next((i for i, char in enumerate(reversed(text)) if _is_ink(char)), 0)
    return text[first : len(text) - last]


def _is_ink(char: str) -> bool:
    """Whether it is no space, and no mark of the direction or joining of letters."""
    return not char.isspace() and unicodedata.category(char) != "Cf"


def read_annotations(uri: str) -> list[Row]:
    """Rows of a CSV file with a `slide` column; all values stay strings.

    Columns and values are as `tidy` makes them, but for the slides' names, which are
    compared so when they are looked for. The delimiter is the comma, or else the
    semicolon, tab or bar with which the header has a column `slide`; a first line
    `sep=;`, as Excel knows it, decides. UTF-16 is read where the file begins with its
    mark.

    Raises:
        AnnotationsError: It cannot be read, is too large to be true, or has no `slide`
            column, a column twice, or a row with more values than columns.
    """
    try:
        with open_input(uri) as file:
            if file.size() > MAX_BYTES:
                message = f"annotations {uri} have {file.size()} bytes: is it a CSV?"
                raise AnnotationsError(message)
            text = _decoded(bytes(retry(file.read, f"read {uri}")), uri)
        columns, *rows = _rows(text, uri) or [[]]
    except StorageError as error:
        message = f"annotations {uri} cannot be read: {error}"
        raise AnnotationsError(message) from error
    except csv.Error as error:
        message = f"annotations {uri} are no CSV: {reason(error)}; {_SAVE}"
        raise AnnotationsError(message) from error
    columns = [tidy(column) for column in columns]
    _check_columns(columns, uri)
    _check_rows(rows, columns, uri)
    return [_row(columns, row) for row in rows]


def _row(columns: Sequence[str], values: Sequence[str]) -> Row:
    given = zip_longest(columns, values[: len(columns)], fillvalue="")
    return {c: value if c == SLIDE_COLUMN else tidy(value) for c, value in given}


def _decoded(data: bytes, uri: str) -> str:
    """The file's text, without the mark of its encoding.

    Raises:
        AnnotationsError: It is no text, or in an encoding that it does not tell.
    """
    for start, what in _OTHER_FILES.items():
        if data.startswith(start):
            message = f"annotations {uri} are {what}, no CSV: {_SAVE}"
            raise AnnotationsError(message)
    encoding = next((e for mark, e in _MARKS.items() if data.startswith(mark)), None)
    try:
        text = data.decode(encoding or "utf-8-sig")
    except UnicodeDecodeError as error:
        where, byte = data.count(b"\n", 0, error.start) + 1, data[error.start]
        looks = bytes([byte]).decode("cp1252", "replace")
        hint = "" if encoding else f", which is {looks!r} in Windows-1252"
        message = (
            f"annotations {uri} are not in {(encoding or 'utf-8').upper()}: line {where} "
            f"has the byte 0x{byte:02X}{hint}; {_SAVE}"
        )
        raise AnnotationsError(message) from error
    if "\0" in text:
        message = f"annotations {uri} are no CSV: some of their bytes are zero; {_SAVE}"
        raise AnnotationsError(message)
    return text


def _rows(text: str, uri: str) -> list[list[str]]:
    """All rows that are not empty, the header first.

    Raises:
        AnnotationsError: They are too many to be true.
        csv.Error: It is no CSV.
    """
    told = _EXCELS_LINE.match(text)
    text = text[told.end() :] if told else text
    delimiter = told[1] if told else _delimiter(text)
    if delimiter != ",":
        name = _DELIMITERS.get(delimiter, repr(delimiter))
        logger.info("annotations %s: values are taken as divided by %s", uri, name)
    rows: list[list[str]] = []
    n_cells = text.count(delimiter)  # all may be in one line, which is parsed at once
    if n_cells <= MAX_CELLS:
        reader = _reader(text, delimiter)
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


def _reader(text: str, delimiter: str) -> Iterable[list[str]]:
    file = io.StringIO(text, newline="")
    return csv.reader(file, delimiter=delimiter, strict=True, skipinitialspace=True)


def _delimiter(text: str) -> str:
    """The first with which the header has a column `slide`; a comma if none has."""
    start = text[:_HEADER_CHARS]
    for delimiter in _DELIMITERS:
        if start.count(delimiter) > MAX_CELLS:
            continue
        try:
            header = next((row for row in _reader(start, delimiter) if row), [])
        except csv.Error:
            continue
        if SLIDE_COLUMN in map(tidy, header):
            return delimiter
    return ","


def _check_columns(columns: Sequence[str], uri: str) -> None:
    have = ", ".join(map(repr, columns[:10])) or "none"
    if SLIDE_COLUMN not in columns:
        near = [c for c in columns if c.casefold().rstrip("s") == SLIDE_COLUMN]
        hint = f": call {near[0]!r} {SLIDE_COLUMN!r}" if near else ""
        message = f"annotations {uri} have no column {SLIDE_COLUMN!r} (they have {have}){hint}"
        raise AnnotationsError(message)
    for column, n in Counter(columns).items():
        if n > 1 and column:
            message = (
                f"annotations {uri} have {n} columns {column!r}: rename all but one"
            )
            raise AnnotationsError(message)


def _check_rows(
    rows: Sequence[Sequence[str]], columns: Sequence[str], uri: str
) -> None:
    """Refuse values beyond the last column: a label that is cut is another label."""
    for number, row in enumerate(rows, 1):
        if len(row) > len(columns) and any(map(tidy, row[len(columns) :])):
            n = len(row)
            message = (
                f"annotations {uri}: row {number} below the header has {n} values for "
                f"{len(columns)} columns: put values with the character that divides "
                "them into quotes, and write decimals with a point"
            )
            raise AnnotationsError(message)


def slide_labels(rows: Sequence[Row], column: str, *, where: str) -> dict[str, str]:
    """The label of each slide that has one.

    Raises:
        AnnotationsError: There is no such column, or a slide has two labels.

    >>> slide_labels([{"slide": "a", "subtype": "x"}], "subtype", where="here")
    {'a': 'x'}
    """
    column = tidy(column)
    if rows and column not in rows[0]:
        have = ", ".join(map(repr, list(rows[0])[:10]))
        message = f"annotations {where} have no column {column!r} (they have {have})"
        raise AnnotationsError(message)
    labels: dict[str, str] = {}
    for row in rows:
        slide, label = row[SLIDE_COLUMN], row[column]
        if not tidy(slide) or not label:
            continue
        if labels.setdefault(slide, label) != label:
            message = (
                f"annotations {where} give slide {slide!r} two labels in {column!r}: "
                f"{labels[slide]!r} and {label!r}"
            )
            raise AnnotationsError(message)
    return labels


def say_odd_labels(labels: Iterable[str], what: str) -> None:
    """Say which labels differ in case or spaces only, and which look like none.

    Args:
        labels: Of slides.
        what: They are, as "annotations a.csv".
    """
    counts = Counter(labels)
    alike: dict[str, list[str]] = defaultdict(list)
    for label in sorted(counts):
        alike["".join(label.casefold().split())].append(label)
    same = [" and ".join(map(repr, names)) for names in alike.values() if names[1:]]
    if same:
        logger.warning(
            "%s: %s differ in case or spaces only, and are labels of their own: write "
            "them alike if they are the same",
            *(what, "; ".join(same[:5])),
        )
    missing = sorted(label for label in counts if label.lower() in MISSING_WORDS)
    if missing:
        logger.warning(
            "%s: %s is taken as a label (slides that have it: %d): leave the cells "
            "empty if these slides have no label",
            *(what, " or ".join(map(repr, missing)), sum(counts[m] for m in missing)),
        )


def read_labels(uri: str, column: str) -> dict[str, str]:
    """The label of each slide, from a file."""
    labels = slide_labels(read_annotations(uri), column, where=uri)
    say_odd_labels(labels.values(), f"annotations {uri}")
    return labels


def read_mpps(uri: str) -> dict[str, float]:
    """µm a pixel of the slides for which a file's column `mpp` gives it.

    Raises:
        AnnotationsError: The file cannot be read, or a value is no size of a pixel.
    """
    rows = read_annotations(uri)
    if not rows or MPP_COLUMN not in rows[0]:
        near = (
            [c for c in rows[0] if c.casefold().startswith(MPP_COLUMN)] if rows else []
        )
        if near:
            logger.warning(
                "annotations %s: the column %r is not read, only one called %r gives the "
                "micrometers a pixel of slides",
                *(uri, near[0], MPP_COLUMN),
            )
        return {}
    found = {}
    for slide, text in slide_labels(rows, MPP_COLUMN, where=uri).items():
        try:
            value = float(text if "_" not in text else "")  # Python takes 0_5 for 5
        except ValueError:
            why_not: str | None = (
                "give micrometers a pixel with a point, as 0.25, or leave the cell empty"
            )
        else:
            why_not = why_not_mpp(value)
        if why_not is not None:
            message = (
                f"annotations {uri} give slide {slide!r} the mpp {text!r}: {why_not}"
            )
            raise AnnotationsError(message)
        found[slide] = value
    return found
