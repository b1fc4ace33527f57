"""What a benchmark found, for people and as JSON."""

from dataclasses import asdict, dataclass
from typing import Any

from raylatent.bench.advice import what_to_add
from raylatent.bench.forecast import Forecast, forecast
from raylatent.bench.rates import (
    STAGES,
    Measured,
    Node,
    Rate,
    cores_per_gpu,
    most_by_part,
)

_WIDTH = 10
_LEFT_OUT = (
    "(by the nodes that are up now; start-up, indexing, the sample and fit of the map, "
    "and the map's own pictures not counted)"
)


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """What a benchmark found.

    Attributes:
        kinds: Kinds of nodes, and what was measured on one of each.
        tiles: Of the job that is forecast.
        units: Of those tiles, at least; None: enough for all actors.
    """

    kinds: tuple[tuple[Node, Measured], ...]
    tiles: int
    units: int | None = None

    @property
    def forecast(self) -> Forecast:
        """How long the job takes."""
        return forecast(self.tiles, self.kinds, self.units)

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        return {
            "nodes": [_node_json(node, found) for node, found in self.kinds],
            "forecast": asdict(self.forecast),
        }

    def lines(self) -> list[str]:
        """For people to read."""
        lines: list[str] = []
        for node, found in self.kinds:
            lines += self._of_node(node, found)
        job = self.forecast
        parts = {
            "activations": job.activations_s,
            f"map{' at least' if job.map_at_least else ''}": job.map_s,
            "mosaic": job.mosaic_s,
        }
        said = [
            f"{name} {'not measured' if seconds is None else duration(seconds)}"
            for name, seconds in parts.items()
        ]
        lines.append(_line("job", f"{self.tiles:,} tiles: {', '.join(said)}"))
        lines.append(_line("", _LEFT_OUT))
        return lines

    def _of_node(self, node: Node, found: Measured) -> list[str]:
        what = f"{found.host}: {node.cpus:g} CPUs, {node.gpus:g} GPUs"
        what += f" ({node.hardware})" if node.hardware else ""
        actors = f"actors {node.actors:.3g} on each, of {found.threads} threads"
        lines = [_line("node", f"{what}; {node.count} such; {actors}")]
        for stage in STAGES:
            if stage in found.rates:
                lines.append(_line(stage, rate_words(found.rates[stage])))
            else:
                why = found.lacking.get(stage, "")
                lines.append(_line(stage, f"not measured: {why}"))
        if found.whole is not None:
            whole = (
                f"{_number(found.whole.wall_per_s)} tiles/s, all of the job's stages"
            )
            lines.append(_line("actor", whole))
        most = most_by_part(node, found)
        if most:
            said = ", ".join(f"{part} {_number(n)}" for part, n in most.items())
            lines.append(_line("at most", f"{said} tiles/s a node, each by itself"))
        if found.limit is not None:
            lines.append(_line("limit", found.limit))
        return lines + [_line("add", text) for text in what_to_add(node, found)]


def rate_words(rate: Rate) -> str:
    """A rate in words.

    >>> rate_words(Rate(tiles=500, wall_s=2.0, cpu_s=0.5, n_bytes=4_000_000))
    '1,000 tiles/s a core (250 tiles/s, 2 MB/s by the clock)'
    """
    said = f"{_number(rate.tiles_per_s)} tiles/s a {'GPU' if rate.per == 'gpu' else 'core'}"
    if rate.n_bytes:
        clock = f"{_number(rate.wall_per_s)} tiles/s, {_number(rate.bytes_per_s / 1e6)}"
        said += f" ({clock} MB/s by the clock)"
    return f"{said}, {rate.note}" if rate.note else said


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


def _line(name: str, text: str) -> str:
    return f"{name:<{_WIDTH}}{text}"


def _node_json(node: Node, found: Measured) -> dict[str, Any]:
    whole = found.whole
    return {
        **asdict(node),
        "host": found.host,
        "threads": found.threads,
        "stages": {name: rate.as_json() for name, rate in found.rates.items()},
        "not_measured": dict(found.lacking),
        "actor_tiles_per_s": None if whole is None else whole.wall_per_s,
        "actor_cpu_s_per_tile": None
        if whole is None
        else whole.cpu_s / max(whole.tiles, 1),
        "seconds_by_stage": dict(found.seconds),
        "most_by_part": most_by_part(node, found),
        "cores_per_gpu": cores_per_gpu(found.rates),
        "limit": found.limit,
        "add": what_to_add(node, found),
    }
