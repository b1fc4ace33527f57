"""Which tiles of a slide are kept: tissue and filters, decided on a low level."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raylatent.source import tissue
from raylatent.source.tissue import CellFractions, Mask, Pixels, TissueOptions
from raylatent.source.wsi.geometry import Geometry, best_level
from raylatent.source.wsi.handle import SlideHandle
from raylatent.source.wsi.overview import BROKEN_COLOR, scaled, whole

_OTSU_SIDE_PX = 500  # Slideflow: the coarsest level whose shorter side is above this
_OTSU_MAX_PX = 16 << 20  # a slide without such a level is shrunk to this
_FILTER_PX = 8  # gray and white are counted where a tile still has this side
_BLUR_COARSER = 4  # blur is looked for at four times the µm a pixel of the tiles
_BLOCK_PX = 2048

Reasons = NDArray[np.uint8]


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
