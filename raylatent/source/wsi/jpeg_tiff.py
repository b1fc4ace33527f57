"""Tiles of JPEG pyramids in TIFF (Aperio's among them), decoded without OpenSlide.

OpenSlide composes a region out of decoded tiles at 14 ns a pixel (measured with its
4.0.1; openslide issue 719), more than decoding takes. Where the file's own tiles are
plain JPEG they are decoded here, once each, and copied into place. The pixels are
OpenSlide's: `SlideHandle` compares some before it relies on this.
"""

import os
import struct
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import simplejpeg
import tifffile
from numpy.typing import NDArray

from raylatent.errors import ContentError
from raylatent.storage import reason, retry

CACHE_BYTES = 32 << 20
_JPEG = 7
_COLORS = {2: 0, 6: 1}  # photometric RGB, YCbCr: Adobe's transform
_ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"
_MAX_TILE_PX = 2048  # two of them fit into the cache
# What tifffile raises of files that it cannot read.
_NO_TIFF = (
    tifffile.TiffFileError,
    ValueError,
    LookupError,
    OSError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
    struct.error,
)

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class _Level:
    """One page: where its tiles are.

    Attributes:
        size: Width and height; tiles at the edges reach beyond.
        tile: Width and height of a tile.
        n_cols: Tiles across.
        offsets: Of each tile in the file, row by row.
        lengths: In bytes; 0: there is none.
        head: What comes before a tile's own bytes to make a JPEG of it.
    """

    size: tuple[int, int]
    tile: tuple[int, int]
    n_cols: int
    offsets: Sequence[int]
    lengths: Sequence[int]
    head: bytes


class JpegTiff:
    """Levels of a tiled JPEG TIFF; `open` says whether a file is one.

    Args:
        path: A local file.
        levels: One for each level.
    """

    def __init__(self, path: Path, levels: list[_Level]) -> None:
        """See the class."""
        self._levels = levels
        self._path = path
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._file)
        self._cache: OrderedDict[tuple[int, int], Pixels] = OrderedDict()
        self._cached_bytes = 0
        self._lock = threading.Lock()

    @classmethod
    def open(
        cls, path: Path, dimensions: Sequence[tuple[int, int]], *, sparse: bool
    ) -> "JpegTiff | None":
        """The file's levels of these sizes; None where one is not plain JPEG tiles.

        Args:
            path: A local file.
            dimensions: Width and height of each level.
            sparse: Whether a tile may be missing, and is white then. (Of Aperio's
                OpenSlide makes such a tile out of the next finer level.)
        """
        try:
            with tifffile.TiffFile(path) as tiff:
                pages = {
                    (page.imagewidth, page.imagelength): page
                    for page in reversed(list(tiff.pages))
                    if isinstance(page, tifffile.TiffPage) and page.is_tiled
                }
                levels = [_level(pages.get(size)) for size in dimensions]
            found = [level for level in levels if level is not None]
            whole = sparse or all(all(level.lengths) for level in found)
            if not found or len(found) != len(levels) or not whole:
                return None
            return cls(path, found)
        except _NO_TIFF:
            return None

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        """Pixels of a level, (height, width, 3) uint8; white where there are none.

        Raises:
            ContentError: A tile of the file is broken.
            StorageError: The file cannot be read.
        """
        page = self._levels[level]
        tile_w, tile_h = page.tile
        out = np.full((height, width, 3), 255, np.uint8)
        right, bottom = min(x + width, page.size[0]), min(y + height, page.size[1])
        if right <= x or bottom <= y:
            return out
        rows = range(max(0, y // tile_h), -(-bottom // tile_h))
        cols = range(max(0, x // tile_w), -(-right // tile_w))
        for row, col in product(rows, cols):
            tile = self._tile(level, row * page.n_cols + col)
            if tile is None:
                continue
            top, left = row * tile_h - y, col * tile_w - x
            y0, x0 = max(0, top), max(0, left)
            y1, x1 = min(bottom - y, top + tile_h), min(right - x, left + tile_w)
            out[y0:y1, x0:x1] = tile[y0 - top : y1 - top, x0 - left : x1 - left]
        return out

    def _tile(self, level: int, number: int) -> Pixels | None:
        """A decoded tile, None where the file has none there."""
        key = (level, number)
        with self._lock:
            found = self._cache.get(key)
            if found is not None:
                self._cache.move_to_end(key)
                return found
        page = self._levels[level]
        length = page.lengths[number]
        if not length:
            return None
        tile = self._decode(page, page.offsets[number], length)
        with self._lock:
            if key not in self._cache:
                self._cache[key] = tile
                self._cached_bytes += tile.nbytes
            while self._cached_bytes > CACHE_BYTES:
                self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
        return tile

    def _decode(self, page: _Level, offset: int, length: int) -> Pixels:
        data = retry(lambda: os.pread(self._file, length, offset), f"read {self._path}")
        where = f"the slide's own tile at byte {offset}"
        if len(data) < length:
            message = f"{where} is cut off"
            raise ContentError(message, stage="read")
        jpeg = page.head + data.removeprefix(_SOI)
        try:
            height, width, *_ = simplejpeg.decode_jpeg_header(jpeg)
            if (width, height) != page.tile:
                message = f"{where} has {width} x {height} pixels"
                raise ContentError(message, stage="decode")
            # As OpenSlide decodes. Strict: what libjpeg only warns of is damage.
            tile: Pixels = simplejpeg.decode_jpeg(
                jpeg, "RGB", fastdct=False, fastupsample=False, strict=True
            )
        except ValueError as error:
            message = f"{where} is broken: {reason(error)}"
            raise ContentError(message, stage="decode") from error
        return tile


def _level(page: object) -> _Level | None:
    """A page whose tiles are plain 8-bit JPEGs of three colors, else None."""
    if not isinstance(page, tifffile.TiffPage):
        return None
    plain = (
        page.compression == _JPEG
        and int(page.photometric) in _COLORS
        and page.samplesperpixel == 3
        and page.bitspersample == 8
        and page.planarconfig == 1
        and max(page.tilewidth, page.tilelength) <= _MAX_TILE_PX
    )
    n_cols = -(-page.imagewidth // page.tilewidth) if plain else 0
    n_rows = -(-page.imagelength // page.tilelength) if plain else 0
    if not plain or len(page.dataoffsets) != n_cols * n_rows:
        return None
    tables = page.jpegtables or _SOI + _EOI
    color = bytes([_COLORS[int(page.photometric)]])
    head = _SOI + _ADOBE + color + tables.removeprefix(_SOI).removesuffix(_EOI)
    return _Level(
        size=(page.imagewidth, page.imagelength),
        tile=(page.tilewidth, page.tilelength),
        n_cols=n_cols,
        offsets=page.dataoffsets,
        lengths=page.databytecounts,
        head=head,
    )


def probes(
    dimensions: Sequence[tuple[int, int]], downsamples: Sequence[float]
) -> Iterator[tuple[int, int, int]]:
    """Places (level, x, y) of levels to compare: in the middle, and off it.

    On level 0, and where OpenSlide's coordinates of a level are whole.
    """
    for level, (width, height) in enumerate(dimensions):
        if downsamples[level] == round(downsamples[level]):
            yield level, width // 2, height // 2
            yield level, width // 3, height // 5
