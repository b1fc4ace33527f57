"""What people call slides: the names they write, and what paths of tiles tell.

Names are matched to the slides that there are.
"""

import logging
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar, Union

from raylatent.annotations import (
    MPP_COLUMN,
    SLIDE_COLUMN,
    read_annotations,
    read_labels,
    say_odd_labels,
    tidy,
)
from raylatent.config import NamedMapConfig
from raylatent.errors import AnnotationsError, ConfigError, SourceError
from raylatent.source.record import SUFFIXES
from raylatent.source.slides import SLIDE_SUFFIXES

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

logger = logging.getLogger(__name__)

V = TypeVar("V")

SlideLabels = Union[Mapping[str, Any], "pd.Series", "pd.DataFrame", "pa.Table"]
"""Labels by slide, see `labels_given`."""

GROUPS = ("slide", "label", "x", "y")
"""Of a pattern."""
_INT32 = range(-(1 << 31), 1 << 31)
_SHOWN = 3
_MOST_COMPARED = 2_000  # names in which near ones are looked for


def stem(name: str) -> str:
    """A slide's name without folders and the ending of a slide or TFRecord.

    >>> stem("slides/S1.svs"), stem("S1.v2"), stem("S1.TFRecords")
    ('S1', 'S1.v2', 'S1')
    """
    name = re.split(r"[/\\]", tidy(name))[-1]
    for ending in (*SUFFIXES, *SLIDE_SUFFIXES):
        if name.lower().endswith(ending) and len(name) > len(ending):
            return tidy(name[: -len(ending)])
    return name


_FORMS: tuple[Callable[[str], str], ...] = (str, tidy, stem)


def match(given: Iterable[tuple[str, V]], slides: Iterable[str]) -> dict[str, V]:
    """What is given of slides, by their own names.

    A name is that of a slide if it is the same; else if it is the same when `tidy`; else
    if it is the same without the ending of a slide or TFRecord. Case counts.

    Args:
        given: Names as they were written, each with what is said of the slide.
        slides: Names that there are.

    Raises:
        AnnotationsError: A name fits two slides, or a slide is given two things.

    >>> match([("S1.svs", "tumor"), ("S2 ", "normal")], ["S1", "S2", "S3"])
    {'S1': 'tumor', 'S2': 'normal'}
    """
    tables = _tables(slides)
    found: dict[str, V] = {}
    written: dict[str, str] = {}
    for name, value in given:
        slide = _fitting(str(name), tables)
        if slide is None:
            continue
        if slide in found and found[slide] != value:
            message = (
                f"slide {slide!r} is given two values, {found[slide]!r} as "
                f"{written[slide]!r} and {value!r} as {name!r}: keep one"
            )
            raise AnnotationsError(message)
        found[slide], written[slide] = value, str(name)
    return found


def unmatched(names: Iterable[str], slides: Iterable[str]) -> list[str]:
    """Names that are of none of the slides, in the sense of `match`."""
    tables = _tables(slides)
    return [name for name in names if _fitting(str(name), tables) is None]


def _tables(slides: Iterable[str]) -> list[dict[str, list[str]]]:
    """Slides by their names in each form."""
    tables: list[dict[str, list[str]]] = []
    names = list(dict.fromkeys(slides))
    for form in _FORMS:
        table: dict[str, list[str]] = defaultdict(list)
        for name in names:
            table[form(name)].append(name)
        tables.append(table)
    return tables


def _fitting(name: str, tables: Sequence[Mapping[str, list[str]]]) -> str | None:
    for form, table in zip(_FORMS, tables, strict=True):
        fitting = table.get(form(name), [])
        if len(fitting) > 1:
            two = " and ".join(map(ascii, fitting[:2]))
            message = (
                f"the name {name!r} fits two slides, {two}: rename one of them, or "
                "write the whole name"
            )
            raise AnnotationsError(message)
        if fitting:
            return fitting[0]
    return None


