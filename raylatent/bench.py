"""The job itself on some of a user's tiles, in a folder that is removed: how fast it is.

What it found tells how long the whole job takes, what bounds it, and what would help.
"""

import logging
import os
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from math import ceil
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylatent import schema
from raylatent.claim import Claim, new_token
from raylatent.config import BenchConfig
from raylatent.engine.activations import Job, prepare, run_job
from raylatent.engine.cells import ClusterPoints
from raylatent.engine.cluster import Pool, alive_nodes, pool
from raylatent.engine.connection import connect, usable_cores
from raylatent.engine.map_rows import place_rows
from raylatent.engine.progress import Pace, duration
from raylatent.engine.report import RunReport, SlideReport, run_rates
from raylatent.errors import IncompleteError, MapError
from raylatent.mapping.fit import MAX_SAMPLE_BYTES, fit_map
from raylatent.mapping.fitted_map import FittedMap
from raylatent.mapping.statistics import QUALITY_ROWS, measured
from raylatent.mapping.umap_learn import MapParameters
from raylatent.model.spec import ModelSpec
from raylatent.mosaic import Mosaic
from raylatent.parts import part_name, read_part, write_part
from raylatent.run import MAPS, MOSAICS, Part, RunDirectory
from raylatent.run.directory import remove_scratch, scratch
from raylatent.storage import Store
from raylatent.stored.map_points import POINTS_FOLDER
from raylatent.stored.maps import save_map

logger = logging.getLogger(__name__)

T = TypeVar("T")

CELLS = 50 * 50
"""Tiles of a mosaic of the default size, at most."""

_MOSTLY = 0.5  # of the time
_OF_ACTORS = ("wait", "transfer", "forward", "write")
_STAGES = ("read", "decode", *_OF_ACTORS)
_LEFT_OUT = (
    "(by the nodes that are up now; finding and indexing the sources, reading the sample "
    "and the map's own pictures not counted)"
)
_FILES = 16  # that tiles are taken of, where the size of the job is given
_SLIDES = 4
_FEWEST_ROWS = 16  # of a part: fewer say nothing of how others vary
_FEW_ROWS = 256  # a map of them is made first, so that all is compiled
_NOISE = 0.1  # standard deviations of the rows
_PLACED_EACH = 1 << 14  # rows that are placed for each core
_MOST_PLACED = 1 << 20
_ROWS = "rows"  # folder of the part that is placed
_DEFAULT = "default"  # the name of map and mosaic


