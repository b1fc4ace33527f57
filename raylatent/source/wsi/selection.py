"""A slide at low resolution, and which of its tiles are kept: tissue and filters.

What was found is kept as a table: which tiles there are, and why others were left out.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from raylatent import schema
from raylatent.errors import ContentError
from raylatent.source import tissue
from raylatent.source.tissue import REASONS, CellFractions, Mask, TissueOptions
from raylatent.source.wsi.geometry import FileSize, Geometry, best_level
from raylatent.source.wsi.handle import (
    BLOCK_PX,
    READER,
    RESAMPLING,
    Pixels,
    SlideHandle,
)
from raylatent.storage import FileStat

BROKEN_COLOR = (255, 0, 0)
_SMALL_PX = 1 << 18  # a broken block larger than this is read again in quarters
_THUMB_PX = 1024
_GRID_COLOR = (0, 160, 70)
_SHADE = 24  # of 255: the tissue is to be seen
_LEAST_TILE_PX = 10  # of smaller ones the outlines would hide the slide
_OTSU_SIDE_PX = 500  # Slideflow: the coarsest level whose shorter side is above this
_OTSU_MAX_PX = 16 << 20  # a slide without such a level is shrunk to this
_FILTER_PX = 8  # gray and white are counted where a tile still has this side
_BLUR_COARSER = 4  # blur is looked for at four times the µm a pixel of the tiles
_BLOCK_PX = 2048

Box = tuple[float, float, float, float]
Reasons = NDArray[np.uint8]


def whole(handle: SlideHandle, size: tuple[int, int]) -> Pixels:
    """The whole slide at a size (width, height); see `scaled`.

    Raises:
        ContentError: Nothing of it can be read.
        StorageError: The file cannot be read.
    """
    width, height = handle.dimensions
    pixels, broken = _read(handle, (0.0, 0.0, float(width), float(height)), size)
    if broken is not None:
        raise broken
    return pixels


def scaled(handle: SlideHandle, box: Box, size: tuple[int, int]) -> Pixels:
    """A part of the slide at any size, antialiased, (height, width, 3) uint8.

    Read from the coarsest level that is as fine, in blocks, so that the memory is
    that of the result whatever the level. Blocks that are broken in the file are
    `BROKEN_COLOR`, which no filter takes for background: their tiles are to be
    found broken one by one.

    Args:
        handle: The slide.
        box: Left, top, right, bottom in level-0 pixels.
        size: Width and height of the result.

    Raises:
        StorageError: The file cannot be read.
    """
    return _read(handle, box, size)[0]


def _read(
    handle: SlideHandle, box: Box, size: tuple[int, int]
) -> tuple[Pixels, ContentError | None]:
    """The pixels, and what is wrong if not one block can be read."""
    x0, y0, x1, y1 = box
    width, height = size
    level = best_level(handle.downsamples, x1 - x0, width)
    scale_x, scale_y = (x1 - x0) / width, (y1 - y0) / height
    per_pixel = max(1.0, scale_x * scale_y / handle.downsamples[level] ** 2)
    side = max(1, int((BLOCK_PX / per_pixel) ** 0.5))
    out = np.empty((height, width, 3), np.uint8)
    ahead = [
        (top, min(height, top + side), left, min(width, left + side))
        for top in range(0, height, side)
        for left in range(0, width, side)
    ]
    error: ContentError | None = None
    fine = False
    while ahead:
        top, bottom, left, right = ahead.pop()
        part = (
            x0 + left * scale_x,
            y0 + top * scale_y,
            x0 + right * scale_x,
            y0 + bottom * scale_y,
        )
        try:
            found = _block(handle, level, part, (right - left, bottom - top))
        except ContentError as broken:
            error = broken
            out[top:bottom, left:right] = BROKEN_COLOR
            if (bottom - top) * (right - left) * per_pixel > _SMALL_PX:
                ahead += _quarters(top, bottom, left, right)
        else:
            out[top:bottom, left:right] = found
            fine = True
    return out, None if fine else error


def _block(handle: SlideHandle, level: int, box: Box, size: tuple[int, int]) -> Pixels:
    down_x, down_y = handle.scales(level)
    # Rounded: a whole pixel divided and multiplied again must stay one.
    low_x, high_x = round(box[0] / down_x, 6), round(box[2] / down_x, 6)
    low_y, high_y = round(box[1] / down_y, 6), round(box[3] / down_y, 6)
    left, top = int(np.floor(low_x)), int(np.floor(low_y))
    right, bottom = int(np.ceil(high_x)), int(np.ceil(high_y))
    pixels = handle.read(level, left, top, right - left, bottom - top)
    if (right - left, bottom - top) == size:
        return pixels
    inner = (low_x - left, low_y - top, high_x - left, high_y - top)
    image = Image.fromarray(pixels)
    return np.asarray(image.resize(size, RESAMPLING, box=inner))


def _quarters(
    top: int, bottom: int, left: int, right: int
) -> list[tuple[int, int, int, int]]:
    y, x = (top + bottom) // 2, (left + right) // 2
    parts = [
        (t, b, lo, hi)
        for t, b in ((top, y), (y, bottom))
        for lo, hi in ((left, x), (x, right))
    ]
    return [part for part in parts if part[0] < part[1] and part[2] < part[3]]


def thumbnail(
    handle: SlideHandle,
    width: int | None = None,
    geometry: Geometry | None = None,
    kept: NDArray[np.bool_] | None = None,
) -> Image.Image:
    """A picture of a slide, with the kept tiles of its grid drawn on it.

    Args:
        handle: The slide.
        width: Of the picture, in pixels; default: its longer side is 1,024.
        geometry: The grid.
        kept: Which tiles are drawn, (rows, cols); None: none. Where they overlap, or
            are too small to be told apart, the edge of all together is.
    """
    scale = (width or 0) / handle.dimensions[0] or _THUMB_PX / max(handle.dimensions)
    width, height = (max(1, round(side * scale)) for side in handle.dimensions)
    image = Image.fromarray(whole(handle, (width, height)))
    if geometry is not None and kept is not None:
        draw_tiles(image, geometry, kept, scale)
    return image


def draw_tiles(
    image: Image.Image, geometry: Geometry, kept: NDArray[np.bool_], scale: float
) -> None:
    """Draw the kept tiles of a grid on a picture of the slide, in place.

    Where they overlap, or are too small to be told apart, their area is drawn.

    Args:
        image: Of the whole slide.
        geometry: The grid.
        kept: Which tiles, (rows, cols).
        scale: Pixels of the picture for one of level 0.
    """
    side = geometry.window_px * scale
    boxes = []
    for row, col in np.argwhere(kept):
        x, y = geometry.xs[col] * scale, geometry.ys[row] * scale
        boxes.append((x, y, max(x, x + side - 1), max(y, y + side - 1)))
    if geometry.stride_px < geometry.window_px or side < _LEAST_TILE_PX:
        _draw_area(image, boxes)
        return
    draw = ImageDraw.Draw(image, "RGBA")
    for box in boxes:
        draw.rectangle(box, fill=(*_GRID_COLOR, _SHADE), outline=(*_GRID_COLOR, 255))


def _draw_area(
    image: Image.Image, boxes: list[tuple[float, float, float, float]]
) -> None:
    """Shade the area of all boxes, and draw its edge."""
    area = Image.new("L", image.size)
    draw = ImageDraw.Draw(area)
    for box in boxes:
        draw.rectangle(box, fill=255)
    covered = np.asarray(area) > 0
    around = np.pad(covered, 1)
    inner = covered & around[:-2, 1:-1] & around[2:, 1:-1]
    inner &= around[1:-1, :-2] & around[1:-1, 2:]
    opacity = np.where(covered, np.where(inner, _SHADE, 255), 0).astype(np.uint8)
    image.paste(_GRID_COLOR, (0, 0), Image.fromarray(opacity))


@dataclass(frozen=True)
class _Block:
    """A part of a picture of the whole slide, with its top left in it."""

    top: int
    left: int
    pixels: Pixels


def select_tiles(
    handle: SlideHandle, geometry: Geometry, options: TissueOptions
) -> Reasons:
    """Why each tile of the grid is left out: numbers of `tissue.REASONS`, 0 if kept.

    Args:
        handle: The slide.
        geometry: Its grid.
        options: What is left out.

    Returns:
        (rows, cols) uint8.

    Raises:
        ContentError: The part of the file that is needed for it is broken.
        StorageError: The file cannot be read.
    """
    reasons = np.zeros(geometry.shape, np.uint8)
    if not reasons.size or options.qc == "none":
        return reasons
    blurred = None
    if options.qc in {"blur", "both"}:
        blurred, fractions = _blur(handle, geometry, options)
        _leave_out(reasons, fractions > options.filter_threshold, tissue.BLUR)
    if options.qc in {"otsu", "both"}:
        pixels = otsu_picture(handle)
        mask = tissue.otsu_mask(pixels, blurred, _broken(pixels))
        fractions = fractions_of(mask, geometry)
        _leave_out(reasons, fractions > options.filter_threshold, tissue.OTSU)
    filter_tiles(handle, geometry, options, reasons)
    return reasons


def fractions_of(mask: Mask, geometry: Geometry) -> NDArray[np.float64]:
    """The share of each tile that a mask of the whole slide covers, (rows, cols)."""
    g = geometry
    return tissue.mask_fractions(mask, g.xs, g.ys, g.window_px, (g.width, g.height))


def _broken(pixels: Pixels) -> Mask:
    """What could not be read, (h, w): nobody knows that it is no tissue."""
    mask: Mask = (pixels == BROKEN_COLOR).all(axis=2)
    return mask


def _leave_out(reasons: Reasons, out: Mask, reason: int) -> None:
    """Note a reason; the first one stays."""
    reasons[(reasons == tissue.KEPT) & out] = reason


def otsu_picture(handle: SlideHandle) -> Pixels:
    """The slide as Otsu's threshold is found on: (h, w, 3) uint8."""
    fitting = [size for size in handle.level_dimensions if min(size) > _OTSU_SIDE_PX]
    width, height = min(fitting, key=min, default=handle.dimensions)
    shrink = max(1.0, (width * height / _OTSU_MAX_PX) ** 0.5)
    size = (max(1, round(width / shrink)), max(1, round(height / shrink)))
    return whole(handle, size)