def match_said(
    given: Mapping[str, V], slides: Iterable[str], *, what: str, where: str
) -> dict[str, V]:
    """As `match`; slides of which nothing is given are said in a line.

    Args:
        given: By slide, as it was written.
        slides: Names that there are.
        what: Is given, as "label".
        where: It is given, as "annotations a.csv".

    Raises:
        AnnotationsError: As of `match`, or nothing is given of any of the slides.
    """
    names = list(dict.fromkeys(slides))
    found = match(given.items(), names)
    without = [name for name in names if name not in found]
    if not without:
        return found
    hint = _near(without, (name for name in given if name not in found))
    if not found:
        others = ", ".join(map(repr, list(given)[:_SHOWN])) or "none"
        message = (
            f"{where} have no {what} of any of the {len(names)} slides, as "
            f"{without[0]!r}: slides must be called there as their files are, without "
            f"the ending, and the names there are {others}{hint}"
        )
        raise AnnotationsError(message)
    logger.warning(
        "%d of %d slides have no %s in %s, as %s%s",
        *(len(without), len(names), what, where),
        *(", ".join(map(repr, without[:_SHOWN])), hint),
    )
    return found


def _near(without: Sequence[str], given: Iterable[str]) -> str:
    """A name that was perhaps meant, in words; empty where none is near."""
    folded = {_folded(str(name)): str(name) for name in given}
    for slide in without[:_SHOWN]:
        near = folded.get(_folded(slide))
        if near is None and len(folded) <= _MOST_COMPARED:
            close = get_close_matches(_folded(slide), list(folded), n=1, cutoff=0.8)
            near = folded[close[0]] if close and _digits(close[0], slide) else None
        if near is not None:
            return f" (is {near!r} meant to be {slide!r}?)"
    return ""


def _folded(name: str) -> str:
    """What is left of a name if case, spaces, marks and leading zeros do not count."""
    plain = re.sub(r"[\W_]+", "", stem(name).casefold())
    return re.sub(r"(?<!\d)0+(?=\d)", "", plain)


def _digits(one: str, other: str) -> bool:
    """Whether all numbers in two names are the same: s1 is not meant by s2."""
    numbers = [re.findall(r"\d+", _folded(name)) for name in (one, other)]
    return numbers[0] == numbers[1]


def labels_given(labels: SlideLabels) -> dict[str, Any]:
    """Labels by slide as a dict: names as written, words `tidy`, missing ones left out.

    Args:
        labels: A mapping of slide to label, a pandas Series with slides as its index, or
            a DataFrame or Arrow table with one column beside the slides (its column
            `slide`, else its index).

    Raises:
        AnnotationsError: It is none of these, has several columns, or a slide twice with
            different labels.

    >>> import pandas as pd
    >>> labels_given(pd.Series({"a": " tumor", "b": None}))
    {'a': 'tumor'}
    """
    import pandas as pd  # noqa: PLC0415  (slow)

    found: dict[str, Any] = {}
    for slide, value in _items(labels):
        if not pd.api.types.is_scalar(value):
            message = (
                f"the label of slide {str(slide)!r} is a {type(value).__name__}: give a "
                "word or a number"
            )
            raise AnnotationsError(message)
        if pd.isna(value):
            continue
        label = tidy(value) if isinstance(value, str) else value
        if label == "":
            continue
        if found.setdefault(str(slide), label) != label:
            message = (
                f"labels give slide {str(slide)!r} twice, as {found[str(slide)]!r} and "
                f"as {label!r}: keep one"
            )
            raise AnnotationsError(message)
    return found


def labels_of_slides(labels: SlideLabels, slides: Iterable[str]) -> dict[str, Any]:
    """Labels as of `labels_given` by the slides' own names, and what is odd is said.

    Raises:
        AnnotationsError: As of `labels_given` and `match_said`.
    """
    given = labels_given(labels)
    say_odd_labels([v for v in given.values() if isinstance(v, str)], "labels")
    return match_said(given, slides, what="label", where="the labels given")


def is_table(labels: object) -> bool:
    """Whether labels are a table, whose columns have names."""
    return hasattr(labels, "__arrow_c_stream__") and hasattr(labels, "columns")


def _items(labels: Any) -> Iterable[tuple[Any, Any]]:  # noqa: ANN401
    import pandas as pd  # noqa: PLC0415  (slow)

    if isinstance(labels, Mapping | pd.Series):
        return list(labels.items())
    if not is_table(labels):
        message = (
            f"labels are given as {type(labels).__name__}: give a mapping of slide to "
            "label, as a dict or a pandas Series with the slides as its index"
        )
        raise AnnotationsError(message)
    frame = labels
    if not isinstance(frame, pd.DataFrame):
        import pyarrow as pa  # noqa: PLC0415

        frame = pa.table(frame).to_pandas()
    if SLIDE_COLUMN in frame.columns:
        frame = frame.set_index(SLIDE_COLUMN)
    if len(frame.columns) != 1:
        columns = ", ".join(map(repr, list(frame.columns)[:10])) or "none"
        message = (
            f"labels are a table with the columns {columns}: choose the one of the "
            f"labels, as table.set_index({SLIDE_COLUMN!r})[COLUMN]"
        )
        raise AnnotationsError(message)
    return list(frame.iloc[:, 0].items())


