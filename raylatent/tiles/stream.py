"""A unit's tiles as pixels, decoded some way ahead of who uses them."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from raylatent.errors import ContentError, SourceError, StorageError
from raylatent.source.grids import SlideUnit
from raylatent.source.tfrecord import iter_records, parse_example
from raylatent.source.units import Unit
from raylatent.source.wsi import Region
from raylatent.source.wsi.cache import SlideCache
from raylatent.tiles.decode import decode_image
from raylatent.tiles.preprocess import resize

_DECODED_TOGETHER = 8
_AHEAD_TILES = 96  # decoded before the forward pass asks for them
_INT32 = range(-(1 << 31), 1 << 31)


@dataclass(frozen=True)
class Tile:
    """One tile's pixels, or what is wrong with it.

    Attributes:
        position: In its unit, from 0.
        loc_x: Center in level-0 pixels, None where not recorded.
        loc_y: Likewise.
        pixels: (tile_px, tile_px, 3) uint8.
        error: Why there are none.
        resized: Whether it had another size.
        other_slide: Whether its record names another slide.
    """

    position: int
    loc_x: int | None = None
    loc_y: int | None = None
    pixels: NDArray[np.uint8] | None = None
    error: ContentError | None = None
    resized: bool = False
    other_slide: bool = False


@dataclass(frozen=True)
class Threads:
    """Threads that read and decode.

    Attributes:
        pool: They.
        count: How many.
    """

    pool: ThreadPoolExecutor
    count: int


def unit_tiles(
    unit: Unit | SlideUnit, tile_px: int, threads: Threads, slides: SlideCache
) -> Iterator[Tile]:
    """All tiles of a unit: a TFRecord's in order, a slide's as they are cheapest to read.

    Args:
        unit: Which tiles.
        tile_px: Side that they are resized to, if they have another.
        threads: That read and decode ahead.
        slides: What this worker holds open.

    Raises:
        StorageError: The file cannot be read, after retries.
    """
    if isinstance(unit, SlideUnit):
        return _slide_tiles(unit, tile_px, threads, slides)
    return _record_tiles(unit, tile_px, threads.pool)


def _slide_tiles(
    unit: SlideUnit, tile_px: int, threads: Threads, slides: SlideCache
) -> Iterator[Tile]:
    try:
        reader = slides.reader(unit.source, unit.geometry, icc=unit.icc)
    except SourceError as error:  # it could be opened when it was planned
        message = f"{error} (it could be when it was planned: run again)"
        raise StorageError(message) from error
    xs, ys = (values.tolist() for values in unit.locations())

    def read(region: Region) -> list[Tile]:
        return [
            _slide_tile(Tile(i, xs[i], ys[i]), found, tile_px)
            for i, found in reader.read(region)
        ]

    regions = reader.regions(unit.rows, unit.cols)
    jobs = (_job(read, region) for region in regions)
    return _ahead(jobs, threads.pool, threads.count + 1)


def _job(
    read: Callable[[Region], list[Tile]], region: Region
) -> Callable[[], list[Tile]]:
    return lambda: read(region)


def _slide_tile(
    tile: Tile, found: NDArray[np.uint8] | ContentError, tile_px: int
) -> Tile:
    if isinstance(found, ContentError):
        return replace(tile, error=found)
    pixels = resize(found, tile_px)
    return replace(tile, pixels=pixels, resized=pixels is not found)


def _record_tiles(unit: Unit, tile_px: int, pool: ThreadPoolExecutor) -> Iterator[Tile]:
    payloads = iter(
        enumerate(iter_records(unit.source.uri, unit.offsets, unit.lengths))
    )

    def jobs() -> Iterator[Callable[[], list[Tile]]]:
        while together := list(islice(payloads, _DECODED_TOGETHER)):
            yield _decoding(together, unit.source.slide, tile_px)

    return _ahead(jobs(), pool, _AHEAD_TILES // _DECODED_TOGETHER)


def _decoding(
    payloads: list[tuple[int, memoryview | ContentError]], slide: str, tile_px: int
) -> Callable[[], list[Tile]]:
    return lambda: [_decode(i, payload, slide, tile_px) for i, payload in payloads]


def _ahead(
    jobs: Iterator[Callable[[], list[Tile]]], pool: ThreadPoolExecutor, most: int
) -> Iterator[Tile]:
    """Results of jobs in order, at most `most` of them under way."""
    waiting: deque[Future[list[Tile]]] = deque()
    try:
        for job in jobs:
            waiting.append(pool.submit(job))
            if len(waiting) >= most:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _decode(
    position: int, payload: memoryview | ContentError, slide: str, tile_px: int
) -> Tile:
    if isinstance(payload, ContentError):
        return Tile(position, error=payload)
    loc_x = loc_y = None
    try:
        record = parse_example(payload)
        loc_x, loc_y = _location(record.loc_x), _location(record.loc_y)
        image = decode_image(record.image_raw)
    except ContentError as error:
        return Tile(position, loc_x, loc_y, error=error)
    pixels = resize(image, tile_px)
    return Tile(
        position,
        loc_x,
        loc_y,
        pixels=pixels,
        resized=pixels is not image,
        other_slide=record.slide not in {None, slide},
    )


def _location(value: int | None) -> int | None:
    if value is None or value in _INT32:
        return value
    message = f"location {value} is no pixel of a slide"
    raise ContentError(message, stage="parse")
