"""What is to be done: sources indexed by the cluster, units that lack a valid part."""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import ray

from raylatent import schema
from raylatent.engine.cluster import READ_CPUS, gather
from raylatent.engine.items import source_footer
from raylatent.errors import BrokenPartError, StorageError
from raylatent.parts import read_footer, read_part, slide_of
from raylatent.run import (
    ACTIVATIONS,
    QUARANTINE,
    REMOVED,
    SOURCES,
    Part,
    RunDirectory,
)
from raylatent.source.sources import (
    number_sources,
    sources_from_table,
    sources_table,
)
from raylatent.source.units import Source, UnitPlan, index_source, unit_plans
from raylatent.storage import file_stat

logger = logging.getLogger(__name__)

_REMOVED_SOURCES = f"{REMOVED}/{SOURCES}"
_INDEX_BATCH = 16


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The work of one invocation.

    Attributes:
        sources: All slides of the run.
        units: Units without a valid part, in order of slide and tile.
        n_done: Tiles whose unit has one.
        removed: Slides that the run had and this invocation does not name.
    """

    sources: list[Source]
    units: list[UnitPlan]
    n_done: int
    removed: list[str]

    @property
    def n_indexed(self) -> int:
        """Tiles of the whole run."""
        return sum(source.n_indexed for source in self.sources)


def make_plan(
    run: RunDirectory, files: Mapping[str, str], tile_px: int, unit_tiles: int
) -> Plan:
    """Index the files, put sources.parquet in place, and find what is to be done.

    Slides that the run had and `files` lacks are set aside in `removed/`, and come
    back from there when they are named again. Parts of a source that has changed are
    done again; those beyond its end are deleted.
    """
    before = _known(run, SOURCES)
    away = _known(run, _REMOVED_SOURCES)
    fingerprint = str(run.settings()["fingerprint"])
    parts = _valid_parts(run, set(files), fingerprint)
    kept = {
        slide: source
        for slide, source in before.items()
        if slide in files and _is_done(source, files[slide], parts[slide], unit_tiles)
    }
    unknown = {slide: uri for slide, uri in files.items() if slide not in kept}
    found = _index(unknown, tile_px, unit_tiles)
    plans: dict[str, list[UnitPlan]] = {}
    sources: list[Source] = []
    for slide, uri in files.items():
        if slide in kept:
            sources.append(replace(kept[slide], uri=uri))
            continue
        source, units = found[slide]
        old = before.get(slide) or away.get(slide)
        if _is_lost(source) and old is not None:
            source = replace(old, error=source.error)  # its rows stay
        sources.append(source)
        plans[slide] = units
    ids = {slide: source.source for slide, source in {**away, **before}.items()}
    sources = number_sources(sources, ids)
    removed = _move(run, before, away, sources)
    parts = _valid_parts(run, set(files), fingerprint) if away else parts
    todo: list[UnitPlan] = []
    for source in sources:
        units = [replace(u, source=source) for u in plans.get(source.slide, [])]
        valid = {p.unit: p for p in _same_source(source, parts[source.slide])}
        todo += [u for u in units if not _matches(u, valid.get(u.unit))]
    _delete_beyond(run, sources, unit_tiles)
    n_todo = sum(unit.count for unit in todo)
    n_all = sum(source.n_indexed for source in sources)
    return Plan(sources=sources, units=todo, n_done=n_all - n_todo, removed=removed)


def _is_lost(source: Source) -> bool:
    """Whether nothing of the file can be read now; that may pass."""
    return source.error is not None and not source.n_indexed


def _known(run: RunDirectory, name: str) -> dict[str, Source]:
    """Slides that an earlier plan has; none where it is broken, for a new one."""
    if not run.store.exists(name):
        return {}
    try:
        table = read_part(run.store, name).cast(schema.SOURCES)
    except (BrokenPartError, ValueError) as error:
        logger.warning("%s is broken and is made anew: %s", name, error)
        return {}
    return {source.slide: source for source in sources_from_table(table)}


def _valid_parts(
    run: RunDirectory, slides: set[str], fingerprint: str
) -> dict[str, list[Part]]:
    """Parts of this configuration whose quarantine rows are all there, by slide."""
    parts: dict[str, list[Part]] = defaultdict(list)
    run.refresh()
    for part in run.footers(slides):
        if part.footer.get(schema.FOOTER_FINGERPRINT) == fingerprint and (
            not part.quarantined or n_quarantine_rows(run, part) == part.quarantined
        ):
            parts[part.slide].append(part)
    return parts


def n_quarantine_rows(run: RunDirectory, part: Part) -> int | None:
    """Rows of a part's quarantine, None where it cannot be read."""
    try:
        return read_footer(run.store, run.quarantine_part(part.slide, part.unit))[0]
    except (StorageError, OSError, pa.ArrowException):
        return None


