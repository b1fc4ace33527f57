"""A slide, or a part of it, at any size: for tissue detection and for people."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from raylatent.errors import ContentError
from raylatent.source.wsi.geometry import Geometry, best_level
from raylatent.source.wsi.handle import BLOCK_PX, RESAMPLING, Pixels, SlideHandle

BROKEN_COLOR = (255, 0, 0)
_SMALL_PX = 1 << 18  # a broken block larger than this is read again in quarters
_THUMB_PX = 1024
_GRID_COLOR = (0, 160, 70)
_SHADE = 24  # of 255: the tissue is to be seen
_LEAST_TILE_PX = 10  # of smaller ones the outlines would hide the slide

Box = tuple[float, float, float, float]


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
    if geometry is None or kept is None:
        return image
    side = geometry.window_px * scale
    apart = geometry.stride_px >= geometry.window_px and side >= _LEAST_TILE_PX
    if not apart:
        return _covered(image, geometry, kept, scale)
    draw = ImageDraw.Draw(image, "RGBA")
    for row, col in np.argwhere(kept):
        x, y = geometry.xs[col] * scale, geometry.ys[row] * scale
        box = (x, y, max(x, x + side - 1), max(y, y + side - 1))
        draw.rectangle(box, fill=(*_GRID_COLOR, _SHADE), outline=(*_GRID_COLOR, 255))
    return image


def _covered(
    image: Image.Image, geometry: Geometry, kept: NDArray[np.bool_], scale: float
) -> Image.Image:
    """A picture with the area of all kept tiles shaded, and its edge drawn."""
    area = Image.new("L", image.size)
    draw = ImageDraw.Draw(area)
    side = geometry.window_px * scale
    for row, col in np.argwhere(kept):
        x, y = geometry.xs[col] * scale, geometry.ys[row] * scale
        draw.rectangle((x, y, max(x, x + side - 1), max(y, y + side - 1)), fill=255)
    covered = np.asarray(area) > 0
    around = np.pad(covered, 1)
    inner = covered & around[:-2, 1:-1] & around[2:, 1:-1]
    inner &= around[1:-1, :-2] & around[1:-1, 2:]
    opacity = np.where(covered, np.where(inner, _SHADE, 255), 0).astype(np.uint8)
    image.paste(_GRID_COLOR, (0, 0), Image.fromarray(opacity))
    return image
