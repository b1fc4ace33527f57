"""What one slide's parts of rows are compared with: the plan, maps, mosaics, the grid."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylatent import schema
from raylatent.parts import part_name, unit_of
from raylatent.run import layout
from raylatent.run.checked import CheckedPart
from raylatent.run.findings import (
    INCOMPLETE,
    MISSING,
    WRONG,
    Finding,
    SlideFound,
    SlideTask,
)
from raylatent.seal import parse_json
from raylatent.storage import Store

_NAMED = 20  # missing parts of one slide that are named


@dataclass(frozen=True, kw_only=True)
class Extent:
    """A sound part and its tiles [first, last)."""

    unit: int
    name: str
    first: int
    last: int


def tiles_of(part: CheckedPart) -> NDArray[np.int64]:
    """Its tile indices, as they are stored."""
    tiles: NDArray[np.int64] = part.table[schema.TILE_INDEX].to_numpy()
    return tiles


def check_points(
    store: Store,
    task: SlideTask,
    found: SlideFound,
    points: tuple[str, str | None],
    rows: tuple[Extent, CheckedPart],
) -> None:
    """Points of one part of rows: the same tiles, placed on this map."""
    of_map, name = points
    extent, part = rows
    where = found.of_maps[of_map]
    if name is None:
        if part.rows:
            folder = f"{layout.MAPS}/{of_map}/points"
            expected = part_name(folder, task.slide, extent.unit)
            where.append(Finding(MISSING, expected, f"{part.rows} rows have no place"))
        return
    placed = found.read(store, name, (schema.TILE_INDEX,), where)
    if placed is None:
        return
    found.points[of_map] += placed.rows
    wanted = {
        schema.FOOTER_SLIDE: task.slide,
        schema.FOOTER_UNIT: str(extent.unit),
        schema.FOOTER_MAP: task.models.get(of_map),
        schema.FOOTER_ROWS: part.footer.get(schema.FOOTER_DIGEST),
    }
    for key, value in wanted.items():
        lacking = None if task.sealed else value  # early maps did not tell all
        if value is not None and placed.footer.get(key, lacking) != value:
            what = key.removeprefix("raylatent.")
            where.append(Finding(WRONG, name, f"it is of another {what}"))
            return
    if not np.array_equal(tiles_of(placed), tiles_of(part)):
        where.append(Finding(WRONG, name, "its tiles are not those of the rows"))


def check_extents(task: SlideTask, found: SlideFound, extents: list[Extent]) -> None:
    """Whether sound parts cover the slide's tiles, each once, and none beyond."""
    end, n_covered, last_unit = 0, 0, -1
    for extent in sorted(extents, key=lambda e: (e.unit, e.first)):
        if extent.first < end:
            says = f"another part has its tiles from {extent.first} on as well"
            found.findings.append(Finding(WRONG, extent.name, says))
        if task.n_indexed is not None and extent.last > task.n_indexed:
            says = f"it is beyond the plan, which has {task.n_indexed} tiles"
            found.findings.append(Finding(WRONG, extent.name, says))
        n_covered += max(0, extent.last - max(extent.first, end))
        end, last_unit = max(end, extent.last), extent.unit
    if task.n_indexed is None or n_covered >= task.n_indexed:
        return
    lost = task.n_indexed - n_covered
    found.counts["missing"] += lost
    listed = {unit_of(name) for name in task.rows}
    top = max(listed, default=-1)
    n_units = task.n_units or top + 1
    lacking = [unit for unit in range(n_units) if unit not in listed]
    if task.n_units is None and end < task.n_indexed and last_unit == top:
        lacking.append(top + 1)  # and what follows; else the last is there, and broken
    if not lacking:
        return
    if not task.was_whole:
        folder = part_name(task.stage, task.slide, 0).rsplit("/", 1)[0]
        says = f"{lost} of {task.n_indexed} tiles are not done: run again"
        found.findings.append(Finding(INCOMPLETE, folder, says))
        return
    for unit in lacking[:_NAMED]:
        name = part_name(task.stage, task.slide, unit)
        says = f"the slide lacks {lost} of {task.n_indexed} tiles"
        found.findings.append(Finding(MISSING, name, says))


def present(chosen: pa.Table, rows: pa.Table) -> set[int]:
    """Tiles of mosaic cells that are among the rows of a part, at the same offset."""
    tiles = rows[schema.TILE_INDEX].to_numpy()
    at = np.flatnonzero(np.isin(tiles, chosen[schema.TILE_INDEX].to_numpy()))
    offsets = rows[schema.OFFSET].take(pa.array(at)).to_pylist()
    here = dict(zip(tiles[at].tolist(), offsets, strict=True))
    wanted = (chosen[name].to_pylist() for name in (schema.TILE_INDEX, schema.OFFSET))
    return {t for t, o in zip(*wanted, strict=True) if t in here and here[t] == o}


def check_chosen(
    task: SlideTask, found: SlideFound, seen: Mapping[str, set[int]]
) -> None:
    """Whether tiles that mosaics name are rows; where rows are lost it is not known."""
    if found.findings:
        return
    for mosaic, chosen in task.chosen.items():
        lost = set(chosen[schema.TILE_INDEX].to_pylist()) - seen[mosaic]
        if lost:
            name = f"{layout.MOSAICS}/{mosaic}/cells.parquet"
            says = f"tile {min(lost)} of slide {task.slide!r} is not among the rows"
            found.of_mosaics[mosaic].append(Finding(WRONG, name, says))


def check_grid(store: Store, task: SlideTask, found: SlideFound) -> None:
    """Whether a whole slide's grid keeps as many tiles as were planned."""
    if not task.grids and not task.has_grid:
        return
    wanted = part_name(layout.GRIDS, task.slide, 0)
    for name in task.grids:
        grid = found.read(store, name, (schema.REASON,), found.findings)
        if grid is None:
            continue
        if name != wanted or not task.has_grid:
            says = "the slide has no such grid"
            found.findings.append(Finding(WRONG, name, says))
        elif (other := _of_another_file(task, grid)) is not None:
            found.findings.append(Finding(WRONG, name, other))
        elif (kept := grid.table[schema.REASON].null_count) != task.n_indexed and (
            task.n_indexed is not None
        ):
            says = f"it keeps {kept} tiles, the plan has {task.n_indexed}"
            found.findings.append(Finding(WRONG, name, says))
    if task.has_grid and wanted not in task.grids:
        says = "the slide has no grid"
        found.findings.append(Finding(MISSING, wanted, says))


def _of_another_file(task: SlideTask, grid: CheckedPart) -> str | None:
    """Why a grid is not of the slide's file as it was planned, None if it is."""
    made_with = parse_json(grid.footer.get(schema.FOOTER_GRID, "{}")) or {}
    stat = made_with.get("stat")
    if not isinstance(stat, dict):
        return "it does not tell of which slide it was made" if task.sealed else None
    if task.source is None:
        return None
    planned = json.loads(task.source)
    for key, value in stat.items():
        if planned.get(key) != value:
            return "it was made of another slide, or of this one before it changed"
    return None
