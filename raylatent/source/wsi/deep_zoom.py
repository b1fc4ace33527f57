"""A slide in squares of halved levels, as viewers ask for them; no other picture of it."""

import io
from math import prod

import openslide
from openslide.deepzoom import DeepZoomGenerator

from raylatent.errors import SourceError, StorageError
from raylatent.source.slides import LocalSlide
from raylatent.source.wsi.handle import CACHE_BYTES
from raylatent.storage import reason

TILE_PX, OVERLAP_PX = 510, 1
_QUALITY = 80
_MOST_PIXELS = 64_000_000  # that are read for a square
_ERRORS = (openslide.OpenSlideError, OSError, ValueError, MemoryError)


class DeepZoom:
    """An open slide; threads may ask at once.

    The whole level 0 is shown, what lies outside of the slide's bounds too, so that
    places are those of tiles.

    Args:
        local: The slide on this node.

    Raises:
        SourceError: It cannot be opened as a slide.
    """

    def __init__(self, local: LocalSlide) -> None:
        self._local = local  # keeps the node's copy
        try:
            slide = openslide.OpenSlide(local.path)
            slide.set_cache(openslide.OpenSlideCache(CACHE_BYTES))
            self._levels = DeepZoomGenerator(
                slide, tile_size=TILE_PX, overlap=OVERLAP_PX, limit_bounds=False
            )
        except _ERRORS as error:
            message = f"{local.path} cannot be opened: {reason(error)}"
            raise SourceError(message) from error
        self.dimensions: tuple[int, int] = slide.dimensions

    @property
    def levels(self) -> int:
        """How many there are; the last one is level 0 of the slide."""
        return int(self._levels.level_count)

    def jpeg(self, level: int, col: int, row: int) -> bytes | None:
        """A square of a level as a JPEG; None where there is none.

        Raises:
            StorageError: The slide cannot be read there; it is to be opened again.
        """
        if not 0 <= level < self.levels:
            return None
        cols, rows = self._levels.level_tiles[level]
        if not (0 <= col < cols and 0 <= row < rows):
            return None
        *_, size = self._levels.get_tile_coordinates(level, (col, row))
        if prod(size) > _MOST_PIXELS:
            return None  # the slide has no smaller level that it could be read from
        data = io.BytesIO()
        try:
            picture = self._levels.get_tile(level, (col, row)).convert("RGB")
            picture.save(data, "JPEG", quality=_QUALITY)
        except _ERRORS as error:
            message = f"cannot read {self._local.path}: {reason(error)}"
            raise StorageError(message) from error
        return data.getvalue()
