"""What each task of a verification does: some slides, their parts, their sources."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from raylatent import schema
from raylatent.engine.verify.tfrecords import check_extracted, check_tfrecord
from raylatent.errors import ContentError, StorageError, VisibilityError
from raylatent.parts import read_part
from raylatent.run.check import check_slide
from raylatent.run.findings import BROKEN, MISSING, Finding, SlideFound, SlideTask
from raylatent.source.slides import slide_stat
from raylatent.source.tfrecord import iter_records
from raylatent.source.units import Source
from raylatent.storage import FileStat, Store, file_stat

UNCHANGED, CHANGED, GONE = "as they were", "changed", "gone"
_NAMED = 20  # broken records of one source that are named


@dataclass(frozen=True, kw_only=True)
class Look:
    """A slide to look at.

    Attributes:
        task: Its parts.
        source: As planned, None where the plan does not tell.
        uri: Where the source is now, None where it is not there.
        records: Whether each record is to be checked.
        tfrecord: Name of the TFRecord in the run that the slide was extracted to.
        quarantine: Names of its quarantine parts then.
    """

    task: SlideTask
    source: Source | None = None
    uri: str | None = None
    records: bool = False
    tfrecord: str | None = None
    quarantine: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Looked:
    """What was found of a slide.

    Attributes:
        found: Of its parts.
        source: One of UNCHANGED, CHANGED, GONE; None where nobody looked.
        records: Records that were checked.
    """

    found: SlideFound
    source: str | None = None
    records: int = 0


def look_at(store: Store, proof: str, looks: Sequence[Look]) -> list[Looked]:
    """Check some slides; the run must be where this node sees it.

    Args:
        store: The run directory.
        proof: A file that it has.
        looks: The slides.

    Raises:
        VisibilityError: The node does not see the run directory.
        StorageError: A part cannot be read, after retries.
    """
    if not store.exists(proof):
        message = (
            f"node {platform.node()} does not see {store.uri}: use a path that all "
            "nodes share, or a URI such as s3://bucket/folder"
        )
        raise VisibilityError(message)
    answers = []
    reachable = True
    for look in looks:
        found = check_slide(store, look.task)
        if look.tfrecord is not None:
            n_indexed = None if look.source is None else look.source.n_indexed
            check_tfrecord(store, look.task, look.tfrecord, found)
            check_extracted(store, look.quarantine, n_indexed, found)
        state, n_records = None, 0
        if look.source is not None and look.source.stat.is_known and reachable:
            state, reachable = _state(look)
        if look.records and look.source is not None and not look.source.is_slide:
            n_records = _check_records(store, look, found)
        answers.append(Looked(found=found, source=state, records=n_records))
    return answers


def _state(look: Look) -> tuple[str | None, bool]:
    """What became of a source, and whether its storage answers at all."""
    source = look.source
    if source is None or look.uri is None:
        return GONE, True
    try:
        stat: FileStat = (slide_stat if source.is_slide else file_stat)(look.uri)
    except StorageError as error:
        # Trying again takes a minute: not for each of ten thousand.
        answers = error.__cause__ is None or isinstance(
            error.__cause__, FileNotFoundError | NotADirectoryError
        )
        return (GONE if answers else None), answers
    return (UNCHANGED if stat == source.stat else CHANGED), True


def _check_records(store: Store, look: Look, found: SlideFound) -> int:
    """Check the frame of each record that rows refer to; how many there were."""
    where = f"the source of slide {look.task.slide!r}"
    if look.uri is None:
        found.findings.append(Finding(MISSING, where, "it is not below --source-root"))
        return 0
    n_records, n_broken = 0, 0
    broken_parts = {finding.name for finding in found.findings}
    for name in look.task.rows:
        if name in broken_parts:
            continue
        table = read_part(store, name, [schema.OFFSET, schema.LENGTH])
        frames = table.filter(table[schema.OFFSET].is_valid())
        try:
            broken = _broken_records(look.uri, frames)
        except StorageError as error:
            found.findings.append(Finding(BROKEN, look.uri, str(error)))
            return n_records
        n_records += len(frames)
        for offset, why in broken:
            n_broken += 1
            if n_broken <= _NAMED:
                says = f"the record at byte {offset}: {why}"
                found.findings.append(Finding(BROKEN, look.uri, says))
    if n_broken > _NAMED:
        says = f"{n_broken - _NAMED} more records are broken"
        found.findings.append(Finding(BROKEN, look.uri, says))
    return n_records


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
