"""The job itself on some of a user's tiles, in a folder that is removed: how fast it is."""

import logging
import os
import tempfile
import time
from dataclasses import replace
from math import ceil
from typing import TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylatent import schema
from raylatent.claim import Claim, new_token
from raylatent.config import BenchConfig
from raylatent.engine.activations import Job, prepare, run_job
from raylatent.engine.cells import ClusterPoints
from raylatent.engine.cluster import Pool, alive_nodes, pool
from raylatent.engine.connection import connect
from raylatent.engine.cores import usable_cores
from raylatent.engine.placement import place_rows
from raylatent.engine.progress import Pace
from raylatent.engine.report import RunReport
from raylatent.errors import IncompleteError, MapError
from raylatent.forecast import BenchReport, MapRates
from raylatent.mapping.fit import MAX_SAMPLE_BYTES, fit_map
from raylatent.mapping.fitted_map import FittedMap
from raylatent.mapping.parameters import MapParameters
from raylatent.mapping.point_files import POINTS_FOLDER
from raylatent.mapping.statistics import QUALITY_ROWS, measured
from raylatent.model.spec import ModelSpec
from raylatent.mosaic import Mosaic
from raylatent.parts import part_name, read_part, write_part
from raylatent.run import MAPS, MOSAICS, Part, RunDirectory
from raylatent.run.scratch import remove_scratch, scratch
from raylatent.storage import Store

logger = logging.getLogger(__name__)

T = TypeVar("T")

_FILES = 16  # that tiles are taken of, where the size of the job is given
_SLIDES = 4
_FEWEST_ROWS = 64  # fewer say nothing of how others vary
_NOISE = 0.1  # standard deviations of the rows
_PLACED_EACH = 1 << 14  # rows that are placed for each core
_MOST_PLACED = 1 << 20
_ROWS = "rows"  # folder of the part that is placed
_DEFAULT = "default"  # the name of map and mosaic


def run_bench(config: BenchConfig, spec: ModelSpec) -> BenchReport:
    """Do the job on some of the tiles.

    Args:
        config: Sources and options, as of the activations.
        spec: The model.

    Returns:
        How fast each part of it was, and what follows for the whole.

    Raises:
        InputError: Sources, model or layers are not there or make no sense.
        IncompleteError: Not one tile has activations.
        StorageError: The folder cannot be written.
    """
    job = prepare(config, spec)
    started_here = connect()
    share = pool(config.actor_range(), config.num_gpus, local=started_here)
    base = config.out or f"{tempfile.gettempdir()}/raylatent-bench-{os.getuid()}"
    if not config.out:
        logger.info(
            "rows are written below %s: --out RUN writes where a job does", base
        )
    remove_scratch(Store(base))
    with scratch(base) as store:
        some = _some_of(job, config, share, store.uri)
        pace = Pace(config.seconds)
        report = run_job(some, started_here=started_here, pace=pace)
        if not report.n_rows:
            why = f": {report.failed[0].error}" if report.failed else ""
            message = f"not one of the tiles that were tried has activations{why}"
            raise IncompleteError(message)
        run = RunDirectory(store.uri, writer=new_token())
        found = _found(run, report, pace, share, job, config.tiles)
        try:
            return replace(found, map=_map_rates(run, job, found.tiles))
        except MapError as error:
            return replace(found, no_map=str(error))


def _some_of(job: Job, config: BenchConfig, share: Pool, out: str) -> Job:
    """The job on some of its sources, in units that take half of the seconds at most.

    All sources are indexed where `--tiles` does not say how many tiles the job has.
    """
    inputs = job.inputs
    if config.tiles is not None:
        inputs = replace(
            inputs,
            tfrecords=dict(spread(list(inputs.tfrecords.items()), _FILES)),
            slides=dict(spread(list(inputs.slides.items()), _SLIDES)),
        )
    if not share.num_gpus and job.features.device.type == "cpu":
        features = job.features
        shape = (features.batch_size, features.tile_px, features.tile_px, 3)
        started = time.perf_counter()
        features.forward(np.zeros(shape, np.uint8), with_preds=job.with_preds)
        took = time.perf_counter() - started
        took *= max(1.0, usable_cores() / share.threads)
        batches = max(1, int(config.seconds / 2 / took))
        unit_tiles = min(inputs.unit_tiles, batches * features.batch_size)
        inputs = replace(inputs, unit_tiles=unit_tiles)
    own = replace(config, out=out)
    return replace(job, config=own, inputs=inputs, in_turn=True)