@dataclass(frozen=True, kw_only=True)
class MapRates:
    """How fast map and mosaic are on a cluster.

    Attributes:
        sample: Rows that the map was fitted on.
        fit_s: Seconds that the fit took, with measuring how far it can be trusted.
        start_s: Seconds until all actors that place rows were at work.
        rows_per_s: Rows that all of them place in a second, with reading and writing.
        cells_s: Seconds that it took to choose the tiles of a mosaic of few points.
        points_per_s: Points that are gone through for that in a second.
        drawn_per_s: Tiles of a mosaic that are drawn and saved in a second.
        bytes_per_row: Bytes of Parquet that a point takes.
    """

    sample: int
    fit_s: float
    start_s: float
    rows_per_s: float
    cells_s: float
    points_per_s: float
    drawn_per_s: float
    bytes_per_row: float


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """What a benchmark found, and the job that is forecast by it.

    Attributes:
        tiles: Tiles of the job.
        units: Units of these tiles, at least: an actor without one does nothing.
        cluster: `nodes` with CPUs, their `cpus` and `gpus`, `actors` of the job and
            `threads` of each, and `cores_per_gpu` of the nodes that have GPUs.
        run: What the job did on some of the tiles.
        tiles_per_s: Tiles that all actors together do in a second, once all are at work.
        start_s: Seconds until they are.
        dtype: Type of the stored activations.
        bytes_per_row: Bytes of Parquet that the activations of a tile take.
        map: How fast the rest is; None where `no_map` says why that is not known.
        no_map: Why there is no map.
    """

    tiles: int
    units: int
    cluster: dict[str, float]
    run: RunReport
    tiles_per_s: float
    start_s: float
    dtype: str
    bytes_per_row: float = 0.0
    map: MapRates | None = None
    no_map: str = ""

    @property
    def forecast(self) -> dict[str, float]:
        """Seconds of each part of the job; what was not measured is left out."""
        busy = min(1.0, self.units / self.cluster["actors"])
        found = {
            "start": self.start_s,
            "activations": self.tiles / (busy * self.tiles_per_s),
        }
        if self.map is not None:
            found["start"] += self.map.start_s
            found["fit"] = self.map.fit_s
            found["placement"] = self.tiles / self.map.rows_per_s
            drawing_s = min(self.tiles, CELLS) / self.map.drawn_per_s
            choosing_s = self.map.cells_s + self.tiles / self.map.points_per_s
            found["mosaic"] = choosing_s + drawing_s
        return found

    @property
    def parquet_bytes(self) -> float:
        """Bytes of Parquet of all activations and of the points."""
        of_points = 0.0 if self.map is None else self.map.bytes_per_row
        return self.tiles * (self.bytes_per_row + of_points)

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        run = self.run
        return {
            "cluster": self.cluster,
            "measured_tiles": run.counts["tiles"],
            "bad_tiles": self._bad,
            "unreadable": {slide.slide: slide.error for slide in self._unreadable},
            "tiles_per_s": self.tiles_per_s,
            "seconds_by_stage": {stage: run.seconds[stage] for stage in _STAGES},
            "tiles_per_s_by_core_or_gpu": self._rates,
            "limit": run.bound_by,
            "add": what_to_add(self),
            "map": self.no_map if self.map is None else asdict(self.map),
            "tiles": self.tiles,
            "forecast_s": self.forecast,
            "parquet_bytes": self.parquet_bytes,
        }

    def lines(self) -> list[str]:
        """For people to read."""
        on, done = self.cluster, self.run.counts["tiles"]
        actors = f"actors {on['actors']:g}, threads of each {on['threads']:g}"
        nodes = f"nodes {on['nodes']:g}, CPUs {on['cpus']:g}, GPUs {on['gpus']:g}"
        pairs = [("measured", f"{done:,} tiles; {actors}; {nodes}")]
        if bad := self._bad:
            pairs.append(("bad", f"{bad:,} of these tiles, which the rates count too"))
        if lost := self._unreadable:
            of = f"{len(lost)} of {len(self.run.slides)} slides cannot be read"
            first = f"as {lost[0].slide!r}: {lost[0].error}"
            pairs.append(("without", f"{of}, {first}"))
        pairs += [(s, self._stage(s)) for s in _STAGES if self.run.seconds[s]]
        pairs.append(("actors", f"{_number(self.tiles_per_s)} tiles/s, all together"))
        pairs.append(("limit", self.run.bound_by or "none"))
        pairs += [("add", line) for line in what_to_add(self)]
        if self.map is None:
            pairs.append(("map", f"not measured: {self.no_map}"))
        else:
            fit = f"{self.map.sample:,} rows in {duration(self.map.fit_s)}"
            place = f"{_number(self.map.rows_per_s)} rows/s, by all cores"
            cells = f"{_number(self.map.points_per_s)} points/s, by all cores"
            draw = f"{_number(self.map.drawn_per_s)} tiles/s"
            pairs += [("fit", fit), ("place", place), ("cells", cells), ("draw", draw)]
        parts = (f"{name} {duration(took)}" for name, took in self.forecast.items())
        size = f"{_number(self.parquet_bytes / 1e9)} GB of Parquet"
        pairs.append(("job", f"{self.tiles:,} tiles: {', '.join(parts)}; {size}"))
        return [f"{name:<10}{text}" for name, text in [*pairs, ("", _LEFT_OUT)]]

    @property
    def _unreadable(self) -> list[SlideReport]:
        """Slides of which nothing is known: they are not in the forecast."""
        return [
            slide for slide in self.run.slides if slide.error and not slide.n_indexed
        ]

    @property
    def _bad(self) -> int:
        return self.run.counts["quarantined"]

    @property
    def _rates(self) -> dict[str, dict[str, float | str]]:
        run = self.run
        cpu = run.cpu or {}
        return run_rates(run.counts["tiles"], run.seconds, cpu, gpus=run.gpus)

    def _stage(self, stage: str) -> str:
        """Seconds for 1,000 tiles, and the rate of one core or one GPU."""
        took = 1000 * self.run.seconds[stage] / self.run.counts["tiles"]
        whose = "actors" if stage in _OF_ACTORS else "threads"
        said = f"{_number(took)} s of {whose} for 1,000 tiles"
        if rate := self._rates.get(stage):
            per = "GPU" if rate["per"] == "gpu" else "core"
            said += f", {_number(float(rate['tiles_per_s']))} tiles/s a {per}"
        return said


