"""One slide of a run checked against the plan: a pure function of what is stored."""

from collections.abc import Iterable, Mapping

import numpy as np

from raylatent import schema
from raylatent.parts import part_name, unit_of
from raylatent.run import layout
from raylatent.run.beside import (
    Extent,
    check_chosen,
    check_extents,
    check_grid,
    check_points,
    present,
    tiles_of,
)
from raylatent.run.checked import CheckedPart
from raylatent.run.findings import MISSING, WRONG, Finding, SlideFound, SlideTask
from raylatent.storage import Store

_OF_QUARANTINE = (
    schema.FOOTER_FINGERPRINT,
    schema.FOOTER_SLIDE,
    schema.FOOTER_SOURCE,
    schema.FOOTER_UNIT,
    schema.FOOTER_FIRST,
    schema.FOOTER_LAST,
)


def check_slide(store: Store, task: SlideTask) -> SlideFound:
    """Check all parts of one slide, each read once and let go.

    Raises:
        StorageError: A file cannot be read, after retries: that is no finding.
    """
    found = SlideFound(slide=task.slide, sealed=task.sealed)
    extents: list[Extent] = []
    seen: dict[str, set[int]] = {name: set() for name in task.chosen}
    quarantine = {unit_of(name): name for name in task.quarantine}
    points = {m: {unit_of(n): n for n in names} for m, names in task.points.items()}
    for name in task.rows:
        unit = unit_of(name)
        bad = quarantine.pop(unit, None)
        placed = {of_map: names.pop(unit, None) for of_map, names in points.items()}
        sound = _check_rows(store, task, found, (name, bad))
        if sound is None:
            found.read_only(store, placed.values())
            continue
        extents.append(sound[0])
        if any(finding.name == name for finding in found.findings):
            found.read_only(store, placed.values())  # they would be accused as well
            continue
        for of_map, points_name in placed.items():
            check_points(store, task, found, (of_map, points_name), sound)
        for mosaic, chosen in task.chosen.items():
            seen[mosaic] |= present(chosen, sound[1].table)
    found.read_only(store, task.others)
    check_extents(task, found, extents)
    _check_left(store, found, quarantine.values(), points)
    check_chosen(task, found, seen)
    check_grid(store, task, found)
    return found


def _check_left(
    store: Store,
    found: SlideFound,
    quarantine: Iterable[str],
    points: Mapping[str, Mapping[int, str]],
) -> None:
    """Quarantine and points without a part of rows, which may be what is lacking."""
    lacking = found.counts["missing"] > 0
    for name in quarantine:
        there = found.read(store, name, (), found.findings) is not None
        if there and not lacking:
            found.findings.append(Finding(WRONG, name, "it has no part of rows"))
    for of_map, names in points.items():
        where = found.of_maps[of_map]
        for name in names.values():
            there = found.read(store, name, (), where) is not None
            if there and not lacking:
                where.append(Finding(WRONG, name, "the run has no such part of rows"))


def _check_rows(
    store: Store, task: SlideTask, found: SlideFound, names: tuple[str, str | None]
) -> tuple[Extent, CheckedPart] | None:
    """A part of rows and its quarantine; None unless it belongs where it is."""
    name, bad = names
    columns = (schema.TILE_INDEX, schema.OFFSET)
    part = found.read(store, name, columns, found.findings)
    extent = None
    if part is not None:
        extent = _check_part_of(store, task, found, name, (part, bad))
    elif bad is not None:
        found.read_only(store, [bad])
    if part is None or extent is None:
        return None
    found.counts["rows"] += part.rows
    if part.rows:
        found.digests.append((name, part.footer.get(schema.FOOTER_DIGEST, "")))
    return extent, part


def _check_part_of(
    store: Store,
    task: SlideTask,
    found: SlideFound,
    name: str,
    pair: tuple[CheckedPart, str | None],
) -> Extent | None:
    """A row part with its quarantine; its tiles if it is sound."""
    part, quarantine = pair
    why = _stranger(task, name, part.footer)
    if why is not None:
        found.findings.append(Finding(WRONG, name, why))
        found.read_only(store, [quarantine])
        return None
    keys = (schema.FOOTER_FIRST, schema.FOOTER_LAST, schema.FOOTER_QUARANTINED)
    first, last, n_bad = (_number(part.footer.get(key)) for key in keys)
    extent = Extent(unit=unit_of(name), name=name, first=first, last=last)
    tiles = tiles_of(part)
    bad = np.zeros(0, np.int64)
    if quarantine is None and n_bad:
        expected = part_name(layout.QUARANTINE, task.slide, extent.unit)
        says = f"its part has {n_bad} quarantined tiles"
        found.findings.append(Finding(MISSING, expected, says))
        return extent
    if quarantine is not None:
        rows = found.read(store, quarantine, (schema.TILE_INDEX,), found.findings)
        if rows is None:
            return extent
        why = _not_of(part, rows, n_bad)
        if why is not None:
            found.findings.append(Finding(WRONG, quarantine, why))
            return extent
        bad = tiles_of(rows)
        found.counts["quarantined"] += rows.rows
    every = np.sort(np.concatenate([tiles, bad]))
    if first < 0 or not np.array_equal(every, np.arange(first, last)):
        says = f"its rows are not tiles {first} to {last - 1}, each once"
        found.findings.append(Finding(WRONG, name, says))
    elif (np.diff(tiles) <= 0).any():
        found.findings.append(Finding(WRONG, name, "its rows are not in tile order"))
    return extent


def _stranger(task: SlideTask, name: str, footer: Mapping[str, str]) -> str | None:
    """Why a whole part does not belong where it is, None if it does."""
    slide, unit = footer.get(schema.FOOTER_SLIDE), footer.get(schema.FOOTER_UNIT)
    if slide != task.slide:
        return f"it is a part of slide {slide!r}"
    if unit != str(unit_of(name)):
        return f"it is part {unit} of the slide under another number"
    fingerprint = footer.get(schema.FOOTER_FINGERPRINT)
    if task.fingerprint not in {None, fingerprint}:
        return f"it is of another configuration (fingerprint {fingerprint})"
    if task.source not in {None, footer.get(schema.FOOTER_SOURCE)}:
        return "it was made of another source, or of this one before it changed"
    layers = footer.get(schema.FOOTER_LAYERS)
    if task.layers is not None and layers is not None and layers != task.layers:
        return f"its layers are {layers}, not those of run.json"
    return None


def _not_of(part: CheckedPart, quarantine: CheckedPart, n_bad: int) -> str | None:
    """Why a quarantine does not belong to its part, None if it does."""
    for key in _OF_QUARANTINE:
        if quarantine.footer.get(key) != part.footer.get(key):
            what = key.removeprefix("raylatent.")
            return f"it is not its part's: the {what} differs"
    if quarantine.rows != n_bad:
        return f"it has {quarantine.rows} rows, its part has {n_bad} quarantined tiles"
    return None


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdigit() else -1
