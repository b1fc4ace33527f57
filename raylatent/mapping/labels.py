"""How labels are shown: the color of each, its font, and the legend that says so.

Categories have colors of their own; numbers are on a scale. Fonts are those of the
system where the default lacks a character.
"""

import colorsys
import logging
import math
import numbers
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raylatent.errors import MapError

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.ft2font import FT2Font
    from matplotlib.legend import Legend
    from matplotlib.text import Text


CMAP = "viridis"

_MOST_CLASSES = 12
MOST_LABELS = 1_000
"""Labels that tiles may have of their own: more tell no tile from another."""
_LAST_CODE = 30  # of classes that are called by whole numbers
# Okabe and Ito 2008, https://jfly.uni-koeln.de/color/: told apart by the color-blind.
OKABE_ITO = (
    *("#0072B2", "#E69F00", "#009E73", "#CC79A7"),
    *("#56B4E9", "#D55E00", "#F0E442", "#000000"),
)
NO_LABEL = "(no label)"
NO_LABEL_COLOR = "#BBBBBB"
OTHER_COLOR = "#888888"
SEVERAL = "(several labels)"  # of a mosaic's cell
MOST_ENTRIES = 24
_MAX_CHARS = 64
_OWN_WORDS = re.compile(r"\((no label|several labels|[\d,]+ further labels?)\)")

Entries = list[tuple[str, Any]]
"""Texts and colors of a legend; a text without color is only said."""

logger = logging.getLogger(__name__)

_ALL_IN_DEFAULT = 0x250  # Latin letters; all of them are in the default font
_MAX_LINE_CHARS = 28  # of a line with characters that are written as numbers
_PREFERRED = (
    *("notosanscjk", "sourcehansans", "notosans", "wqy", "droidsansfallback"),
    *("ipa", "nanum", "noto"),
)
_BOXES = ("lastresort", "adobeblank", "tofu")  # have every character, and draw none
_PLAIN = ("regular", "medium", "book")
_SLANTED_OR_FAT = ("bold", "black", "heavy", "thin", "light", "italic", "oblique")


@dataclass(frozen=True)
class Scale:
    """What numbers the colors stand for, from the least label to the largest."""

    low: float
    high: float

    def color(self, value: float) -> str:
        """The color of a number, as #RRGGBB."""
        from matplotlib.colors import to_hex  # noqa: PLC0415  (slow)

        share = (value - self.low) / ((self.high - self.low) or 1.0)
        return to_hex(self._colors(share)).upper()

    @cached_property
    def _colors(self) -> Any:  # noqa: ANN401  (a colormap)
        from matplotlib import colormaps  # noqa: PLC0415  (slow)

        return colormaps[CMAP]

    def ticks(self) -> list[float]:
        """Some round numbers on the scale, ascending, as on a color bar."""
        from matplotlib.ticker import MaxNLocator  # noqa: PLC0415  (slow)

        ticks = map(float, MaxNLocator(7).tick_values(self.low, self.high))
        return [tick for tick in ticks if self.low <= tick <= self.high]


def scale_of(labels: Iterable[object]) -> Scale | None:
    """The scale of labels that are numbers; None where they are classes.

    Numbers, or words that are numbers, are a scale if there are more than 12 of them,
    unless all are whole and from 0 to 30, as the numbers of classes and clusters.

    >>> scale_of(["0.5", *range(40, 60)]), scale_of(range(20)), scale_of(["1", "G2"])
    (Scale(low=0.5, high=59.0), None, None)
    """
    given = {number(label) for label in set(labels)}
    found = {value for value in given if value is not None}
    if len(found) < len(given) or len(found) <= _MOST_CLASSES:
        return None
    low, high = min(found), max(found)
    codes = low >= 0 and high <= _LAST_CODE and all(v.is_integer() for v in found)
    return None if codes else Scale(low, high)


