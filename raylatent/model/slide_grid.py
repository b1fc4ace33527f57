"""The feature grid of a slide: what the model gives for each tile, where the tile is."""

import logging
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from itertools import islice
from typing import Any, Protocol, TypedDict

import numpy as np
from numpy.typing import DTypeLike, NDArray

from raylatent.errors import ConfigError, ContentError
from raylatent.source import tissue
from raylatent.source.tissue import TissueOptions
from raylatent.source.wsi import WSI, Region, filter_tiles
from raylatent.tiles.tile import resize

logger = logging.getLogger(__name__)

_DTYPES = (np.dtype(np.float32), np.dtype(np.float16))
_THREADS = 2  # that read while the model runs
_AHEAD_BYTES = 24 << 20  # of tiles: one region's at most, and read ahead at least

Grid = np.ma.MaskedArray[Any, np.dtype[np.floating]]
Place = tuple[int, int]
Pixels = NDArray[np.uint8]
Read = tuple[int, Pixels | ContentError]


class TileModel(Protocol):
    """What is asked of a model and its layers; `Features` is one."""

    include_preds: bool
    num_classes: int | None
    batch_size: int
    tile_px: int

    @property
    def num_features(self) -> int:
        """Features of one tile."""
        ...

    def forward(
        self, tiles: Pixels, *, with_preds: bool
    ) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.float32] | None]:
        """Activations by layer, flattened, of one full micro-batch, and predictions."""
        ...


class GridOptions(TypedDict, total=False):
    """Options of `feature_grid`."""

    dtype: DTypeLike
    grayspace_fraction: float
    grayspace_threshold: float
    whitespace_fraction: float
    whitespace_threshold: float


def feature_grid(
    features: TileModel,
    wsi: WSI,
    *,
    dtype: DTypeLike = "float32",
    grayspace_fraction: float = 0.6,
    grayspace_threshold: float = 0.05,
    whitespace_fraction: float = 1.0,
    whitespace_threshold: float = 230,
) -> Grid | tuple[Grid, Grid]:
    """Activations of a slide's tiles as a picture of the slide.

    Masked are the tiles that `wsi.grid` or the filters leave out, and those whose part
    of the file is broken, which are logged. `wsi.grid` itself stays as it is.

    Args:
        features: The model and its layers.
        wsi: The slide; tiles of another size than the model's are resized.
        dtype: `float32` or `float16`, of the grids. What float16 cannot hold is inf.
        grayspace_fraction: See `TissueOptions`, here and below; 1 is off.
        grayspace_threshold: Gray is a saturation below this.
        whitespace_fraction: 1 is off.
        whitespace_threshold: White is a mean of the colors above this.

    Returns:
        (rows, cols, features), rows along y, layers flattened and concatenated; 0 under
        the mask, fill value nan. With `include_preds` a pair, the second (rows, cols,
        classes).

    Raises:
        ConfigError: An option is out of range.
        ContentError: The level that is needed for the filters is broken.
        StorageError: The slide cannot be read.
    """
    kind = _checked(dtype)
    options = TissueOptions(
        grayspace_fraction=grayspace_fraction,
        grayspace_threshold=grayspace_threshold,
        whitespace_fraction=whitespace_fraction,
        whitespace_threshold=whitespace_threshold,
    )
    kept = _kept(wsi, options)
    widths = [features.num_features]
    if features.include_preds:
        widths.append(features.num_classes or 0)
    grids = [np.zeros((*kept.shape, width), kind) for width in widths]
    done = np.zeros(kept.shape, bool)
    too_large = 0
    with closing(_tiles(wsi, kept, features.tile_px)) as tiles:
        while chunk := list(islice(tiles, features.batch_size)):
            rows, cols = np.array([place for place, _ in chunk]).T
            for grid, values in zip(grids, _forward(features, chunk), strict=True):
                with np.errstate(over="ignore"):  # counted instead
                    stored = values.astype(kind)
                too_large += int(np.sum(np.isinf(stored) & np.isfinite(values)))
                grid[rows, cols] = stored
            done[rows, cols] = True
    if too_large:
        logger.warning(
            "slide %s: %d values are too large for %s: inf", wsi.name, too_large, kind
        )
    found = [_masked(grid, done) for grid in grids]
    return (found[0], found[1]) if features.include_preds else found[0]


