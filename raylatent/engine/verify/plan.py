"""What a run says of itself: run.json, the plan, the report; and what it lacks there."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyarrow as pa

from raylatent import schema
from raylatent.errors import BrokenPartError, RunError, SourceError
from raylatent.parts import partition_folder
from raylatent.run import REPORT, RUN_JSON, SOURCES, RunDirectory, fingerprint
from raylatent.run.checked import check_part
from raylatent.run.findings import BROKEN, INCOMPLETE, MISSING, WRONG, Finding
from raylatent.run.settings import CLEARING, parse_settings
from raylatent.seal import is_as_written, parse_json
from raylatent.source.units import Source, sources_from_table
from raylatent.storage import Store, reason

_COUNTS = ("n_indexed", "rows", "quarantined")  # of a slide, in the report


@dataclass(kw_only=True)
class Said:
    """What a run says of itself.

    Attributes:
        settings: Of run.json, empty where it cannot be read.
        sources: The plan by slide, None where it cannot be read.
        report: Of report.json, None where it cannot be read.
        findings: What is wrong with the three.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    sources: dict[str, Source] | None = None
    report: Mapping[str, Any] | None = None
    findings: list[Finding] = field(default_factory=list)

    @property
    def fingerprint(self) -> str | None:
        """Of the run."""
        return self.settings.get("fingerprint")

    @property
    def sealed(self) -> bool:
        """Whether all that the run wrote has seals: it began since there are any."""
        return is_as_written(self.settings, sealed=True)

    @property
    def is_extraction(self) -> bool:
        """Whether tiles are extracted, not activations computed."""
        return bool(self.settings.get("fields", {}).get("job") == "extract-tiles")

    @property
    def layers(self) -> str | None:
        """Stored layers as footers have them."""
        layers = self.settings.get("layers")
        return None if layers is None else json.dumps(layers)

    @cached_property
    def by_slide(self) -> dict[str, Mapping[str, Any]]:
        """What the report says of each slide."""
        return {row["slide"]: row for row in (self.report or {}).get("by_slide", [])}

    def n_indexed(self, slide: str) -> int | None:
        """Tiles that are promised of a slide; where the plan is lost, by the report."""
        if self.sources is None:
            told: int | None = self.by_slide.get(slide, {}).get("n_indexed")
            return told
        source = self.sources.get(slide)
        return 0 if source is None else source.n_indexed

    def n_units(self, slide: str) -> int | None:
        """Units of a TFRecord's tiles; None for whole slides, cut by their grids."""
        n_indexed = self.n_indexed(slide)
        unit_tiles = self.settings.get("fields", {}).get("unit_tiles")
        if self.sources is None:
            is_slide = "left_out" in self.by_slide.get(slide, {})
        else:
            is_slide = slide in self.sources and self.sources[slide].is_slide
        if is_slide or not isinstance(unit_tiles, int) or n_indexed is None:
            return None
        return -(-n_indexed // unit_tiles) if unit_tiles > 0 else None

    def was_whole(self, slide: str) -> bool:
        """Whether all tiles of a slide were accounted for when a run ended."""
        if self.report is None:
            # A report that is there and broken was written when all was done.
            return any((f.kind, f.name) == (BROKEN, REPORT) for f in self.findings)
        row = self.by_slide.get(slide, {})
        n_found = row.get("rows", 0) + row.get("quarantined", 0)
        return bool(row.get("n_indexed") == self.n_indexed(slide) == n_found)


def what_is_said(run: RunDirectory) -> Said:
    """Read run.json, the plan and the report.

    Raises:
        StorageError: One cannot be read, after retries.
    """
    said = Said()
    _read_settings(run, said)
    _read_sources(run, said)
    _read_report(run, said)
    return said


def _read_settings(run: RunDirectory, said: Said) -> None:
    if not run.exists():
        said.findings.append(Finding(MISSING, RUN_JSON, "the run has none"))
        return
    try:
        settings = parse_settings(run.store.read(RUN_JSON), run.uri)
    except RunError as error:
        says = str(error).removeprefix(f"{run.uri}/{RUN_JSON} ")
        said.findings.append(Finding(BROKEN, RUN_JSON, says))
        return
    if CLEARING in settings:
        says = "its driver stopped while it overwrote another run: run again"
        said.findings.append(Finding(INCOMPLETE, RUN_JSON, says))
        return
    if settings["fingerprint"] != fingerprint(settings["fields"]):
        says = "its fingerprint is not that of its fields"
        said.findings.append(Finding(WRONG, RUN_JSON, says))
        return
    said.settings = settings


def _read_sources(run: RunDirectory, said: Said) -> None:
    if not run.store.exists(SOURCES):
        kind = MISSING if run.store.exists(REPORT) else INCOMPLETE
        said.findings.append(Finding(kind, SOURCES, "the run has no plan"))
        return
    try:
        sources = read_plan(run.store, SOURCES, sealed=said.sealed)
    except BrokenPartError as error:
        says = str(error).split(" is broken: ", 1)[-1]
        said.findings.append(Finding(BROKEN, SOURCES, says))
        return
    said.sources = {source.slide: source for source in sources}
    ids = {source.source for source in sources}
    if not len(sources) == len(said.sources) == len(ids):
        says = "it has a slide, or an id of a source, twice"
        said.findings.append(Finding(WRONG, SOURCES, says))


def read_plan(store: Store, name: str, *, sealed: bool) -> list[Source]:
    """The sources of a plan.

    Args:
        store: The run directory.
        name: Of the plan.
        sealed: Whether it must have a seal.

    Raises:
        BrokenPartError: It is not as it was written, or names what is no slide.
        StorageError: It is not there, or cannot be read.
    """
    table = check_part(store, name, schema.SOURCES.names, sealed=sealed).table
    try:
        sources = sources_from_table(table.cast(schema.SOURCES))
        for source in sources:
            partition_folder(source.slide)
    except (pa.ArrowException, SourceError, ValueError) as error:
        message = f"{store.uri}/{name} is broken: {reason(error)}"
        raise BrokenPartError(message) from error
    return sources


def _read_report(run: RunDirectory, said: Said) -> None:
    if not run.store.exists(REPORT):
        says = "there is none: the run has not ended yet, run again"
        said.findings.append(Finding(INCOMPLETE, REPORT, says))
        return
    report = parse_json(run.store.read(REPORT))
    if (
        report is None
        or not is_as_written(report, sealed=said.sealed)
        or not _has_slides(report)
    ):
        said.findings.append(Finding(BROKEN, REPORT, "it is not as it was written"))
        return
    said.report = report


def _has_slides(report: Mapping[str, Any]) -> bool:
    """Whether a report has of each slide what is read of it."""
    rows = report.get("by_slide")
    return isinstance(rows, list) and all(
        isinstance(row, dict)
        and isinstance(row.get("slide"), str)
        and all(isinstance(row.get(key, 0), int) for key in _COUNTS)
        for row in rows
    )


def compare_report(said: Said, rows: Mapping[str, tuple[int, int]]) -> list[Finding]:
    """What the report says against what was found.

    Args:
        said: What the run says.
        rows: Rows and quarantined tiles of each slide that nothing is wrong with.
    """
    if said.report is None or said.sources is None:
        return []
    by_slide = said.by_slide
    if set(by_slide) != set(said.sources):
        says = "it is of before the plan changed: the run has not ended yet, run again"
        return [Finding(INCOMPLETE, REPORT, says)]
    findings = []
    for slide, (n_rows, n_bad) in rows.items():
        told = by_slide.get(slide, {})
        if (told.get("rows"), told.get("quarantined")) != (n_rows, n_bad):
            says = (
                f"it has {told.get('rows')} rows and {told.get('quarantined')} "
                f"quarantined tiles of slide {slide!r}, there are {n_rows} and {n_bad}"
            )
            findings.append(Finding(WRONG, REPORT, says))
    totals = {
        "tiles": sum(row.get("n_indexed", 0) for row in by_slide.values()),
        "rows": sum(row.get("rows", 0) for row in by_slide.values()),
        "quarantined": sum(row.get("quarantined", 0) for row in by_slide.values()),
        "slides": len(by_slide),
    }
    for key, total in totals.items():
        if said.report.get(key) != total:
            says = f"its {key} are {said.report.get(key)}, its slides have {total}"
            findings.append(Finding(WRONG, REPORT, says))
    return findings
