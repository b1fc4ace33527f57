"""`raylatent verify`: the files of a run are read by the cluster; nothing is written."""

import platform
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from raylatent import schema
from raylatent.claim import CLAIM, worker_of
from raylatent.config import VerifyConfig
from raylatent.engine.cluster import spread
from raylatent.engine.connection import connect
from raylatent.engine.items import source_footer
from raylatent.engine.plan import read_plan
from raylatent.engine.progress import Progress
from raylatent.engine.visibility import refuse_temporary_copy
from raylatent.errors import (
    BrokenPartError,
    ContentError,
    RunError,
    StorageError,
    VersionError,
    VisibilityError,
)
from raylatent.montage.sources import SLIDE_FILES, TFRECORD_FILES
from raylatent.parts import read_part, slide_of
from raylatent.run import (
    ACTIVATIONS,
    REPORT,
    RUN_JSON,
    SOURCES,
    ExtractionDirectory,
    RunDirectory,
)
from raylatent.run.layout import FOLDERS, MANIFESTS, manifest_of
from raylatent.run.litter import ASIDE, asides
from raylatent.run.manifest import Files, is_ours, read_manifest, told_digests
from raylatent.run.settings import CLEARING, parse_settings
from raylatent.run.verification import (
    BROKEN,
    FOREIGN,
    INCOMPLETE,
    MISSING,
    FileState,
    Finding,
    Planned,
    Verification,
    read_states,
)
from raylatent.source.slides import slide_stat
from raylatent.source.tfrecord import iter_records
from raylatent.source.units import Source
from raylatent.storage import FileStat, Store, file_stat

UNCHANGED, CHANGED, GONE = "as they were", "changed", "gone"
_TOGETHER = 32  # files that a task reads, sources that it looks at
_NAMED = 20  # broken records of one source that are named
_WHILE_WORKED_ON = frozenset({BROKEN, FOREIGN})


@dataclass(kw_only=True)
class VerifyReport:
    """What a verification found.

    Attributes:
        run: The run directory.
        worked_on_by: The driver that works on it, None where none does.
        findings: What is wrong.
        notes: What is worth knowing, and is not wrong.
        counts: `slides`, `parts`, `rows`, `quarantined`, `bytes`, `missing`,
            `records`.
        points: By map.
        mosaics: Names.
        sources: How many are as they were, changed, gone.
    """

    run: str
    worked_on_by: str | None = None
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    points: dict[str, int] = field(default_factory=dict)
    mosaics: list[str] = field(default_factory=list)
    sources: Counter[str] = field(default_factory=Counter)


def verify_run(config: VerifyConfig) -> VerifyReport:
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
    findings: dict[str, Finding] = {}
    settings = _settings(store, findings)
    found = [name for folder in FOLDERS for name in store.list(folder)]
    names = [name for name in found if is_ours(name)]
    listed, manifests = _manifests(store, findings)
    proof = RUN_JSON if store.exists(RUN_JSON) else next(iter(names), None)
    if proof is None:
        message = f"{store.uri} is no run directory: it has no {RUN_JSON}"
        raise RunError(message)
    sources = _sources(store, findings)
    connect()
    states = _read(store, proof, {*names, *listed, RUN_JSON, SOURCES, REPORT})
    run = _directory(store.uri, settings, manifests)
    checked = Verification(
        verb=run.verb,
        fingerprint=settings.get("fingerprint"),
        states=states,
        listed=listed,
        manifests=manifests,
        plan=_planned(sources),
        findings=findings,
    )
    checked.compare()
    for name in found:
        if not is_ours(name):
            checked.add(FOREIGN, name, "it is none of ours")
    report = VerifyReport(
        run=store.uri,
        findings=list(checked.findings.values()),
        notes=checked.notes,
        counts=checked.counts,
        points=checked.points,
        mosaics=checked.mosaics,
    )
    report.counts["slides"] = len(sources or ())
    _check_sources(store, report, sources or (), checked, config.source_root)
    _note_failed(report, states)
    _note_claim(run, report, worker or worker_of(store))
    return report


def _planned(sources: Sequence[Source] | None) -> dict[str, Planned] | None:
    """What the plan says of each slide, None where it cannot be read."""
    if sources is None:
        return None
    return {
        source.slide: Planned(
            n_indexed=source.n_indexed,
            source=source_footer(source),
            has_grid=source.is_slide and source.n_indexed > 0,
        )
        for source in sources
    }


def _directory(
    uri: str, settings: Mapping[str, Any], manifests: frozenset[str]
) -> RunDirectory:
    """The run as the verb has it that made it."""
    extracts = settings.get("fields", {}).get("job") == ExtractionDirectory.verb
    if extracts or manifest_of(ExtractionDirectory.verb) in manifests:
        return ExtractionDirectory(uri)
    return RunDirectory(uri)


