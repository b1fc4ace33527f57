"""A unit's tiles as pixels, read and decoded some way ahead of who uses them.

Of records no more are in memory than are decoded soon.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from raylatent.errors import ContentError, SourceError, StorageError
from raylatent.source.grids import SlideUnit
from raylatent.source.tfrecord import iter_records
from raylatent.source.units import Unit
from raylatent.source.wsi import Region
from raylatent.source.wsi.regions import SlideCache
from raylatent.tiles.ahead import in_order
from raylatent.tiles.clock import Clock
from raylatent.tiles.decoders import Decoders
from raylatent.tiles.tile import Side, Tile, tile_of_record

_AHEAD_BYTES = 128 << 20
_LARGE_BYTES = 8 << 20
_DECODED_TOGETHER = 8
_AHEAD_TILES = 96  # decoded before the forward pass asks for them

Payload: TypeAlias = memoryview | ContentError


class RecordReader:
    """Reads a unit's records, and waits while too many bytes of them are not decoded.

    Args:
        unit: Which records.
        clock: Counts `read`.
    """

    def __init__(self, unit: Unit, clock: Clock) -> None:
        """See the class."""
        records = iter_records(unit.source.uri, unit.offsets, unit.lengths)
        self._payloads = iter(enumerate(records))
        self._clock = clock
        self._budget = _Budget(_AHEAD_BYTES)

    def next(
        self, most: int
    ) -> tuple[list[tuple[int, Payload]], Callable[[], None]] | None:
        """The next records, fewer where they are large; None at the end.

        Args:
            most: How many.

        Returns:
            Positions and payloads, and what to call when they are decoded.

        Raises:
            StorageError: The file cannot be read, after retries.
        """
        with self._clock.timed("read"):
            together = list(self._few(most))
        if not together:
            return None
        n_bytes = sum(_size(payload) for _, payload in together)
        self._budget.take(n_bytes)
        return together, partial(self._budget.give_back, n_bytes)

    def _few(self, most: int) -> Iterator[tuple[int, Payload]]:
        n_bytes = 0
        for number, payload in islice(self._payloads, most):
            yield number, payload
            n_bytes += _size(payload)
            if n_bytes > _LARGE_BYTES:
                return


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


def _size(payload: Payload) -> int:
    return 0 if isinstance(payload, ContentError) else len(payload)


@dataclass(frozen=True)
class Threads:
    """Threads that read and decode.

    Attributes:
        pool: They.
        count: How many.
        decoders: Processes that they let decode, None where they do it themselves.
    """

    pool: ThreadPoolExecutor
    count: int
    decoders: Decoders | None = None


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
    jobs = (partial(read, region) for region in regions)
    return _ahead(jobs, threads.pool, threads.count + 1)


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


def _record_tiles(
    unit: Unit, side: Side, pool: ThreadPoolExecutor, clock: Clock
) -> Iterator[Tile]:
    records = RecordReader(unit, clock)

    def jobs() -> Iterator[Callable[[], list[Tile]]]:
        while (found := records.next(_DECODED_TOGETHER)) is not None:
            decode = _decoding(*found, unit.source.slide, side)
            yield partial(_timed, decode, clock)

    return _ahead(jobs(), pool, _AHEAD_TILES // _DECODED_TOGETHER)


def _timed(decode: Callable[[], list[Tile]], clock: Clock) -> list[Tile]:
    with clock.timed("decode"):
        return decode()


def _decoding(
    payloads: list[tuple[int, Payload]],
    done: Callable[[], None],
    slide: str,
    side: Side,
) -> Callable[[], list[Tile]]:
    def decode() -> list[Tile]:
        try:
            return [tile_of_record(i, payload, slide, side) for i, payload in payloads]
        finally:
            payloads.clear()
            done()

    return decode


def _ahead(
    jobs: Iterator[Callable[[], list[Tile]]], pool: ThreadPoolExecutor, most: int
) -> Iterator[Tile]:
    """Tiles of jobs in order, at most `most` of the jobs under way."""
    with closing(in_order(jobs, pool, most)) as found:
        for tiles in found:
            yield from tiles
