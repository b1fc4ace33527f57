"""The job's own loop, as one actor does it: read, decode, run the model, write."""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, cycle

import pyarrow as pa

from raylatent import schema
from raylatent.bench.rates import Rate
from raylatent.bench.stopwatch import measure
from raylatent.bench.units import AnyUnit, pieces
from raylatent.model.features import Features
from raylatent.model.lanes import lane_of
from raylatent.model.rows import RowOptions, unit_rows
from raylatent.parts import part_name, write_part
from raylatent.run import ACTIVATIONS
from raylatent.source.wsi.cache import SlideCache
from raylatent.storage import Store
from raylatent.tiles.stream import Threads

_MOST_ROWS = 2048
_NAMES = 4
LEAST_ROWS = 64
"""Fewer make no map on which placing would cost what it costs on one of a run."""


@dataclass(kw_only=True)
class Loop:
    """What the loop did.

    Attributes:
        rate: Of one actor; its CPU seconds are those of all stages.
        seconds: By stage, as a run's report has them.
        tables: Some of the rows, with their slides.
    """

    rate: Rate
    seconds: Mapping[str, float]
    tables: list[tuple[AnyUnit, pa.Table]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Actor:
    """What an actor of the job has.

    Attributes:
        features: The model.
        rows: What is stored.
        threads: That read and decode.
        store: Where parts go; None: nowhere.
    """

    features: Features
    rows: RowOptions
    threads: Threads
    store: Store | None


def run_loop(
    actor: Actor, units: Sequence[AnyUnit], together: int, seconds: float
) -> Loop:
    """Units of `together` tiles one after the other, from the first again at the end.

    Args:
        actor: The rest.
        units: Of the job.
        together: Tiles of a unit here: a job's take too long where the model is slow.
        seconds: How long, about.
    """
    by_stage: defaultdict[str, float] = defaultdict(float)
    tables: list[tuple[AnyUnit, pa.Table]] = []
    slides = SlideCache()
    lane = lane_of(actor.features)
    kept = written = 0

    def work(unit: AnyUnit) -> tuple[int, int]:
        nonlocal kept, written
        found = unit_rows(unit, lane, actor.rows, actor.threads, slides)
        for stage, took in found.seconds.items():
            by_stage[stage] += took
        if kept < _MOST_ROWS and len(found.rows):
            tables.append((unit, found.rows))
            kept += len(found.rows)
        if actor.store is not None:
            started = time.perf_counter()
            name = part_name(ACTIVATIONS, unit.source.slide, written % _NAMES)
            footer = {schema.FOOTER_SLIDE: unit.source.slide}
            write_part(actor.store, name, found.rows, footer)
            by_stage["write"] += time.perf_counter() - started
            written += 1
        return len(unit), 0

    parts = list(chain.from_iterable(pieces(unit, together) for unit in units))
    steps = (partial(work, unit) for unit in cycle(parts))
    rate = measure(steps, seconds, least=LEAST_ROWS)
    return Loop(rate=rate, seconds=dict(by_stage), tables=tables)
