"""Pixels of chosen tiles, read again from whole slides.

A slide is opened once for all its tiles, and few are open at a time: each may be a copy
on this node's scratch.
"""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raylatent.errors import ContentError, MapError, SourceError, StorageError
from raylatent.source.slides import local_slide, slide_files, slide_name
from raylatent.source.wsi import Geometry, SlideHandle, TileReader
from raylatent.storage import reason

_GROUP = 8  # tiles read by one thread at a time
_MAX_OPEN = 4

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class WholeSlide:
    """A slide that tiles were cut out of.

    Attributes:
        uri: Where it is.
        window_px: Side of its tiles in level-0 pixels.
        icc: Colors are converted to sRGB by its profile.
        tile_px: Side of its tiles as the model got them; None where not known.
    """

    uri: str
    window_px: int
    icc: bool = False
    tile_px: int | None = None


@dataclass(frozen=True, kw_only=True)
class SlideTile:
    """One tile of a slide.

    Attributes:
        uri: The slide.
        x: Left edge of its window, level-0 pixels.
        y: Upper edge.
        window_px: Side of the window.
        icc: See WholeSlide.
        tile_px: See WholeSlide.
    """

    uri: str
    x: int
    y: int
    window_px: int
    icc: bool = False
    tile_px: int | None = None


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
        tile_px=slide.tile_px,
    )


Group = Sequence[tuple[int, SlideTile]]
"""Tiles of one slide with their positions among all."""


class SharedSlide:
    """A slide that several groups are read from: open from the first to the last.

    Args:
        first: Any of its tiles.
        n_groups: How often `read` will be called, by any threads.
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

    def read(self, group: Group, tile_px: int) -> list[tuple[int, Pixels | str]]:
        """Tiles in the size that they are drawn, from the level that fits it.

        Args:
            group: Positions and tiles.
            tile_px: Side of the drawn tiles; none is read larger than the model got it.

        Returns:
            The position, and the pixels or the reason why there are none.
        """
        try:
            handle = self._opened()
            if isinstance(handle, str):
                return [(position, handle) for position, _ in group]
            return [(i, _pixels(handle, tile, tile_px)) for i, tile in group]
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


def slide_groups(tiles: Group) -> Iterator[tuple[SharedSlide, Group]]:
    """Tiles slide by slide, near ones together."""
    by_slide: dict[tuple[str, bool], list[tuple[int, SlideTile]]] = {}
    for position, tile in tiles:
        by_slide.setdefault((tile.uri, tile.icc), []).append((position, tile))
    turns = threading.Semaphore(_MAX_OPEN)
    for _, group in sorted(by_slide.items()):
        group.sort(key=lambda each: (each[1].y, each[1].x))
        starts = range(0, len(group), _GROUP)
        shared = SharedSlide(group[0][1], len(starts), turns)
        for start in starts:
            yield shared, group[start : start + _GROUP]


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


def _pixels(handle: SlideHandle, tile: SlideTile, tile_px: int) -> Pixels | str:
    px = min(tile_px, tile.tile_px or tile_px)
    try:
        reader = TileReader(handle, _geometry(handle, tile.window_px, px))
        return reader.at(tile.x, tile.y)
    except ContentError as error:
        return f"{error.stage}: {error}"
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