def _checked(dtype: DTypeLike) -> np.dtype[np.floating]:
    """The type of a grid.

    >>> _checked(np.float16)
    dtype('float16')
    """
    kind = next((kind for kind in _DTYPES if _is(dtype, kind)), None)
    if kind is None:
        message = f"dtype is {dtype!r}, not float32 or float16"
        raise ConfigError(message)
    return kind


def _is(dtype: DTypeLike, kind: np.dtype[np.floating]) -> bool:
    try:
        return np.dtype(dtype) == kind
    except TypeError:  # no type of numpy's
        return False


def _kept(wsi: WSI, options: TissueOptions) -> NDArray[np.bool_]:
    """Which tiles are to go through the model, (rows, cols)."""
    reasons = np.where(wsi.grid, tissue.KEPT, tissue.CUSTOM).astype(np.uint8)
    filter_tiles(wsi.handle, wsi.geometry, options, reasons)
    return np.asarray(reasons == tissue.KEPT)


def _masked(grid: NDArray[np.floating], done: NDArray[np.bool_]) -> Grid:
    mask = np.repeat(~done[:, :, None], grid.shape[2], axis=2)
    return np.ma.MaskedArray(grid, mask=mask, fill_value=np.nan)


def _forward(
    features: TileModel, chunk: Sequence[tuple[Place, Pixels]]
) -> list[NDArray[np.float32]]:
    """Activations (n, features), and predictions if wanted, of at most a micro-batch."""
    px = features.tile_px
    pixels = np.zeros((features.batch_size, px, px, 3), np.uint8)
    for i, (_, tile) in enumerate(chunk):
        pixels[i] = tile
    found, preds = features.forward(pixels, with_preds=features.include_preds)
    values = [np.concatenate(list(found.values()), axis=1)]
    if preds is not None:
        values.append(preds)
    return [value[: len(chunk)] for value in values]


def _tiles(
    wsi: WSI, kept: NDArray[np.bool_], tile_px: int
) -> Generator[tuple[Place, Pixels], None, None]:
    """(row, column) and pixels of the kept tiles that can be read, some read ahead.

    However large the slide is, a few regions are held at a time.
    """
    rows, cols = np.nonzero(kept)
    most = max(1, _AHEAD_BYTES // (3 * max(tile_px, wsi.tile_px) ** 2))
    parts = (
        part
        for region in wsi.reader.regions(rows, cols)
        for part in _parts(region, most)
    )

    def read(region: Region) -> list[Read]:
        return [
            (i, tile if isinstance(tile, ContentError) else resize(tile, tile_px))
            for i, tile in wsi.reader.read(region)
        ]

    with closing(_read_ahead(read, parts, most)) as found:
        for i, tile in found:
            row, col = int(rows[i]), int(cols[i])
            if isinstance(tile, ContentError):
                logger.warning(
                    "slide %s: the tile at row %d, column %d is masked: %s",
                    wsi.name,
                    row,
                    col,
                    tile,
                )
            else:
                yield (row, col), tile


def _parts(region: Region, most: int) -> Iterator[Region]:
    """A region in parts of at most `most` tiles: of overlapping ones it has many."""
    for first in range(0, len(region.tiles), most):
        part = slice(first, first + most)
        yield replace(
            region,
            tiles=region.tiles[part],
            columns=region.columns[part],
            rows=region.rows[part],
        )


def _read_ahead(
    read: Callable[[Region], list[Read]], regions: Iterable[Region], most: int
) -> Generator[Read, None, None]:
    """What regions hold, in order; until `most` tiles are under way others are read."""
    pool = ThreadPoolExecutor(_THREADS, "raylatent-slide")
    waiting: deque[Future[list[Read]]] = deque()
    under_way = 0
    try:
        for region in regions:
            waiting.append(pool.submit(read, region))
            under_way += len(region.tiles)
            while len(waiting) > _THREADS and under_way > most:
                found = waiting.popleft().result()
                under_way -= len(found)
                yield from found
        while waiting:
            yield from waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
