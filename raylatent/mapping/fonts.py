"""Fonts for the characters of labels: those of the system where the default lacks one."""

import logging
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.ft2font import FT2Font
    from matplotlib.text import Text

logger = logging.getLogger(__name__)

_ALL_IN_DEFAULT = 0x250  # Latin letters; all of them are in the default font
_MAX_CHARS = 28  # of a line with characters that are written as numbers
_PREFERRED = (
    "notosanscjk",
    "sourcehansans",
    "notosans",
    "wqy",
    "droidsansfallback",
    "ipa",
    "nanum",
    "noto",
)
_BOXES = ("lastresort", "adobeblank", "tofu")  # have every character, and draw none
_PLAIN = ("regular", "medium", "book")
_SLANTED_OR_FAT = ("bold", "black", "heavy", "thin", "light", "italic", "oblique")


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
        if self.missing.isdisjoint(text):
            return text
        chars = (_number(c) if c in self.missing else c for c in text)
        return "".join(chars)


def default_font() -> str:
    """DejaVu Sans, which matplotlib ships: it has accents, Greek and Cyrillic.

    Its folder is found without importing it, which takes longer than to draw a legend.
    """
    found = find_spec("matplotlib")
    folder = Path(found.origin if found and found.origin else "").parent / "mpl-data"
    return str(folder / "fonts" / "ttf" / "DejaVuSans.ttf")


def fonts_for(texts: Iterable[str], own: Sequence[str] = ()) -> Fonts:
    """Fonts for texts: their own, then those of the system that are needed.

    Of the system's fonts those are preferred that are made for many scripts; the choice
    depends on the fonts that are installed alone. What cannot be drawn is said in a line.

    Args:
        texts: Labels, titles.
        own: Font files that are used anyway; by default DejaVu Sans.
    """
    own = list(own) or [default_font()]
    kept = list(texts)
    chars = {char for text in kept for char in text if ord(char) >= _ALL_IN_DEFAULT}
    lacking = {char for char in chars if not any(has(path, char) for path in own)}
    lacking = {char for char in lacking if char.isprintable()}
    chosen: list[str] = []
    for path in sorted(filter(_draws, system_fonts()), key=_rank) if lacking else ():
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


def _rank(path: str) -> tuple[int, int, str, str]:
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


def _number(char: str) -> str:
    return char.encode("unicode_escape").decode()


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
            text.set_text("\n".join(short(line, _MAX_CHARS) for line in lines))
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