def _blur(
    handle: SlideHandle, geometry: Geometry, options: TissueOptions
) -> tuple[Mask, NDArray[np.float64]]:
    """Where the slide is blurred at the size of Otsu's picture, and by tile."""
    g = geometry
    step = _BLUR_COARSER * g.window_px / g.tile_px
    size = (max(1, round(g.width / step)), max(1, round(g.height / step)))
    cells = _cells(geometry, size)
    margin = int(4 * options.blur_sigma) + 2
    shape = otsu_picture(handle).shape[:2]
    small = np.zeros(shape, bool)
    ys, xs = (
        ((np.arange(n) + 0.5) * whole / n).astype(np.int64)
        for n, whole in zip(shape, reversed(size), strict=True)
    )
    for block in _blocks(handle, size, margin):
        mask = tissue.blur_mask(block.pixels, options) & ~_broken(block.pixels)
        skip_y, skip_x = (margin if edge else 0 for edge in (block.top, block.left))
        top, left = block.top + skip_y, block.left + skip_x
        inner = mask[skip_y : skip_y + _BLOCK_PX, skip_x : skip_x + _BLOCK_PX]
        cells.add(inner, top, left)
        rows = np.flatnonzero((ys >= top) & (ys < top + len(inner)))
        cols = np.flatnonzero((xs >= left) & (xs < left + inner.shape[1]))
        small[np.ix_(rows, cols)] = inner[np.ix_(ys[rows] - top, xs[cols] - left)]
    return small, cells.fractions()