def spread(values: list[T], most: int) -> list[T]:
    """Values from all over a list.

    >>> spread(list(range(10)), 4)
    [0, 3, 6, 9]
    """
    return values[:: max(1, ceil(len(values) / most))]


def _found(
    run: RunDirectory,
    report: RunReport,
    pace: Pace,
    share: Pool,
    job: Job,
    tiles: int | None,
) -> BenchReport:
    """How fast the activations were, and the job that is forecast by it."""
    nodes = [node["Resources"] for node in alive_nodes()]
    gpus = sum(node.get("GPU", 0) for node in nodes)
    beside = sum(node.get("CPU", 0) for node in nodes if node.get("GPU", 0))
    actors = share.largest
    if share.num_gpus:
        places = sum(node.get("GPU", 0) // share.num_gpus for node in nodes)
        actors = max(1, min(actors, int(places)))
    # No actor is faster than its own clocks: with a GPU several units share the device.
    stages = (
        ("forward",) if share.num_gpus else ("wait", "transfer", "forward", "write")
    )
    done, each_s = report.counts["tiles"], sum(report.seconds[s] for s in stages)
    at_most = actors * done / each_s
    per_s = min(at_most, pace.per_s or at_most)
    start_s = max(0.0, report.seconds["wall"] - done / per_s)
    counts = [slide.n_indexed for slide in report.slides]
    counts = counts if tiles is None else [tiles]
    largest = max(run.footers(), key=lambda part: part.rows)
    return BenchReport(
        tiles=sum(counts),
        units=sum(ceil(n / job.inputs.unit_tiles) for n in counts),
        cluster={
            "nodes": sum(node.get("CPU", 0) > 0 for node in nodes),
            "cpus": sum(node.get("CPU", 0) for node in nodes),
            "gpus": gpus,
            "cores_per_gpu": beside / gpus if gpus else 0.0,
            "actors": actors,
            "threads": share.threads,
        },
        run=report,
        tiles_per_s=per_s,
        start_s=start_s,
        dtype=job.config.dtype,
        bytes_per_row=(run.store.size(largest.name) or 0) / largest.rows,
    )


def _map_rates(run: RunDirectory, job: Job, tiles: int) -> MapRates:
    """A map as large as the job's, rows placed on it, and a mosaic of them.

    The map is fitted on rows that differ a little from those that were computed, and
    others are placed: a row of the map's own sample would be placed at once.

    Raises:
        MapError: There are too few rows, or they make no map.
    """
    layer, width = next(iter(job.features.sizes.items()))
    full = job.inputs.unit_tiles
    rows = _some_rows(run, layer, full)
    features = np.concatenate([schema.vectors(table, layer) for table in rows.values()])
    if len(features) < _FEWEST_ROWS:
        message = f"{len(features)} good rows make no map: give more tiles"
        raise MapError(message)
    n = min(MapParameters().sample, tiles, max(1, MAX_SAMPLE_BYTES // (4 * width)))
    fitted, fit_s = _fitted(features, n)
    slide = max(rows, key=lambda name: len(rows[name]))
    part = _part_like(run, slide, rows[slide], layer, full)
    cores = sum(node["Resources"].get("CPU", 0) for node in alive_nodes())
    placed = min(int(cores) * _PLACED_EACH, _MOST_PLACED)
    copies = [replace(part, unit=i) for i in range(ceil(placed / part.rows))]
    n_points = len(copies) * part.rows
    pace, started = Pace(), time.perf_counter()
    with Claim(run.store, run.store.writer):
        place_rows(run, copies, fitted, layer=layer, name=_DEFAULT, pace=pace)
    placing_s = time.perf_counter() - started
    fitted.with_info(layer=layer).save(run.store.child(f"{MAPS}/{_DEFAULT}"))
    of_points = part_name(f"{MAPS}/{_DEFAULT}/{POINTS_FOLDER}", slide, 0)
    again = ceil(_MOST_PLACED / n_points)
    _mosaic(run)  # what is made once
    choosing_s, drawing_s, drawn = _mosaic(run)
    longer_s, _, _ = _mosaic(run, 1 + again)
    return MapRates(
        sample=n,
        fit_s=fit_s,
        start_s=pace.start_s,
        rows_per_s=pace.per_s or n_points / placing_s,
        cells_s=choosing_s,
        points_per_s=again * n_points / max(longer_s - choosing_s, 1e-3),
        drawn_per_s=drawn / drawing_s,
        bytes_per_row=(run.store.size(of_points) or 0) / part.rows,
    )


def _fitted(features: NDArray[np.float32], n: int) -> tuple[FittedMap, float]:
    """A map of so many rows that are like these, and the seconds that it took."""
    params = MapParameters()
    sample, held = like(features, n, seed=0), like(features, QUALITY_ROWS, seed=1)
    fit_map(sample[: 4 * _FEWEST_ROWS], params)  # compiled from here on
    logger.info("fitting UMAP on %d rows", n)
    started = time.perf_counter()
    fitted = fit_map(sample, params)
    measured(fitted, sample, held)
    return fitted, time.perf_counter() - started


def _some_rows(run: RunDirectory, layer: str, n: int) -> dict[str, pa.Table]:
    """References and activations by slide: of so many tiles where there are."""
    tables: dict[str, list[pa.Table]] = {}
    for part in run.footers():
        if part.rows and n > 0:
            table = read_part(run.store, part.name, [*schema.REFERENCE.names, layer])
            tables.setdefault(part.slide, []).append(table.replace_schema_metadata())
            n -= part.rows
    return {slide: pa.concat_tables(some) for slide, some in tables.items()}


def like(rows: NDArray[np.float32], n: int, *, seed: int) -> NDArray[np.float32]:
    """So many rows (n, d) that are like some, no two alike."""
    noise = np.random.default_rng(seed).standard_normal((n, rows.shape[1]), np.float32)
    noise *= _NOISE * rows.std(axis=0) + np.finfo(np.float32).tiny
    noise += rows[np.resize(np.arange(len(rows)), n)]
    return noise


def _part_like(
    run: RunDirectory, slide: str, table: pa.Table, layer: str, n: int
) -> Part:
    """A part of as many rows as the job's, like those of a slide."""
    rows = table.take(np.resize(np.arange(len(table)), n)).combine_chunks()
    values = like(schema.vectors(table, layer), n, seed=2)
    kind = rows.schema.field(layer).type
    flat = pa.array(values.reshape(-1).astype(kind.value_type.to_pandas_dtype()))
    column = pa.FixedSizeListArray.from_arrays(flat, type=kind)
    rows = rows.set_column(rows.schema.get_field_index(layer), layer, column)
    name = part_name(_ROWS, slide, 0)
    write_part(run.store, name, rows, {schema.FOOTER_SLIDE: slide})
    return Part(slide=slide, unit=0, name=name, rows=n, footer={})


def _mosaic(run: RunDirectory, times: int = 1) -> tuple[float, float, int]:
    """A mosaic of points that are gone through as if there were so many times as many.

    Returns:
        Seconds of choosing its tiles, and of drawing them, and how many there are.
    """
    points = ClusterPoints(f"{run.uri}/{MAPS}/{_DEFAULT}", run, few_parts=0)
    points.part_names = points.part_names * times
    started = time.perf_counter()
    mosaic = Mosaic(points)
    chosen = time.perf_counter()
    mosaic.export(f"{run.uri}/{MOSAICS}/{_DEFAULT}")
    return chosen - started, time.perf_counter() - chosen, mosaic.cells.num_rows
