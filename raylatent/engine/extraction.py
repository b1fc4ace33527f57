"""Whole slides to TFRecords, spread over a cluster.

Units of tiles are encoded into parts, as activations are; a slide whose units are all
there is written as one TFRecord, put in place in one step, and its parts are deleted.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from typing import Any

import ray

from raylatent import schema
from raylatent.claim import Claim, new_token
from raylatent.config import UNIT_TILES, ExtractTilesConfig
from raylatent.engine.cluster import READ_CPUS, Pool, gather, pool, start_queue
from raylatent.engine.connection import connect
from raylatent.engine.done import Inputs
from raylatent.engine.finishing import (
    Finished,
    broken_tiles,
    finish_slide,
    finished_slides,
    forget_parts,
    forget_stale,
    refuse_long_names,
    sound_slides,
    write_record_counts,
)
from raylatent.engine.plan import Plan, make_plan, refuse_nothing
from raylatent.engine.progress import Progress
from raylatent.engine.report import (
    Remarks,
    RunReport,
    say_remarks,
    slide_report,
    with_grids,
    write_report,
)
from raylatent.engine.stream import Advice, Row, stream
from raylatent.engine.unit_actor import UnitActor, UnitResult, WorkOptions, check_reader
from raylatent.engine.visibility import check_visibility, refuse_temporary_copy
from raylatent.errors import ConfigError, SourceError
from raylatent.run import ExtractionDirectory, remove_litter
from raylatent.source.kinds import find_sources
from raylatent.source.protocol import Request, Unit
from raylatent.source.whole_slides import SlideUnit, slides_fields
from raylatent.source.write import ENCODER
from raylatent.source.wsi import READER, size_name
from raylatent.storage import absolute
from raylatent.stored.manifest import put_run_manifest
from raylatent.tiles.encode import Picture, encoded_unit

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ExtractOptions(WorkOptions):
    """What an actor needs to encode tiles.

    Attributes:
        picture: What they become.
    """

    picture: Picture


class ExtractActor(UnitActor):
    """Units of slides to encoded tiles.

    Args:
        options: See ExtractOptions.
        queue: Of the units.
    """

    directory = ExtractionDirectory

    def __init__(
        self,
        options: ExtractOptions,
        queue: Any,  # noqa: ANN401
    ) -> None:
        """See the class."""
        self._options = options
        super().__init__(options, queue)

    def prepare(self) -> None:
        """Check what reads the slides."""
        check_reader(self._options.reader)

    def work(self, unit: Unit) -> UnitResult:
        """Encoded tiles of a unit."""
        if not isinstance(unit, SlideUnit):
            message = f"{unit.source.uri} is no slide"
            raise SourceError(message)
        started = time.perf_counter()
        rows, quarantine = encoded_unit(
            unit, self._options.picture, self._threads, self._slides
        )
        seconds = {"decode": time.perf_counter() - started}
        return UnitResult(rows=rows, quarantine=quarantine, seconds=seconds)


def extract_tiles(config: ExtractTilesConfig) -> RunReport:
    """Extract the tiles of every slide whose TFRecord is not in place yet.

    Args:
        config: Slides, tiles, and the run directory; TFRecords go into its folder
            `<tile_px>px_<tile_um>um`, or into itself if it is called so.

    Returns:
        What became of each slide; `failed` names those that failed.

    Raises:
        InputError: Slides are not there, or options make no sense.
        RunError: The run directory is refused.
        StorageError: The run directory cannot be written, after retries.
        IncompleteError: There is no tile at all.
    """
    requests = _prepare(config)
    run = ExtractionDirectory(config.out, writer=new_token())

    @cache
    def share() -> Pool:
        if not connect():
            check_visibility(run.store, list(requests.values()))
        return pool(config.actor_range(), 0, local=connect())

    with Claim(run.store, run.store.writer) as claim:
        run.begin(_fields(config), _about(), overwrite=config.overwrite)
        remove_litter(run)
        finished = _finished(run, requests, config)
        inputs = Inputs(
            requests=requests,
            unit_tiles=config.unit_tiles or UNIT_TILES,
            stall_timeout_s=config.stall_timeout_s,
            recheck=config.recheck is not False,
            finished={slide: one.source for slide, one in finished.items()},
        )
        plan = make_plan(run, inputs, share)
        forget_stale(run, plan.sources, finished)
        refuse_nothing(plan)
        remarks = _announce(run, plan, finished, requests)
        started = time.monotonic()
        work = _Job(run, plan, share, claim)
        undone, counts, seconds = _run_units(work, config, finished)
        seconds["wall"] = time.monotonic() - started
        digests = write_record_counts(run, finished)
        slides = [
            slide_report(
                source,
                finished[source.slide].tiles if source.slide in finished else 0,
                Counter(broken_tiles(run, source.slide)),
                undone.get(source.slide),
                config.max_bad_fraction,
            )
            for source in plan.sources
        ]
        report = RunReport(
            run=run.uri,
            slides=with_grids(run, slides, requests, remarks),
            removed=plan.removed,
            counts=counts,
            seconds=seconds,
        )
        put_run_manifest(run, digests | write_report(run, report))
        remove_litter(run)
    return report


def _finished(
    run: ExtractionDirectory,
    requests: Mapping[str, Request],
    config: ExtractTilesConfig,
) -> dict[str, Finished]:
    """Slides whose TFRecord is in place, and whole; they need no parts any more."""
    finished = finished_slides(run, requests)
    if config.recheck is not False:
        finished = sound_slides(run, finished)
    forget_parts(run, finished)
    return finished


def _prepare(config: ExtractTilesConfig) -> dict[str, Request]:
    if not config.slides:
        message = "no slides were given: --slides PATH..."
        raise ConfigError(message)
    refuse_temporary_copy("--out", [config.out])
    ExtractionDirectory(config.out).refuse_before_work()
    refuse_temporary_copy("--slides", config.slides)
    requests = find_sources(config)
    refuse_long_names(list(requests))
    return requests


def tfrecords_folder(config: ExtractTilesConfig) -> str:
    """Where in RUN the TFRecords go: the folder of their size, unless RUN is one."""
    size = size_name(config.tile_px or 0, config.tile_um)
    return "" if absolute(config.out).rsplit("/", 1)[-1] == size else size


def _fields(config: ExtractTilesConfig) -> dict[str, Any]:
    """All that changes a byte of a TFRecord, and how units are cut."""
    slides = slides_fields(config, config.tile_px or 0)
    return {
        "schema_version": schema.SCHEMA_VERSION,
        "job": "extract-tiles",
        "img_format": config.img_format,
        "jpeg_quality": config.jpeg_quality if config.img_format == "jpg" else None,
        "unit_tiles": config.unit_tiles or UNIT_TILES,
        "encoder": ENCODER,
        "slides": {**(slides or {}), "folder": tfrecords_folder(config)},
    }


def _about() -> dict[str, Any]:
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {"layers": {}, "created": created}


def _announce(
    run: ExtractionDirectory,
    plan: Plan,
    finished: Mapping[str, Finished],
    requests: Mapping[str, Request],
) -> Remarks:
    """Say what is to be done, and what is odd about the slides."""
    logger.info(
        "slides %d, tiles %d, done %d (slides whose TFRecord is there: %d)",
        len(plan.sources),
        plan.n_indexed,
        plan.n_done,
        len(finished),
    )
    return say_remarks(run, requests)


@dataclass(frozen=True)
class _Job:
    run: ExtractionDirectory
    plan: Plan
    share: Callable[[], Pool]
    claim: Claim


def _run_units(
    job: _Job, config: ExtractTilesConfig, finished: dict[str, Finished]
) -> tuple[dict[str, str], dict[str, int], dict[str, float]]:
    """Send the units to the actors, and write each slide's TFRecord when it is whole.

    Returns:
        Slides left undone and why, counts, seconds by stage; `finished` is added to.
    """
    run, plan = job.run, job.plan
    left = Counter(unit.source.slide for unit in plan.units)
    by_slide = {source.slide: source for source in plan.sources}
    whole = [
        source
        for source in plan.sources
        if source.n_indexed and not left[source.slide] and source.slide not in finished
    ]
    if whole or plan.units:
        job.share()
    remote = ray.remote(num_cpus=READ_CPUS)(finish_slide)
    target = ExtractionDirectory(run.uri, writer=run.store.writer)
    same = str(run.settings()["fingerprint"])
    pending = [remote.remote(target, source, same) for source in whole]
    undone: dict[str, str] = {}
    counts = {"tiles": 0}
    seconds = {"decode": 0.0, "write": 0.0}
    n = sum(unit.count for unit in plan.units)
    with Progress("tiles", n) as progress, closing(_answers(job, config)) as found:
        for row in found:
            job.claim.check()
            slide, tiles = row[schema.SLIDE], row[schema.ROWS] + row[schema.QUARANTINED]
            progress.add(tiles)
            counts["tiles"] += tiles
            seconds["decode"] += row[schema.DECODE_S]
            seconds["write"] += row[schema.WRITE_S]
            if row[schema.ERROR] is not None:
                undone[slide] = row[schema.ERROR]
            left[slide] -= 1
            if not left[slide] and slide not in undone:
                pending.append(remote.remote(target, by_slide[slide], same))
    with Progress("TFRecords", len(pending), unit="slides") as progress:
        for one in gather(pending, config.stall_timeout_s):
            job.claim.check()
            progress.add(1)
            if one is not None:
                finished[one.source.slide] = one
    return undone, counts, seconds


def _answers(job: _Job, config: ExtractTilesConfig) -> Generator[Row, None, None]:
    """What the actors tell of the units, as schema.MANIFEST, as they are done."""
    run, plan = job.run, job.plan
    units = plan.units
    if not units:
        return
    share = job.share()
    options = ExtractOptions(
        run=run.uri,
        token=run.store.writer,
        fingerprint=str(run.settings()["fingerprint"]),
        threads=share.threads,
        reader=READER,
        picture=Picture(img_format=config.img_format, jpeg_quality=config.jpeg_quality),
    )
    yield from stream(
        "units of tiles",
        units,
        ExtractActor,
        (options, start_queue(units, plan.nodes)),
        share,
        advice=Advice(if_short_of_memory="fewer --actors or a smaller --unit-tiles"),
        stall_timeout_s=config.stall_timeout_s,
    )