def number(label: object) -> float | None:
    """A label as a finite number, None where it is none.

    >>> number("62"), number("1_0"), number("nan"), number(True)
    (62.0, None, None, None)
    """
    if isinstance(label, bool) or not isinstance(label, numbers.Real | str):
        return None
    if isinstance(label, str) and "_" in label:
        return None
    try:
        value = float(label)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def numbers_of(labels: Iterable[object]) -> list[float]:
    """Labels as numbers.

    Raises:
        MapError: One is none.
    """
    found = []
    for label in labels:
        value = number(label)
        if value is None:
            message = (
                f"the label {label!r} is no number: draw labels with categorical=True"
            )
            raise MapError(message)
        found.append(value)
    return found


def say_too_many_labels() -> None:
    """Say that labels of tiles color nothing."""
    logger.warning(
        "tiles have more than %d labels of their own, which are drawn in no colors: "
        "is the group `label` of --tiles-pattern another one for each tile?",
        MOST_LABELS,
    )


def category_colors(n: int) -> list[str]:
    """Colors for n categories: Okabe and Ito's up to 8, else hues spread evenly.

    >>> category_colors(2)
    ['#0072B2', '#E69F00']
    """
    if n <= len(OKABE_ITO):
        return list(OKABE_ITO[:n])
    # Steps of the golden ratio never come close; shades alternate beside them.
    shades = ((0.85, 0.85), (0.5, 0.95), (0.95, 0.5))
    hues = ((i * 0.6180339887498949) % 1.0 for i in range(n))
    colors = (
        colorsys.hsv_to_rgb(hue, *shades[i % len(shades)]) for i, hue in enumerate(hues)
    )
    return ["#" + "".join(f"{round(255 * v):02X}" for v in rgb) for rgb in colors]


def in_order(names: Iterable[Any]) -> list[Any]:
    """Labels as they are listed: numbers by what they are, if all are, else words.

    >>> in_order(["10", "9", "1"]), in_order(["b", "a", 3])
    (['1', '9', '10'], [3, 'a', 'b'])
    >>> in_order(["part 10", "part 9"])
    ['part 9', 'part 10']
    """
    given = sorted(sorted(names, key=str), key=_pieces)
    values = [number(name) for name in given]
    if None in values:
        return given
    order = sorted(range(len(given)), key=lambda i: values[i] or 0.0)
    return [given[i] for i in order]


def _pieces(name: object) -> list[Any]:
    """Words and whole numbers in turn, of which each is compared with its like."""
    pieces = re.split(r"([0-9]+)", str(name))
    return [int(one) if i % 2 else one for i, one in enumerate(pieces)]


def colors_by_name(names: Iterable[object]) -> dict[str, str]:
    """A color for each label, by all that there are: pictures of one map agree.

    >>> colors_by_name(["b", "a", "b"])
    {'a': '#0072B2', 'b': '#E69F00'}
    """
    ordered = in_order({str(name) for name in names})
    return dict(zip(ordered, category_colors(len(ordered)), strict=True))


def entries_of(
    points: Mapping[Any, int], colors: Mapping[Any, Any], *, n_others: int = 0
) -> Entries:
    """The labels of most points in order, and how many more there are.

    So a map and its mosaics name the same labels. Other labels share one color.
    """
    order = in_order(points)
    most = sorted(order, key=lambda name: -points[name])[:MOST_ENTRIES]
    kept = set(most)
    entries = [(text_of(name), colors[name]) for name in order if name in kept]
    if further := len(order) - len(kept) + n_others:
        s = "s" if further > 1 else ""
        entries.append(
            (f"({further:,} further label{s})", OTHER_COLOR if n_others else None)
        )
    return entries


def text_of(label: object) -> str:
    """A label in a legend; in quotes where it would be taken for a word of ours.

    >>> text_of("mixed"), text_of("(no label)")
    ('mixed', '"(no label)"')
    """
    text = shown(str(label))
    return f'"{text}"' if _OWN_WORDS.fullmatch(text) else text


