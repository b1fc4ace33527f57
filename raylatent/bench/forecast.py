"""How long a job takes on a cluster, by what was measured on one node of each kind."""

from collections.abc import Sequence
from dataclasses import dataclass

from raylatent.bench.rates import Kinds, Measured, Node, Rate, most_by_part

CELLS = 50 * 50
"""Tiles of a mosaic of the default size, at most."""

_FROM_STORAGE = frozenset({"load", "cells"})


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """How long a job takes.

    Attributes:
        tiles: Of the job.
        activations_s: Seconds; None where no node can run the model.
        map_s: Of reading all activations back and placing them on a fitted map; None
            where placing was not measured.
        mosaic_s: Of going through all points for its cells, and of drawing those; None
            where either was not measured.
        map_at_least: Whether it takes longer: the map was small, or reading back could
            not be measured.
    """

    tiles: int
    activations_s: float | None
    map_s: float | None
    mosaic_s: float | None
    map_at_least: bool = False


def forecast(tiles: int, kinds: Kinds, units: int | None = None) -> Forecast:
    """What a job of so many tiles takes on a cluster.

    Activations by what the job's own loop did, times its actors, and no faster than the
    cores and the GPUs of a node allow; reading back, placing and going through points by
    all cores; a mosaic's 2,500 tiles at most are drawn by one core of the fastest kind.

    Args:
        tiles: Of the job.
        kinds: Of nodes, and what was measured on one of each.
        units: Of the tiles: an actor without one does nothing. None: enough.

    >>> whole = Rate(tiles=100, wall_s=1.0, cpu_s=2.0)
    >>> here = Measured(host="a", rates={"place": Rate(tiles=50, wall_s=1, cpu_s=1)},
    ...                 whole=whole)
    >>> forecast(12_000, [(Node(cpus=4, gpus=0, count=3, actors=2), here)])
    Forecast(tiles=12000, activations_s=20.0, map_s=20.0, mosaic_s=None, map_at_least=True)
    """
    total = sum(node.count * node.actors for node, _ in kinds)
    busy = 1.0 if units is None or not total else min(1.0, units / total)
    actors = sum(node.count * _of_actors(node, found, busy) for node, found in kinds)
    place = _by_all_cores(kinds, "place", also=("load",))
    cells = _by_all_cores(kinds, "cells")
    rates = [found.rates for _, found in kinds]
    draw = max((r["draw"].tiles_per_s for r in rates if "draw" in r), default=0.0)
    return Forecast(
        tiles=tiles,
        activations_s=tiles / actors if actors else None,
        map_s=tiles / place if place else None,
        mosaic_s=tiles / cells + min(tiles, CELLS) / draw if cells and draw else None,
        map_at_least=any(
            r["place"].at_best or "load" not in r for r in rates if "place" in r
        ),
    )


def _of_actors(node: Node, found: Measured, busy: float) -> float:
    """Tiles/s of the actors of one node, which share its cores and its GPUs."""
    if found.whole is None:
        return 0.0
    most = most_by_part(node, found)
    shared = [most[part] for part in ("cores", "gpus") if part in most]
    return min([busy * node.actors * found.whole.wall_per_s, *shared])


def _by_all_cores(kinds: Kinds, stage: str, also: Sequence[str] = ()) -> float:
    """Tiles/s of all cores at a stage, and at others before it where they are known."""
    per_s = 0.0
    for node, found in kinds:
        if stage in found.rates:
            stages = (stage, *(name for name in also if name in found.rates))
            each = sum(_s_of_core(name, found.rates[name]) for name in stages)
            per_s += node.count * node.cpus / each
    return per_s


def _s_of_core(stage: str, rate: Rate) -> float:
    """How long a tile takes a core: what waits for storage keeps it meanwhile."""
    waited = rate.wall_s if stage in _FROM_STORAGE else 0.0
    return max(waited, rate.cpu_s) / max(rate.tiles, 1)