def what_to_add(found: BenchReport) -> list[str]:
    """What would make the activations faster: sentences with what was measured."""
    run = found.run
    of_actors = sum(run.seconds[stage] for stage in _OF_ACTORS)
    if run.bound_by is None or not of_actors:
        return []
    share = {stage: run.seconds[stage] / of_actors for stage in _OF_ACTORS}
    waits = f"the model waits {share['wait']:.0%} of the actors' time"
    if run.bound_by == "write":
        lines = [f"faster storage: writing takes {share['write']:.0%} of their time"]
        halved = found.dtype == "float16"
        return lines if halved else [*lines, "or --dtype float16: half the bytes"]
    if run.bound_by == "read":
        return [f"faster storage: {waits}, mostly for reading"]
    if run.bound_by == "decode" and (idle := _idle(run)) > _MOSTLY:
        return [
            f"faster storage: {waits} for slides to be read and decoded, whose threads "
            f"wait {idle:.0%} of theirs",
            "or slides in TFRecords (raylatent extract-tiles), which are read in one go",
        ]
    if run.gpus:
        return _beside_gpus(found, waits)
    if run.bound_by == "decode":
        more, why = "more cores", f"{waits} for tiles to be decoded"
    else:
        more = "GPUs, or more cores" if share["forward"] > _MOSTLY else "more cores"
        why = f"the model takes {share['forward']:.0%} of the actors' time"
    return [f"{more}: {why}"]


def _idle(run: RunReport) -> float:
    """The share of their time that threads waited which read and decode slides."""
    if all(slide.left_out is None for slide in run.slides):
        return 0.0  # threads that decode TFRecords wait for a core, if for anything
    return 1 - (run.cpu or {})["decode"] / run.seconds["decode"]


def _beside_gpus(found: BenchReport, waits: str) -> list[str]:
    run, tiles = found.run, found.run.counts["tiles"]
    per_gpu = tiles / (run.seconds["forward"] * run.gpus)
    if run.bound_by in {"forward", "transfer"}:
        busy = found.tiles_per_s / (found.cluster["actors"] * run.gpus * per_gpu)
        line = (
            f"more GPUs: each could do {per_gpu:,.0f} tiles/s, and is busy {busy:.0%}"
        )
        bus = "a faster bus: pixels take longer to the GPU than through it"
        return [bus, line] if run.bound_by == "transfer" else [line]
    wanted = per_gpu * sum((run.cpu or {}).values()) / tiles
    have = found.cluster["cores_per_gpu"]
    if have >= wanted:
        more = f"more --actors on each GPU (--num-gpus below 1): {waits}"
        return [f"{more}, with {have:.1f} cores for each where {wanted:.1f} would do"]
    return [
        f"cores: to read, decode and write for a GPU that never waits takes "
        f"{wanted:.1f}, and there are {have:.1f} for each"
    ]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


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
    share = pool(config.actor_range(), config.num_gpus, local=connect())
    base = config.out or f"{tempfile.gettempdir()}/raylatent-bench-{os.getuid()}"
    if not config.out:
        logger.info(
            "rows are written below %s: --out RUN writes where a job does", base
        )
    remove_scratch(Store(base))
    with scratch(base) as store:
        some = _some_of(job, config, share, store.uri)
        pace = Pace(config.seconds)
        report = run_job(some, pace=pace)
        if not report.n_rows:
            why = f": {report.failed[0].error}" if report.failed else ""
            message = f"not one of the tiles that were tried has activations{why}"
            raise IncompleteError(message)
        run = RunDirectory(store.uri, writer=new_token())
        largest = max(run.footers(), key=lambda part: part.rows)
        n_bytes = run.store.size(largest.name) or 0
        found = replace(
            _found(report, pace, share, job, config.job_tiles),
            bytes_per_row=n_bytes / largest.rows,
        )
        try:
            return replace(found, map=_map_rates(run, job, largest, found.tiles))
        except MapError as error:
            return replace(found, no_map=str(error))


