"""Colors of labels, as on the scatter, and the legend beside a picture."""

from collections import Counter
from collections.abc import Iterable, Sequence

import pyarrow as pa
from PIL import Image, ImageDraw, ImageFont

from raylatent import schema
from raylatent.mapping.colors import colors_by_name
from raylatent.mapping.fonts import Fonts, fonts_for
from raylatent.mapping.legend import shown
from raylatent.montage.cells import PartialCells
from raylatent.montage.tally import label_names

MOST_LABELS = 24  # with a color of their own: more are not told apart
GREY = "#808080"
MIXED = "mixed"
OTHER = "other or mixed"

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


def colors_of(cells: pa.Table, chosen: PartialCells) -> dict[str, str]:
    """`label_colors` of a mosaic's cells, among the labels of all its points."""
    counts = cells[schema.LABEL_COUNTS].to_pylist()
    return label_colors(counts, label_names(chosen.tally.labels))


def label_colors(
    cells: Iterable[LabelCounts | None], among: Iterable[str] = ()
) -> dict[str, str]:
    """A color for each label, in the order of names.

    With more labels than colors the most frequent (by points) have one, ties by name.

    Args:
        cells: Labels of each cell's points.
        among: Labels that the map has beside these: colors are by all names.

    >>> label_colors([[("b", 2)], [("a", 1)]])
    {'a': '#0072B2', 'b': '#E69F00'}
    """
    totals: Counter[str] = Counter()
    for counts in cells:
        totals.update(dict(counts or ()))
    ranked = sorted(totals, key=lambda label: (-totals[label], label))
    names = sorted(ranked[:MOST_LABELS])
    by_name = colors_by_name([*totals, *among])
    return {name: by_name[name] for name in names}


def cell_color(counts: LabelCounts | None, colors: dict[str, str]) -> str | None:
    """The color of a cell's majority label, grey if none, None without any label."""
    if not counts:
        return None
    return colors.get(majority(counts) or "", GREY)


def legend_entries(
    cells: Sequence[LabelCounts | None], colors: dict[str, str]
) -> list[tuple[str, str]]:
    """Names and colors to show; grey only where a cell is grey."""
    entries = list(colors.items())
    drawn = {cell_color(counts, colors) for counts in cells}
    if GREY in drawn:
        labels = {label for counts in cells for label, _ in counts or ()}
        entries.append((OTHER if len(labels) > len(colors) else MIXED, GREY))
    return entries


def add_legend(
    picture: Image.Image, entries: Sequence[tuple[str, str]], background: str
) -> Image.Image:
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
