"""Pixels of chosen tiles, read again from whole slides.

A slide is opened once for all its tiles, and few are open at a time: each may be a copy
on this node's scratch.
"""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from raylatent.errors import ContentError, MapError, SourceError, StorageError
from raylatent.source.picture import FORMATS
from raylatent.source.protocol import Content, Group
from raylatent.source.slides import local_slide, slide_files, slide_name
from raylatent.source.units import Source
from raylatent.source.wsi.geometry import Geometry
from raylatent.source.wsi.handle import SlideHandle
from raylatent.source.wsi.regions import TileReader
from raylatent.storage import reason

Pixels = NDArray[np.uint8]


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
