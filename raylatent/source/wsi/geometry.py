"""Where the tiles of a slide are, and which pyramid level they are read from.

All coordinates are level-0 pixels, x to the right and y downwards. How many micrometers
a pixel has is said by the slide's file or by the user; where both say it, one is used.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raylatent.config.options import above_zero, pixel_size, why_not_mpp
from raylatent.errors import ConfigError, MissingMPPError, SourceError

_UM_X = 10.0  # µm a pixel times magnification: 40x is 0.25 µm a pixel, 10x is 1
_UM = {"inch": 25_400.0, "centimeter": 10_000.0}
_PRINTER_UM = 20.0  # 1,200 dots an inch are 21 µm; no scanner is as coarse as printers
GENERIC = "generic-tiff"
_SQUARE = 0.05  # x and y may differ by this share
_SAME = 0.01  # what the user's number may differ by without a line
_FEW = 0.03  # likewise of --mpp, which is one for many slides
_OFF_X = 4.0  # times that a magnification and µm a pixel differ by in no microscope
_OVERRULE = "a column mpp of --annotations overrules the file (mpp= of a WSI in Python)"
UPSAMPLING = 1.1
"""A finest level coarser than the target by more than this is refused."""

_MAGNIFICATION = re.compile(r"(\d+(?:\.\d+)?)[xX]")
_USUAL_X = (5.0, 10.0, 20.0, 40.0)
_NEAR_X = 2.0  # Slideflow: a level within 2x of the magnification is that level
_NEAR_RATIO = 1.25  # but 3x is not 1.25x, though within 2 of it


@dataclass(frozen=True, kw_only=True)
class FileSize:
    """What a slide's file says of the size of its pixels.

    Attributes:
        x: µm a pixel of level 0 along x; None where it does not say.
        y: Likewise along y.
        power: Magnification of the objective.
    """

    x: float | None = None
    y: float | None = None
    power: float | None = None


@dataclass(frozen=True, kw_only=True)
class GivenSize:
    """What a user says of it, µm a pixel of level 0.

    Attributes:
        of_slide: Of this slide: overrules the file.
        of_all: Of all slides: for those whose file does not say.
    """

    of_slide: float | None = None
    of_all: float | None = None


def file_size(properties: Mapping[str, str]) -> FileSize:
    """What a slide's properties tell.

    `openslide.mpp-x` and `-y`, which OpenSlide has of the vendor's own words (DICOM's
    pixel spacing, Aperio's MPP); else TIFF's resolution tags. A resolution of printers,
    such as 72 dots an inch, is what programs write that know none: it says nothing.

    >>> file_size({"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.26"})
    FileSize(x=0.25, y=0.26, power=None)
    >>> file_size({"tiff.XResolution": "72", "tiff.ResolutionUnit": "inch"})
    FileSize(x=None, y=None, power=None)
    """
    x, y = (_number(properties, f"openslide.mpp-{axis}") for axis in "xy")
    generic = properties.get("openslide.vendor") == GENERIC
    unit = _UM.get(properties.get("tiff.ResolutionUnit", ""))
    if x is None and y is None and unit is not None:
        dots = (_number(properties, f"tiff.{axis}Resolution") for axis in "XY")
        x, y = (None if n is None else unit / n for n in dots)
        generic = True
    x, y = (x if x is not None else y), (y if y is not None else x)
    if generic and x is not None and x >= _PRINTER_UM:
        x = y = None
    return FileSize(x=x, y=y, power=_number(properties, "openslide.objective-power"))


def _number(properties: Mapping[str, str], name: str) -> float | None:
    """A property that is a number above 0."""
    try:
        value = float(properties.get(name, ""))
    except ValueError:
        return None
    return value if 0 < value < math.inf else None


def mpp_of(slide: str, own: FileSize, given: GivenSize) -> float:
    """The µm a pixel that are used: of this slide, of its file, of all slides.

    Args:
        slide: For messages.
        own: What the file says.
        given: What the user says.

    Raises:
        MissingMPPError: Nobody says.
        SourceError: The file says what cannot be, or that pixels are not square.
    """
    if given.of_slide is not None:
        return given.of_slide
    if own.x is None or own.y is None:
        if given.of_all is not None:
            return given.of_all
        raise MissingMPPError(_missing(slide, own))
    if _apart(own.x, own.y) > _SQUARE:
        message = (
            f"slide {slide}: its file says that pixels are not square, {own.x:.4g} µm "
            f"along x and {own.y:.4g} along y, and tiles would be distorted: if that is "
            f"not true, {_OVERRULE}"
        )
        raise SourceError(message)
    why_not = why_not_mpp(own.x)
    if why_not is not None:
        message = (
            f"slide {slide}: its file says {own.x:g} µm a pixel, {why_not}; {_OVERRULE}"
        )
        raise SourceError(message)
    return own.x


def _missing(slide: str, own: FileSize) -> str:
    text = (
        f"slide {slide} does not say how many µm a pixel is: give --mpp "
        "(mpp= in Python), or a column mpp in the annotations"
    )
    if own.power is None:
        return text
    return (
        f"{text}; its file tells of an objective of {own.power:g}x, at which a pixel is "
        f"often about {_UM_X / own.power:.2g} µm"
    )


def remarks_on_mpp(slide: str, own: FileSize, given: GivenSize) -> list[str]:
    """Where the file and the user, or the file and itself, contradict each other.

    >>> remarks_on_mpp("a", FileSize(x=0.05, y=0.05), GivenSize(of_slide=0.5))
    ["slide 'a': its file says 0.05 µm a pixel, you say 0.5 of this slide: mpp 0.5 is used"]
    """
    if own.x is None or own.y is None:
        return []
    of_slide, of_all, power = given.of_slide, given.of_all, own.power
    sides = f"{own.x:.4g} µm a pixel"
    if _apart(own.x, own.y) > _SQUARE:
        sides = f"{own.x:.4g} µm along x and {own.y:.4g} along y"
    if of_slide is not None:
        if max(_apart(own.x, of_slide), _apart(own.y, of_slide)) <= _SAME:
            return []
        return [
            f"slide {slide!r}: its file says {sides}, you say {of_slide:.4g} of this "
            f"slide: mpp {of_slide:.4g} is used"
        ]
    found = []
    if of_all is not None and _apart(own.x, of_all) > _FEW:
        found.append(
            f"slide {slide!r}: its file says {sides}, which is used, not --mpp "
            f"{of_all:.4g}, which is for slides that do not say: {_OVERRULE}"
        )
    if power is not None and _apart(own.x * power, _UM_X) > _OFF_X - 1:
        found.append(
            f"slide {slide!r}: its file says {sides} and an objective of {power:g}x, "
            f"at which a pixel is often about {_UM_X / power:.2g} µm: if the first is "
            f"wrong, {_OVERRULE}"
        )
    return found


def _apart(one: float, other: float) -> float:
    """By what share the larger is larger."""
    return max(one, other) / min(one, other) - 1


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
