"""How long a job takes, what bounds it and what would help, by a run on some tiles."""

from dataclasses import asdict, dataclass
from typing import Any

from raylatent.engine.progress import duration
from raylatent.engine.report import RunReport, run_rates

CELLS = 50 * 50
"""Tiles of a mosaic of the default size, at most."""

_MOSTLY = 0.5  # of the time
_OF_ACTORS = ("wait", "transfer", "forward", "write")
_STAGES = ("read", "decode", *_OF_ACTORS)
_LEFT_OUT = (
    "(by the nodes that are up now; finding and indexing the sources, reading the sample "
    "and the map's own pictures not counted)"
)


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
    bytes_per_row: float
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