def _settings(store: Store, findings: dict[str, Finding]) -> Mapping[str, Any]:
    """What run.json says; nothing where it cannot be read."""
    if not store.exists(RUN_JSON):
        findings[RUN_JSON] = Finding(MISSING, RUN_JSON, "the run has none")
        return {}
    data = store.read(RUN_JSON)
    try:
        settings = parse_settings(data, store.uri)
    except VersionError:
        raise
    except RunError as error:
        says = str(error).removeprefix(f"{store.uri}/{RUN_JSON} ")
        findings[RUN_JSON] = Finding(BROKEN, RUN_JSON, says)
        return {}
    if CLEARING in settings:
        says = "its driver stopped while it overwrote another run: run again"
        findings[RUN_JSON] = Finding(INCOMPLETE, RUN_JSON, says)
        return {}
    return settings


def _manifests(
    store: Store, findings: dict[str, Finding]
) -> tuple[Files, frozenset[str]]:
    """The files of all manifests that can be read, and the names of these."""
    listed: Files = {}
    sound = set()
    for name in store.list(MANIFESTS):
        try:
            listed |= read_manifest(store, name)
            sound.add(name)
        except BrokenPartError as error:
            findings[name] = Finding(BROKEN, name, error.why)
    return listed, frozenset(sound)


def _sources(store: Store, findings: dict[str, Finding]) -> list[Source] | None:
    """The plan, None where it cannot be read."""
    if not store.exists(SOURCES):
        return None
    try:
        return read_plan(store, SOURCES)
    except BrokenPartError as error:
        findings[SOURCES] = Finding(BROKEN, SOURCES, error.why)
        return None


def _read(store: Store, proof: str, names: set[str]) -> dict[str, FileState]:
    """Files of a run, and those elsewhere that they tell of, as they are."""
    states = {state.name: state for state in _spread(store, proof, sorted(names))}
    told = (told_digests(state.name, state.about) for state in states.values())
    elsewhere = {path for paths in told for path in paths} - names
    if elsewhere:
        states |= {s.name: s for s in _spread(store, proof, sorted(elsewhere))}
    return states


def _spread(store: Store, proof: str, names: Sequence[str]) -> Iterator[FileState]:
    """Read files on the cluster, some in each task."""
    batches = [names[i : i + _TOGETHER] for i in range(0, len(names), _TOGETHER)]
    with Progress("verify", len(names), unit="files") as progress:
        arguments = ((store, proof, batch) for batch in batches)
        for batch, states in zip(batches, spread(read_here, arguments), strict=True):
            progress.add(len(batch))
            yield from states


def read_here(store: Store, proof: str, names: Sequence[str]) -> list[FileState]:
    """Read some files; the run must be where this node sees it: a task's work.

    Args:
        store: The run directory.
        proof: A file that it has.
        names: The files.

    Raises:
        VisibilityError: The node does not see the run directory.
        StorageError: A file cannot be read, after retries.
    """
    if not store.exists(proof):
        message = (
            f"node {platform.node()} does not see {store.uri}: use a path that all "
            "nodes share, or a URI such as s3://bucket/folder"
        )
        raise VisibilityError(message)
    return read_states(store, names)


@dataclass(frozen=True, kw_only=True)
class SourceCheck:
    """A source to look at.

    Attributes:
        source: As planned.
        uri: Where it is now, None where it is not there.
        parts: Sound parts of rows, whose records are checked.
    """

    source: Source
    uri: str | None
    parts: tuple[str, ...] = ()


@dataclass(kw_only=True)
class SourcesFound:
    """What became of some sources.

    Attributes:
        states: How many are as they were, changed, gone.
        records: That were checked.
        findings: What is wrong with them.
    """

    states: Counter[str] = field(default_factory=Counter)
    records: int = 0
    findings: list[Finding] = field(default_factory=list)


def _check_sources(
    store: Store,
    report: VerifyReport,
    sources: Sequence[Source],
    checked: Verification,
    root: str,
) -> None:
    """Say what became of the sources; where they were moved, check their records."""
    where = _where(sources, root)
    parts: dict[str, list[str]] = {}
    for name in checked.states:
        if name.startswith(f"{ACTIVATIONS}/") and name not in checked.findings:
            parts.setdefault(str(slide_of(name)), []).append(name)
    checks = [
        SourceCheck(
            source=source,
            uri=where.get(source.slide) if root else source.uri,
            parts=tuple(parts.get(source.slide, ()))
            if root and not source.is_slide
            else (),
        )
        for source in sources
    ]
    batches = [checks[i : i + _TOGETHER] for i in range(0, len(checks), _TOGETHER)]
    for found in spread(check_sources, ((store, batch) for batch in batches)):
        report.sources += found.states
        report.counts["records"] += found.records
        report.findings += found.findings


