"""A run checked against its plan, spread over a cluster; nothing is written."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from raylatent.claim import CLAIM, worker_of
from raylatent.config import VerifyConfig
from raylatent.engine.connection import connect
from raylatent.engine.progress import Progress
from raylatent.engine.verify.looks import make_looks
from raylatent.engine.verify.maps import Drawn, look_at_maps
from raylatent.engine.verify.parts import spread
from raylatent.engine.verify.plan import Said, compare_report, what_is_said
from raylatent.engine.verify.slides import Look, Looked, look_at
from raylatent.engine.visibility import refuse_temporary_copy
from raylatent.errors import RunError
from raylatent.run import (
    RUN_JSON,
    ExtractionDirectory,
    RunDirectory,
)
from raylatent.run.findings import BROKEN, FOREIGN, Finding
from raylatent.run.inventory import Inventory, take_inventory
from raylatent.run.litter import ASIDE
from raylatent.storage import Store

_TOGETHER = 32  # parts that a task reads
_WHILE_WORKED_ON = frozenset({BROKEN, FOREIGN})


@dataclass(kw_only=True)
class VerifyReport:
    """What a verification found.

    Attributes:
        run: The run directory.
        worked_on_by: The driver that works on it, None where none does.
        findings: What is wrong.
        notes: What is worth knowing, and is not wrong.
        counts: `slides`, `parts`, `rows`, `quarantined`, `bytes`, `unsealed`,
            `missing`, `records`.
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
    """Check every byte of a run's parts, and that all tiles are there, each once.

    Args:
        config: Which run, and where its sources are now.

    Raises:
        RunError: There is no run.
        SourceError: `source_root` is not there.
        StorageError: A file cannot be read, after retries: nothing is said of it.
    """
    refuse_temporary_copy("RUN", [config.directory])
    run = RunDirectory(config.directory)
    worker = worker_of(run.store)
    said = what_is_said(run)
    if said.is_extraction:
        run = ExtractionDirectory(config.directory)
    files = take_inventory(run)
    proof = _proof(run, files)
    drawn = look_at_maps(run.store, files, sealed=said.sealed)
    looks = make_looks(run, said, files, drawn, config.source_root)
    report = VerifyReport(run=run.uri)
    connect()
    answers = _spread(run.store, proof, looks)
    sound: dict[str, tuple[int, int]] = {}
    of_rows: list[tuple[str, str]] = []
    for answer in answers:
        _add(report, drawn, answer)
        found = answer.found
        of_rows += found.digests
        if not found.findings and found.slide in (said.sources or {}):
            counts = found.counts
            sound[found.slide] = (counts["rows"], counts["quarantined"])
    damaged = bool(report.findings)
    report.findings[:0] = said.findings
    report.findings += [
        Finding(FOREIGN, n, "it is none of ours") for n in files.foreign
    ]
    report.findings += compare_report(said, sound)
    drawn.finish(report.findings, report.notes, of_rows, damaged=damaged)
    report.counts["slides"] = len(said.sources or {})
    report.counts["bytes"] += drawn.n_bytes
    report.points = {name: drawn.points[name] for name in sorted(files.maps)}
    report.mosaics = sorted(files.mosaics)
    _note_failed(report, said)
    _note_claim(run, report, files, worker or worker_of(run.store))
    return report


def _note_failed(report: VerifyReport, said: Said) -> None:
    """Say which slides failed: what is there of them is sound, and it is not all."""
    failed = (said.report or {}).get("failed")
    if isinstance(failed, dict) and failed:
        report.notes.append(
            f"{len(failed)} slides failed when the run ended, as {next(iter(failed))!r}: "
            "report.json says why, and the same command tries them again"
        )


def _proof(run: RunDirectory, files: Inventory) -> str:
    """A file by which a node shows that it sees the run.

    Raises:
        RunError: There is no run.
    """
    if run.exists():
        return RUN_JSON
    listed = (n for of in files.stages.values() for ns in of.values() for n in ns)
    first = next(listed, None)
    if first is None:
        message = f"{run.uri} is no run directory: it has no {RUN_JSON}"
        raise RunError(message)
    return first


def _spread(store: Store, proof: str, looks: Sequence[Look]) -> Iterator[Looked]:
    """Look at all slides on the cluster, some together where they have few parts."""
    batches: list[list[Look]] = [[]]
    n_parts = 0
    for look in looks:
        if n_parts >= _TOGETHER:
            batches.append([])
            n_parts = 0
        batches[-1].append(look)
        n_parts += 1 + look.task.n_parts
    total = sum(look.task.n_parts for look in looks)
    with Progress("verify", total, unit="parts") as progress:
        arguments = ((store, proof, batch) for batch in batches)
        for batch, answers in zip(batches, spread(look_at, arguments), strict=True):
            progress.add(sum(look.task.n_parts for look in batch))
            yield from answers


def _add(report: VerifyReport, drawn: Drawn, answer: Looked) -> None:
    """What was found of one slide, to the rest."""
    report.findings += answer.found.findings
    report.counts.update(answer.found.counts)
    report.counts["records"] += answer.records
    if answer.source is not None:
        report.sources[answer.source] += 1
    drawn.add(answer.found)


def _note_claim(
    run: RunDirectory,
    report: VerifyReport,
    files: Inventory,
    worker: tuple[str, str] | None,
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
        report.notes.append(
            f"the run is being worked on by {report.worked_on_by}: parts may come and "
            f"go, so what is lacking is not counted ({n_left} such things): verify it "
            "again when that driver has ended"
        )
    elif run.store.exists(CLAIM):
        report.notes.append(
            f"{CLAIM} was left by a driver that is gone: run the same command again"
        )
    for name in files.asides:
        match = ASIDE.fullmatch(name.rsplit("/", 1)[-1])
        if match is None or match["token"] is None or match["token"] != token:
            report.notes.append(
                f"{name} was left by a writer that is gone, or is still being written"
            )
    if report.counts["unsealed"]:
        report.notes.append(
            f"{report.counts['unsealed']} parts were written before parts had seals: "
            "their pages and columns were checked, their headers and footers were not"
        )
