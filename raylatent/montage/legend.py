"""Colors of labels, as on the scatter, and the legend beside a picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from PIL import Image, ImageDraw, ImageFont

from raylatent.mapping.fonts import Fonts, fonts_for
from raylatent.mapping.legend import (
    NO_LABEL,
    NO_LABEL_COLOR,
    SEVERAL,
    Entries,
    Scale,
    colors_by_name,
    entries_of,
    number,
    scale_of,
    shown,
)
from raylatent.montage.cells import PartialCells
from raylatent.montage.tally import label_points

SEVERAL_COLOR = "#808080"

LabelCounts = Sequence[tuple[str, int]]
_MAX_CHARS = 40


def majority(counts: LabelCounts | None) -> str | None:
    """The label of more than half of a cell's labeled points.

    Returns:
        None where no label has as many; and where there is no label at all.

    >>> majority([("a", 3), ("b", 1)]), majority([("a", 1), ("b", 1)])
    ('a', None)
    """
    if not counts:
        return None
    label, most = max(counts, key=lambda item: item[1])
    return label if 2 * most > sum(n for _, n in counts) else None


@dataclass(frozen=True)
class Coloring:
    """How the labels of a mosaic are drawn: each in a color, or numbers on a scale.

    Attributes:
        points: How many points have each label, in cells that are drawn and others.
    """

    points: Mapping[str, int]

    @classmethod
    def of(cls, chosen: PartialCells) -> "Coloring":
        """Of all points of a mosaic."""
        return cls(label_points(chosen.tally.labels))

    @cached_property
    def scale(self) -> Scale | None:
        """Of labels that are numbers, as on the map."""
        return scale_of(self.points)

    @cached_property
    def colors(self) -> dict[str, str]:
        """Of each label, as on the map."""
        return colors_by_name(self.points)

    def of_cell(self, counts: LabelCounts | None) -> str | None:
        """The color of a cell's majority label, or of its mean; None without labels."""
        if counts is None:
            return None
        if not counts:
            return NO_LABEL_COLOR
        if self.scale is not None:
            total = sum((number(label) or 0.0) * n for label, n in counts)
            return self.scale.color(total / sum(n for _, n in counts))
        label = majority(counts)
        return SEVERAL_COLOR if label is None else self.colors[label]

    def entries(self, cells: Sequence[LabelCounts | None]) -> Entries:
        """Texts and colors of the legend; grey only where a cell is grey."""
        drawn = {self.of_cell(counts) for counts in cells}
        entries: Entries = []
        if self.scale is not None:
            ticks = reversed(self.scale.ticks())
            entries += [(f"{tick:g}", self.scale.color(tick)) for tick in ticks]
            entries.append(("(a cell's mean)", None))
        elif self.points:
            entries += entries_of(self.points, self.colors)
            if any(counts and majority(counts) is None for counts in cells):
                entries.append((SEVERAL, SEVERAL_COLOR))
        if NO_LABEL_COLOR in drawn and self.points:
            entries.append((NO_LABEL, NO_LABEL_COLOR))
        return entries


def add_legend(picture: Image.Image, entries: Entries, background: str) -> Image.Image:
    """The picture with a legend at its right side; as it is without entries."""
    if not entries:
        return picture
    size = min(120, max(12, picture.height // 36))
    names = [name for name, _ in entries]
    fonts = fonts_for(names)
    names = [shown(fonts.written(name), _MAX_CHARS) for name in names]
    parts = [_runs(name, fonts, size) for name in names]
    widest = max(sum(font.getlength(text) for text, font in runs) for runs in parts)
    line = round(size * 1.7)
    panel = round(widest + 3.6 * size)
    height = max(picture.height, line * len(names) + 2 * size)
    canvas = Image.new("RGB", (picture.width + panel, height), background)
    canvas.paste(picture, (0, height - picture.height))
    draw = ImageDraw.Draw(canvas)
    ink = _ink(background)
    for i, (runs, (_, color)) in enumerate(zip(parts, entries, strict=True)):
        x, y = picture.width + size, size + i * line
        if color is not None:
            draw.rectangle((x, y, x + size - 1, y + size - 1), fill=color)
        _write(draw, (x + round(1.6 * size), y + size // 2), runs, ink)
    return canvas


Runs = Sequence[tuple[str, ImageFont.FreeTypeFont]]


def _runs(name: str, fonts: Fonts, size: int) -> Runs:
    """Parts of a text with their fonts."""
    return [(text, ImageFont.truetype(path, size)) for text, path in fonts.runs(name)]


def _write(
    draw: ImageDraw.ImageDraw, middle: tuple[float, float], runs: Runs, ink: str
) -> None:
    """A text on one line, so that it stands level with a place at its left."""
    # Parts stand on one line, that of the first.
    text, font = runs[0]
    tops = [
        draw.textbbox((0, 0), text, font, anchor=anchor)[1] for anchor in ("lm", "ls")
    ]
    x, y = middle[0], middle[1] + tops[0] - tops[1]
    for text, font in runs:
        draw.text((x, y), text, fill=ink, font=font, anchor="ls")
        x += font.getlength(text)


def _ink(background: str) -> str:
    """Black on light grounds, white on dark."""
    (level,) = Image.new("RGB", (1, 1), background).convert("L").tobytes()
    return "black" if level > 127 else "white"