@dataclass(frozen=True)
class Pattern:
    """What tells a slide's pictures, and their labels and places, from their paths.

    Attributes:
        regex: None: every picture, and nothing is told of it.
    """

    regex: "re.Pattern[str] | None"

    @classmethod
    @lru_cache(maxsize=64)
    def of(cls, text: str | None, what: str = "--tiles-pattern") -> "Pattern":
        """A regular expression with some of the groups `slide`, `label`, `x`, `y`.

        Args:
            text: The expression.
            what: It is, for messages.

        Raises:
            ConfigError: It is none, or has other groups, or only one of `x` and `y`.
        """
        if text is None:
            return cls(None)
        try:
            regex = re.compile(text)
        except re.error as error:
            message = f"{what} {text!r} is no regular expression: {error}"
            raise ConfigError(message) from error
        foreign = sorted(set(regex.groupindex) - set(GROUPS))
        if foreign:
            message = (
                f"{what} has a group {foreign[0]!r}: the groups are "
                f"{', '.join(GROUPS)}, as (?P<slide>...)"
            )
            raise ConfigError(message)
        if len({"x", "y"} & set(regex.groupindex)) == 1:
            message = (
                f"{what} {text!r} has one of the groups x and y: a place needs both"
            )
            raise ConfigError(message)
        return cls(regex)

    def has(self, group: str) -> bool:
        """Whether there is such a group."""
        return self.regex is not None and group in self.regex.groupindex

    def group(self, name: str, group: str) -> str | None:
        """What a group finds in a path, None where it finds nothing."""
        match = self.regex.search(name) if self.regex and self.has(group) else None
        return None if match is None else match[group] or None

    def places(self, name: str) -> tuple[int | None, int | None]:
        """Center of a tile in level-0 pixels, x and y, where its path tells both.

        Raises:
            SourceError: It is no integer of 32 bits.
        """
        found: list[int | None] = []
        for axis in "xy":
            text = self.group(name, axis)
            if text is not None and not (
                re.fullmatch(r"[+-]?[0-9]+", text) and int(text) in _INT32
            ):
                message = (
                    f"--tiles-pattern finds {axis}={text!r} in {name!r}, which is no "
                    "whole number of level-0 pixels"
                )
                raise SourceError(message)
            found.append(None if text is None else int(text))
        return (None, None) if None in found else (found[0], found[1])

    def by_slide(
        self, names: Sequence[str], folder: str
    ) -> dict[str | None, list[str]]:
        """Pictures of each slide, see `slide_of`; those that do not fit are left out.

        Of None are those in which the pattern finds no slide.
        """
        found: dict[str | None, list[str]] = {}
        for name in names:
            if self.regex is None or self.regex.search(name) is not None:
                found.setdefault(self.slide_of(name, folder), []).append(name)
        return found

    def slide_of(self, name: str, folder: str) -> str | None:
        """The slide of a picture that fits, None where the pattern finds none.

        Args:
            name: Its path below the folder.
            folder: The folder's own name, that of a slide whose pictures lie in it.
        """
        if self.has("slide"):
            return self.group(name, "slide")
        return name.partition("/")[0] if "/" in name else folder


def check_labels(config: NamedMapConfig) -> dict[str, str] | None:
    """Labels by slide, None where none are asked for; refused before hours of work."""
    if not config.annotations:
        return None
    if not config.label:
        rows = read_annotations(config.annotations)
        if rows and MPP_COLUMN in rows[0]:
            return None  # they are for the slides
        logger.warning(
            "--annotations without --label COLUMN colors nothing; columns are %s",
            ", ".join(rows[0] if rows else ()),
        )
        return None
    if config.stored_labels():
        rows = read_annotations(config.annotations)
        if rows and config.label not in rows[0]:
            return None  # they are beside the map; annotations are for the page
    return read_labels(config.annotations, config.label)


def labeled(
    labels: Mapping[str, str], slides: Iterable[str], config: NamedMapConfig
) -> dict[str, str]:
    """Labels by the slides' own names; how many slides have none is said.

    Raises:
        AnnotationsError: Not one slide has a label, or one has two.
    """
    where = f"annotations {config.annotations}"
    return match_said(labels, slides, what=repr(config.label), where=where)
