"""Measured rates, and what follows from them: the limit, the forecast, what to add.

Pure arithmetic; the same function names the limit of a benchmark and of a run's report.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

STAGES = ("read", "decode", "transfer", "forward", "write", "place", "draw")
"""What is measured, in the order of the work."""

CORE, GPU = "core", "gpu"
CELLS = 50 * 50
"""Tiles of a mosaic of the default size, at most."""

_PIXELS = frozenset({"read", "decode"})
_LEAST_S = 1e-9


def bound_by(seconds: Mapping[str, float]) -> str | None:
    """The stage that a job is bound by: that which most of the actors' time went to.

    Where that is waiting for pixels: reading or decoding, which takes longer.

    Args:
        seconds: By stage: of threads that read and decode, of actors that transfer, run
            the model and write; `wait` is how long models waited for pixels. Other
            entries than stages (`wall`) do not count.

    >>> bound_by({"read": 1, "decode": 8, "wait": 3, "forward": 2, "wall": 6})
    'decode'
    >>> bound_by({"read": 1, "decode": 8, "wait": 1, "forward": 2, "wall": 6})
    'forward'
    """
    took = {k: v for k, v in seconds.items() if v > 0 and k in {*STAGES, "wait"}}
    pixels = {k: v for k, v in took.items() if k in _PIXELS}
    if "wait" not in took:  # nobody does: pixels are all that is made
        return max(took, key=took.__getitem__, default=None)
    actors = {k: v for k, v in took.items() if k not in pixels}
    bound = max(actors, key=actors.__getitem__)
    return max(pixels, key=pixels.__getitem__) if bound == "wait" and pixels else bound


def run_rates(
    tiles: int, seconds: Mapping[str, float], *, threads: int, gpus: float
) -> dict[str, dict[str, float | str]]:
    """A run's tiles/s of one core or of one GPU, by stage.

    Args:
        tiles: That the run did.
        seconds: By stage, as of `bound_by`: threads that read and decode have a core
            each, as writing has; the model has its actor's.
        threads: Of an actor.
        gpus: Of an actor.

    >>> run_rates(800, {"decode": 2.0, "forward": 4.0, "wall": 3.0}, threads=2, gpus=0)
    {'decode': {'tiles_per_s': 400.0, 'per': 'core'}, 'forward': {'tiles_per_s': 100.0, 'per': 'core'}}
    """
    found: dict[str, dict[str, float | str]] = {}
    for stage, took in seconds.items():
        if stage not in STAGES or took <= 0:
            continue
        of_model = stage in {"transfer", "forward"}
        each = (gpus or threads) if of_model else 1
        per = GPU if of_model and gpus else CORE
        found[stage] = {"tiles_per_s": tiles / (took * each), "per": per}
    return found


@dataclass(frozen=True, kw_only=True)
class Rate:
    """How fast something was.

    Attributes:
        tiles: That were done.
        wall_s: Seconds that it took.
        cpu_s: CPU seconds, of all threads.
        per: What one of is meant by the rate: `core` counts CPU seconds, `gpu` wall.
        n_bytes: Read or written; 0 where that is not counted.
        note: What is to be known of it.
        at_best: Whether the job is slower, as the note says.
    """

    tiles: int
    wall_s: float
    cpu_s: float
    per: str = CORE
    n_bytes: int = 0
    note: str = ""
    at_best: bool = False

    @property
    def tiles_per_s(self) -> float:
        """Of one core, or of one GPU.

        >>> Rate(tiles=90, wall_s=9.0, cpu_s=3.0).tiles_per_s
        30.0
        """
        seconds = self.cpu_s if self.per == CORE else self.wall_s
        return self.tiles / max(seconds, _LEAST_S)

    @property
    def wall_per_s(self) -> float:
        """Tiles by the clock: of one reader, one writer, one actor."""
        return self.tiles / max(self.wall_s, _LEAST_S)

    @property
    def bytes_per_s(self) -> float:
        """Likewise bytes."""
        return self.n_bytes / max(self.wall_s, _LEAST_S)

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        found: dict[str, Any] = {
            "tiles_per_s": self.tiles_per_s,
            "per": self.per,
            "tiles": self.tiles,
            "wall_s": self.wall_s,
            "cpu_s": self.cpu_s,
        }
        if self.n_bytes:
            found["bytes_per_s"] = self.bytes_per_s
        return found | ({"note": self.note} if self.note else {})


@dataclass(frozen=True, kw_only=True)
class Node:
    """Nodes of one kind.

    Attributes:
        cpus: Logical CPUs of each.
        gpus: GPUs of each.
        count: How many there are.
        actors: That a job has on each, on average.
    """

    cpus: float
    gpus: float
    count: int
    actors: float


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured on one node.

    Attributes:
        host: Its name.
        rates: By stage.
        lacking: Why other stages have none.
        whole: The job's own loop, one actor with its threads; None where there is none.
        seconds: By stage, of that loop, as a run's report has them.
        threads: Of that actor.
    """

    host: str
    rates: Mapping[str, Rate]
    lacking: Mapping[str, str] = field(default_factory=dict)
    whole: Rate | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    threads: int = 0

    @property
    def limit(self) -> str | None:
        """The stage that an actor is bound by here."""
        return bound_by(self.seconds)


