"""What is done: which parts of a run are valid, and of sources that have not changed.

Files are read whole by the cluster before a re-run keeps them, and to verify a run.
"""

import json
import logging
import platform
import re
from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property

import pyarrow as pa

from raylatent import schema
from raylatent.engine.cluster import STALL_TIMEOUT_S, spread
from raylatent.engine.progress import Progress
from raylatent.engine.unit_actor import source_footer
from raylatent.errors import StorageError, VisibilityError
from raylatent.parts import is_part, read_footer, slide_of, unit_of
from raylatent.run import EXPLORER, GRIDS, QUARANTINE, THUMBNAILS, Part, RunDirectory
from raylatent.run.settings import RUN_JSON
from raylatent.seal import parse_json
from raylatent.source.kinds import kind_of
from raylatent.source.protocol import Request, Source, UnitPlan
from raylatent.storage.store import Store
from raylatent.stored.verification import FileState, mismatch, read_states

_OF_QUARANTINE = (
    schema.FOOTER_FINGERPRINT,
    schema.FOOTER_SLIDE,
    schema.FOOTER_SOURCE,
    schema.FOOTER_UNIT,
    schema.FOOTER_FIRST,
    schema.FOOTER_LAST,
)
_NUMBERED = re.compile(r"[a-z]+/slide=[^/]+/[0-9]+\.parquet")

logger = logging.getLogger(__name__)
_FILES_TOGETHER = 32  # files that a task reads
_PICTURES_TOGETHER = 512  # of an explorer, which are small


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What an invocation names.

    Attributes:
        requests: Sources by slide.
        unit_tiles: Tiles in a unit.
        recheck: Whether parts that are kept are read and checked, not only their
            footers.
        stall_timeout_s: How long nothing may be finished.
        finished: Slides that need no parts any more, whatever they were made into.
    """

    requests: Mapping[str, Request]
    unit_tiles: int
    recheck: bool = True
    stall_timeout_s: float = STALL_TIMEOUT_S
    finished: Mapping[str, Source] = field(default_factory=dict)

    @cached_property
    def uris(self) -> dict[str, str]:
        """Where each slide's tiles come from, sorted by name."""
        return {slide: self.requests[slide].uri for slide in sorted(self.requests)}

    @cached_property
    def with_grid(self) -> dict[str, Request]:
        """Those whose tiles are cut out by a grid that the run keeps."""
        return {k: v for k, v in self.requests.items() if kind_of(v).has_grid}


def valid_parts(
    run: RunDirectory, slides: set[str], fingerprint: str
) -> dict[str, list[Part]]:
    """Parts of this configuration whose quarantine rows are all there, by slide."""
    parts: dict[str, list[Part]] = defaultdict(list)
    run.refresh()
    readable = set()
    for part in run.footers(slides):
        readable.add(part.name)
        if part.footer.get(schema.FOOTER_FINGERPRINT) != fingerprint:
            continue
        n_bad = n_quarantine_rows(run, part) if part.quarantined else 0
        if n_bad == part.quarantined:
            parts[part.slide].append(part)
        else:
            name = run.quarantine_part(part.slide, part.unit)
            logger.warning("%s/%s is lost or broken: done again", run.uri, name)
    for slide in slides:
        names = [name for name in run.parts(slide) if is_part(name)]
        for name in sorted(set(names) - readable):
            logger.warning("%s/%s is broken: it is done again", run.uri, name)
    return parts


def delete_needless(run: RunDirectory, parts: Mapping[str, Sequence[Part]]) -> None:
    """Delete quarantine of parts that have no bad tile: of what they were before."""
    clean = {
        run.quarantine_part(part.slide, part.unit)
        for of_slide in parts.values()
        for part in of_slide
        if not part.quarantined
    }
    for name in run.store.list(QUARANTINE):
        if name in clean:
            logger.warning("%s/%s: its part has no bad tile: deleted", run.uri, name)
            run.store.delete(name)


def ids_of_parts(
    run: RunDirectory, slides: Sequence[str], away: Mapping[str, int]
) -> dict[str, int]:
    """Ids of slides' sources as footers have them, for a plan that is lost.

    With other ids every part would be done again. A slide that no part tells of gets
    the id that a new run gives it, where that is free.

    Args:
        run: The run directory.
        slides: All, sorted.
        away: Ids of slides that are set aside.
    """
    told: dict[str, set[int]] = defaultdict(set)
    for part in run.footers(slides):
        with suppress(ValueError, TypeError, KeyError):
            about = json.loads(part.footer[schema.FOOTER_SOURCE])
            told[part.slide].add(int(about["id"]))
    ids = {slide: number.pop() for slide, number in told.items() if len(number) == 1}
    ids |= away
    taken = set(ids.values())
    if len(taken) < len(ids):
        return dict(away)
    new = {slide: i for i, slide in enumerate(slides) if slide not in ids}
    return ids | {slide: i for slide, i in new.items() if i not in taken}


