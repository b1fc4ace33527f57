"""How long a job takes, what bounds it and what would help, by a run on some tiles."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from raylatent.engine.report import RunReport, run_rates

CELLS = 50 * 50
"""Tiles of a mosaic of the default size, at most."""

_WAITING = 2.0  # wall over CPU seconds: more, and threads waited for most of the time
_MOSTLY = 0.5  # of the actors' time: less, and GPUs would not be worth it
_OF_ACTORS = ("wait", "transfer", "forward", "write")
_STAGES = ("read", "decode", *_OF_ACTORS)
_LEFT_OUT = (
    "(by the nodes that are up now; finding and indexing the sources, reading the sample "
    "and the map's own pictures not counted)"
)


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The cluster, and how fast the job's actors were on it.

    Attributes:
        nodes: With CPUs.
        cpus: Of all nodes.
        gpus: Of all nodes.
        cores_per_gpu: Of the nodes that have GPUs; 0 without any.
        actors: Of the job.
        threads: Of each.
        tiles_per_s: Of all actors together, once all are at work.
        start_s: Seconds until they are.
    """

    nodes: int
    cpus: float
    gpus: float
    cores_per_gpu: float
    actors: int
    threads: int
    tiles_per_s: float
    start_s: float


@dataclass(frozen=True, kw_only=True)
class MapRates:
    """How fast map and mosaic are on the cluster.

    Attributes:
        sample: Rows that the map was fitted on.
        fit_s: Seconds of that, and of measuring how far it can be trusted.
        start_s: Seconds until all actors that place had placed some.
        rows_per_s: Rows placed by all of them, reading and writing included.
        cells_s: Seconds of choosing the tiles of a mosaic of few points.
        points_per_s: Points gone through for that, of many.
        drawn_per_s: Tiles drawn and saved.
        bytes_per_row: Of the points' Parquet.
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
class Forecast:
    """How long a job takes, in seconds; None where it was not measured.

    Attributes:
        tiles: Of the job.
        start_s: Until all actors are at work, of activations and of placing.
        activations_s: Of the activations.
        fit_s: Of fitting the map.
        placement_s: Of placing all rows.
        mosaic_s: Of the mosaic.
        parquet_bytes: Of activations and points.
    """

    tiles: int
    start_s: float
    activations_s: float
    fit_s: float | None
    placement_s: float | None
    mosaic_s: float | None
    parquet_bytes: float


def forecast(
    tiles: int, units: int, cluster: Cluster, found: MapRates | None, row_bytes: float
) -> Forecast:
    """How long a job of so many tiles takes.

    Args:
        tiles: Of the job.
        units: Of these tiles, at least: an actor without one does nothing.
        cluster: How fast the actors are.
        found: How fast the rest is; None where that is not known.
        row_bytes: Of the activations of a tile.

    >>> cluster = Cluster(nodes=1, cpus=8, gpus=0, cores_per_gpu=0, actors=2, threads=4,
    ...                   tiles_per_s=100.0, start_s=9.0)
    >>> forecast(12_000, 6, cluster, None, 100.0).activations_s
    120.0
    >>> forecast(2_000, 1, cluster, None, 100.0).activations_s
    40.0
    """
    busy = min(1.0, units / cluster.actors)
    placing = None if found is None else tiles / found.rows_per_s
    mosaic = None
    if found is not None:
        mosaic = found.cells_s + tiles / found.points_per_s
        mosaic += min(tiles, CELLS) / found.drawn_per_s
    return Forecast(
        tiles=tiles,
        start_s=cluster.start_s + (0.0 if found is None else found.start_s),
        activations_s=tiles / (busy * cluster.tiles_per_s),
        fit_s=None if found is None else found.fit_s,
        placement_s=placing,
        mosaic_s=mosaic,
        parquet_bytes=tiles
        * (row_bytes + (0.0 if found is None else found.bytes_per_row)),
    )


def what_to_add(run: RunReport, cluster: Cluster, dtype: str) -> list[str]:
    """What would make the activations faster: sentences with what was measured.

    Args:
        run: What the job did.
        cluster: Where.
        dtype: Of the stored activations.
    """
    of_actors = sum(run.seconds[stage] for stage in _OF_ACTORS)
    if run.bound_by is None or not of_actors:
        return []
    share = {stage: run.seconds[stage] / of_actors for stage in _OF_ACTORS}
    waits = f"the model waits {share['wait']:.0%} of the actors' time"
    if run.bound_by == "write":
        storage = f"faster storage: writing takes {share['write']:.0%} of their time"
        return [storage] + ["or --dtype float16: half the bytes"] * (dtype != "float16")
    if run.bound_by == "read" or (run.bound_by == "decode" and _slides_wait(run)):
        return _for_reading(run, waits)
    if run.gpus:
        return _beside_gpus(run, cluster, waits)
    if run.bound_by == "decode":
        return [f"more cores: {waits} for tiles to be decoded"]
    more = "GPUs, or more cores" if share["forward"] >= _MOSTLY else "more cores"
    return [f"{more}: the model takes {share['forward']:.0%} of the actors' time"]


def _slides_wait(run: RunReport) -> bool:
    """Whether threads that decode slides, and read them meanwhile, mostly waited."""
    of_slides = any(slide.left_out is not None for slide in run.slides)
    return of_slides and run.seconds["decode"] > _WAITING * (run.cpu or {})["decode"]


def _for_reading(run: RunReport, waits: str) -> list[str]:
    if run.bound_by == "read":
        return [f"faster storage: {waits}, mostly for reading"]
    idle = 1 - (run.cpu or {})["decode"] / run.seconds["decode"]
    return [
        f"faster storage: {waits} for slides to be read and decoded, whose threads "
        f"wait {idle:.0%} of theirs",
        "or slides in TFRecords (raylatent extract-tiles), which are read in one go",
    ]


def _beside_gpus(run: RunReport, cluster: Cluster, waits: str) -> list[str]:
    tiles = run.counts["tiles"]
    per_gpu = tiles / (run.seconds["forward"] * run.gpus)
    busy = cluster.tiles_per_s / (cluster.actors * run.gpus * per_gpu)
    if run.bound_by in {"forward", "transfer"}:
        lines = [
            f"more GPUs: each could do {per_gpu:,.0f} tiles/s, and the model runs for "
            f"{busy:.0%} of the time"
        ]
        bus = "a faster bus: pixels take longer to the GPU than through it"
        return [bus, *lines] if run.bound_by == "transfer" else lines
    wanted = per_gpu * sum((run.cpu or {}).values()) / tiles
    have = cluster.cores_per_gpu
    if have < wanted:
        return [
            f"cores: to read, decode and write for a GPU that never waits takes "
            f"{wanted:.1f}, and there are {have:.1f} for each"
        ]
    return [
        f"more --actors on each GPU (--num-gpus below 1): {waits}, "
        f"with {have:.1f} cores for each GPU where {wanted:.1f} would do"
    ]


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """What a benchmark found.

    Attributes:
        cluster: Where, and how fast.
        run: What the job did on some of the tiles.
        where: The folder in which rows were written where none was given; else empty.
        dtype: Of the stored activations.
        bytes_per_row: Of the activations' Parquet.
        tiles: Of the job that is forecast.
        units: Of these tiles, at least.
        map: How fast the rest is; None where `no_map` says why not.
        no_map: Why there is no map.
    """

    cluster: Cluster
    run: RunReport
    where: str
    dtype: str
    bytes_per_row: float
    tiles: int
    units: int
    map: MapRates | None = None
    no_map: str = ""

    @property
    def forecast(self) -> Forecast:
        """How long the job takes."""
        return forecast(
            self.tiles, self.units, self.cluster, self.map, self.bytes_per_row
        )

    @property
    def rates(self) -> dict[str, dict[str, float | str]]:
        """Tiles/s of one core or one GPU, by stage."""
        run = self.run
        return run_rates(run.counts["tiles"], run.seconds, run.cpu or {}, gpus=run.gpus)

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        return {
            "cluster": asdict(self.cluster),
            "measured_tiles": self.run.counts["tiles"],
            "seconds_by_stage": {s: self.run.seconds[s] for s in _STAGES},
            "tiles_per_s_by_core_or_gpu": self.rates,
            "limit": self.run.bound_by,
            "add": what_to_add(self.run, self.cluster, self.dtype),
            "bytes_per_row": self.bytes_per_row,
            "map": None if self.map is None else asdict(self.map),
            "no_map": self.no_map,
            "forecast": asdict(self.forecast),
        }

    def lines(self) -> list[str]:
        """For people to read."""
        run, on = self.run, self.cluster
        tiles = run.counts["tiles"]
        pairs = [
            (
                "measured",
                f"{tiles:,} tiles; actors {on.actors}, threads of each {on.threads}; "
                f"nodes {on.nodes}, CPUs {on.cpus:g}, GPUs {on.gpus:g}",
            ),
            *self._stages(),
            ("actors", f"{_number(on.tiles_per_s)} tiles/s, all of them together"),
            ("limit", run.bound_by or "none"),
            *(("add", line) for line in what_to_add(run, on, self.dtype)),
        ]
        if self.map is None:
            pairs.append(("map", f"not measured: {self.no_map}"))
        else:
            fit = f"{self.map.sample:,} rows in {duration(self.map.fit_s)}"
            place = f"{_number(self.map.rows_per_s)} rows/s by all cores"
            cells = f"{_number(self.map.points_per_s)} points/s by all cores"
            draw = f"{_number(self.map.drawn_per_s)} tiles/s"
            pairs += [("fit", fit), ("place", place), ("cells", cells), ("draw", draw)]
        pairs += [("job", self._job()), ("", _LEFT_OUT)]
        return [f"{name:<10}{text}" for name, text in pairs]

    def _stages(self) -> Iterator[tuple[str, str]]:
        """Seconds for 1,000 tiles, and rates of one core or one GPU."""
        tiles, rates = self.run.counts["tiles"], self.rates
        for stage in _STAGES:
            if took := self.run.seconds[stage]:
                whose = "actors" if stage in _OF_ACTORS else "threads"
                said = f"{_number(1000 * took / tiles)} s of {whose} for 1,000 tiles"
                if stage in rates:
                    rate = rates[stage]
                    per = "GPU" if rate["per"] == "gpu" else "core"
                    said += f", {_number(float(rate['tiles_per_s']))} tiles/s a {per}"
                if stage == "write":
                    said += f", {_number(self.bytes_per_row / 1e3)} KB a tile"
                    said += f", in {self.where}: give --out RUN" if self.where else ""
                yield stage, said

    def _job(self) -> str:
        job = self.forecast
        parts = {
            "start": job.start_s,
            "activations": job.activations_s,
            "fit": job.fit_s,
            "placement": job.placement_s,
            "mosaic": job.mosaic_s,
        }
        said = [
            f"{name} {'not measured' if seconds is None else duration(seconds)}"
            for name, seconds in parts.items()
        ]
        size = f"{_number(job.parquet_bytes / 1e9)} GB of Parquet"
        return f"{self.tiles:,} tiles: {', '.join(said)}; {size}"


def duration(seconds: float) -> str:
    """Seconds for people.

    >>> duration(0.4), duration(75), duration(9000), duration(400_000)
    ('0.4 s', '75 s', '2.5 h', '4.6 days')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"
