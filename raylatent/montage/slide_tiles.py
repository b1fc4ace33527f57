"""Pixels of chosen tiles, read again from whole slides."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from raylatent.errors import ContentError, MapError, SourceError, StorageError
from raylatent.source.slides import local_slide, slide_name
from raylatent.source.wsi import Geometry, SlideHandle, TileReader


@dataclass(frozen=True, kw_only=True)
class WholeSlide:
    """A slide that tiles were cut out of.

    Attributes:
        uri: Where it is.
        window_px: Side of its tiles in level-0 pixels.
        icc: Colors are converted to sRGB by its profile.
    """

    uri: str
    window_px: int
    icc: bool = False


@dataclass(frozen=True, kw_only=True)
class SlideTile:
    """One tile of a slide.

    Attributes:
        uri: The slide.
        x: Left edge of its window, level-0 pixels.
        y: Upper edge.
        window_px: Side of the window.
        icc: See WholeSlide.
    """

    uri: str
    x: int
    y: int
    window_px: int
    icc: bool = False


def tile_at(slide: WholeSlide, loc_x: int | None, loc_y: int | None) -> SlideTile:
    """The tile around a location, which is the center of its window.

    Raises:
        MapError: There is no location.

    >>> tile_at(WholeSlide(uri="a.svs", window_px=101), 150, 50).x
    100
    """
    if loc_x is None or loc_y is None:
        message = f"a tile of {slide.uri} has no location, so it cannot be read again"
        raise MapError(message)
    half = slide.window_px // 2
    return SlideTile(
        uri=slide.uri,
        x=loc_x - half,
        y=loc_y - half,
        window_px=slide.window_px,
        icc=slide.icc,
    )


def read_slide_tiles(
    group: Sequence[tuple[int, SlideTile]], tile_px: int
) -> list[tuple[int, Image.Image | str]]:
    """Tiles of one slide in the size that they are drawn, from the level that fits it.

    Args:
        group: Positions and tiles.
        tile_px: Side of the pictures.

    Returns:
        The position, and the picture or the reason why there is none.
    """
    first = group[0][1]
    try:
        local = local_slide(first.uri)
        handle = SlideHandle(local, slide=slide_name(first.uri), icc=first.icc)
        readers = {
            window: TileReader(handle, _geometry(handle, window, tile_px))
            for window in {tile.window_px for _, tile in group}
        }
    except (SourceError, StorageError) as error:
        return [(position, str(error)) for position, _ in group]
    found: list[tuple[int, Image.Image | str]] = []
    for position, tile in group:
        try:
            pixels = readers[tile.window_px].at(tile.x, tile.y)
        except ContentError as error:
            found.append((position, f"{error.stage}: {error}"))
        except StorageError as error:
            found.append((position, str(error)))
        else:
            found.append((position, Image.fromarray(pixels)))
    return found


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
