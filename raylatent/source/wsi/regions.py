"""Tiles of a slide read together: each region of the file is touched once.

A region is a block of the grid. Its pixels are read in one go and cut into tiles, so
that what several tiles share (the file's own tiles under their edges, overlapping
windows) is read and decoded once. A tile's pixels do not depend on the region it was
read in. A worker holds some slides open.

Chosen tiles of a mosaic are read again: their slide is opened once for all of them, and
few are open at a time, since each may be a copy on this node's scratch.
"""

import math
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from raylatent.errors import ContentError, MapError, SourceError, StorageError
from raylatent.source.picture import FORMATS
from raylatent.source.protocol import Content, Group, Source
from raylatent.source.slides import local_slide, slide_files, slide_name
from raylatent.source.wsi.geometry import Geometry, Span, best_level, span
from raylatent.source.wsi.handle import BLOCK_PX, RESAMPLING, Pixels, SlideHandle
from raylatent.storage import is_uri, reason

_MAX_WINDOW_PX = 8_192  # on the level it is read from
_MAX_HEIGHT_PX = 8_192
_SPARSE = 0.5  # below this share of wanted pixels tiles are read one by one
_MAX_OPEN = 2  # slides of a worker

Positions = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Region:
    """Tiles that are read together.

    Attributes:
        tiles: Positions among the tiles that were asked for.
        columns: Of each tile, its pixels along x.
        rows: Likewise along y.
    """

    tiles: Sequence[int]
    columns: Sequence[Span]
    rows: Sequence[Span]