def _is_done(source: Source, uri: str, parts: Sequence[Part], unit_tiles: int) -> bool:
    """Whether a source has not changed and has all its rows: no need to index it."""
    if source.error is not None or not source.n_indexed:
        return False
    try:
        if file_stat(uri) != source.stat:
            return False
    except StorageError:
        return False
    done = sum(p.rows + p.quarantined for p in _same_source(source, parts))
    n_units = -(-source.n_indexed // unit_tiles)
    return done == source.n_indexed and len(parts) == n_units


def _same_source(source: Source, parts: Sequence[Part]) -> list[Part]:
    footer = source_footer(source)
    return [p for p in parts if p.footer.get(schema.FOOTER_SOURCE) == footer]


def _matches(unit: UnitPlan, part: Part | None) -> bool:
    """Whether the part holds just this unit, none of its tiles missing."""
    return (
        part is not None
        and part.footer.get(schema.FOOTER_FIRST) == str(unit.first)
        and part.footer.get(schema.FOOTER_LAST) == str(unit.last)
        and part.rows + part.quarantined == unit.count
    )


def _delete_beyond(
    run: RunDirectory, sources: Sequence[Source], unit_tiles: int
) -> None:
    """Delete parts of units that the source, now shorter, no longer has.

    By their names: they may be broken, or a quarantine without its part.
    """
    n_units = {
        s.slide: -(-s.n_indexed // unit_tiles) for s in sources if not _is_lost(s)
    }
    for stage in (ACTIVATIONS, QUARANTINE):
        for name in run.store.list(stage):
            stem = name.rsplit("/", 1)[-1].removesuffix(".parquet")
            known = n_units.get(slide_of(name) or "")
            if known is not None and stem.isdigit() and int(stem) >= known:
                logger.warning("%s is beyond the end of its source: deleted", name)
                run.store.delete(name)
    run.refresh()


def _move(
    run: RunDirectory,
    before: Mapping[str, Source],
    away: Mapping[str, Source],
    sources: list[Source],
) -> list[str]:
    """Set aside what is not named any more, bring back what is named again.

    Killed in between, the next invocation does the rest: each step may be repeated.
    """
    named = {source.slide for source in sources}
    removed = sorted(set(before) - named)
    returning = sorted(set(away) & named)
    all_away = {**away, **{slide: before[slide] for slide in removed}}
    if removed:
        table = sources_table([all_away[slide] for slide in sorted(all_away)])
        run.write_sources(table, name=_REMOVED_SOURCES)
        run.set_aside(removed)
    if returning:
        run.set_aside(returning, back=True)
    run.write_sources(sources_table(sources))
    if returning:
        still = [all_away[slide] for slide in sorted(all_away) if slide not in named]
        if still:
            run.write_sources(sources_table(still), name=_REMOVED_SOURCES)
        else:
            run.store.delete_folder(REMOVED)
    return removed


def index_files(
    files: Sequence[tuple[str, str]], tile_px: int, unit_tiles: int
) -> list[tuple[Source, list[UnitPlan]]]:
    """Sources and units of (slide, file) pairs: what each task of the plan does."""
    found = []
    for slide, uri in files:
        source, index = index_source(slide, uri, tile_px)
        found.append((source, unit_plans(source, index, unit_tiles)))
    return found


def _index(
    files: Mapping[str, str], tile_px: int, unit_tiles: int
) -> dict[str, tuple[Source, list[UnitPlan]]]:
    """Sources and units of files, indexed by the cluster. Ids are not yet given."""
    items = list(files.items())
    batches = [items[i : i + _INDEX_BATCH] for i in range(0, len(items), _INDEX_BATCH)]
    remote = ray.remote(num_cpus=READ_CPUS)(index_files)
    pending = [remote.remote(batch, tile_px, unit_tiles) for batch in batches]
    found: dict[str, tuple[Source, list[UnitPlan]]] = {}
    for answer in gather(pending):
        for source, units in answer:
            found[source.slide] = (source, units)
    return found
