"""Where the tiles of a slide are, and which pyramid level they are read from.

All coordinates are level-0 pixels, x to the right and y downwards.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raylatent.config.options import above_zero, pixel_size
from raylatent.errors import ConfigError, SourceError
from raylatent.source.wsi.mpp import GivenSize

UPSAMPLING = 1.1
"""A finest level coarser than the target by more than this is refused."""

_MAGNIFICATION = re.compile(r"(\d+(?:\.\d+)?)[xX]")
_UM_X = 10.0  # µm a pixel times magnification: 40x is 0.25 µm a pixel, 10x is 1
_USUAL_X = (5.0, 10.0, 20.0, 40.0)
_NEAR_X = 2.0  # Slideflow: a level within 2x of the magnification is that level
_NEAR_RATIO = 1.25  # but 3x is not 1.25x, though within 2 of it


@dataclass(frozen=True, kw_only=True)
class TileOptions:
    """What is asked of a slide's tiles.

    Attributes:
        tile_px: Side of a tile, in pixels as the model gets it.
        tile_um: Side of its window on the slide: µm, or a magnification as `10x`.
        stride_div: Tiles are window / stride_div apart: 2 for half overlaps.
        mpp: µm a pixel of level 0, for slides that do not say.
        mpp_of_slide: Likewise of just this slide, whatever its file says.
        origin: Top left of the first tile, level-0 pixels.
        use_edge_tiles: Also tiles that reach beyond the slide, white there.
        allow_upsampling: Also slides whose finest level is coarser than the tiles.
        icc: Convert colors to sRGB by the slide's ICC profile, where it has one.
    """

    tile_px: int
    tile_um: float | str
    stride_div: float = 1.0
    mpp: float | None = None
    mpp_of_slide: float | None = None
    origin: tuple[int, int] = (0, 0)
    use_edge_tiles: bool = False
    allow_upsampling: bool = False
    icc: bool = False

    def __post_init__(self) -> None:
        """Refuse nonsense."""
        side: object = self.tile_px
        if not isinstance(side, int | np.integer) or side < 1:
            message = f"tile_px is {self.tile_px!r}, not a whole number of 1 or more"
            raise ConfigError(message)
        parse_tile_um(self.tile_um)
        above_zero("stride_div", self.stride_div)
        given: tuple[object, ...] = (self.mpp, self.mpp_of_slide)
        for value in given:
            if value is None:
                continue
            if not isinstance(value, int | float | np.number):
                message = f"mpp is {value!r}, not a number of µm a pixel, as 0.25"
                raise ConfigError(message)
            pixel_size("mpp", float(value))

    @property
    def given_mpp(self) -> GivenSize:
        """What the user says of the size of a pixel."""
        return GivenSize(of_slide=self.mpp_of_slide, of_all=self.mpp)


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """The grid of tiles over one slide.

    Attributes:
        tile_px: Side of a tile in pixels.
        window_px: Side of its window in level-0 pixels.
        stride_px: Distance of tiles in level-0 pixels.
        mpp: µm a pixel of level 0.
        width: Of the slide in level-0 pixels.
        height: Likewise.
        origin: Top left of the first tile.
        use_edge_tiles: Whether tiles may reach beyond the slide.
    """

    tile_px: int
    window_px: int
    stride_px: int
    mpp: float
    width: int
    height: int
    origin: tuple[int, int] = (0, 0)
    use_edge_tiles: bool = False

    @property
    def tile_um(self) -> float:
        """Side of a tile in µm, as it is: the window is whole pixels."""
        return self.window_px * self.mpp

    @property
    def xs(self) -> NDArray[np.int64]:
        """Left edges of the grid's columns."""
        return self._edges(self.origin[0], self.width)

    @property
    def ys(self) -> NDArray[np.int64]:
        """Upper edges of the grid's rows."""
        return self._edges(self.origin[1], self.height)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self.ys), len(self.xs)

    def empty_grid(self) -> NDArray[np.bool_]:
        """A grid without a tile, (rows, cols)."""
        return np.zeros(self.shape, bool)

    def _edges(self, origin: int, size: int) -> NDArray[np.int64]:
        # As Slideflow: with edge tiles the last may begin on the very edge.
        end = size + 1 if self.use_edge_tiles else size + 1 - self.window_px
        return np.arange(origin, end, self.stride_px, dtype=np.int64)

    def coord(self) -> NDArray[np.int64]:
        """Every tile of the grid, row by row: (n, 4), x, y, column, row."""
        rows, cols = np.divmod(np.arange(np.prod(self.shape)), max(1, self.shape[1]))
        return np.stack([self.xs[cols], self.ys[rows], cols, rows], axis=1)

    def centers(
        self, rows: NDArray[np.integer], cols: NDArray[np.integer]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Locations (x, y) of tiles of the grid: the centers of their windows."""
        half = self.window_px // 2
        return self.xs[cols] + half, self.ys[rows] + half


def parse_tile_um(tile_um: float | str) -> tuple[str, float]:
    """`("um", side)` or `("x", magnification)`.

    Raises:
        ConfigError: It is neither.

    >>> parse_tile_um("10x"), parse_tile_um("302"), parse_tile_um(302)
    (('x', 10.0), ('um', 302.0), ('um', 302.0))
    """
    found = _MAGNIFICATION.fullmatch(tile_um) if isinstance(tile_um, str) else None
    try:
        kind, value = ("x", float(found[1])) if found else ("um", float(tile_um))
    except (TypeError, ValueError):
        kind, value = "um", 0.0
    if not 0 < value < math.inf:
        message = (
            f"tile_um is {tile_um!r}: give a tile's side in micrometers, as 302, or a "
            "magnification, as 10x"
        )
        raise ConfigError(message)
    return kind, value


def size_name(tile_px: int, tile_um: float | str) -> str:
    """The folder of tiles of one size, as Slideflow calls it.

    >>> size_name(299, 302.0), size_name(299, "10X")
    ('299px_302um', '299px_10x')
    """
    kind, value = parse_tile_um(tile_um)
    return f"{tile_px}px_{value:g}{kind}"


def geometry_of(
    slide: str,
    options: TileOptions,
    *,
    mpp: float,
    dimensions: tuple[int, int],
    downsamples: Sequence[float],
) -> Geometry:
    """The grid of one slide.

    In µm the window is `int(tile_um / mpp)`. At a magnification (10x is 1 µm a pixel) it
    is that of the level within 2x of it, as in Slideflow, `int(downsample * tile_px)`;
    where there is no such level (Slideflow stops), it has the exact size.

    Args:
        slide: For messages.
        options: What is asked.
        mpp: µm a pixel of level 0.
        dimensions: Width and height of level 0.
        downsamples: Of each level, level 0's 1.

    Raises:
        SourceError: The slide has no pixels as fine as asked, or the window is nothing.
    """
    kind, value = parse_tile_um(options.tile_um)
    target_mpp = value / options.tile_px if kind == "um" else _UM_X / value
    window = int(value / mpp) if kind == "um" else None
    if window is None:
        window = _magnified(value, mpp, options.tile_px, downsamples)
    if mpp > UPSAMPLING * target_mpp and not options.allow_upsampling:
        meant = ""
        if kind == "um" and value in _USUAL_X:
            meant = f" ({value:g} is in micrometers, the magnification is {value:g}x)"
        message = (
            f"slide {slide}: its finest level has {mpp:.4g} µm a pixel, "
            f"{mpp / target_mpp:.3g} times coarser than the {target_mpp:.4g} asked for "
            f"(tile_px {options.tile_px}, tile_um {options.tile_um}): choose larger "
            f"tiles, or --allow-upsampling{meant}"
        )
        raise SourceError(message)
    stride = int(np.round(window / options.stride_div))
    if window < 1 or stride < 1:
        message = (
            f"slide {slide}: a tile of {options.tile_um} at {mpp:.4g} µm a pixel is "
            f"{window} pixels wide, with stride {stride}: choose larger tiles"
        )
        raise SourceError(message)
    return Geometry(
        tile_px=options.tile_px,
        window_px=window,
        stride_px=stride,
        mpp=mpp,
        width=dimensions[0],
        height=dimensions[1],
        origin=options.origin,
        use_edge_tiles=options.use_edge_tiles,
    )


def _magnified(
    magnification: float, mpp: float, tile_px: int, downsamples: Sequence[float]
) -> int:
    levels = [_UM_X / (mpp * downsample) for downsample in downsamples]
    nearest = min(range(len(levels)), key=lambda i: abs(levels[i] - magnification))
    ratio = levels[nearest] / magnification
    near = abs(levels[nearest] - magnification) <= _NEAR_X
    if near and 1 / _NEAR_RATIO <= ratio <= _NEAR_RATIO:
        return int(downsamples[nearest] * tile_px)
    return int(tile_px * _UM_X / magnification / mpp)


def best_level(downsamples: Sequence[float], side: float, side_px: float) -> int:
    """The coarsest level that still has `side_px` pixels in `side` of level 0.

    Counted in whole pixels: 448 level-0 pixels are 223.94 of a level whose downsample is
    2.0005 for its odd size, which is 224. Level 0 where none has as many.

    >>> best_level([1.0, 2.0005, 4.0], 448, 224), best_level([1.0, 4.0], 448, 224)
    (1, 0)
    """
    fitting = [i for i, d in enumerate(downsamples) if side / d >= side_px - 0.5]
    return max(fitting, key=lambda i: downsamples[i], default=0)


@dataclass(frozen=True)
class Span:
    """One side of a tile's window on a level: whole pixels, and the window in them.

    Attributes:
        start: First pixel.
        stop: One past the last.
        low: Where the window begins, from `start`; None: the pixels are the tile's.
        high: Where it ends, from `start`.
    """

    start: int
    stop: int
    low: float | None = None
    high: float | None = None


def span(first: int, window: int, tile_px: int, level: tuple[float, int, int]) -> Span:
    """The pixels of a level under `[first, first + window)` of level 0.

    A window that is as many pixels as the tile, to the nearest, is taken as it is, from
    the nearest pixel on; another is to be resampled from exactly where it lies.

    Args:
        first: Edge of the window, level-0 pixels.
        window: Its side.
        tile_px: The tile's side.
        level: The level's downsample, its size and level 0's, along the same axis.

    >>> span(896, 448, 224, (2.0, 1000, 2000))
    Span(start=448, stop=672, low=None, high=None)
    """
    downsample, size, size0 = level
    inside = first >= 0 and first + window <= size0
    low, high = first / downsample, (first + window) / downsample
    if math.floor(window / downsample + 0.5) == tile_px:
        start = math.floor(low + 0.5)
        if inside:  # sizes that were rounded down may lack the last pixel
            start = max(0, min(start, size - tile_px))
        return Span(start, start + tile_px)
    start, stop = math.floor(low), math.ceil(high)
    if inside:
        stop = max(min(stop, size), start + 1)
    return Span(start, stop, low - start, min(high - start, float(stop - start)))
