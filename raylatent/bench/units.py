"""Units of a job's own sources, of which a benchmark takes some."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from raylatent.errors import ContentError, IncompleteError, SourceError, StorageError
from raylatent.source.grids import (
    SlideRequest,
    SlideUnit,
    detect_tiles,
    kept_tiles,
    open_slide,
    source_of_slide,
)
from raylatent.source.units import (
    Unit,
    index_source,
    load_unit,
    slide_unit_plans,
    unit_plans,
)
from raylatent.storage import is_uri

AnyUnit = Unit | SlideUnit

_MOST_UNITS = 64


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What tiles are taken of.

    Attributes:
        files: Slides and their TFRecords.
        slides: Whole slides, and what is asked of them.
        tile_px: Side of the tiles where no picture tells it.
        unit_tiles: Tiles of a unit.
    """

    files: Sequence[tuple[str, str]]
    slides: Sequence[tuple[str, SlideRequest]]
    tile_px: int
    unit_tiles: int


def some_units(sources: Sources) -> list[AnyUnit]:
    """Units in turn of all the sources, at most 64.

    Raises:
        IncompleteError: Not one tile can be read; the message says what is wrong.
    """
    problems: list[str] = []
    found = [
        *(_of_file(slide, uri, sources, problems) for slide, uri in sources.files),
        *(_of_slide(s, request, sources, problems) for s, request in sources.slides),
    ]
    units: list[AnyUnit] = []
    while found and len(units) < _MOST_UNITS:
        units += [own.pop(0) for own in found if own]
        found = [own for own in found if own]
    if not units:
        message = f"no tile can be read: {problems[0] if problems else 'there is none'}"
        raise IncompleteError(message)
    return units[:_MOST_UNITS]


def _of_file(
    slide: str, uri: str, sources: Sources, problems: list[str]
) -> list[AnyUnit]:
    source, index = index_source(slide, uri, sources.tile_px)
    if source.error is not None:
        problems.append(source.error)
    plans = unit_plans(source, index, sources.unit_tiles)[:_MOST_UNITS]
    return [load_unit(plan) for plan in plans]


def _of_slide(
    slide: str, request: SlideRequest, sources: Sources, problems: list[str]
) -> list[AnyUnit]:
    try:
        opened = open_slide(slide, request)
        rows, cols = kept_tiles(detect_tiles(opened, request))
    except (SourceError, StorageError, ContentError) as error:
        problems.append(f"slide {slide}: {error}")
        return []
    source = source_of_slide(slide, request, opened.stat, opened.geometry, len(rows))
    return [
        SlideUnit(
            source=source,
            unit=plan.unit,
            first=plan.first,
            geometry=opened.geometry,
            rows=rows[plan.first : plan.last],
            cols=cols[plan.first : plan.last],
            icc=request.tiles.icc,
        )
        for plan in slide_unit_plans(source, rows, sources.unit_tiles)[:_MOST_UNITS]
    ]


def pieces(unit: AnyUnit, tiles: int) -> Iterator[AnyUnit]:
    """A unit cut into runs of so many tiles."""
    for start in range(0, len(unit), tiles):
        cut = slice(start, start + tiles)
        first = unit.first + start
        if isinstance(unit, Unit):
            yield replace(
                unit,
                first=first,
                offsets=unit.offsets[cut],
                lengths=unit.lengths[cut],
            )
        else:
            yield replace(unit, first=first, rows=unit.rows[cut], cols=unit.cols[cut])


def forget_cached(units: Sequence[AnyUnit]) -> None:
    """Have local files read from their storage again, not from the system's memory."""
    if not hasattr(os, "posix_fadvise"):
        return
    for uri in {unit.source.uri for unit in units}:
        if is_uri(uri) or not Path(uri).is_file():
            continue
        with contextlib.suppress(OSError), Path(uri).open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
