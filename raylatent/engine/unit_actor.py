"""An actor that works on units: what the verbs that write parts have in common."""

import json
import platform
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from raylatent import schema
from raylatent.claim import refuse_taken
from raylatent.engine.cluster import take, threads_here
from raylatent.engine.visibility import check_run
from raylatent.errors import RaylatentError, SourceError, StorageError
from raylatent.parts import write_part
from raylatent.run import RunDirectory
from raylatent.source.kinds import kind_of
from raylatent.source.protocol import Source, Unit, UnitPlan
from raylatent.source.wsi import READER
from raylatent.source.wsi.regions import SlideCache
from raylatent.tiles.stream import Threads
from raylatent.tiles.threads import Clock

_LARGE_BYTES = 64 << 20
_WORK_SECONDS = (
    *(schema.READ_S, schema.DECODE_S, schema.WAIT_S),
    *(schema.TRANSFER_S, schema.FORWARD_S, schema.WRITE_S),
)
_CPU_SECONDS = (schema.READ_CPU_S, schema.DECODE_CPU_S, schema.WRITE_CPU_S)


def unit_footer(unit: Unit, n_quarantined: int, fingerprint: str) -> dict[str, str]:
    """What a part says of itself, but for the layers."""
    return {
        schema.FOOTER_FINGERPRINT: fingerprint,
        schema.FOOTER_SLIDE: unit.source.slide,
        schema.FOOTER_SOURCE: source_footer(unit.source),
        schema.FOOTER_UNIT: str(unit.unit),
        schema.FOOTER_FIRST: str(unit.first),
        schema.FOOTER_LAST: str(unit.last),
        schema.FOOTER_QUARANTINED: str(n_quarantined),
    }


def source_footer(source: Source) -> str:
    """The source as it was when the part was made."""
    stat = source.stat
    about = {
        "id": source.source,
        "kind": source.kind,
        "size": stat.size,
        "mtime_ns": stat.mtime_ns,
        "etag": stat.etag,
        "mpp": source.mpp,
        "window_px": source.window_px,
    }
    return json.dumps(about)


@dataclass(frozen=True, kw_only=True)
class UnitResult:
    """What became of a unit, for its part and for the driver.

    Attributes:
        rows: For its part.
        quarantine: Its bad tiles, as schema.QUARANTINE.
        footer: What its part says beside where it is from.
        counts: `resized`, `other_slide` and `smaller_batch` tiles.
        seconds: Of its stages: `read`, `decode`, `wait`, `transfer`, `forward`.
        cpu: CPU seconds of `read` and `decode`.
        constants: Layers that are the same in all rows, see model.layer_checks.
    """

    rows: pa.Table
    quarantine: pa.Table
    footer: Mapping[str, str] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    cpu: Mapping[str, float] = field(default_factory=dict)
    constants: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def manifest(unit: Unit, result: UnitResult, written: Clock) -> pa.Table:
    """What the driver is told of a unit that is done; the clock counted `write`."""
    seconds = {**result.seconds, **written.seconds}
    cpu = {**result.cpu, **written.cpu}
    row = {
        schema.SLIDE: unit.source.slide,
        schema.UNIT: unit.unit,
        schema.ROWS: len(result.rows),
        schema.QUARANTINED: len(result.quarantine),
        schema.RESIZED: result.counts.get("resized", 0),
        schema.OTHER_SLIDE: result.counts.get("other_slide", 0),
        schema.SMALLER_BATCH: result.counts.get("smaller_batch", 0),
        schema.CONSTANT: json.dumps(result.constants) if len(result.rows) else None,
        **{
            column: seconds.get(column.removesuffix("_s"), 0.0)
            for column in _WORK_SECONDS
        },
        **{
            column: cpu.get(column.removesuffix("_cpu_s"), 0.0)
            for column in _CPU_SECONDS
        },
        schema.ERROR: None,
    }
    return pa.Table.from_pylist([row], schema=schema.MANIFEST)


