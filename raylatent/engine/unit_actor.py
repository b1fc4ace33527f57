"""An actor that works on units: what the verbs that write parts have in common."""

import platform
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from raylatent.claim import refuse_taken
from raylatent.engine.affinity import take
from raylatent.engine.cluster import threads_here
from raylatent.engine.items import (
    UnitResult,
    manifest,
    undone,
    unit_footer,
)
from raylatent.engine.slides import load_slide_unit
from raylatent.engine.visibility import check_run
from raylatent.errors import RaylatentError, SourceError, StorageError
from raylatent.parts import write_part
from raylatent.run import RunDirectory
from raylatent.source.grids import SlideUnit
from raylatent.source.slides import slide_stat
from raylatent.source.units import SlideUnitPlan, Source, Unit, UnitPlan, load_unit
from raylatent.source.wsi import READER
from raylatent.source.wsi.regions import SlideCache
from raylatent.storage import file_stat
from raylatent.tiles.clock import Clock
from raylatent.tiles.stream import Threads

_LARGE_BYTES = 64 << 20


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

    def work(self, unit: Unit | SlideUnit) -> UnitResult:
        """Rows and quarantine of a unit."""
        raise NotImplementedError

    def __call__(self, plan: UnitPlan | SlideUnitPlan) -> pa.Table:
        """Work on one unit; what became of it, as schema.MANIFEST.

        A slide's unit is a ticket only: the queue says which of them it is to be.
        """
        if self._failure is not None:
            raise self._failure
        if isinstance(plan, SlideUnitPlan):
            plan = take(self._queue, (plan.source.slide, plan.unit))
        self.on_unit(plan.source.slide, plan.unit)
        try:
            unit = self._load(plan)
            result = self.work(unit)
            refuse_changed(unit.source)
        except StorageError as error:  # the source's: others may still be read
            return undone(plan.source.slide, plan.unit, str(error))
        written = Clock("write")
        with written.timed("write"):
            self._commit(unit, result)
        return manifest(unit, result, written)

    def _load(self, plan: UnitPlan | SlideUnitPlan) -> Unit | SlideUnit:
        if isinstance(plan, SlideUnitPlan):
            return load_slide_unit(self._run, plan)
        return load_unit(plan)

    def _commit(self, unit: Unit | SlideUnit, result: UnitResult) -> None:
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


def refuse_changed(source: Source) -> None:
    """Refuse what was read if the file is not the one that was planned any more.

    Raises:
        StorageError: It has changed, or is gone.
    """
    stat = slide_stat(source.uri) if source.is_slide else file_stat(source.uri)
    if stat != source.stat:
        message = f"{source.uri} has changed since it was indexed: run again"
        raise StorageError(message)