def filter_tiles(
    handle: SlideHandle, geometry: Geometry, options: TissueOptions, reasons: Reasons
) -> None:
    """Leave out, in place, the tiles of a grid that are mostly gray or white."""
    rules = [
        (tissue.GRAY, options.grayspace_fraction, options.grayspace_threshold),
        (tissue.WHITE, options.whitespace_fraction, options.whitespace_threshold),
    ]
    rules = [rule for rule in rules if rule[1] < 1]
    if not rules or not (reasons == tissue.KEPT).any():
        return
    level = best_level(handle.downsamples, geometry.window_px, _FILTER_PX)
    size = handle.level_dimensions[level]
    sums = {reason: _cells(geometry, size) for reason, _, _ in rules}
    wanted = _cells(geometry, size).touching(reasons == tissue.KEPT)
    for block in _blocks(handle, size, 0, wanted):
        for reason, _, threshold in rules:
            mask = tissue.gray_mask if reason == tissue.GRAY else tissue.white_mask
            sums[reason].add(mask(block.pixels, threshold), block.top, block.left)
    for reason, fraction, _ in rules:
        _leave_out(reasons, sums[reason].fractions() > fraction, reason)


def _cells(geometry: Geometry, size: tuple[int, int]) -> CellFractions:
    """Tiles on a picture of the slide of this width and height."""
    g = geometry
    return CellFractions(
        tissue.cell_spans(g.ys, g.window_px, size[1] / g.height, size[1]),
        tissue.cell_spans(g.xs, g.window_px, size[0] / g.width, size[0]),
    )


