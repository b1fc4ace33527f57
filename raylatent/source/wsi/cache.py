"""Slides that a worker holds open, with their copies and decoded tiles."""

from collections import OrderedDict

from raylatent.source.slides import local_slide
from raylatent.source.units import Source
from raylatent.source.wsi.geometry import Geometry
from raylatent.source.wsi.handle import SlideHandle
from raylatent.source.wsi.regions import TileReader
from raylatent.storage import is_uri

_MAX_OPEN = 2


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
