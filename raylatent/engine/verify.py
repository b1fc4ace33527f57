"""`raylatent verify`: the files of a run are read by the cluster; nothing is written."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from raylatent.claim import CLAIM, new_token, worker_of
from raylatent.config import VerifyConfig
from raylatent.engine.cluster import spread
from raylatent.engine.done import read_files
from raylatent.engine.plan import read_plan
from raylatent.engine.unit_actor import source_footer
from raylatent.engine.visibility import refuse_temporary_copy
from raylatent.errors import (
    BrokenPartError,
    RunError,
    StorageError,
    VersionError,
)
from raylatent.parts import read_part, slide_of
from raylatent.run import (
    ACTIVATIONS,
    FINISHED,
    REPORT,
    RUN_JSON,
    SOURCES,
    TILES,
    ExtractionDirectory,
    RunDirectory,
)
from raylatent.run.directory import TEMPORARY, temporary_files
from raylatent.run.layout import FOLDERS, MANIFESTS, is_ours, manifest_of
from raylatent.run.settings import CLEARING, parse_settings
from raylatent.source.kinds import kind_of, look_again, moved_sources
from raylatent.source.protocol import Source
from raylatent.storage import FileStat, Store
from raylatent.stored.manifest import read_manifest, told_digests
from raylatent.stored.verification import (
    BROKEN,
    FOREIGN,
    INCOMPLETE,
    MISSING,
    FileState,
    Finding,
    Planned,
    Verification,
)

UNCHANGED, CHANGED, GONE = "as they were", "changed", "gone"
UNSEEN = "not looked at, since their storage does not answer"
_TOGETHER = 32  # sources that a task looks at
_NAMED = 20  # broken records of one source that are named
_RECORDS = "records"


def verify_run(config: VerifyConfig) -> Verification:
    """Check every byte that a run's verbs left, and that all tiles are there, each once.

    Args:
        config: Which run, and where its sources are now.

    Raises:
        RunError: There is no run, or another version of raylatent made it.
        SourceError: `source_root` is not there.
        StorageError: A file cannot be read, after retries: nothing is said of it.
    """
    refuse_temporary_copy("RUN", [config.directory])
    store = Store(config.directory)
    worker = worker_of(store)
    found = Verification(run=store.uri)
    settings = _settings(store, found)
    there = [name for folder in FOLDERS for name in store.list(folder)]
    names = {name for name in there if is_ours(name)}
    proof = RUN_JSON if store.exists(RUN_JSON) else min(names, default=None)
    if proof is None:
        message = f"{store.uri} is no run directory: it has no {RUN_JSON}"
        raise RunError(message)
    found.verb = _verb(settings, names)
    _read_manifests(store, found)
    sources = _sources(store, found)
    where = _places(sources, config.source_root)
    found.states = _read(
        store, proof, names | {*found.listed, RUN_JSON, SOURCES, REPORT}
    )
    found.compare()
    for name in there:
        if name not in names and "/." not in name:  # what is hidden nobody reads
            found.add(FOREIGN, name, "it is none of ours")
        elif name in names and name not in found.states:
            found.add(MISSING, name, "it is a link to nothing, or was deleted just now")
    _check_sources(store, found, sources, where, records=bool(config.source_root))
    _note_failed(found)
    _note_claim(store, found, worker or worker_of(store))
    return found


def _settings(store: Store, found: Verification) -> Mapping[str, Any]:
    """The fields of run.json; none where it cannot be read."""
    if not store.exists(RUN_JSON):
        found.add(MISSING, RUN_JSON, "the run has none")
        return {}
    try:
        settings = parse_settings(store.read(RUN_JSON), store.uri)
    except VersionError:
        raise
    except RunError as error:
        says = str(error).removeprefix(f"{store.uri}/{RUN_JSON} ")
        found.add(BROKEN, RUN_JSON, says)
        return {}
    if CLEARING in settings:
        says = "its driver stopped while it overwrote another run: run again"
        found.add(INCOMPLETE, RUN_JSON, says)
    return dict(settings.get("fields", {}))


def _verb(settings: Mapping[str, Any], names: Iterable[str]) -> str:
    """What made the run, by run.json; where that cannot be read, by what is there."""
    extraction = ExtractionDirectory.verb
    own = (manifest_of(extraction), f"{TILES}/", f"{FINISHED}/")
    if settings:
        extracts = settings.get("job") == extraction
    else:
        extracts = any(name.startswith(own) for name in names)
    return extraction if extracts else RunDirectory.verb


def _read_manifests(store: Store, found: Verification) -> None:
    for name in store.list(MANIFESTS):
        try:
            found.add_manifest(name, read_manifest(store, name))
        except BrokenPartError as error:
            found.add(BROKEN, name, error.why)


def _sources(store: Store, found: Verification) -> list[Source]:
    """The sources of the plan, of which the run is told; none where it cannot be read."""
    if not store.exists(SOURCES):
        return []
    try:
        sources = read_plan(store, SOURCES)
    except BrokenPartError as error:
        found.add(BROKEN, SOURCES, error.why)
        return []
    found.plan = {
        source.slide: Planned(
            n_indexed=source.n_indexed,
            source=source_footer(source),
            has_grid=kind_of(source).has_grid and source.n_indexed > 0,
        )
        for source in sources
    }
    return sources


def _read(store: Store, proof: str, names: set[str]) -> dict[str, FileState]:
    """Files of a run, and those elsewhere that they tell of, as they are."""
    read = partial(read_files, store, what="verify", unit="files", proof=proof)
    states = read(sorted(names))
    told = (told_digests(state.name, state.about) for state in states.values())
    elsewhere = {path for paths in told for path in paths} - names
    return states | read(sorted(elsewhere)) if elsewhere else states


@dataclass(frozen=True, kw_only=True)
class SourceCheck:
    """A source to look at.

    Attributes:
        source: As planned.
        uri: Where it is now, None where it is not below `source_root`.
        parts: Sound parts of rows, whose records are checked.
    """

    source: Source
    uri: str | None
    parts: tuple[str, ...] = ()


def _places(sources: Sequence[Source], root: str) -> dict[str, str]:
    """Where sources are by slide: as planned, or below a folder that they were moved to.

    Raises:
        SourceError: The folder is not there, or has two files of one slide.
    """
    if not root:
        return {source.slide: source.uri for source in sources}
    return moved_sources([root], sources)


def _check_sources(
    store: Store,
    found: Verification,
    sources: Sequence[Source],
    where: Mapping[str, str],
    *,
    records: bool,
) -> None:
    """Say what became of the sources, and check their records if that is asked for."""
    parts: dict[str, list[str]] = {}
    for state in found.sound_below(ACTIVATIONS) if records else ():
        parts.setdefault(str(slide_of(state.name)), []).append(state.name)
    checks = [
        SourceCheck(
            source=source,
            uri=where.get(source.slide),
            parts=tuple(parts.get(source.slide, ()) if kind_of(source).frame else ()),
        )
        for source in sources
    ]
    batches = [checks[i : i + _TOGETHER] for i in range(0, len(checks), _TOGETHER)]
    token = new_token()
    work = [(store, batch, token) for batch in batches]
    for states, findings in spread(check_sources, work):
        found.counts["records"] += states.pop(_RECORDS, 0)
        found.sources += states
        found.findings += findings


def check_sources(
    store: Store, checks: Sequence[SourceCheck], token: str
) -> tuple[Counter[str], list[Finding]]:
    """Look whether sources are as they were planned, and at their records: a task's work.

    Args:
        store: The run directory.
        checks: The sources.
        token: Of the verification: what was seen in another one is forgotten.

    Returns:
        How many are as they were, changed, gone, not looked at, and how many records
        were read; and what is wrong with these.

    Raises:
        StorageError: Records cannot be read, after retries.
    """
    look_again(token)
    counts: Counter[str] = Counter()
    findings: list[Finding] = []
    state = ""
    for check in checks:
        if check.source.stat.is_known:
            # Trying again takes a minute: not for each of ten thousand.
            state = UNSEEN if state == UNSEEN else _state(check)
            counts[state] += 1
        if check.uri is None and check.source.n_indexed:
            where = f"the source of slide {check.source.slide!r}"
            findings.append(Finding(MISSING, where, "it is not below --source-root"))
        elif check.uri is not None and check.parts:
            n_records, wrong = _check_records(store, check, check.uri)
            counts[_RECORDS] += n_records
            findings += wrong
    return counts, findings


def _state(check: SourceCheck) -> str:
    """What became of a source."""
    if check.uri is None:
        return GONE
    now = replace(check.source, uri=check.uri)
    try:
        stat: FileStat = kind_of(now).stat(now)
    except StorageError as error:
        return GONE if _answers(error) else UNSEEN
    return UNCHANGED if stat == check.source.stat else CHANGED


def _answers(error: StorageError) -> bool:
    """Whether storage answered, but not with what was asked for."""
    absent = (FileNotFoundError, NotADirectoryError)
    return error.__cause__ is None or isinstance(error.__cause__, absent)


def _check_records(
    store: Store, check: SourceCheck, uri: str
) -> tuple[int, list[Finding]]:
    """Check the frame of each record that rows refer to; how many, and what is wrong."""
    kind, n_records = kind_of(check.source), 0
    broken: list[str] = []
    for name in check.parts:
        table = read_part(store, name, kind.frame)
        frames = table.filter(table[kind.frame[0]].is_valid())
        try:
            broken += kind.broken(uri, frames)
        except StorageError as error:
            if not _answers(error):
                raise
            broken.append(str(error))  # it ends too early
            break
        n_records += len(frames)
    if len(broken) > _NAMED:
        broken[_NAMED:] = [f"{len(broken) - _NAMED} more records are broken"]
    return n_records, [Finding(BROKEN, uri, says) for says in broken]


def _note_failed(found: Verification) -> None:
    """Say which slides failed: what is there of them is sound, and it is not all."""
    report = found.states.get(REPORT)
    failed = None if report is None else report.about.get("failed")
    if isinstance(failed, dict) and failed:
        found.notes.append(
            f"{len(failed)} slides failed when the run ended, as {next(iter(failed))!r}: "
            "report.json says why, and the same command tries them again"
        )


def _note_claim(
    store: Store, found: Verification, worker: tuple[str, str] | None
) -> None:
    """Say who works on the run, and what drivers that are gone left.

    What a driver has not done yet is no finding while it is at it.
    """
    token = None
    if worker is not None:
        token, found.worked_on_by = worker
        kept = [one for one in found.findings if _stays(found, one)]
        n_left = len(found.findings) - len(kept)
        found.findings = kept
        found.notes = [
            f"the run is being worked on by {found.worked_on_by}: parts may come and "
            f"go, so what is lacking is not counted ({n_left} such things): verify it "
            "again when that driver has ended"
        ]
    elif store.exists(CLAIM):
        found.notes.append(
            f"{CLAIM} was left by a driver that is gone: run the same command again"
        )
    beside = (name.partition("/")[0] for name in found.states if "/" in name)
    for name in temporary_files(store, {*FOLDERS, *beside}):
        writer = TEMPORARY.fullmatch(name.rsplit("/", 1)[-1])
        if writer is None or writer["token"] is None or writer["token"] != token:
            found.notes.append(
                f"{name} was left by a writer that is gone, or is still being written"
            )


def _stays(found: Verification, one: Finding) -> bool:
    """Whether a finding holds, whatever a driver does: of the file's own bytes alone."""
    state = found.states.get(one.name)
    return one.kind == FOREIGN or (
        one.kind == BROKEN and (state is None or state.why is not None)
    )