def _blocks(
    handle: SlideHandle,
    size: tuple[int, int],
    margin: int,
    wanted: "tissue.Touching | None" = None,
) -> Iterator[_Block]:
    """The slide at a size (width, height), block by block, each with a margin."""
    width, height = size
    scale_x, scale_y = handle.dimensions[0] / width, handle.dimensions[1] / height
    for y in range(0, height, _BLOCK_PX):
        for x in range(0, width, _BLOCK_PX):
            bottom, right = min(height, y + _BLOCK_PX), min(width, x + _BLOCK_PX)
            if wanted is not None and not wanted(y, bottom, x, right):
                continue
            top, left = max(0, y - margin), max(0, x - margin)
            bottom, right = min(height, bottom + margin), min(width, right + margin)
            box = (left * scale_x, top * scale_y, right * scale_x, bottom * scale_y)
            yield _Block(top, left, scaled(handle, box, (right - left, bottom - top)))


def grid_table(geometry: Geometry, reasons: NDArray[np.uint8]) -> pa.Table:
    """A grid as schema.GRID.

    Args:
        geometry: Where the tiles are.
        reasons: Why each is left out, numbers of `tissue.REASONS`, (rows, cols).
    """
    coord = geometry.coord()
    rows, cols = coord[:, 3], coord[:, 2]
    xs, ys = geometry.centers(rows, cols)
    names = pa.array([None, *REASONS[1:]], pa.string())
    return pa.Table.from_arrays(
        [
            *(pa.array(values.astype(np.int32)) for values in (rows, cols, xs, ys)),
            names.take(pa.array(reasons.reshape(-1))),
        ],
        schema=schema.GRID,
    )


def kept_tiles(table: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of the tiles that a grid keeps, in tile order."""
    kept = table.filter(pc.is_null(table[schema.REASON]))
    rows, cols = (
        kept[name].to_numpy().astype(np.int64) for name in (schema.ROW, schema.COL)
    )
    return rows, cols


def left_out(table: pa.Table) -> dict[str, int]:
    """How many tiles of a grid were left out for each reason."""
    counts = table[schema.REASON].drop_null().value_counts().to_pylist()
    return {row["values"]: row["counts"] for row in counts}


def grid_footer(
    tissue: TissueOptions,
    stat: FileStat,
    geometry: Geometry,
    own: FileSize,
    *,
    icc: bool,
) -> dict[str, str]:
    """What a grid was made with: a grid of the same is the same.

    Args:
        tissue: Which tiles are left out.
        stat: Of the slide's files.
        geometry: The grid.
        own: What the slide's file says of the size of its pixels.
        icc: Whether colors are converted by the slide's profile.
    """
    made_with = {
        "geometry": asdict(geometry),
        "own_mpp": asdict(own),
        "tissue": asdict(tissue),
        "stat": asdict(stat),
        "icc": icc,
        "reader": READER,
    }
    return {schema.FOOTER_GRID: json.dumps(made_with, sort_keys=True)}


def geometry_from_footer(footer: Mapping[str, str]) -> tuple[Geometry, bool]:
    """The grid that a footer tells of, and whether colors are converted."""
    made_with: dict[str, Any] = json.loads(footer[schema.FOOTER_GRID])
    values = made_with["geometry"]
    geometry = Geometry(**{**values, "origin": tuple(values["origin"])})
    return geometry, bool(made_with["icc"])


def own_size(footer: Mapping[str, str]) -> FileSize:
    """What the file of a grid's slide says of the size of its pixels."""
    made_with: dict[str, Any] = json.loads(footer[schema.FOOTER_GRID])
    return FileSize(**made_with["own_mpp"])
