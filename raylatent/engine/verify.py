"""`raylatent verify`: the files of a run are read by the cluster; nothing is written."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from raylatent import schema
from raylatent.claim import CLAIM, worker_of
from raylatent.config import VerifyConfig
from raylatent.engine.checking import read_files
from raylatent.engine.cluster import spread
from raylatent.engine.plan import read_plan
from raylatent.engine.unit_actor import source_footer
from raylatent.engine.visibility import refuse_temporary_copy
from raylatent.errors import (
    BrokenPartError,
    ContentError,
    RunError,
    StorageError,
    VersionError,
)
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
from raylatent.run.manifest import is_ours, read_manifest, told_digests
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
)
from raylatent.source.filebytes import iter_records
from raylatent.source.kinds import kind_of, moved_sources
from raylatent.source.units import Source
from raylatent.storage import FileStat, Store

UNCHANGED, CHANGED, GONE = "as they were", "changed", "gone"
_TOGETHER = 32  # sources that a task looks at
_NAMED = 20  # broken records of one source that are named
_RECORDS = "records"
_WHILE_WORKED_ON = frozenset({BROKEN, FOREIGN})


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
    _read_manifests(store, found)
    sources = _sources(store, found)
    run = _directory(store.uri, settings, found.manifests)
    found.verb, found.fingerprint = run.verb, settings.get("fingerprint")
    found.plan = _planned(sources)
    every = {*names, *found.listed, RUN_JSON, SOURCES, REPORT}
    found.states = _read(store, proof, every)
    found.compare()
    for name in there:
        if name not in names:
            found.add(FOREIGN, name, "it is none of ours")
    _check_sources(store, found, sources or (), config.source_root)
    _note_failed(found)
    _note_claim(run, found, worker or worker_of(store))
    return found


def _planned(sources: Sequence[Source] | None) -> dict[str, Planned] | None:
    """What the plan says of each slide, None where it cannot be read."""
    if sources is None:
        return None
    return {
        source.slide: Planned(
            n_indexed=source.n_indexed,
            source=source_footer(source),
            has_grid=kind_of(source).has_grid and source.n_indexed > 0,
        )
        for source in sources
    }


def _directory(
    uri: str, settings: Mapping[str, Any], manifests: Collection[str]
) -> RunDirectory:
    """The run as the verb has it that made it."""
    extracts = settings.get("fields", {}).get("job") == ExtractionDirectory.verb
    if extracts or manifest_of(ExtractionDirectory.verb) in manifests:
        return ExtractionDirectory(uri)
    return RunDirectory(uri)


def _settings(store: Store, found: Verification) -> Mapping[str, Any]:
    """What run.json says; nothing where it cannot be read."""
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
        return {}
    return settings


def _read_manifests(store: Store, found: Verification) -> None:
    for name in store.list(MANIFESTS):
        try:
            found.listed |= read_manifest(store, name)
            found.manifests.add(name)
        except BrokenPartError as error:
            found.add(BROKEN, name, error.why)


def _sources(store: Store, found: Verification) -> list[Source] | None:
    """The plan, None where it cannot be read."""
    if not store.exists(SOURCES):
        return None
    try:
        return read_plan(store, SOURCES)
    except BrokenPartError as error:
        found.add(BROKEN, SOURCES, error.why)
        return None


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
        uri: Where it is now, None where it is not there.
        parts: Sound parts of rows, whose records are checked.
    """

    source: Source
    uri: str | None
    parts: tuple[str, ...] = ()


def _check_sources(
    store: Store, found: Verification, sources: Sequence[Source], root: str
) -> None:
    """Say what became of the sources; where they were moved, check their records."""
    where = {source.slide: source.uri for source in sources}
    parts: dict[str, list[str]] = {}
    if root:
        where = moved_sources([root], sources)
        for state in found.sound_below(ACTIVATIONS):
            parts.setdefault(str(slide_of(state.name)), []).append(state.name)
    checks = [
        SourceCheck(
            source=source,
            uri=where.get(source.slide),
            parts=()
            if kind_of(source).has_grid
            else tuple(parts.get(source.slide, ())),
        )
        for source in sources
    ]
    batches = [checks[i : i + _TOGETHER] for i in range(0, len(checks), _TOGETHER)]
    for states, findings in spread(check_sources, [(store, b) for b in batches]):
        found.counts["records"] += states.pop(_RECORDS, 0)
        found.sources += states
        found.findings += findings


