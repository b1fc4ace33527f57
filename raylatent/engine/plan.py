"""What is to be done: sources indexed by the cluster, units that lack a valid part."""

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa
import ray

from raylatent import schema
from raylatent.engine.cluster import FEW_CALLS, gather, spread
from raylatent.engine.done import (
    Inputs,
    broken_grids,
    delete_beyond,
    delete_needless,
    ids_of_parts,
    is_done,
    matches,
    same_source,
    set_strays_aside,
    sound_parts,
    valid_parts,
)
from raylatent.engine.progress import Progress
from raylatent.errors import BrokenPartError, IncompleteError, SourceError
from raylatent.parts import check_part, partition_folder
from raylatent.run import (
    GRIDS,
    REMOVED,
    SOURCES,
    THUMBNAILS,
    Part,
    RunDirectory,
)
from raylatent.source.kinds import KINDS, kind_of
from raylatent.source.protocol import (
    Request,
    Source,
    UnitPlan,
    number_sources,
    sources_from_table,
    sources_table,
)
from raylatent.storage import Store, reason

logger = logging.getLogger(__name__)

_REMOVED_SOURCES = f"{REMOVED}/{SOURCES}"
_INDEX_BATCH = 16
_NAMED = 5  # slides with an error, where none has a tile


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The work of one invocation.

    Attributes:
        sources: All slides of the run.
        units: Units without a valid part, in order of slide and tile.
        n_done: Tiles whose unit has one.
        removed: Slides that the run had and this invocation does not name.
        nodes: Where a whole slide was looked at, and may have been copied to.
        kept: Parts that are valid, of all units but those.
    """

    sources: list[Source]
    units: list[UnitPlan]
    n_done: int
    removed: list[str]
    nodes: Mapping[str, str] = field(default_factory=dict)
    kept: Sequence[Part] = ()

    @property
    def n_indexed(self) -> int:
        """Tiles of the whole run."""
        return sum(source.n_indexed for source in self.sources)


def make_plan(
    run: RunDirectory, inputs: Inputs, check_cluster: Callable[[], object]
) -> Plan:
    """Index the sources, put sources.parquet in place, and find what is to be done.

    Slides that the run had and `inputs` lack are set aside in `removed/`, and come
    back from there when they are named again. Parts of a source that has changed are
    done again; those beyond its end are deleted.

    Args:
        run: The run directory.
        inputs: What is named.
        check_cluster: Called before files are changed, where there is work for it.
    """
    before = _known(run, SOURCES)
    away = _known(run, _REMOVED_SOURCES)
    uris = inputs.uris
    parts = _parts(run, set(uris), inputs)
    kept = {**_kept(run, before, inputs, parts), **inputs.finished}
    lacking = [slide for slide in uris if slide not in kept]
    many = len(lacking) > FEW_CALLS * _INDEX_BATCH
    if many or any(slide in inputs.with_grid for slide in lacking):
        check_cluster()
        run.unlist()
    _bring_grids_back(run, set(away) & set(uris))
    nodes: dict[str, str] = {}
    found = _index(run, inputs, lacking, nodes)
    known = [replace(kept[s], uri=uri) for s, uri in uris.items() if s in kept]
    sources, plans = _with_found(known, found, {**away, **before})
    ids = {slide: source.source for slide, source in {**away, **before}.items()}
    if not before:
        ids = ids_of_parts(run, list(uris), ids)
    sources = number_sources(sources, ids)
    todo, valid = _to_do(sources, plans, parts)
    if todo:
        check_cluster()
    run.unlist()
    removed = _move(run, before, away, sources)
    if returning := set(away) & set(uris):  # what they have is known once it is back
        parts |= _parts(run, returning, inputs)
        todo, valid = _to_do(sources, plans, parts)
    lost = {source.slide for source in sources if _is_lost(source)}
    n_units = {slide: len(units) for slide, units in plans.items() if slide not in lost}
    n_units |= {s: len(same_source(kept[s], parts[s])) for s in kept}
    n_units = {s: n for s, n in n_units.items() if s not in inputs.finished}
    delete_beyond(run, n_units)
    delete_needless(run, parts)
    n_done = sum(source.n_indexed for source in sources) - sum(u.count for u in todo)
    return Plan(
        sources=sources,
        units=todo,
        n_done=n_done,
        removed=removed,
        nodes=nodes,
        kept=valid,
    )


def _with_found(
    known: Sequence[Source],
    found: Mapping[str, tuple[Source, Sequence[UnitPlan]]],
    before: Mapping[str, Source],
) -> tuple[list[Source], dict[str, Sequence[UnitPlan]]]:
    """Known sources and those that were found, in order of slide; units of these.

    What is lost, and was there before, stays as it was, with its rows.
    """
    sources = list(known)
    plans: dict[str, Sequence[UnitPlan]] = {}
    for slide, (source, units) in found.items():
        old = before.get(slide)
        if _is_lost(source) and old is not None:
            sources.append(replace(old, error=source.error))
        else:
            sources.append(source)
            plans[slide] = units
    sources.sort(key=lambda source: source.slide)
    return sources, plans


def _to_do(
    sources: Sequence[Source],
    plans: Mapping[str, Sequence[UnitPlan]],
    parts: Mapping[str, Sequence[Part]],
) -> tuple[list[UnitPlan], list[Part]]:
    """Units without a valid part, in order of slide and tile; the parts of the others."""
    todo: list[UnitPlan] = []
    kept: list[Part] = []
    for source in sources:
        units = [replace(u, source=source) for u in plans.get(source.slide, [])]
        valid = {p.unit: p for p in same_source(source, parts[source.slide])}
        lacking = [u for u in units if not matches(u, valid.get(u.unit))]
        redone = {unit.unit for unit in lacking}
        kept += [part for unit, part in valid.items() if unit not in redone]
        todo += lacking
    return todo, kept


def _parts(
    run: RunDirectory, slides: set[str], inputs: Inputs
) -> defaultdict[str, list[Part]]:
    """Parts that need not be done again unless their source has changed."""
    if not slides:
        return defaultdict(list)
    parts = valid_parts(run, slides, str(run.settings()["fingerprint"]))
    return defaultdict(list, sound_parts(run, parts) if inputs.recheck else parts)


def _kept(
    run: RunDirectory,
    before: Mapping[str, Source],
    inputs: Inputs,
    parts: Mapping[str, Sequence[Part]],
) -> dict[str, Source]:
    """Sources that need not be indexed: nothing of them has changed or is lacking."""
    kept = {
        slide: source
        for slide, source in before.items()
        if slide in inputs.uris and is_done(run, source, inputs, parts[slide])
    }
    if not inputs.recheck:
        return kept
    broken = broken_grids(run, {s: kept[s] for s in kept if s in inputs.with_grid})
    return {slide: source for slide, source in kept.items() if slide not in broken}


def refuse_nothing(plan: Plan) -> None:
    """A run without a single tile has failed.

    Raises:
        IncompleteError: The message says what is wrong with the first slides.
    """
    if plan.n_indexed:
        return
    problems = [source.error for source in plan.sources if source.error is not None]
    more = len(problems) - _NAMED
    reason = "; ".join(problems[:_NAMED]) or "no slide has any"
    reason += f"; and {more} more slides, see sources.parquet" if more > 0 else ""
    message = f"there is no tile to work on: {reason}"
    raise IncompleteError(message)


def _bring_grids_back(run: RunDirectory, returning: set[str]) -> None:
    """Of slides that come back it need not be found out again what is left out."""
    run.set_aside(sorted(returning), back=True, stages=(THUMBNAILS, GRIDS))


def _is_lost(source: Source) -> bool:
    """Whether nothing of the file can be read now; that may pass."""
    return source.error is not None and not source.n_indexed


def _known(run: RunDirectory, name: str) -> dict[str, Source]:
    """Slides that an earlier plan has; none where it is broken, for a new one."""
    if not run.store.exists(name):
        return {}
    try:
        sources = read_plan(run.store, name)
    except BrokenPartError as error:
        logger.warning("%s is broken and is made anew: %s", name, error)
        return {}
    return {source.slide: source for source in sources}


def read_plan(store: Store, name: str) -> list[Source]:
    """The sources of a plan.

    Args:
        store: The run directory.
        name: Of the plan.

    Raises:
        BrokenPartError: It is not as it was written, or names what is no slide.
        StorageError: It is not there, or cannot be read.
    """
    table = check_part(store, name, schema.SOURCES.names).table
    try:
        sources = sources_from_table(table.cast(schema.SOURCES))
        for source in sources:
            partition_folder(source.slide)
    except (pa.ArrowException, SourceError, ValueError) as error:
        why = reason(error)
        message = f"{store.uri}/{name} is broken: {why}"
        raise BrokenPartError(message, why) from error
    return sources


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
    files = {
        s.slide
        for s in sources
        if s.kind in KINDS and not KINDS[s.kind].has_grid and s.error is None
    }
    set_strays_aside(run, {*named, *before}, files)
    run.write_sources(sources_table(sources))
    if returning:
        still = [all_away[slide] for slide in sorted(all_away) if slide not in named]
        if still:
            run.write_sources(sources_table(still), name=_REMOVED_SOURCES)
        else:
            run.store.delete_folder(REMOVED)
    return removed


def index_sources(
    run: RunDirectory, requests: Sequence[tuple[str, Request]], unit_tiles: int
) -> list[tuple[Source, list[UnitPlan]]]:
    """Sources and units of some slides: what each task of the plan does."""
    return [
        kind_of(request).index(run, slide, request, unit_tiles)
        for slide, request in requests
    ]


def _index(
    run: RunDirectory, inputs: Inputs, slides: Sequence[str], nodes: dict[str, str]
) -> dict[str, tuple[Source, Sequence[UnitPlan]]]:
    """Sources and units of slides, indexed by the cluster. Ids are not yet given.

    Where slides with a grid were looked at is added to `nodes`.
    """
    run = type(run)(run.uri, writer=run.store.writer)  # without what it has listed
    requests = [(slide, inputs.requests[slide]) for slide in slides]
    files = [(s, r) for s, r in requests if s not in inputs.with_grid]
    batches = [
        (run, files[i : i + _INDEX_BATCH], inputs.unit_tiles)
        for i in range(0, len(files), _INDEX_BATCH)
    ]
    of_slide = ray.remote(num_cpus=1)(_index_here)
    with_grid = [
        of_slide.remote(run, [one], inputs.unit_tiles)
        for one in requests
        if one[0] in inputs.with_grid
    ]
    found: dict[str, tuple[Source, Sequence[UnitPlan]]] = {}
    for answer in spread(index_sources, batches, inputs.stall_timeout_s):
        for source, units in answer:
            found[source.slide] = (source, units)
    if with_grid:
        with Progress("tissue", len(with_grid), unit="slides") as progress:
            for ((source, units),), node in gather(with_grid, inputs.stall_timeout_s):
                found[source.slide] = (source, units)
                nodes[source.slide] = node
                progress.add(1)
    return found


def _index_here(
    run: RunDirectory, requests: Sequence[tuple[str, Request]], unit_tiles: int
) -> tuple[list[tuple[Source, list[UnitPlan]]], str]:
    """See `index_sources`, and the node that this runs on."""
    found = index_sources(run, requests, unit_tiles)
    return found, str(ray.get_runtime_context().get_node_id())
