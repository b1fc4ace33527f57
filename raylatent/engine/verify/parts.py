"""Parts that a re-run would keep: read whole by the cluster, broken ones left out."""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import ray

from raylatent.engine.cluster import READ_CPUS, gather
from raylatent.engine.items import source_footer
from raylatent.engine.progress import Progress
from raylatent.run import Part, RunDirectory
from raylatent.run.beside import check_grid
from raylatent.run.check import check_slide
from raylatent.run.findings import SlideFound, SlideTask
from raylatent.seal import is_as_written
from raylatent.source.units import Source
from raylatent.storage import Store

logger = logging.getLogger(__name__)

_TOGETHER = 16
_IN_FLIGHT = 256

T = TypeVar("T")


def spread(work: Callable[..., T], batches: Iterable[tuple[Any, ...]]) -> Iterator[T]:
    """Call `work` on the cluster with each of the arguments; answers in their order.

    A bounded number of tasks is in flight.

    Raises:
        RaylatentError: A task raised it, or failed otherwise.
    """
    remote = ray.remote(num_cpus=READ_CPUS)(work)
    pending: list[ray.ObjectRef[Any]] = []
    for arguments in batches:
        pending.append(remote.remote(*arguments))
        if len(pending) >= _IN_FLIGHT:
            yield from gather(pending[: _IN_FLIGHT // 2])
            del pending[: _IN_FLIGHT // 2]
    yield from gather(pending)


def wrong_files(store: Store, task: SlideTask) -> dict[str, str]:
    """What is wrong with some parts of a slide, by name: what each task does."""
    findings = check_slide(store, task).findings
    return {finding.name: finding.says for finding in findings}


def sound_parts(
    run: RunDirectory, parts: Mapping[str, Sequence[Part]]
) -> dict[str, list[Part]]:
    """Parts that are, with their quarantine, as they were written, and as they should be.

    Others are named in a warning.

    Args:
        run: The run directory.
        parts: By slide.
    """
    settings = run.settings()
    tasks = [
        SlideTask(
            slide=slide,
            n_indexed=None,
            source=None,
            was_whole=False,
            fingerprint=str(settings["fingerprint"]),
            layers=json.dumps(settings["layers"]),
            sealed=is_as_written(settings, sealed=True),
            stage=run.rows,
            rows=tuple(part.name for part in some),
            quarantine=tuple(name for part in some for name in _quarantine(run, part)),
        )
        for slide, of_slide in parts.items()
        for some in _chunks(of_slide)
    ]
    store = Store(run.uri, writer=run.store.writer)
    wrong: dict[str, str] = {}
    with Progress("check", sum(t.n_parts for t in tasks), unit="parts") as progress:
        answers = spread(wrong_files, ((store, task) for task in tasks))
        for task, answer in zip(tasks, answers, strict=True):
            wrong |= answer
            progress.add(task.n_parts)
    for name, why in wrong.items():
        logger.warning("%s/%s is done again: %s", run.uri, name, why)
    return {
        slide: [
            part
            for part in of_slide
            if not wrong.keys() & {part.name, *_quarantine(run, part)}
        ]
        for slide, of_slide in parts.items()
    }


def _chunks(parts: Sequence[Part]) -> Iterator[Sequence[Part]]:
    for start in range(0, len(parts), _TOGETHER):
        yield parts[start : start + _TOGETHER]


def _quarantine(run: RunDirectory, part: Part) -> list[str]:
    """A part's quarantine, if it has one."""
    return [run.quarantine_part(part.slide, part.unit)] if part.quarantined else []


def broken_grids(run: RunDirectory, sources: Mapping[str, Source]) -> set[str]:
    """Whole slides whose grid is broken, wrong or gone; it is deleted, to be made again.

    Args:
        run: The run directory.
        sources: The slides as planned.
    """
    sealed = is_as_written(run.settings(), sealed=True)
    tasks = [
        SlideTask(
            slide=slide,
            n_indexed=source.n_indexed,
            source=source_footer(source),
            was_whole=True,
            fingerprint=None,
            layers=None,
            sealed=sealed,
            grids=(run.grid_part(slide),),
            has_grid=True,
        )
        for slide, source in sources.items()
    ]
    store = Store(run.uri, writer=run.store.writer)
    whys = spread(grid_complaint, ((store, task) for task in tasks))
    broken = set()
    for task, why in zip(tasks, whys, strict=True):
        if why is not None:
            name = task.grids[0]
            logger.warning("%s/%s: %s: looked at again", run.uri, name, why)
            run.store.delete(name)
            broken.add(task.slide)
    return broken


def grid_complaint(store: Store, task: SlideTask) -> str | None:
    """What is wrong with a slide's grid, None where nothing is."""
    found = SlideFound(slide=task.slide, sealed=task.sealed)
    check_grid(store, task, found)
    return found.findings[0].says if found.findings else None