def set_strays_aside(
    run: RunDirectory, known: Container[str], without_grid: Container[str]
) -> None:
    """Move to `removed/` parts of slides that no plan names, and grids of those without.

    Args:
        run: The run directory.
        known: Slides of the plan, and those that it had before.
        without_grid: Slides whose tiles are not cut out by a grid.
    """
    names = {stage: run.store.list(stage) for stage in (run.rows, QUARANTINE, GRIDS)}
    parts = {
        stage: {slide_of(name) or "" for name in of if is_part(name)}
        for stage, of in names.items()
    }
    foreign = [name for name in names[run.rows] if not _NUMBERED.fullmatch(name)]
    if foreign:
        logger.warning(
            "%d files below %s/ are not this run's, as %r: whoever reads that folder "
            "reads them too, move them away",
            *(len(foreign), run.rows, foreign[0]),
        )
    strays = {slide for of in parts.values() for slide in of if slide not in known}
    for slide in sorted(strays):
        logger.warning("slide %r is in no plan: its parts are set aside", slide)
    run.set_aside(sorted(strays))
    grids = {slide for slide in parts[GRIDS] - strays if slide in without_grid}
    for slide in sorted(grids):
        logger.warning("slide %r has no grid: one that is there is set aside", slide)
    run.set_aside(sorted(grids), stages=(THUMBNAILS, GRIDS))


def n_quarantine_rows(run: RunDirectory, part: Part) -> int | None:
    """Rows of a part's quarantine, None where it cannot be read."""
    try:
        return read_footer(run.store, run.quarantine_part(part.slide, part.unit))[0]
    except (StorageError, OSError, pa.ArrowException):
        return None


def is_done(
    run: RunDirectory, source: Source, inputs: Inputs, parts: Sequence[Part]
) -> bool:
    """Whether a source has not changed and has all its rows: no need to index it."""
    has_none = not source.n_indexed and source.slide not in inputs.with_grid
    if source.error is not None or has_none:
        return False
    request = inputs.requests[source.slide]
    if not is_unchanged(run, source, request):
        return False
    same = sorted(same_source(source, parts), key=lambda part: part.unit)
    ends = [0]
    for part in same:
        first, last = (
            int(part.footer.get(key, -1))
            for key in (schema.FOOTER_FIRST, schema.FOOTER_LAST)
        )
        if first != ends[-1] or part.rows + part.quarantined != last - first:
            return False
        ends.append(last)
    return ends[-1] == source.n_indexed and len(parts) == len(same)


def is_unchanged(run: RunDirectory, source: Source, request: Request) -> bool:
    """Whether a source is as it was when it was planned."""
    same_kind = source.kind == request.kind
    return same_kind and kind_of(request).is_unchanged(run, source, request)


def same_source(source: Source, parts: Sequence[Part]) -> list[Part]:
    """Parts that were made of the source as it is."""
    footer = source_footer(source)
    return [p for p in parts if p.footer.get(schema.FOOTER_SOURCE) == footer]


def matches(unit: UnitPlan, part: Part | None) -> bool:
    """Whether the part holds just this unit, none of its tiles missing."""
    return (
        part is not None
        and part.footer.get(schema.FOOTER_FIRST) == str(unit.first)
        and part.footer.get(schema.FOOTER_LAST) == str(unit.last)
        and part.rows + part.quarantined == unit.count
    )


def delete_beyond(run: RunDirectory, n_units: Mapping[str, int]) -> None:
    """Delete parts of units that the source, now shorter, no longer has.

    By their names: they may be broken, or a quarantine without its part. Likewise
    what is called as a part, but for the spelling: a copy that was made by hand.
    """
    for stage in (run.rows, QUARANTINE):
        for name in run.store.list(stage):
            known = n_units.get(slide_of(name) or "")
            if known is None or not _NUMBERED.fullmatch(name):
                continue
            if not is_part(name):
                logger.warning("%s is no name of a part: deleted", name)
                run.store.delete(name)
            elif unit_of(name) >= known:
                logger.warning("%s is beyond the end of its source: deleted", name)
                run.store.delete(name)
    run.refresh()