def _some_of(job: Job, config: BenchConfig, share: Pool, out: str) -> Job:
    """The job on some of its sources, in units that take half of the seconds at most.

    All sources are indexed where `--job-tiles` does not say how many tiles the job has.
    """
    inputs = job.inputs
    if config.job_tiles is not None:
        with_grid = inputs.with_grid
        files = [one for one in inputs.requests.items() if one[0] not in with_grid]
        slides = list(with_grid.items())
        inputs = replace(
            inputs,
            requests=dict(spread(files, _FILES)) | dict(spread(slides, _SLIDES)),
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
    report: RunReport, pace: Pace, share: Pool, job: Job, tiles: int | None
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
    stages = ("forward",) if share.num_gpus else _OF_ACTORS
    done, each_s = report.counts["tiles"], sum(report.seconds[s] for s in stages)
    at_most = actors * done / each_s
    per_s = min(at_most, pace.per_s or at_most)
    start_s = max(0.0, report.seconds["wall"] - done / per_s)
    counts = [slide.n_indexed for slide in report.slides]
    counts = counts if tiles is None else [tiles]
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
    )


def _map_rates(run: RunDirectory, job: Job, like_it: Part, tiles: int) -> MapRates:
    """A map as large as the job's, rows placed on it, and a mosaic of them.

    The map is fitted on rows that differ a little from those of a part, and others are
    placed: a row of the map's own sample would be placed at once.

    Raises:
        MapError: There are too few rows, or they make no map.
    """
    if like_it.rows < _FEWEST_ROWS:
        message = f"{like_it.rows} good rows make no map: give more tiles"
        raise MapError(message)
    layer, width = next(iter(job.features.sizes.items()))
    n = min(MapParameters().sample, tiles, max(1, MAX_SAMPLE_BYTES // (4 * width)))
    table = read_part(run.store, like_it.name, [*schema.REFERENCE.names, layer])
    fitted, fit_s = _fitted(schema.vectors(table, layer), n)
    part = _part_like(run, like_it.slide, table, layer, job.inputs.unit_tiles)
    cores = sum(node["Resources"].get("CPU", 0) for node in alive_nodes())
    placed = min(int(cores) * _PLACED_EACH, _MOST_PLACED)
    copies = [replace(part, unit=i) for i in range(ceil(placed / part.rows))]
    n_points = len(copies) * part.rows
    pace, started = Pace(), time.perf_counter()
    with Claim(run.store, run.store.writer):
        place_rows(run, copies, fitted, layer=layer, name=_DEFAULT, pace=pace)
    placing_s = time.perf_counter() - started
    save_map(run.store.child(f"{MAPS}/{_DEFAULT}"), fitted.with_info(layer=layer))
    of_points = part_name(f"{MAPS}/{_DEFAULT}/{POINTS_FOLDER}", part.slide, 0)
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


def _fitted(features: NDArray[np.floating], n: int) -> tuple[FittedMap, float]:
    """A map of so many rows that are like these, and the seconds that it took."""
    params = MapParameters()
    sample, held = like(features, n, seed=0), like(features, QUALITY_ROWS, seed=1)
    fit_map(sample[:_FEW_ROWS], params)  # compiled from here on
    logger.info("fitting UMAP on %d rows", n)
    started = time.perf_counter()
    fitted = fit_map(sample, params)
    measured(fitted, sample, held)
    return fitted, time.perf_counter() - started


def like(rows: NDArray[np.floating], n: int, *, seed: int) -> NDArray[np.float32]:
    """So many rows (n, d) that are like some, no two alike."""
    noise = np.random.default_rng(seed).standard_normal((n, rows.shape[1]), np.float32)
    noise *= _NOISE * rows.std(axis=0) + np.finfo(np.float32).tiny
    noise += rows[np.resize(np.arange(len(rows)), n)]
    return noise


def _part_like(
    run: RunDirectory, slide: str, table: pa.Table, layer: str, n: int
) -> Part:
    """A part of as many rows as the job's, like those of a slide."""
    rows = table.replace_schema_metadata().take(np.resize(np.arange(len(table)), n))
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