def place_legend(ax: "Axes", handles: list[Any], **keywords: Any) -> None:  # noqa: ANN401
    """A legend where it is seen: beside axes that can make room, else in them.

    Axes of a figure without a layout reach as far as they do: what is beside them would
    be cut off. In them the texts are made small enough to fit. Keywords are those of
    matplotlib's `Axes.legend`.
    """
    figure = ax.get_figure(root=True)
    layout = None if figure is None else figure.get_layout_engine()
    keywords = {"fontsize": "small", **keywords}
    if "loc" in keywords or "bbox_to_anchor" in keywords:
        as_written(ax.legend(handles=handles, **keywords))
        return
    if layout is not None:
        beside = {**keywords, "loc": "upper left", "bbox_to_anchor": (1.01, 1.0)}
        as_written(ax.legend(handles=handles, **beside))
        return
    inside = {**keywords, "loc": "upper right", "frameon": True, "framealpha": 0.8}
    legend = ax.legend(handles=handles, **inside)
    as_written(legend)
    taken, there = legend.get_window_extent(), ax.get_window_extent()
    fits = min(there.width / taken.width, there.height / taken.height)
    if fits < 1:
        points = float(legend.get_texts()[0].get_fontsize())
        inside["fontsize"] = max(1.0, 0.95 * fits * points)
        as_written(ax.legend(handles=handles, **inside))


def as_written(legend: "Legend") -> None:
    """Let no text of a legend be taken for a formula, as a label with dollars."""
    for text in (*legend.get_texts(), legend.get_title()):
        text.set_parse_math(False)


def shown(name: str, max_chars: int = _MAX_CHARS) -> str:
    """A label in one line, however long it is and whatever is in it."""
    line = " ".join(name.split())
    line = "".join(char if char.isprintable() else "�" for char in line)
    return short(line, max_chars)


@dataclass(frozen=True)
class Fonts:
    """Fonts for some texts.

    Attributes:
        paths: Files, in the order in which each character is looked for.
        missing: Characters that none of them has.
    """

    paths: tuple[str, ...]
    missing: frozenset[str] = frozenset()

    def runs(self, text: str) -> list[tuple[str, str]]:
        """Parts of a text, each with the font that has its characters."""
        found: list[tuple[str, str]] = []
        font = self.paths[0]
        for char in text:
            if not unicodedata.combining(char):  # a mark stays with its letter
                font = next((p for p in self.paths if has(p, char)), self.paths[0])
            found.append((font, char))
        groups = groupby(found, key=lambda pair: pair[0])
        return [("".join(char for _, char in pairs), path) for path, pairs in groups]

    def written(self, text: str) -> str:
        r"""A text in which each character that no font has is written as its number.

        So no two labels look alike, and none is a row of boxes.

        >>> Fonts(("DejaVu",), frozenset("\u6b63")).written("\u6b63 2")
        '\\u6b63 2'
        """
        return "".join(
            char.encode("unicode_escape").decode() if char in self.missing else char
            for char in text
        )


def default_font() -> str:
    """DejaVu Sans, which matplotlib ships: it has accents, Greek and Cyrillic.

    Its folder is found without importing it, which takes longer than to draw a legend.
    """
    found = find_spec("matplotlib")
    folder = Path(found.origin if found and found.origin else "").parent / "mpl-data"
    return str(folder / "fonts" / "ttf" / "DejaVuSans.ttf")


def fonts_for(texts: Iterable[str], own: Sequence[str] = ()) -> Fonts:
    """Fonts for texts: their own (by default DejaVu Sans), then the system's that are needed.

    Of the system's fonts those are preferred that are made for many scripts; the choice
    depends on the fonts that are installed alone. What cannot be drawn is said in a
    line.
    """
    own = list(own) or [default_font()]
    kept = list(texts)
    chars = {char for text in kept for char in text if ord(char) >= _ALL_IN_DEFAULT}
    lacking = {char for char in chars if not any(has(path, char) for path in own)}
    lacking = {char for char in lacking if char.isprintable()}
    chosen: list[str] = []
    for path in (
        sorted(filter(_draws, system_fonts()), key=_font_rank) if lacking else ()
    ):
        had = {char for char in lacking if has(path, char)}
        if had:
            chosen.append(path)
            lacking -= had
        if not lacking:
            break
    fonts = Fonts((*own, *chosen), frozenset(lacking))
    _say_missing(kept, fonts)
    return fonts


