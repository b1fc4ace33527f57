"""Tiles on a bounded raster, with their legend: not mirrored, y upwards.

Row 0 of the grid is at the bottom, as on the scatter of the same points; each tile is
drawn as it is on the slide. Colors of labels are those of the scatter.
"""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isqrt
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFont

from raylatent import schema
from raylatent.errors import MapError
from raylatent.mapping.labels import (
    NO_LABEL,
    NO_LABEL_COLOR,
    SEVERAL,
    Entries,
    Fonts,
    Scale,
    colors_by_name,
    entries_of,
    fonts_for,
    make_legible,
    number,
    place_legend,
    scale_of,
    shown,
)
from raylatent.montage.cells import PartialCells
from raylatent.montage.grid import Grid
from raylatent.montage.tally import label_points
from raylatent.tiles.fetch import Tile

if TYPE_CHECKING:
    from matplotlib.axes import Axes

logger = logging.getLogger(__name__)

SEVERAL_COLOR = "#808080"
_LEAST_PX, _MOST_PX = 12, 120  # of letters
_MAX_CAPTION_CHARS, _CAPTION_EMS = 160, 45
_MAX_CHARS = 40

LabelCounts = Sequence[tuple[str, int]]

_GONE = ("cannot open", "no such slide")  # how reasons begin
_MOVED = (
    "if TFRecords, slides or pictures were moved, say where they are (--source-root, "
    "tfrecords=)"
)

MAX_SIDE_PX = 20_000
MAX_PIXELS = 400_000_000
"""A raster is no larger, 1.2 GB: cells are made smaller."""