def _where(sources: Sequence[Source], root: str) -> dict[str, str]:
    """Where the sources are below a folder that they were moved to.

    Raises:
        SourceError: The folder is not there, or has two files of one slide.
    """
    found: dict[str, str] = {}
    for kind, is_slide in ((TFRECORD_FILES, False), (SLIDE_FILES, True)):
        slides = {source.slide for source in sources if source.is_slide == is_slide}
        if root and slides:
            found |= kind.below([root], slides, may_lack=True)
    return found


def check_sources(store: Store, checks: Sequence[SourceCheck]) -> SourcesFound:
    """Look whether sources are as they were planned, and at their records: a task's work.

    Args:
        store: The run directory.
        checks: The sources.
    """
    found = SourcesFound()
    reachable = True
    for check in checks:
        state = None
        if reachable and check.source.stat.is_known:
            state, reachable = _state(check)
        if state is not None:
            found.states[state] += 1
        if check.parts and check.uri is None:
            where = f"the source of slide {check.source.slide!r}"
            says = "it is not below --source-root"
            found.findings.append(Finding(MISSING, where, says))
        elif check.parts and check.uri is not None:
            _check_records(store, check.uri, check.parts, found)
    return found


def _state(check: SourceCheck) -> tuple[str | None, bool]:
    """What became of a source, and whether its storage answers at all."""
    if check.uri is None:
        return GONE, True
    stat_of = slide_stat if check.source.is_slide else file_stat
    try:
        stat: FileStat = stat_of(check.uri)
    except StorageError as error:
        # Trying again takes a minute: not for each of ten thousand.
        answers = error.__cause__ is None or isinstance(
            error.__cause__, FileNotFoundError | NotADirectoryError
        )
        return (GONE if answers else None), answers
    return (UNCHANGED if stat == check.source.stat else CHANGED), True


def _check_records(
    store: Store, uri: str, parts: Sequence[str], found: SourcesFound
) -> None:
    """Check the frame of each record that rows refer to."""
    n_broken = 0
    for name in parts:
        table = read_part(store, name, [schema.OFFSET, schema.LENGTH])
        frames = table.filter(table[schema.OFFSET].is_valid())
        try:
            broken = _broken_records(uri, frames)
        except StorageError as error:
            found.findings.append(Finding(BROKEN, uri, str(error)))
            return
        found.records += len(frames)
        for offset, why in broken:
            n_broken += 1
            if n_broken <= _NAMED:
                says = f"the record at byte {offset}: {why}"
                found.findings.append(Finding(BROKEN, uri, says))
    if n_broken > _NAMED:
        says = f"{n_broken - _NAMED} more records are broken"
        found.findings.append(Finding(BROKEN, uri, says))


def _broken_records(uri: str, frames: pa.Table) -> list[tuple[int, str]]:
    """Offsets of records whose frame is not what it was, and why."""
    offsets = frames[schema.OFFSET].to_numpy()
    lengths = frames[schema.LENGTH].to_numpy()
    order = np.argsort(offsets, kind="stable")
    payloads = iter_records(uri, offsets[order], lengths[order])
    return [
        (int(offsets[i]), str(payload))
        for i, payload in zip(order, payloads, strict=True)
        if isinstance(payload, ContentError)
    ]


def _note_failed(report: VerifyReport, states: Mapping[str, FileState]) -> None:
    """Say which slides failed: what is there of them is sound, and it is not all."""
    told = states.get(REPORT)
    failed = {} if told is None else told.about.get("failed")
    if isinstance(failed, dict) and failed:
        report.notes.append(
            f"{len(failed)} slides failed when the run ended, as {next(iter(failed))!r}: "
            "report.json says why, and the same command tries them again"
        )


def _note_claim(
    run: RunDirectory, report: VerifyReport, worker: tuple[str, str] | None
) -> None:
    """Say who works on the run, and what drivers that are gone left.

    What a driver has not done yet is no finding while it is at it.
    """
    token = None
    if worker is not None:
        token, report.worked_on_by = worker
        kept = [one for one in report.findings if one.kind in _WHILE_WORKED_ON]
        n_left = len(report.findings) - len(kept)
        report.findings = kept
        report.notes = [
            f"the run is being worked on by {report.worked_on_by}: parts may come and "
            f"go, so what is lacking is not counted ({n_left} such things): verify it "
            "again when that driver has ended"
        ]
    elif run.store.exists(CLAIM):
        report.notes.append(
            f"{CLAIM} was left by a driver that is gone: run the same command again"
        )
    for name in asides(run):
        match = ASIDE.fullmatch(name.rsplit("/", 1)[-1])
        if match is None or match["token"] is None or match["token"] != token:
            report.notes.append(
                f"{name} was left by a writer that is gone, or is still being written"
            )
