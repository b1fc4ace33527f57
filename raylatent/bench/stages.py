"""The stages of activations by themselves: what the job calls, called again and again."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import cycle, repeat

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylatent import schema
from raylatent.bench.rates import GPU, Rate
from raylatent.bench.stopwatch import measure
from raylatent.errors import ContentError
from raylatent.model.lanes import Buffer, Lane
from raylatent.parts import part_name, write_part
from raylatent.run import ACTIVATIONS
from raylatent.source.grids import SlideUnit
from raylatent.source.tfrecord import iter_records, parse_example
from raylatent.source.units import Unit
from raylatent.source.wsi import Region, TileReader
from raylatent.source.wsi.regions import SlideCache
from raylatent.storage import Store
from raylatent.tiles.clock import Clock
from raylatent.tiles.decode import decode_image
from raylatent.tiles.tile import Side

Pixels = NDArray[np.uint8]

_TOGETHER = 16  # records of a step
_FROM_UNIT = 64
_MOST_BYTES = 64 << 20
_NAMES = 4  # parts that stay on the storage


class _Tried:
    """Tiles that were tried; rates are of those that are good."""

    def __init__(self) -> None:
        self._n = 0

    def count(self, good: Iterable[bool]) -> int:
        """How many are good."""
        found = list(good)
        self._n += len(found)
        return sum(found)

    def told(self, rate: Rate) -> Rate:
        """The rate of the good ones, with a note of the others."""
        bad = self._n - rate.tiles
        note = f"{bad / self._n:.0%} of the tiles that were tried are bad"
        return replace(rate, note=note) if bad else rate


def read_rate(units: Sequence[Unit], seconds: float) -> Rate:
    """Records read and their checksums verified, each unit once."""

    def read(unit: Unit) -> tuple[int, int]:
        records = iter_records(unit.source.uri, unit.offsets, unit.lengths)
        good = tried.count(not isinstance(record, ContentError) for record in records)
        return good, int(unit.lengths.sum())

    tried = _Tried()
    return tried.told(measure((partial(read, unit) for unit in units), seconds))


def records_of(units: Sequence[Unit]) -> list[memoryview]:
    """Payloads of some records, from as many units as there are."""
    found: list[memoryview] = []
    n_bytes = 0
    for unit in units:
        offsets, lengths = unit.offsets[:_FROM_UNIT], unit.lengths[:_FROM_UNIT]
        for payload in iter_records(unit.source.uri, offsets, lengths):
            if not isinstance(payload, ContentError):
                found.append(payload)
                n_bytes += len(payload)
        if n_bytes > _MOST_BYTES:
            break
    return found


def decode_record(payload: memoryview, side: Side) -> Pixels | None:
    """Pixels of a record, None where its content is bad."""
    try:
        return side.fit(decode_image(parse_example(payload).image_raw))
    except ContentError:
        return None


def decode_rate(records: Sequence[memoryview], side: Side, seconds: float) -> Rate:
    """Records in memory to pixels, by one thread."""

    def decode(some: Sequence[memoryview]) -> tuple[int, int]:
        good = tried.count(decode_record(payload, side) is not None for payload in some)
        return good, sum(map(len, some))

    tried = _Tried()
    chunks = [records[i : i + _TOGETHER] for i in range(0, len(records), _TOGETHER)]
    steps = (partial(decode, chunk) for chunk in cycle(chunks))
    return tried.told(measure(steps, seconds))


def slide_rate(units: Sequence[SlideUnit], side: Side, seconds: float) -> Rate:
    """Tiles of slides read and decoded, by one thread."""
    cache = SlideCache()

    def steps() -> Iterator[Callable[[], tuple[int, int]]]:
        for unit in units:
            reader = cache.reader(unit.source, unit.geometry, icc=unit.icc)
            for region in reader.regions(unit.rows, unit.cols):
                yield partial(cut, reader, region)

    def cut(reader: TileReader, region: Region) -> tuple[int, int]:
        found = (pixels for _, pixels in reader.read(region))
        return tried.count(_fits(pixels, side) for pixels in found), 0

    tried = _Tried()
    return tried.told(measure(steps(), seconds))


def _fits(pixels: Pixels | ContentError, side: Side) -> bool:
    """Whether a tile that was cut is good, once it has the model's side."""
    if isinstance(pixels, ContentError):
        return False
    try:
        side.fit(pixels)
    except ContentError:
        return False
    return True


def forward_rates(
    lane: Lane, tiles: Sequence[Pixels], seconds: float, *, with_preds: bool
) -> dict[str, Rate]:
    """`forward`, and on a GPU `transfer`: micro-batches of the same tiles.

    Args:
        lane: The model on its device.
        tiles: Of one micro-batch (tile_px, tile_px, 3).
        seconds: How long.
        with_preds: Predictions as well.
    """

    def until(moment: float) -> Iterator[Buffer]:
        yield lane.fill(tiles)
        while time.perf_counter() < moment:
            yield lane.fill(tiles)

    def run(buffers: Iterator[Buffer]) -> tuple[int, Clock]:
        clock = Clock("wait", "transfer", "forward")
        with closing(lane.passes(buffers, clock, with_preds=with_preds)) as passes:
            return sum(len(tiles) for _ in passes), clock

    run(
        lane.fill(tiles) for _ in range(2)
    )  # what is made once, as by the first pass on a GPU
    started, cpu = time.perf_counter(), time.process_time()
    n, clock = run(until(started + seconds))
    wall_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu
    if lane.features.device.type == "cpu":
        return {"forward": Rate(tiles=n, wall_s=wall_s, cpu_s=cpu_s)}
    took = clock.seconds  # as the device tells it, which does both at once
    return {
        "forward": Rate(tiles=n, wall_s=took["forward"], cpu_s=cpu_s, per=GPU),
        "transfer": Rate(
            tiles=n,
            wall_s=took["transfer"],
            cpu_s=0.0,
            per=GPU,
            n_bytes=n * tiles[0].nbytes,
        ),
    }


def write_rate(store: Store, slide: str, rows: pa.Table, seconds: float) -> Rate:
    """Parts written and put in place; few of them stay."""
    written = 0

    def write() -> tuple[int, int]:
        nonlocal written
        name = part_name(ACTIVATIONS, slide, written % _NAMES)
        write_part(store, name, rows, {schema.FOOTER_SLIDE: slide})
        written += 1
        return len(rows), store.size(name) or 0

    return measure(repeat(write), seconds)