def undone(slide: str, unit: int, error: str) -> pa.Table:
    """What the driver is told of a unit that could not be read."""
    counts = (
        *(schema.ROWS, schema.QUARANTINED, schema.RESIZED),
        *(schema.OTHER_SLIDE, schema.SMALLER_BATCH),
    )
    row = {
        schema.SLIDE: slide,
        schema.UNIT: unit,
        **dict.fromkeys(counts, 0),
        **dict.fromkeys((*_WORK_SECONDS, *_CPU_SECONDS), 0.0),
        schema.ERROR: error,
    }
    return pa.Table.from_pylist([row], schema=schema.MANIFEST)


@dataclass(frozen=True, kw_only=True)
class WorkOptions:
    """What every actor needs that works on units.

    Attributes:
        run: The run directory.
        token: Of the driver's claim; marks aside files.
        fingerprint: Goes into each part's footer.
        threads: For reading and decoding, and for the model, as the driver reckoned.
        reader: What reads whole slides, None where there are none.
        num_gpus: Of each actor.
    """

    run: str
    token: str
    fingerprint: str
    threads: int
    reader: str | None
    num_gpus: float = 0.0


class UnitActor:
    """Units in, parts on disk, a manifest row out; `work` is what a subclass does.

    Units of TFRecords may come from several threads: one is written while a model works
    on the next.

    Args:
        options: Which run, and with what.
        queue: Of units of whole slides.
    """

    directory: type[RunDirectory] = RunDirectory

    def __init__(
        self,
        options: WorkOptions,
        queue: Any,  # noqa: ANN401  (a handle: its methods are made when it runs)
    ) -> None:
        """See the class; that work cannot begin is said by the first call.

        An actor that dies at its start would be started again and again.
        """
        self._work_options = options
        self._queue = queue
        self._run = self.directory(options.run, writer=options.token)
        n_threads = threads_here(options.threads, options.num_gpus)
        self._threads = Threads(ThreadPoolExecutor(n_threads), n_threads)
        self._slides = SlideCache()
        self._failure: RaylatentError | None = None
        try:
            check_run(self._run, options.fingerprint)
            self.prepare()
        except RaylatentError as error:
            self._failure = error

    def on_unit(self, slide: str, unit: int) -> None:
        """Told of each unit before it is begun; who made the actor sets it."""

    def prepare(self) -> None:
        """What is done once, at the start."""

    def work(self, unit: Unit) -> UnitResult:
        """Rows and quarantine of a unit."""
        raise NotImplementedError

    def __call__(self, plan: UnitPlan) -> pa.Table:
        """Work on one unit; what became of it, as schema.MANIFEST.

        Where slides have a grid a unit is a ticket only: the queue says which of them it
        is to be.
        """
        if self._failure is not None:
            raise self._failure
        kind = kind_of(plan.source)
        if kind.has_grid:
            plan = take(self._queue, (plan.source.slide, plan.unit))
        self.on_unit(plan.source.slide, plan.unit)
        try:
            unit = kind.load(self._run, plan)
            result = self.work(unit)
            kind.refuse_changed(unit)
        except StorageError as error:  # the source's: others may still be read
            return undone(plan.source.slide, plan.unit, str(error))
        written = Clock("write")
        with written.timed("write"):
            self._commit(unit, result)
        return manifest(unit, result, written)

    def _commit(self, unit: Unit, result: UnitResult) -> None:
        """Quarantine first, then the part, which is the unit's commit record."""
        refuse_taken(self._run.store)
        slide = unit.source.slide
        quarantine = self._run.quarantine_part(slide, unit.unit)
        n_quarantined = len(result.quarantine)
        footer = unit_footer(unit, n_quarantined, self._work_options.fingerprint)
        if n_quarantined:
            write_part(self._run.store, quarantine, result.quarantine, footer)
        else:
            self._run.store.delete(quarantine)  # of what the unit was before
        part = self._run.part(slide, unit.unit)
        write_part(self._run.store, part, result.rows, {**footer, **result.footer})
        if result.rows.nbytes > _LARGE_BYTES:  # else Arrow keeps what writing took
            pa.default_memory_pool().release_unused()


def check_reader(wanted: str | None) -> None:
    """Refuse a node that reads whole slides with another version than the driver.

    Raises:
        SourceError: The message names the node and both.
    """
    if wanted not in {None, READER}:
        message = (
            f"node {platform.node()} reads slides with {READER}, the driver with "
            f"{wanted}: all nodes need the same packages"
        )
        raise SourceError(message)