Kinds = Sequence[tuple[Node, Measured]]


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """How long a job takes.

    Attributes:
        tiles: Of the job.
        activations_s: Seconds; None where no node can run the model.
        map_s: Of placing all tiles on a fitted map; None where that was not measured.
        mosaic_s: Of drawing, by one core.
        map_at_least: Whether placing takes longer: the map it was measured on is small.
    """

    tiles: int
    activations_s: float | None
    map_s: float | None
    mosaic_s: float | None
    map_at_least: bool = False


def forecast(tiles: int, kinds: Kinds) -> Forecast:
    """What a job of so many tiles takes on a cluster.

    Activations by what the job's own loop did, times its actors; placing by all cores;
    a mosaic of at most 2,500 tiles by one core of the fastest kind.

    >>> whole = Rate(tiles=100, wall_s=1.0, cpu_s=2.0)
    >>> here = Measured(host="a", rates={"place": Rate(tiles=50, wall_s=1, cpu_s=1)},
    ...                 whole=whole)
    >>> forecast(12_000, [(Node(cpus=4, gpus=0, count=3, actors=2), here)])
    Forecast(tiles=12000, activations_s=20.0, map_s=20.0, mosaic_s=None, map_at_least=False)
    """
    actors = sum(n.count * n.actors * m.whole.wall_per_s for n, m in kinds if m.whole)
    place = sum(
        n.count * n.cpus * m.rates["place"].tiles_per_s
        for n, m in kinds
        if "place" in m.rates
    )
    draw = max(
        (m.rates["draw"].tiles_per_s for _, m in kinds if "draw" in m.rates),
        default=0.0,
    )
    return Forecast(
        tiles=tiles,
        activations_s=tiles / actors if actors else None,
        map_s=tiles / place if place else None,
        mosaic_s=min(tiles, CELLS) / draw if draw else None,
        map_at_least=any(
            m.rates["place"].at_best for _, m in kinds if "place" in m.rates
        ),
    )


def cores_per_gpu(rates: Mapping[str, Rate]) -> float | None:
    """Cores that keep one GPU busy: reading, decoding, writing, and the model's own.

    >>> cores_per_gpu({
    ...     "decode": Rate(tiles=100, wall_s=1.0, cpu_s=1.0),
    ...     "forward": Rate(tiles=500, wall_s=1.0, cpu_s=0.5, per="gpu"),
    ... })
    5.5
    """
    forward = rates.get("forward")
    if forward is None or forward.per != GPU:
        return None
    return core_s_per_tile(rates) * forward.tiles_per_s


def core_s_per_tile(rates: Mapping[str, Rate]) -> float:
    """CPU seconds that activations take of all cores for one tile."""
    stages = (rates[s] for s in ("read", "decode", "forward", "write") if s in rates)
    return sum(rate.cpu_s / max(rate.tiles, 1) for rate in stages)


def most_by_part(node: Node, rates: Mapping[str, Rate]) -> dict[str, float]:
    """Activations that each part of one node could make in a second, by itself.

    `cores` are all of them at all that they do, `gpus` at the model, `reading` and
    `writing` are the storage with as many readers and writers as there are actors.
    """
    found: dict[str, float] = {}
    core_s = core_s_per_tile(rates)
    if core_s:
        found["cores"] = node.cpus / core_s
    if "forward" in rates and rates["forward"].per == GPU:
        found["gpus"] = node.gpus * rates["forward"].tiles_per_s
    for part, stage in (("reading", "read"), ("writing", "write")):
        if stage in rates and node.actors:
            found[part] = node.actors * rates[stage].wall_per_s
    return found
