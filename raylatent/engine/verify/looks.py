"""What a verification looks at: each slide with what is promised and listed of it."""

from collections.abc import Mapping

from raylatent.engine.items import source_footer
from raylatent.engine.verify.maps import Drawn
from raylatent.engine.verify.plan import Said
from raylatent.engine.verify.slides import Look
from raylatent.montage.sources import SLIDE_FILES, TFRECORD_FILES
from raylatent.run import (
    ACTIVATIONS,
    GRIDS,
    QUARANTINE,
    TILES,
    ExtractionDirectory,
    RunDirectory,
)
from raylatent.run.findings import SlideTask
from raylatent.run.inventory import Inventory
from raylatent.source.units import Source

_TOGETHER = 32  # parts that are set aside


def make_looks(
    run: RunDirectory, said: Said, files: Inventory, drawn: Drawn, root: str
) -> list[Look]:
    """All slides that are planned or listed, by name; then what is set aside."""
    planned = said.sources or {}
    stages = [*files.stages.values(), *files.points.values()]
    known = planned if said.sources is not None else said.by_slide
    slides = sorted({*known, *(slide for of in stages for slide in of)})
    where = _where(planned, root)
    looks = []
    for slide in slides:
        source = planned.get(slide)
        tfrecord = None
        if isinstance(run, ExtractionDirectory) and slide in files.finished:
            tfrecord = run.tfrecord(slide)
        task = _task(said, files, drawn, slide, extracted=tfrecord is not None)
        uri = where.get(slide) if root else None if source is None else source.uri
        looks.append(
            Look(
                task=task,
                source=source,
                uri=uri,
                records=bool(root),
                tfrecord=tfrecord,
                quarantine=tuple(files.stages[QUARANTINE].get(slide, ())),
            )
        )
    for start in range(0, len(files.removed), _TOGETHER):
        others = tuple(files.removed[start : start + _TOGETHER])
        task = SlideTask(
            slide="",
            n_indexed=None,
            source=None,
            was_whole=False,
            fingerprint=None,
            layers=None,
            sealed=said.sealed,
            others=others,
        )
        looks.append(Look(task=task))
    return looks


def _where(planned: Mapping[str, Source], root: str) -> dict[str, str]:
    """Where the sources are below a folder that they were moved to.

    Raises:
        SourceError: The folder is not there, or has two files of one slide.
    """
    if not root:
        return {}
    of_files = {s for s, source in planned.items() if not source.is_slide}
    of_slides = planned.keys() - of_files
    found: dict[str, str] = {}
    if of_files:
        found |= TFRECORD_FILES.below([root], of_files, may_lack=True)
    if of_slides:
        found |= SLIDE_FILES.below([root], of_slides, may_lack=True)
    return found


def _task(
    said: Said, files: Inventory, drawn: Drawn, slide: str, *, extracted: bool
) -> SlideTask:
    """What the plan promises of a slide, and what is listed of it.

    A slide that is not in the plan is promised no tile.
    """
    source = None if said.sources is None else said.sources.get(slide)
    stage = TILES if said.is_extraction else ACTIVATIONS
    other = ACTIVATIONS if said.is_extraction else TILES
    points = {name: tuple(of.get(slide, ())) for name, of in files.points.items()}
    mapped = {name: points.pop(name, ()) for name in drawn.of_all_rows}
    others = [*files.stages[other].get(slide, ())]
    others += [part for names in points.values() for part in names]
    quarantine = tuple(files.stages[QUARANTINE].get(slide, ()))
    return SlideTask(
        slide=slide,
        n_indexed=None if extracted else said.n_indexed(slide),
        source=None if source is None else source_footer(source),
        was_whole=said.was_whole(slide),
        n_units=said.n_units(slide),
        fingerprint=said.fingerprint,
        layers=None if said.is_extraction else said.layers,
        sealed=said.sealed,
        stage=stage,
        rows=tuple(files.stages[stage].get(slide, ())),
        quarantine=() if extracted else quarantine,
        grids=tuple(files.stages[GRIDS].get(slide, ())),
        has_grid=source is not None and source.is_slide,
        points=mapped,
        others=tuple(others),
        models=drawn.of_all_rows,
        chosen=drawn.chosen.get(slide, {}),
    )