def system_fonts() -> list[str]:
    """Files of the fonts that are installed."""
    from matplotlib.font_manager import findSystemFonts  # noqa: PLC0415  (slow)

    return list(findSystemFonts())


def has(path: str, char: str) -> bool:
    """Whether a font file has an outline for a character."""
    if path == default_font() and ord(char) < _ALL_IN_DEFAULT:
        return True
    font = _opened(path)
    return font is not None and bool(font.get_char_index(ord(char)))


@cache
def _opened(path: str) -> "FT2Font | None":
    """A font of outlines (others, as of emoji, have pictures); None where it is none."""
    from matplotlib.ft2font import FT2Font  # noqa: PLC0415  (slow)

    try:
        font = FT2Font(path)
    except (OSError, RuntimeError, ValueError):
        return None  # broken, or of a kind that cannot be read
    return font if font.scalable else None


def _draws(path: str) -> bool:
    return not any(word in _plain_name(path) for word in _BOXES)


def _plain_name(path: str) -> str:
    return re.sub("[-_ ]", "", Path(path).stem.lower())


def _font_rank(path: str) -> tuple[int, int, str, str]:
    """What decides among fonts that have a character."""
    name = _plain_name(path)
    family = next(
        (i for i, start in enumerate(_PREFERRED) if name.startswith(start)),
        len(_PREFERRED),
    )
    odd = any(word in name for word in _SLANTED_OR_FAT)
    plain = 0 if name.endswith(_PLAIN) else 2 if odd else 1
    return family, plain, name, path


def _say_missing(texts: Sequence[str], fonts: Fonts) -> None:
    bad = sorted({t.strip() for t in texts if not fonts.missing.isdisjoint(t)})
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        logger.warning(
            "no font on this machine has all characters of %s%s: the pictures show "
            "their numbers instead, as %s (a package that has most: fonts-noto-cjk)",
            *(", ".join(map(repr, bad[:3])), more, fonts.written(bad[0])),
        )


def make_legible(artist: "Artist") -> None:
    """Give the texts of a figure or its axes fonts that have their characters."""
    from matplotlib.font_manager import fontManager  # noqa: PLC0415  (slow)
    from matplotlib.text import Text  # noqa: PLC0415

    texts = [
        text
        for text in artist.findobj(Text)
        if isinstance(text, Text)
        and any(ord(char) >= _ALL_IN_DEFAULT for char in text.get_text())
    ]
    if not texts:
        return
    own = list(dict.fromkeys(path for text in texts for path in _own_fonts(text)))
    fonts = fonts_for([text.get_text() for text in texts], own)
    families = []
    for path in fonts.paths[len(own) :]:
        if not any(entry.fname == path for entry in fontManager.ttflist):
            fontManager.addfont(path)
        font = _opened(path)
        families += [] if font is None else [font.family_name]
    for text in texts:
        text.set_fontfamily([*text.get_fontfamily(), *families])
        if not fonts.missing.isdisjoint(text.get_text()):
            lines = fonts.written(text.get_text()).split("\n")
            text.set_text("\n".join(short(line, _MAX_LINE_CHARS) for line in lines))
            text.set_parse_math(False)


def _own_fonts(text: "Text") -> list[str]:
    """The files of the fonts that matplotlib draws a text in."""
    from matplotlib.font_manager import findfont  # noqa: PLC0415  (slow)

    found = []
    for family in text.get_fontfamily():
        own = text.get_fontproperties().copy()
        own.set_family(family)
        found.append(str(findfont(own)))
    return found


def short(line: str, max_chars: int) -> str:
    """A text of so many characters at most: of a longer one its beginning and end.

    >>> short("abcdefghijkl", 9)
    'abcdef…kl'
    """
    if len(line) <= max_chars:
        return line
    end = max_chars // 4
    return f"{line[: max_chars - 1 - end]}…{line[-end:] if end else ''}"
