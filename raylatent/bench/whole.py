"""The job's own loop, as one actor does it: read, decode, run the model, write."""

import time
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, count, cycle
from typing import TypeAlias

import pyarrow as pa

from raylatent import schema
from raylatent.bench.rates import Rate
from raylatent.bench.stopwatch import measure
from raylatent.bench.units import AnyUnit, pieces
from raylatent.model.features import Features
from raylatent.model.lanes import Lane
from raylatent.model.rows import RowOptions, unit_rows
from raylatent.parts import part_name, write_part
from raylatent.run import ACTIVATIONS
from raylatent.source.units import Unit
from raylatent.source.wsi.regions import SlideCache
from raylatent.storage import Store
from raylatent.tiles.stream import Threads

_Worked: TypeAlias = tuple[AnyUnit, pa.Table, Mapping[str, float], float]
"""A unit, its rows, seconds by stage, and CPU seconds of reading and decoding."""
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
        at_once: Units that were worked on at once.
    """

    rate: Rate
    seconds: Mapping[str, float]
    tables: list[tuple[AnyUnit, pa.Table]] = field(default_factory=list)
    at_once: int = 1


@dataclass(frozen=True, kw_only=True)
class Actor:
    """What an actor of the job has.

    Attributes:
        lane: The model on its device.
        rows: What is stored.
        threads: That read and decode.
        store: Where parts go; None: nowhere.
        at_once: Units of TFRecords that it works on at once.
    """

    lane: Lane
    rows: RowOptions
    threads: Threads
    store: Store | None
    at_once: int = 1

    @property
    def features(self) -> Features:
        """The model."""
        return self.lane.features


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
    apart_s = 0.0  # of CPUs, in processes that decode
    tables: list[tuple[AnyUnit, pa.Table]] = []
    slides = SlideCache()
    numbers = count()

    def work(unit: AnyUnit) -> _Worked:
        found = unit_rows(unit, actor.lane, actor.rows, actor.threads, slides)
        took = dict(found.seconds)
        if actor.store is not None:
            started = time.perf_counter()
            slide = unit.source.slide
            name = part_name(ACTIVATIONS, slide, next(numbers) % _NAMES)
            write_part(actor.store, name, found.rows, {schema.FOOTER_SLIDE: slide})
            took["write"] = time.perf_counter() - started
        return unit, found.rows, took, sum(found.cpu.values())

    def done(future: Future[_Worked]) -> int:
        nonlocal apart_s
        unit, rows, took, cpu_s = future.result()
        if actor.threads.decoders is not None and isinstance(unit, Unit):
            apart_s += cpu_s
        for stage, spent in took.items():
            by_stage[stage] += spent
        if sum(len(table) for _, table in tables) < _MOST_ROWS and len(rows):
            tables.append((unit, rows))
        return len(unit)

    # A slide that is open is not for several threads.
    at_once = actor.at_once if all(isinstance(u, Unit) for u in units) else 1
    parts = list(chain.from_iterable(pieces(unit, together) for unit in units))
    waiting: deque[Future[_Worked]] = deque()
    with ThreadPoolExecutor(at_once) as pool:

        def step(unit: AnyUnit) -> tuple[int, int]:
            waiting.append(pool.submit(work, unit))
            return (done(waiting.popleft()) if len(waiting) >= at_once else 0), 0

        def rest() -> tuple[int, int]:
            return sum(done(waiting.popleft()) for _ in range(len(waiting))), 0

        steps = (partial(step, unit) for unit in cycle(parts))
        rate = measure(steps, seconds, least=LEAST_ROWS, rest=rest)
    rate = replace(rate, cpu_s=rate.cpu_s + apart_s)
    return Loop(rate=rate, seconds=dict(by_stage), tables=tables, at_once=at_once)


def with_writing(loop: Loop, write: Rate) -> Loop:
    """A loop that wrote nothing, as if it had written parts as `write` did.

    Where several units are worked on at once, one is written while a model works on
    another.

    Args:
        loop: What was done.
        write: Of parts as large as the job's.

    >>> loop = Loop(rate=Rate(tiles=100, wall_s=2.0, cpu_s=2.0), seconds={"forward": 2.0})
    >>> write = Rate(tiles=1000, wall_s=10.0, cpu_s=1.0)
    >>> with_writing(loop, write).rate.wall_per_s
    33.333333333333336
    >>> with_writing(replace(loop, at_once=2), write).rate.wall_per_s
    50.0
    """
    rate = loop.rate
    share = rate.tiles / max(write.tiles, 1)
    took = share * write.wall_s
    wall_s = rate.wall_s + took
    if loop.at_once > 1:
        wall_s = max(rate.wall_s, took / loop.at_once)
    cpu_s = rate.cpu_s + share * write.cpu_s
    return replace(
        loop,
        rate=replace(rate, wall_s=wall_s, cpu_s=cpu_s),
        seconds={**loop.seconds, "write": took},
    )