class TileReader:
    """Tiles of one grid over one slide.

    Args:
        handle: The open slide.
        geometry: The grid.

    Raises:
        SourceError: A tile is too large for the levels that the slide has.
    """

    def __init__(self, handle: SlideHandle, geometry: Geometry) -> None:
        """See the class."""
        self.handle = handle
        self.geometry = geometry
        g = geometry
        self.level = best_level(handle.downsamples, g.window_px, g.tile_px)
        self._downsample = handle.downsamples[self.level]
        width, height = handle.level_dimensions[self.level]
        scale_x, scale_y = handle.scales(self.level)
        self._x_level = (scale_x, width, g.width)
        self._y_level = (scale_y, height, g.height)
        side = g.window_px / self._downsample
        if side > _MAX_WINDOW_PX:
            message = (
                f"slide {handle.slide}: a tile of {g.tile_um:g} µm is {side:.0f} pixels "
                f"of level {self.level}, more than {_MAX_WINDOW_PX}: choose smaller "
                "tiles, or make a pyramid of the slide"
            )
            raise SourceError(message)

    def regions(self, rows: Positions, cols: Positions) -> list[Region]:
        """Tiles of the grid in an order that reads each part of the slide once.

        Strips of columns, each over all rows, from left to right; neighboring strips
        share what the reader remembers. Tiles that lie far apart stand alone.

        Args:
            rows: Row of each tile in the grid, (n,).
            cols: Column likewise.
        """
        if not len(rows):
            return []
        pitch = max(1.0, self.geometry.stride_px / self._downsample)
        n_rows = max(1, min(int(np.ptp(rows)) + 1, int(_MAX_HEIGHT_PX / pitch)))
        n_cols = max(1, int(BLOCK_PX / (n_rows * pitch) / pitch))
        most = max(1, BLOCK_PX // self.geometry.tile_px**2)
        if n_rows * n_cols > most:  # they overlap, or are larger than their windows
            n_rows = max(1, min(n_rows, math.isqrt(most)))
            n_cols = max(1, most // n_rows)
        blocks = ((rows - rows.min()) // n_rows) << 32 | (cols - cols.min()) // n_cols
        order = np.lexsort((cols, rows, blocks))
        cuts = np.flatnonzero(np.diff(blocks[order])) + 1
        found: list[Region] = []
        for tiles in np.split(order, cuts):
            region = self._region(tiles, rows, cols)
            area = sum(
                _area(c, r) for c, r in zip(region.columns, region.rows, strict=True)
            )
            if len(tiles) > 1 and area < _SPARSE * _area(*_bounds(region)):
                found += [
                    self._region(tiles[i : i + 1], rows, cols)
                    for i in range(len(tiles))
                ]
            else:
                found.append(region)
        return found

    def _region(self, tiles: Positions, rows: Positions, cols: Positions) -> Region:
        g = self.geometry
        xs, ys = g.xs, g.ys
        return Region(
            tiles=tiles.tolist(),
            columns=[
                span(int(xs[cols[i]]), g.window_px, g.tile_px, self._x_level)
                for i in tiles
            ],
            rows=[
                span(int(ys[rows[i]]), g.window_px, g.tile_px, self._y_level)
                for i in tiles
            ],
        )

    def at(self, x: int, y: int) -> Pixels:
        """The tile whose window's top left is at (x, y), on the grid or off it.

        Returns:
            (tile_px, tile_px, 3) uint8.

        Raises:
            ContentError: Its part of the file is broken.
            StorageError: The file cannot be read.
        """
        g = self.geometry
        column = span(x, g.window_px, g.tile_px, self._x_level)
        row = span(y, g.window_px, g.tile_px, self._y_level)
        return _cut(self._pixels(column, row), column, row, (column, row), g.tile_px)

    def read(self, region: Region) -> Iterator[tuple[int, Pixels | ContentError]]:
        """The tiles of a region with their positions, each (tile_px, tile_px, 3) uint8.

        Where the file is broken, the tiles that it touches come as the error.

        Raises:
            StorageError: The file cannot be read.
        """
        px = self.geometry.tile_px
        bounds = _bounds(region)
        spans = zip(region.tiles, region.columns, region.rows, strict=True)
        try:
            pixels = self._pixels(*bounds)
        except ContentError:
            for tile, column, row in spans:
                try:
                    alone = self._pixels(column, row)
                except ContentError as error:
                    yield tile, error
                else:
                    yield tile, _cut(alone, column, row, (column, row), px)
            return
        for tile, column, row in spans:
            yield tile, _cut(pixels, column, row, bounds, px)

    def _pixels(self, column: Span, row: Span) -> Pixels:
        width, height = column.stop - column.start, row.stop - row.start
        return self.handle.read(self.level, column.start, row.start, width, height)


def _bounds(region: Region) -> tuple[Span, Span]:
    """What must be read for all tiles of a region."""
    x, y = (
        Span(min(s.start for s in spans), max(s.stop for s in spans))
        for spans in (region.columns, region.rows)
    )
    return x, y


def _area(column: Span, row: Span) -> int:
    return (column.stop - column.start) * (row.stop - row.start)


def _cut(
    pixels: Pixels, column: Span, row: Span, bounds: tuple[Span, Span], tile_px: int
) -> Pixels:
    """One tile out of what was read, resampled once where it is not the tile's size."""
    left, top = column.start - bounds[0].start, row.start - bounds[1].start
    right, bottom = column.stop - bounds[0].start, row.stop - bounds[1].start
    part = np.ascontiguousarray(pixels[top:bottom, left:right])
    if column.low is None and row.low is None:
        return part
    # Where a level's width and height are not shrunk alike, one of them may do as it is.
    box = (
        column.low or 0.0,
        row.low or 0.0,
        column.high or float(right - left),
        row.high or float(bottom - top),
    )
    image = Image.fromarray(part)
    return np.asarray(image.resize((tile_px, tile_px), RESAMPLING, box=box))


class SlideCache:
    """Open slides, at most two: the next unit is most often of the same slide.

    Not for several threads; the readers that it gives are.
    """

    def __init__(self) -> None:
        """Nothing is open."""
        self._open: OrderedDict[tuple[object, ...], SlideHandle] = OrderedDict()

    def reader(self, source: Source, geometry: Geometry, *, icc: bool) -> TileReader:
        """What reads tiles of a slide.

        Raises:
            SourceError: It cannot be opened.
            StorageError: It cannot be read, or has no room on this node.
        """
        key = (source.uri, source.stat, icc)
        handle = self._open.get(key)
        if handle is None:
            if is_uri(source.uri):
                self._open.clear()  # a copy that is held has no room for others
            while len(self._open) >= _MAX_OPEN:
                self._open.popitem(last=False)
            handle = SlideHandle(local_slide(source.uri), slide=source.slide, icc=icc)
            self._open[key] = handle
        self._open.move_to_end(key)
        return TileReader(handle, geometry)


@dataclass(frozen=True, kw_only=True)
class SlideTile:
    """One tile of a slide.

    Attributes:
        uri: The slide.
        x: Left edge of its window, level-0 pixels.
        y: Upper edge.
        window_px: Side of the window.
        icc: Colors are converted to sRGB by the slide's profile.
        tile_px: Side of the tile as the model got it; None where not known.
    """

    uri: str
    x: int
    y: int
    window_px: int
    icc: bool = False
    tile_px: int | None = None
    together: ClassVar[int] = 8
    formats: ClassVar[Sequence[str]] = FORMATS

    @property
    def file(self) -> tuple[str, ...]:
        """The slide, and how its colors are read."""
        return (self.uri, str(self.icc))

    @property
    def order(self) -> tuple[int, ...]:
        """Row by row."""
        return (self.y, self.x)

    def reader(self, n_groups: int, turns: threading.Semaphore) -> "SharedSlide":
        """What reads tiles of this slide."""
        return SharedSlide(self, n_groups, turns)


def tile_at(
    source: Source, uri: str, loc_x: int | None, loc_y: int | None, *, icc: bool = False
) -> SlideTile:
    """The tile around a location, which is the center of its window.

    Args:
        source: The slide as planned.
        uri: Where it is now.
        loc_x: Center in level-0 pixels.
        loc_y: Likewise.
        icc: See SlideTile.

    Raises:
        MapError: There is no location.
    """
    window_px = source.window_px
    if loc_x is None or loc_y is None or window_px is None:
        message = f"a tile of {uri} has no location, so it cannot be read again"
        raise MapError(message)
    return SlideTile(
        uri=uri,
        x=loc_x - window_px // 2,
        y=loc_y - window_px // 2,
        window_px=window_px,
        icc=icc,
        tile_px=source.tile_px,
    )


class SharedSlide:
    """A slide that several groups are read from: open from the first to the last.

    Args:
        first: Any of its tiles.
        n_groups: How often it will be called, by any threads.
        turns: Bounds the slides that are open at a time. Groups are to be begun slide
            by slide: then no slide waits for one that is read later.
    """

    def __init__(
        self, first: SlideTile, n_groups: int, turns: threading.Semaphore
    ) -> None:
        """See the class."""
        self._slide = first
        self._ahead = n_groups
        self._turns = turns
        self._has_turn = False
        self._lock = threading.Lock()
        self._handle: SlideHandle | str | None = None

    def __call__(
        self, group: Group, tile_px: int
    ) -> Iterator[tuple[int, Content | str]]:
        """Tiles in the size that they are drawn, from the level that fits it.

        Args:
            group: Positions and tiles.
            tile_px: Side of the drawn tiles; none is read larger than the model got it.

        Yields:
            The position, and the pixels or the reason why there are none.
        """
        try:
            handle = self._opened()
            for i, tile in group:
                found = handle
                yield (
                    i,
                    found if isinstance(found, str) else _pixels(found, tile, tile_px),
                )
        finally:
            self._leave()

    def _opened(self) -> SlideHandle | str:
        with self._lock:
            if not self._has_turn:
                self._turns.acquire()
                self._has_turn = True
            if self._handle is None:
                self._handle = _open(self._slide)
            return self._handle

    def _leave(self) -> None:
        with self._lock:
            self._ahead -= 1
            if not self._ahead and self._has_turn:
                self._handle = None
                self._turns.release()


def _open(slide: SlideTile) -> SlideHandle | str:
    """The slide, or why it cannot be opened."""
    try:
        slide_files(slide.uri)  # says it plainly where it is gone
        local = local_slide(slide.uri)
        return SlideHandle(local, slide=slide_name(slide.uri), icc=slide.icc)
    except (SourceError, StorageError) as error:
        return str(error)
    except OSError as error:
        return f"cannot open {slide.uri}: {reason(error)}"


def _pixels(
    handle: SlideHandle, tile: SlideTile, tile_px: int
) -> Pixels | ContentError | str:
    px = min(tile_px, tile.tile_px or tile_px)
    try:
        reader = TileReader(handle, _geometry(handle, tile.window_px, px))
        return reader.at(tile.x, tile.y)
    except ContentError as error:
        return error
    except (SourceError, StorageError) as error:
        return str(error)


def _geometry(handle: SlideHandle, window_px: int, tile_px: int) -> Geometry:
    width, height = handle.dimensions
    return Geometry(
        tile_px=tile_px,
        window_px=window_px,
        stride_px=window_px,
        mpp=1.0,  # only pixels are asked for
        width=width,
        height=height,
    )
