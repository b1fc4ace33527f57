"""Measured rates, and what follows from them: the limit, and what each part allows.

Pure arithmetic; the same function names the limit of a benchmark and of a run's report.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

STAGES = (
    *("read", "decode", "transfer", "forward", "write"),
    *("load", "place", "cells", "draw"),
)
"""What is measured, in the order of the work; `load` reads activations back."""

CORE, GPU = "core", "gpu"

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
    tiles: int, seconds: Mapping[str, float], cpu: Mapping[str, float], *, gpus: float
) -> dict[str, dict[str, float | str]]:
    """A run's tiles/s of one core or of one GPU, by stage, as `Rate` has them.

    A model's CPU seconds are spread over torch's own threads, and are not known of a
    run: it has a rate on GPUs alone.

    Args:
        tiles: That the run did.
        seconds: By stage, as of `bound_by`.
        cpu: CPU seconds of threads that read, decode and write.
        gpus: Of an actor.

    >>> run_rates(800, {"decode": 2.0, "forward": 4.0}, {"decode": 1.0}, gpus=0.5)
    {'decode': {'tiles_per_s': 800.0, 'per': 'core'}, 'forward': {'tiles_per_s': 400.0, 'per': 'gpu'}}
    """
    found: dict[str, dict[str, float | str]] = {
        stage: {"tiles_per_s": tiles / used, "per": CORE}
        for stage, used in cpu.items()
        if used > 0
    }
    for stage in ("transfer", "forward") if gpus else ():
        if seconds.get(stage, 0.0) > 0:
            rate = tiles / (seconds[stage] * gpus)
            found[stage] = {"tiles_per_s": rate, "per": GPU}
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
        hardware: What else tells the kind, as the type of the GPUs; empty if nothing.
    """

    cpus: float
    gpus: float
    count: int
    actors: float
    hardware: str = ""


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
        dtype: Of the activations that it stores.
    """

    host: str
    rates: Mapping[str, Rate]
    lacking: Mapping[str, str] = field(default_factory=dict)
    whole: Rate | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    threads: int = 0
    dtype: str = "float32"

    @property
    def limit(self) -> str | None:
        """The stage that an actor is bound by here."""
        return bound_by(self.seconds)


Kinds = Sequence[tuple[Node, Measured]]


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


def most_by_part(node: Node, found: Measured) -> dict[str, float]:
    """Activations that each part of one node could make in a second, by itself.

    `cores` are all of them at all that they do, as the job's own loop used them, `gpus`
    at the model, `reading` and `writing` are the storage with as many readers and writers
    as there are actors.

    >>> whole = Rate(tiles=100, wall_s=1.0, cpu_s=2.0)
    >>> found = Measured(host="a", rates={}, whole=whole)
    >>> most_by_part(Node(cpus=4, gpus=0, count=1, actors=8), found)
    {'cores': 200.0}
    """
    most: dict[str, float] = {}
    rates, whole = found.rates, found.whole
    core_s = core_s_per_tile(rates)
    if whole is not None and whole.tiles:
        core_s = whole.cpu_s / whole.tiles
    if core_s:
        most["cores"] = node.cpus / core_s
    if "forward" in rates and rates["forward"].per == GPU:
        most["gpus"] = node.gpus * rates["forward"].tiles_per_s
    for part, stage in (("reading", "read"), ("writing", "write")):
        if stage in rates and node.actors:
            most[part] = node.actors * rates[stage].wall_per_s
    return most