def check_sources(
    store: Store, checks: Sequence[SourceCheck]
) -> tuple[Counter[str], list[Finding]]:
    """Look whether sources are as they were planned, and at their records: a task's work.

    Args:
        store: The run directory.
        checks: The sources.

    Returns:
        How many are as they were, changed, gone, and how many records were read; and
        what is wrong with these.
    """
    counts: Counter[str] = Counter()
    findings: list[Finding] = []
    reachable = True
    for check in checks:
        if reachable and check.source.stat.is_known:
            state, reachable = _state(check)
            counts.update([] if state is None else [state])
        if check.parts and check.uri is None:
            where = f"the source of slide {check.source.slide!r}"
            findings.append(Finding(MISSING, where, "it is not below --source-root"))
        elif check.parts and check.uri is not None:
            n_records, wrong = _check_records(store, check.uri, check.parts)
            counts[_RECORDS] += n_records
            findings += wrong
    return counts, findings


def _state(check: SourceCheck) -> tuple[str | None, bool]:
    """What became of a source, and whether its storage answers at all."""
    if check.uri is None:
        return GONE, True
    now = replace(check.source, uri=check.uri)
    try:
        stat: FileStat = kind_of(now).stat(now)
    except StorageError as error:
        # Trying again takes a minute: not for each of ten thousand.
        answers = error.__cause__ is None or isinstance(
            error.__cause__, FileNotFoundError | NotADirectoryError
        )
        return (GONE if answers else None), answers
    return (UNCHANGED if stat == check.source.stat else CHANGED), True


def _check_records(
    store: Store, uri: str, parts: Sequence[str]
) -> tuple[int, list[Finding]]:
    """Check the frame of each record that rows refer to; how many, and what is wrong."""
    n_records = 0
    broken: list[str] = []
    for name in parts:
        table = read_part(store, name, [schema.OFFSET, schema.LENGTH])
        frames = table.filter(table[schema.OFFSET].is_valid())
        try:
            broken += _broken_records(uri, frames)
        except StorageError as error:
            broken.append(str(error))
            break
        n_records += len(frames)
    if len(broken) > _NAMED:
        broken[_NAMED:] = [f"{len(broken) - _NAMED} more records are broken"]
    return n_records, [Finding(BROKEN, uri, says) for says in broken]


def _broken_records(uri: str, frames: pa.Table) -> list[str]:
    """Which records' frames are not what they were, and why."""
    offsets = frames[schema.OFFSET].to_numpy()
    lengths = frames[schema.LENGTH].to_numpy()
    order = np.argsort(offsets, kind="stable")
    payloads = iter_records(uri, offsets[order], lengths[order])
    return [
        f"the record at byte {offsets[i]}: {payload}"
        for i, payload in zip(order, payloads, strict=True)
        if isinstance(payload, ContentError)
    ]


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
    run: RunDirectory, found: Verification, worker: tuple[str, str] | None
) -> None:
    """Say who works on the run, and what drivers that are gone left.

    What a driver has not done yet is no finding while it is at it.
    """
    token = None
    if worker is not None:
        token, found.worked_on_by = worker
        kept = [one for one in found.findings if one.kind in _WHILE_WORKED_ON]
        n_left = len(found.findings) - len(kept)
        found.findings = kept
        found.notes = [
            f"the run is being worked on by {found.worked_on_by}: parts may come and "
            f"go, so what is lacking is not counted ({n_left} such things): verify it "
            "again when that driver has ended"
        ]
    elif run.store.exists(CLAIM):
        found.notes.append(
            f"{CLAIM} was left by a driver that is gone: run the same command again"
        )
    for name in asides(run):
        match = ASIDE.fullmatch(name.rsplit("/", 1)[-1])
        if match is None or match["token"] is None or match["token"] != token:
            found.notes.append(
                f"{name} was left by a writer that is gone, or is still being written"
            )
