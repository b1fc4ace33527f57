"""All stages on the node that this runs on."""

import platform
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, cycle, islice

import numpy as np
import pyarrow as pa

from raylatent.bench.back_stages import cells_rate, load_rate
from raylatent.bench.map_stages import draw_rate, place_rate, places_of
from raylatent.bench.rates import Measured, Rate
from raylatent.bench.stages import (
    Pixels,
    decode_rate,
    decode_record,
    forward_rates,
    read_rate,
    records_of,
    slide_rate,
    write_rate,
)
from raylatent.bench.units import AnyUnit, Sources, forget_cached, some_units
from raylatent.bench.whole import LEAST_ROWS, Actor, Loop, run_loop, with_writing
from raylatent.errors import IncompleteError, MapError
from raylatent.mapping.parameters import MapParameters
from raylatent.source.grids import SlideUnit
from raylatent.source.units import Unit
from raylatent.source.wsi.regions import SlideCache
from raylatent.tiles.stream import unit_tiles
from raylatent.tiles.tile import Side

_NO_STORE = "give --out RUN: it is measured in a folder below, which is removed"
_OF_ROWS = ("write", "load", "place", "cells", "draw")
_LOOPS = 4  # units of the job's loop in the time there is, about


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What is to be measured.

    Attributes:
        sources: Of the tiles.
        seconds: How long each stage is measured.
        params: Of the map.
    """

    sources: Sources
    seconds: float
    params: MapParameters


class _Found:
    """Rates so far, and why others are lacking."""

    def __init__(self) -> None:
        self.rates: dict[str, Rate] = {}
        self.lacking: dict[str, str] = {}


def measure_node(bench: Bench, actor: Actor | None) -> Measured:
    """Measure each stage, and the job's own loop.

    Args:
        bench: What.
        actor: What an actor of the job has here; None on a node that has none.

    Raises:
        IncompleteError: Not one tile can be read.
    """
    found = _Found()
    units = some_units(bench.sources)
    files = [unit for unit in units if isinstance(unit, Unit)]
    slides = [unit for unit in units if isinstance(unit, SlideUnit)]
    tile_px = bench.sources.tile_px if actor is None else actor.features.tile_px
    resize = actor is None or actor.rows.resize
    _pixels(found, bench, files, slides, Side(tile_px, resize=resize))
    if actor is None:
        for stage in ("transfer", "forward", *_OF_ROWS):
            found.lacking[stage] = "no actor of the job runs on such a node"
        return _measured(found, None, None)
    _forward(found, bench, actor, units)
    part_rows = round(sum(map(len, units)) / len(units))  # of a part of the job
    together = _together(found.rates["forward"], bench, actor)
    forget_cached(units)
    if together >= max(map(len, units)):
        loop = run_loop(actor, units, together, bench.seconds)
        _rows(found, bench, actor, loop, part_rows)
        return _measured(found, actor, loop)
    # Parts of so few rows would take longer than the job's: they are added.
    loop = run_loop(replace(actor, store=None), units, together, bench.seconds)
    _rows(found, bench, actor, loop, part_rows)
    if "write" in found.rates:
        loop = with_writing(loop, found.rates["write"])
    return _measured(found, actor, loop)


def _measured(found: _Found, actor: Actor | None, loop: Loop | None) -> Measured:
    return Measured(
        host=platform.node(),
        threads=0 if actor is None else actor.threads.count,
        dtype="float32" if actor is None else actor.rows.dtype,
        rates=found.rates,
        lacking=found.lacking,
        whole=None if loop is None else loop.rate,
        seconds={} if loop is None else loop.seconds,
    )


def _pixels(
    found: _Found,
    bench: Bench,
    files: list[Unit],
    slides: list[SlideUnit],
    side: Side,
) -> None:
    """`read` and `decode`; of slides both are one."""
    if not files:
        found.lacking["read"] = "tiles of slides are read and decoded in one: decode"
        found.rates["decode"] = slide_rate(slides, side, bench.seconds)
        return
    forget_cached(files)
    found.rates["read"] = read_rate(files, bench.seconds)
    records = records_of(files)
    if records:
        found.rates["decode"] = decode_rate(records, side, bench.seconds)
        if slides:
            decode = found.rates["decode"]
            note = "of the TFRecords; whole slides were not measured"
            note = f"{decode.note}, {note}" if decode.note else note
            found.rates["decode"] = replace(decode, note=note)
    else:
        found.lacking["decode"] = "the checksums of all records that were tried fail"


def _forward(found: _Found, bench: Bench, actor: Actor, units: list[AnyUnit]) -> None:
    """`transfer` and `forward`."""
    found.rates |= forward_rates(
        actor.lane,
        _batch(actor, units),
        bench.seconds,
        with_preds=actor.rows.with_preds,
    )
    if "transfer" not in found.rates:
        found.lacking["transfer"] = "there is no GPU"


def _together(forward: Rate, bench: Bench, actor: Actor) -> int:
    """Tiles of a unit of the loop: few where the model is slow, so that some are done."""
    batch = actor.features.batch_size
    together = int(forward.wall_per_s * bench.seconds / _LOOPS)
    together -= together % batch
    return min(max(together, batch), bench.sources.unit_tiles)


def _batch(actor: Actor, units: list[AnyUnit]) -> list[Pixels]:
    """A micro-batch of the job's own tiles.

    Raises:
        IncompleteError: None can be decoded.
    """
    features = actor.features
    side = Side(features.tile_px, resize=actor.rows.resize)
    tiles = list(islice(_decoded(actor, units, side), features.batch_size))
    if not tiles:
        message = "not one of the tiles that were tried can be decoded"
        raise IncompleteError(message)
    return list(islice(cycle(tiles), features.batch_size))


def _decoded(actor: Actor, units: list[AnyUnit], side: Side) -> Iterator[Pixels]:
    files = [unit for unit in units if isinstance(unit, Unit)]
    for record in records_of(files) if files else ():
        pixels = decode_record(record, side)
        if pixels is not None:
            yield pixels
    slides = (unit for unit in units if isinstance(unit, SlideUnit))
    cache = SlideCache()
    for tile in chain.from_iterable(
        unit_tiles(unit, side, actor.threads, cache) for unit in slides
    ):
        if tile.pixels is not None:
            yield tile.pixels


def _rows(
    found: _Found, bench: Bench, actor: Actor, loop: Loop, part_rows: int
) -> None:
    """`write` and all that comes after it, of the rows that the loop made."""
    if not loop.tables:
        for stage in _OF_ROWS:
            found.lacking[stage] = "all tiles are bad: there are no rows"
        return
    unit, rows = max(loop.tables, key=lambda pair: len(pair[1]))
    layer = next(iter(actor.features.sizes))
    if actor.store is None:
        for stage in ("write", "load", "cells"):
            found.lacking[stage] = _NO_STORE
    else:
        store, slide = actor.store, unit.source.slide
        part = _repeated(rows, part_rows)
        written = write_rate(store, slide, part, bench.seconds)
        note = f"parts of {len(part):,} rows"
        found.rates["write"] = replace(written, note=note)
        found.rates["load"] = load_rate(store, slide, layer, bench.seconds)
        found.rates["cells"] = cells_rate(store, slide, part, bench.seconds)
    _place(found, bench, loop, layer, actor.features.sizes[layer])
    found.rates["draw"] = draw_rate(places_of(loop.tables), bench.seconds)


def _place(found: _Found, bench: Bench, loop: Loop, layer: str, width: int) -> None:
    flat = np.concatenate(
        [
            table[layer].combine_chunks().flatten().to_numpy(zero_copy_only=False)
            for _, table in loop.tables
        ]
    )
    features = flat.reshape(-1, width).astype(np.float32)
    if len(features) < LEAST_ROWS:
        found.lacking["place"] = (
            f"{len(features)} good rows make no map: give more tiles"
        )
        return
    try:
        found.rates["place"] = place_rate(features, bench.params, bench.seconds)
    except MapError as error:
        found.lacking["place"] = str(error)


def _repeated(rows: pa.Table, n: int) -> pa.Table:
    """So many rows: these, again and again."""
    times = -(-n // len(rows))
    return pa.concat_tables([rows] * times).slice(0, n).combine_chunks()
