"""All stages on the node that this runs on."""

import platform
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, cycle, islice

import numpy as np

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
from raylatent.bench.whole import LEAST_ROWS, Actor, Loop, run_loop
from raylatent.errors import IncompleteError, MapError
from raylatent.mapping.parameters import MapParameters
from raylatent.source.grids import SlideUnit
from raylatent.source.units import Unit
from raylatent.source.wsi.cache import SlideCache
from raylatent.tiles.stream import unit_tiles
from raylatent.tiles.tile import Side

_NO_STORE = "give --out RUN: it is measured in a folder below, which is removed"
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
        for stage in ("transfer", "forward", "write", "place", "draw"):
            found.lacking[stage] = "no actor of the job runs on such a node"
        return _measured(found, None, None)
    loop = _model(found, bench, actor, units)
    _rows(found, bench, actor, loop)
    return _measured(found, actor, loop)


def _measured(found: _Found, actor: Actor | None, loop: Loop | None) -> Measured:
    return Measured(
        host=platform.node(),
        threads=0 if actor is None else actor.threads.count,
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
            note = "of the TFRecords; whole slides were not measured"
            found.rates["decode"] = replace(found.rates["decode"], note=note)
    else:
        found.lacking["decode"] = "the checksums of all records that were tried fail"


def _model(found: _Found, bench: Bench, actor: Actor, units: list[AnyUnit]) -> Loop:
    """`transfer` and `forward`, then the job's loop."""
    features = actor.features
    found.rates |= forward_rates(
        actor.lane,
        _batch(actor, units),
        bench.seconds,
        with_preds=actor.rows.with_preds,
    )
    if "transfer" not in found.rates:
        found.lacking["transfer"] = "there is no GPU"
    together = int(found.rates["forward"].wall_per_s * bench.seconds / _LOOPS)
    together -= together % features.batch_size
    together = min(max(together, features.batch_size), bench.sources.unit_tiles)
    forget_cached(units)
    return run_loop(actor, units, together, bench.seconds)


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


def _rows(found: _Found, bench: Bench, actor: Actor, loop: Loop) -> None:
    """`write`, `place` and `draw`, of the rows that the loop made."""
    if not loop.tables:
        for stage in ("write", "place", "draw"):
            found.lacking[stage] = "all tiles are bad: there are no rows"
        return
    unit, rows = max(loop.tables, key=lambda pair: len(pair[1]))
    if actor.store is None:
        found.lacking["write"] = _NO_STORE
    else:
        written = write_rate(actor.store, unit.source.slide, rows, bench.seconds)
        note = f"parts of {len(rows):,} rows"
        found.rates["write"] = replace(written, note=note)
    layer = next(iter(actor.features.sizes))
    flat = np.concatenate(
        [
            table[layer].combine_chunks().flatten().to_numpy(zero_copy_only=False)
            for _, table in loop.tables
        ]
    )
    features = flat.reshape(-1, actor.features.sizes[layer]).astype(np.float32)
    if len(features) < LEAST_ROWS:
        found.lacking["place"] = (
            f"{len(features)} good rows make no map: give more tiles"
        )
    else:
        try:
            found.rates["place"] = place_rate(features, bench.params, bench.seconds)
        except MapError as error:
            found.lacking["place"] = str(error)
    found.rates["draw"] = draw_rate(places_of(loop.tables), bench.seconds)
