"""A unit's tiles as pixels, decoded some way ahead of who uses them."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from raylatent.errors import ContentError, SourceError, StorageError
from raylatent.source.grids import SlideUnit
from raylatent.source.tfrecord import iter_records, parse_example
from raylatent.source.units import Unit
from raylatent.source.wsi import Region
from raylatent.source.wsi.cache import SlideCache
from raylatent.tiles.clock import Clock
from raylatent.tiles.decode import decode_image
from raylatent.tiles.preprocess import resize

_DECODED_TOGETHER = 8
_AHEAD_TILES = 96  # decoded before the forward pass asks for them
_AHEAD_BYTES = 128 << 20
_LARGE_BYTES = 8 << 20
_INT32 = range(-(1 << 31), 1 << 31)

_Payload: TypeAlias = tuple[int, memoryview | ContentError]


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


@dataclass(frozen=True)
class Side:
    """The side that tiles shall have.

    Attributes:
        tile_px: In pixels.
        resize: Whether tiles of another size are resized; they are bad otherwise.
    """

    tile_px: int
    resize: bool = True

    def fit(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A picture at this size; the same array if it has it.

        Raises:
            ContentError: It has not, and is not to be resized.
        """
        height, width = pixels.shape[:2]
        if not self.resize and (width, height) != (self.tile_px, self.tile_px):
            message = (
                f"picture of {width} x {height} px, not {self.tile_px} x {self.tile_px} "
                "(--resize takes it)"
            )
            raise ContentError(message, stage="decode")
        return resize(pixels, self.tile_px)


def unit_tiles(
    unit: Unit | SlideUnit,
    side: Side,
    threads: Threads,
    slides: SlideCache,
    clock: Clock | None = None,
) -> Iterator[Tile]:
    """All tiles of a unit: a TFRecord's in order, a slide's as they are cheapest to read.

    Args:
        unit: Which tiles.
        side: What they shall have.
        threads: That read and decode ahead.
        slides: What this worker holds open.
        clock: Counts `read` and `decode`; a slide's regions are read and decoded in one.

    Raises:
        StorageError: The file cannot be read, after retries.
    """
    clock = clock or Clock("read", "decode")
    if isinstance(unit, SlideUnit):
        return _slide_tiles(unit, side, threads, slides, clock)
    return _record_tiles(unit, side, threads.pool, clock)


def _slide_tiles(
    unit: SlideUnit, side: Side, threads: Threads, slides: SlideCache, clock: Clock
) -> Iterator[Tile]:
    try:
        reader = slides.reader(unit.source, unit.geometry, icc=unit.icc)
    except SourceError as error:  # it could be opened when it was planned
        message = f"{error} (it could be when it was planned: run again)"
        raise StorageError(message) from error
    xs, ys = (values.tolist() for values in unit.locations())

    def read(region: Region) -> list[Tile]:
        with clock.timed("decode"):
            return [
                _slide_tile(Tile(i, xs[i], ys[i]), found, side)
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
    tile: Tile, found: NDArray[np.uint8] | ContentError, side: Side
) -> Tile:
    if isinstance(found, ContentError):
        return replace(tile, error=found)
    try:
        pixels = side.fit(found)
    except ContentError as error:
        return replace(tile, error=error)
    return replace(tile, pixels=pixels, resized=pixels is not found)


class _Budget:
    """Bytes of records that wait to be decoded: however large, not all are held."""

    def __init__(self, most: int) -> None:
        self._most, self._held = most, 0
        self._changed = threading.Condition()

    def take(self, n_bytes: int) -> None:
        """Wait until there is room; what is larger than all has it when it is alone."""
        with self._changed:
            self._changed.wait_for(
                lambda: not self._held or self._held + n_bytes <= self._most
            )
            self._held += n_bytes

    def give_back(self, n_bytes: int) -> None:
        with self._changed:
            self._held -= n_bytes
            self._changed.notify_all()


def _record_tiles(
    unit: Unit, side: Side, pool: ThreadPoolExecutor, clock: Clock
) -> Iterator[Tile]:
    payloads = iter(
        enumerate(iter_records(unit.source.uri, unit.offsets, unit.lengths))
    )
    budget = _Budget(_AHEAD_BYTES)

    def jobs() -> Iterator[Callable[[], list[Tile]]]:
        while True:
            with clock.timed("read"):
                together = list(_few(payloads))
            if not together:
                return
            n_bytes = sum(_size(payload) for _, payload in together)
            budget.take(n_bytes)
            done = partial(budget.give_back, n_bytes)
            decode = _decoding(together, unit.source.slide, side, done)
            yield partial(_timed, decode, clock)

    return _ahead(jobs(), pool, _AHEAD_TILES // _DECODED_TOGETHER)


def _timed(decode: Callable[[], list[Tile]], clock: Clock) -> list[Tile]:
    with clock.timed("decode"):
        return decode()


def _few(payloads: Iterator[_Payload]) -> Iterator[_Payload]:
    """Some records, of many bytes fewer."""
    n_bytes = 0
    for number, payload in islice(payloads, _DECODED_TOGETHER):
        yield number, payload
        n_bytes += _size(payload)
        if n_bytes > _LARGE_BYTES:
            return


def _size(payload: memoryview | ContentError) -> int:
    return 0 if isinstance(payload, ContentError) else len(payload)


def _decoding(
    payloads: list[_Payload], slide: str, side: Side, done: Callable[[], None]
) -> Callable[[], list[Tile]]:
    def decode() -> list[Tile]:
        try:
            return [_decode(i, payload, slide, side) for i, payload in payloads]
        finally:
            payloads.clear()
            done()

    return decode


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
    position: int, payload: memoryview | ContentError, slide: str, side: Side
) -> Tile:
    if isinstance(payload, ContentError):
        return Tile(position, error=payload)
    loc_x = loc_y = None
    try:
        record = parse_example(payload)
        loc_x, loc_y = _location(record.loc_x), _location(record.loc_y)
        image = decode_image(record.image_raw)
        pixels = side.fit(image)
    except ContentError as error:
        return Tile(position, loc_x, loc_y, error=error)
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
