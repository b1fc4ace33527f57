"""The pictures of an explorer: blocks of 8 x 8 cells at every level, in the DZI layout.

A tile is decoded once: it is drawn at every level that shows it. What is done at once is
a square of blocks, which has at most 64 x 64 cells at the finest of three levels; tiles
that levels above show as well are handed on to those who draw these. What a square gives
depends on nothing else, so that the files are the same for any number of workers.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from raylatent.explorer.pyramid import SIDE
from raylatent.tiles.fetch import fitted

HEIGHT = 3
"""Levels that are drawn at once: of the finest a square has 64 x 64 cells."""
QUALITY, OWN_QUALITY = 85, 90
WHITE = 255
SLOTS = 4
"""Tiles at their own size: so many across and down are in a picture."""
MOSAIC = "mosaic"
_MISSING = (226, 226, 226)  # a cell whose tile cannot be read

Pixels = NDArray[np.uint8]
File = tuple[str, bytes]
Cells = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Shown:
    """Tiles in the cells that show them at the finest of some levels: arrays (n,).

    Row 0 is the lowest; `since` is the first level that shows each tile.
    """

    rows: Cells
    cols: Cells
    since: Cells

    def take(self, which: NDArray[np.integer] | NDArray[np.bool_]) -> "Shown":
        """Some of them."""
        rows, cols, since = self.rows[which], self.cols[which], self.since[which]
        return Shown(rows=rows, cols=cols, since=since)

    def above(self, levels: int) -> "Shown":
        """The same tiles in the cells of so many levels above."""
        return replace(self, rows=self.rows >> levels, cols=self.cols >> levels)


def root_of(level: int) -> int:
    """The coarsest of the levels that are drawn together with a finest one.

    >>> [root_of(level) for level in (0, 2, 3, 9)]
    [0, 0, 1, 7]
    """
    return max(0, level - HEIGHT + 1)


def thumbnail(picture: Image.Image | None, cell_px: int) -> Pixels:
    """A cell, shape (cell_px, cell_px, 3): a tile in its middle, white around it.

    The tile, of any size, is None where it cannot be read.
    """
    color = _MISSING if picture is None else (WHITE,) * 3
    cell = Image.new("RGB", (cell_px, cell_px), color)
    if picture is not None:
        own = fitted(picture, picture.size, 1.0, cell_px)
        cell.paste(own, ((cell_px - own.width) // 2, (cell_px - own.height) // 2))
    return np.asarray(cell)


def draw(
    finest: int, shown: Shown, cells: Pixels, levels: Iterable[int]
) -> Iterator[File]:
    """The pictures of some levels' blocks that hold any of these tiles.

    Args:
        finest: The level of whose cells `shown` tells.
        shown: All tiles of the levels, in the blocks that are drawn.
        cells: Their pictures, shape (n, cell_px, cell_px, 3).
        levels: Which levels, none finer than `finest`.
    """
    cell_px = cells.shape[1]
    for level in levels:
        at = np.flatnonzero(shown.since <= level)
        own = shown.take(at).above(finest - level)
        last = (1 << level) - 1
        tops, lefts = last - own.rows // SIDE, own.cols // SIDE
        blocks = tops * (last + 1) + lefts
        order = np.argsort(blocks, kind="stable")
        edges = np.flatnonzero(np.diff(blocks[order])) + 1
        for some in np.split(order, edges) if len(order) else ():
            picture = np.full((SIDE * cell_px, SIDE * cell_px, 3), WHITE, np.uint8)
            for i in some:
                top = (SIDE - 1 - own.rows[i] % SIDE) * cell_px
                left = own.cols[i] % SIDE * cell_px
                picture[top : top + cell_px, left : left + cell_px] = cells[at[i]]
            name = block_name(dzi_level(level, cell_px), lefts[some[0]], tops[some[0]])
            yield name, encoded(picture, QUALITY)


def dzi_level(level: int, cell_px: int) -> int:
    """The number that DZI gives to a level: level 0 is one block.

    >>> dzi_level(0, 96), dzi_level(3, 64)
    (10, 12)
    """
    return level + math.ceil(math.log2(SIDE * cell_px))


def block_name(dzi: int, col: int, row: int) -> str:
    """The file of a block, below the explorer's folder."""
    return f"{MOSAIC}_files/{dzi}/{col}_{row}.jpg"


def encoded(picture: Pixels, quality: int) -> bytes:
    """A picture (h, w, 3) as JPEG."""
    data: bytes = simplejpeg.encode_jpeg(
        np.ascontiguousarray(picture),
        quality=quality,
        colorspace="RGB",
        colorsubsampling="420",
        fastdct=False,
    )
    return data


def decoded(data: bytes) -> Pixels:
    """A JPEG as a picture (h, w, 3)."""
    pixels: Pixels = simplejpeg.decode_jpeg(data)
    return pixels


def coarsest(picture: Pixels) -> Iterator[File]:
    """The levels that DZI has above that of one block, from half its size to a pixel.

    Args:
        picture: The block of level 0, shape (side, side, 3).
    """
    image, side = Image.fromarray(picture), len(picture)
    for dzi in reversed(range(dzi_level(0, side // SIDE))):
        side = (side + 1) // 2
        image = image.resize((side, side), Image.Resampling.BOX)
        yield block_name(dzi, 0, 0), encoded(np.asarray(image), QUALITY)


def description(finest: int, cell_px: int) -> bytes:
    """mosaic.dzi, by which other viewers open the pictures."""
    side = (SIDE << finest) * cell_px
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<Image xmlns="http://schemas.microsoft.com/deepzoom/2008" Format="jpg" '
        f'Overlap="0" TileSize="{SIDE * cell_px}">'
        f'<Size Width="{side}" Height="{side}"/></Image>\n'
    ).encode()


def own_name(number: int) -> str:
    """The file of tiles at their own size, below the explorer's folder.

    >>> own_name(1234)
    'tiles/12/1234.jpg'
    """
    return f"tiles/{number // 100}/{number}.jpg"


def sheet(tiles: Sequence[Image.Image | None]) -> Pixels:
    """At most `SLOTS` x `SLOTS` tiles, each at the upper left of its slot, row by row.

    All slots are as large as the largest tile.
    """
    slot = max((max(tile.size) for tile in tiles if tile is not None), default=1)
    down = -(-len(tiles) // SLOTS)
    picture = Image.new("RGB", (SLOTS * slot, down * slot), "white")
    for i, tile in enumerate(tiles):
        if tile is not None:
            picture.paste(tile, (i % SLOTS * slot, i // SLOTS * slot))
    return np.asarray(picture)