LABEL_STYLES = ("border", "backdrop")
_FRAME = {"border": 0.05, "backdrop": 0.14}  # of the cell, on each side
_MARK = "#a0a0a0"


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
    size = min(_MOST_PX, max(_LEAST_PX, picture.height // 36))
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


def add_caption(
    picture: Image.Image,
    background: str,
    cell_px: int,
    *,
    title: str = "",
    remark: str = "",
    um_per_px: float | None = None,
) -> tuple[Image.Image, int]:
    """The picture with what is written above and below, and how much is above, in px.

    A scale bar goes below, where the µm in a pixel of the tiles are given. Letters are
    smaller where the picture is narrow.
    """
    if not title and not remark and um_per_px is None:
        return picture, 0
    um = 0.0 if um_per_px is None else round_length(um_per_px * cell_px)
    bar_px = round(um / um_per_px) if um_per_px else 0
    below = "; ".join(filter(None, (f"{um:g} µm" if um else "", remark)))
    texts = [shown(text, _MAX_CAPTION_CHARS) for text in (title, below)]
    fonts = fonts_for(texts)
    fitting = min(0.6 * cell_px, picture.width / _CAPTION_EMS)
    size = min(_MOST_PX, max(_LEAST_PX, round(fitting)))
    lines = [_runs(fonts.written(text), fonts, size) for text in texts]
    widest = max(sum(font.getlength(text) for text, font in runs) for runs in lines)
    above, under = (round(1.8 * size) if runs else 0 for runs in lines)
    width = max(picture.width, round(widest) + 2 * size + bar_px)
    canvas = Image.new("RGB", (width, above + picture.height + under), background)
    canvas.paste(picture, (0, above))
    draw, ink, left = ImageDraw.Draw(canvas), _ink(background), size // 2
    middle = canvas.height - under // 2
    if bar_px:
        half = max(1, size // 12)
        draw.rectangle((left, middle - half, left + bar_px - 1, middle + half), ink)
    starts = ((left, above // 2), (2 * left + bar_px, middle))
    for runs, start in zip(lines, starts, strict=True):
        if runs:
            _write(draw, start, runs, ink)
    return canvas, above


def round_length(most: float) -> float:
    """The largest of 1, 2, 5, 10, 20, ... that is not longer.

    >>> round_length(302.0), round_length(0.7)
    (200.0, 0.5)
    """
    power = 10.0 ** math.floor(math.log10(most))
    return max(step * power for step in (1, 2, 5) if step * power <= most * (1 + 1e-9))


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


@dataclass(frozen=True, kw_only=True)
class Look:
    """How a mosaic is drawn.

    Attributes:
        cell_px: Side of a cell in pixels; less where the raster would be too large.
        background: Of empty cells, any CSS color.
        label_style: Color of the cell's majority label as a `border` around the tile,
            or as a wider `backdrop` behind it; None for neither. The tile is shrunk to
            leave room: none of its pixels is covered.
        legend: Whether to draw the labels' legend at the right side.
        focus_slide: Tiles are as opaque as this slide's share of the cell's points.
        gap_px: Pixels between cells.
        title: Written above.
        scale_bar: Whether to draw one below, where the side of tiles is known in µm.
    """

    cell_px: int = 100
    background: str = "#dfdfdf"
    label_style: str | None = "border"
    legend: bool = True
    focus_slide: str | None = None
    gap_px: int = 0
    title: str = ""
    scale_bar: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        if not 1 <= self.cell_px <= MAX_SIDE_PX:
            message = f"cell_px must be 1 to {MAX_SIDE_PX} pixels, not {self.cell_px}"
            raise MapError(message)
        if not 0 <= self.gap_px <= MAX_SIDE_PX:
            message = f"gap_px must be 0 to {MAX_SIDE_PX} pixels, not {self.gap_px}"
            raise MapError(message)
        if self.label_style is not None and self.label_style not in LABEL_STYLES:
            message = (
                f"unknown label_style {self.label_style!r}: choose border, backdrop "
                "or None"
            )
            raise MapError(message)
        try:
            ImageColor.getrgb(self.background)
        except ValueError as error:
            message = f"unknown background {self.background!r}: give a CSS color"
            raise MapError(message) from error


@dataclass(frozen=True, kw_only=True, eq=False)
class Layout:
    """Where each chosen tile goes.

    Attributes:
        rows: Shape (c,), 0 at the bottom.
        cols: Shape (c,).
        n_rows: Of the raster.
        n_cols: Of the raster.
        colors: Of each cell's frame, None for no frame.
        alphas: Opacity of each tile, 0 to 1; None: all opaque.
    """

    rows: NDArray[np.int64]
    cols: NDArray[np.int64]
    n_rows: int
    n_cols: int
    colors: Sequence[str | None]
    alphas: NDArray[np.float64] | None = None

    @property
    def filled(self) -> float:
        """The share of the raster that is tiles."""
        return len(self.rows) / (self.n_rows * self.n_cols)


def make_layout(grid: Grid, cells: pa.Table, coloring: Coloring) -> Layout:
    """Of a table of cells, each framed in the color of its labels.

    They are drawn at `picture_row` and `picture_col`, where the table has these.
    """
    counts = cells[schema.LABEL_COUNTS].to_pylist()
    moved = schema.PICTURE_ROW in cells.column_names
    names = (
        (schema.PICTURE_ROW, schema.PICTURE_COL) if moved else (schema.ROW, schema.COL)
    )
    rows, cols = (cells[name].to_numpy() for name in names)
    least = (1, 1) if moved else (grid.n_rows, grid.n_cols)
    return Layout(
        rows=rows,
        cols=cols,
        # Slideflow's grid may put points beyond its last row or column.
        n_rows=max(least[0], int(rows.max(initial=0)) + 1),
        n_cols=max(least[1], int(cols.max(initial=0)) + 1),
        colors=[coloring.of_cell(each) for each in counts],
    )


def bounded_cell_px(layout: Layout, cell_px: int, gap_px: int = 0) -> int:
    """`cell_px`, or what keeps the raster within bounds; said in the log.

    Raises:
        MapError: There are more cells than pixels.
    """
    by_side = MAX_SIDE_PX // max(layout.n_cols, layout.n_rows)
    by_area = isqrt(MAX_PIXELS // (layout.n_cols * layout.n_rows))
    fitting = min(cell_px, by_side - gap_px, by_area - gap_px)
    if fitting < 1:
        message = (
            f"a mosaic of {layout.n_cols} x {layout.n_rows} cells is more than "
            f"{MAX_SIDE_PX} pixels a side: ask for fewer columns with num_tiles_x"
            + (" or less gap_px" if gap_px else "")
        )
        raise MapError(message)
    if fitting < cell_px:
        logger.warning(
            "cells are drawn at %d px, not %d: %d x %d of them would be a picture of "
            "more than %d pixels a side or %d in all",
            *(fitting, cell_px, layout.n_cols, layout.n_rows, MAX_SIDE_PX, MAX_PIXELS),
        )
    return fitting


def tile_room_px(cell_px: int, *, framed: bool, label_style: str | None) -> int:
    """Pixels that are left for a tile inside its frame."""
    if not framed or label_style is None:
        return cell_px
    frame = max(1, round(_FRAME[label_style] * cell_px))
    return max(1, cell_px - 2 * frame)


def draw_raster(
    layout: Layout, look: Look, tiles: Iterable[tuple[int, Tile]]
) -> tuple[Image.Image, dict[int, str]]:
    """Paste each tile into its cell.

    Args:
        layout: Where they go.
        look: `cell_px` must be within bounds.
        tiles: Position in the layout, and a picture that fits, or why there is none.

    Returns:
        The raster, and for each position without picture the reason; such cells are
        crossed out.
    """
    cell, pitch = look.cell_px, look.cell_px + look.gap_px
    size = (layout.n_cols * pitch - look.gap_px, layout.n_rows * pitch - look.gap_px)
    raster = Image.new("RGB", size, look.background)
    draw = ImageDraw.Draw(raster)
    failed: dict[int, str] = {}
    for position, tile in tiles:
        left = int(layout.cols[position]) * pitch
        top = (layout.n_rows - 1 - int(layout.rows[position])) * pitch
        box = (left, top, left + cell - 1, top + cell - 1)
        color = layout.colors[position]
        if color is not None and look.label_style is not None:
            draw.rectangle(box, fill=color)
        if isinstance(tile, str):
            failed[position] = tile
            _cross(draw, box, look.background)
            continue
        shown = tile
        if layout.alphas is not None:
            ground = Image.new("RGB", tile.size, look.background)
            shown = Image.blend(ground, tile, float(layout.alphas[position]))
        inset = ((cell - tile.width) // 2, (cell - tile.height) // 2)
        raster.paste(shown, (left + inset[0], top + inset[1]))
    return raster, failed


def say_failed(failed: dict[int, str], n: int) -> None:
    """Log how many of n tiles have no picture; MapError where none has one."""
    if not failed:
        return
    reason = failed[min(failed)]
    reason += f"; {_MOVED}" if reason.startswith(_GONE) else ""
    if len(failed) == n:
        message = f"none of the mosaic's {n} tiles can be read: {reason}"
        raise MapError(message)
    logger.warning(
        "%d of %d tiles cannot be read and are crossed out; the first: %s",
        *(len(failed), n, reason),
    )


def _cross(
    draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], background: str
) -> None:
    """Mark a cell whose tile could not be read."""
    left, top, right, bottom = box
    pad = (right - left + 1) // 6
    inner = (left + pad, top + pad, right - pad, bottom - pad)
    if pad:
        draw.rectangle(inner, fill=background)
    width = max(1, (right - left + 1) // 25)
    draw.line(inner, fill=_MARK, width=width)
    draw.line((inner[0], inner[3], inner[2], inner[1]), fill=_MARK, width=width)


def shown_cell_px(n_cells: int, figsize: tuple[float, float], cell_px: int) -> int:
    """`cell_px`, or less where a figure cannot show as much.

    Two pixels for each of the figure's are kept; matplotlib needs 16 bytes for each
    pixel that it is given.
    """
    from matplotlib import rcParams  # noqa: PLC0415  (slow to import)

    dots = 2 * max(figsize) * float(rcParams["figure.dpi"])
    return max(1, min(cell_px, round(dots / n_cells)))


def show_raster(
    raster: Image.Image,
    extent: tuple[float, float, float, float],
    entries: Entries,
    *,
    figsize: tuple[float, float],
    ax: "Axes | None" = None,
) -> "Axes":
    """One image in map coordinates, so that the scatter of the points overlays it.

    Args:
        raster: The picture without legend.
        extent: Left, right, bottom, top on the map.
        entries: Names and colors of the legend.
        figsize: Inches, of a new figure.
        ax: Draw here instead.
    """
    import matplotlib.pyplot as plt  # noqa: PLC0415  (slow to import)
    from matplotlib.patches import Patch  # noqa: PLC0415

    if ax is None:
        _, ax = plt.subplots(figsize=figsize, layout="constrained")
    # Row 0 of the raster is its top: origin "upper", which does not mirror it.
    ax.imshow(raster, extent=extent, origin="upper", aspect="equal", zorder=0)
    if entries:
        faces = [(shown(name), color or "none") for name, color in entries]
        place_legend(ax, [Patch(facecolor=face, label=name) for name, face in faces])
    ax.set_xlabel("x")
    ax.set_ylabel("y")
    make_legible(ax)
    return ax