def sound_parts(
    run: RunDirectory, parts: Mapping[str, Sequence[Part]]
) -> dict[str, list[Part]]:
    """Parts that are, with their quarantine, as they were written, and as they should be.

    The cluster reads them whole. Others are named in a warning.

    Args:
        run: The run directory.
        parts: Of this configuration, by slide.
    """
    every = [part for of_slide in parts.values() for part in of_slide]
    quarantine = {p.name: run.quarantine_part(p.slide, p.unit) for p in every}
    bad = [quarantine[part.name] for part in every if part.quarantined]
    names = [*(part.name for part in every), *bad]
    states = read_files(run.store, names, what="check", unit="parts")
    sound: dict[str, list[Part]] = defaultdict(list)
    for part in every:
        place = {
            schema.FOOTER_SLIDE: part.slide,
            schema.FOOTER_UNIT: str(part.unit),
        }
        whys = {part.name: mismatch(states.get(part.name), place)}
        if part.quarantined:
            name = quarantine[part.name]
            same = {key: part.footer.get(key) for key in _OF_QUARANTINE}
            whys[name] = mismatch(states.get(name), same, part.quarantined)
        wrong = {name: why for name, why in whys.items() if why is not None}
        for name, why in wrong.items():
            logger.warning("%s/%s is done again: %s", run.uri, name, why)
        if not wrong:
            sound[part.slide].append(part)
    return sound


def broken_grids(run: RunDirectory, sources: Mapping[str, Source]) -> set[str]:
    """Whole slides whose grid is broken, wrong or gone; it is deleted, to be made again.

    So it is where the picture is that is made with it.

    Args:
        run: The run directory.
        sources: The slides as planned.
    """
    if not sources:
        return set()
    names = [
        name(slide) for slide in sources for name in (run.grid_part, run.thumbnail)
    ]
    states = read_files(run.store, names, what="check", unit="files of grids")
    broken = set()
    for slide, source in sources.items():
        name = run.grid_part(slide)
        why = _grid_complaint(
            states.get(name), states.get(run.thumbnail(slide)), source
        )
        if why is not None:
            logger.warning("%s/%s: %s: looked at again", run.uri, name, why)
            run.store.delete(name)
            broken.add(slide)
    return broken


def _grid_complaint(
    grid: FileState | None, thumbnail: FileState | None, source: Source
) -> str | None:
    """What is wrong with a slide's grid or its picture, None where nothing is."""
    why = mismatch(grid, {schema.FOOTER_SLIDE: source.slide})
    if grid is None or why is not None:
        return why
    made_with = parse_json(grid.about.get(schema.FOOTER_GRID, "{}")) or {}
    if made_with.get("stat") != asdict(source.stat):
        return "it was made of another slide, or of this one before it changed"
    digest = grid.about.get(schema.FOOTER_THUMBNAIL)
    if thumbnail is None or thumbnail.digest != digest:
        return "its picture is not the one that was made with it"
    return None


def read_files(
    store: Store,
    names: Sequence[str],
    *,
    what: str,
    unit: str,
    proof: str = RUN_JSON,
) -> dict[str, FileState]:
    """Files of a run as they are; those that are not there are left out.

    Args:
        store: The run directory.
        names: The files.
        what: Begins the line that shows progress.
        unit: What the files are called in it.
        proof: A file of the run, by which a node shows that it sees the run.

    Raises:
        VisibilityError: A node does not see the run directory.
        StorageError: A file cannot be read, after retries.
    """
    store = Store(store.uri, writer=store.writer)
    of_pages = {name for name in names if name.startswith(f"{EXPLORER}/")}
    batches = [
        some[i : i + size]
        for some, size in (
            ([name for name in names if name not in of_pages], _FILES_TOGETHER),
            (sorted(of_pages), _PICTURES_TOGETHER),
        )
        for i in range(0, len(some), size)
    ]
    states: dict[str, FileState] = {}
    with Progress(what, len(names), unit=unit) as progress:
        arguments = [(store, proof, batch) for batch in batches]
        for batch, found in zip(batches, spread(read_here, arguments), strict=True):
            progress.add(len(batch))
            states |= {state.name: state for state in found}
    return states


def read_here(store: Store, proof: str, names: Sequence[str]) -> list[FileState]:
    """Read some files; the run must be where this node sees it: a task's work."""
    check_seen(store, proof)
    return read_states(store, names)


def check_seen(store: Store, proof: str) -> None:
    """Refuse to read a folder that this node does not see; nothing is written there.

    Args:
        store: The folder.
        proof: A file that is in it.

    Raises:
        VisibilityError: It is not.
    """
    if not store.exists(proof):
        message = (
            f"node {platform.node()} does not see {store.uri}: use a path that all "
            "nodes share, or a URI such as s3://bucket/folder"
        )
        raise VisibilityError(message)
