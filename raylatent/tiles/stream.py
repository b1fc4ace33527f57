"""A unit's tiles as pixels, read and decoded some way ahead of who uses them.

Of encoded tiles no more are in memory than are decoded soon.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial

from raylatent.source.protocol import Chunk, Unit
from raylatent.source.wsi.regions import SlideCache
from raylatent.tiles.decoders import Decoders
from raylatent.tiles.threads import Clock, in_order
from raylatent.tiles.tile import Side, Tile, chunk_tiles

_AHEAD_BYTES = 128 << 20
_AHEAD_CHUNKS = 12  # of encoded tiles, decoded before the forward pass asks for them


class _Budget:
    """Bytes of chunks that wait to be decoded: however large, not all are held."""

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
    unit: Unit,
    side: Side,
    threads: Threads,
    slides: SlideCache,
    clock: Clock | None = None,
) -> Iterator[Tile]:
    """All tiles of a unit, in the order of its chunks.

    Args:
        unit: Which tiles.
        side: What they shall have.
        threads: That read and decode ahead.
        slides: What this worker holds open.
        clock: Counts `read` and `decode`; a slide's regions are read and decoded in one.

    Raises:
        StorageError: The source cannot be read, after retries.
    """
    clock = clock or Clock("read", "decode")
    chunks = unit.chunks(slides)
    budget = _Budget(_AHEAD_BYTES)

    def jobs() -> Iterator[Callable[[], list[Tile]]]:
        while True:
            with clock.timed("read"):
                chunk = next(chunks, None)
            if chunk is None:
                return
            budget.take(chunk.n_bytes)
            yield partial(_decoded, chunk, side, clock, budget)

    most = _AHEAD_CHUNKS if unit.encoded else threads.count + 1
    return _ahead(jobs(), threads.pool, most)


def _decoded(chunk: Chunk, side: Side, clock: Clock, budget: _Budget) -> list[Tile]:
    try:
        return chunk_tiles(chunk, side, clock)
    finally:
        budget.give_back(chunk.n_bytes)


def _ahead(
    jobs: Iterator[Callable[[], list[Tile]]], pool: ThreadPoolExecutor, most: int
) -> Iterator[Tile]:
    """Tiles of jobs in order, at most `most` of the jobs under way."""
    with closing(in_order(jobs, pool, most)) as found:
        for tiles in found:
            yield from tiles
