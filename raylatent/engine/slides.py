"""Whole slides on the cluster: grids decided and kept, units read back from them."""

import io
import json
import logging

import numpy as np
import pyarrow as pa

from raylatent import schema
from raylatent.errors import BrokenPartError, ContentError, SourceError, StorageError
from raylatent.parts import check_part, read_footer, read_part, write_part
from raylatent.run import RunDirectory
from raylatent.seal import content_digest
from raylatent.source.grids import (
    OpenedSlide,
    SlideRequest,
    SlideUnit,
    detect_tiles,
    failed_slide,
    geometry_from_footer,
    kept_tiles,
    open_slide,
    source_of_slide,
)
from raylatent.source.tissue import is_dark_field
from raylatent.source.units import SlideUnitPlan, Source, slide_unit_plans
from raylatent.source.wsi import draw_tiles, thumbnail

logger = logging.getLogger(__name__)

_THUMB_QUALITY = 85


def index_slide(
    run: RunDirectory, slide: str, request: SlideRequest, unit_tiles: int
) -> tuple[Source, list[SlideUnitPlan]]:
    """A slide and its units; its grid is put into the run directory.

    A grid that is there and was made with the same is used as it is. A slide that
    cannot be worked on has no tiles and says why in `error`.
    """
    try:
        opened = open_slide(slide, request)
    except (SourceError, StorageError) as error:
        return failed_slide(slide, request, str(error)), []
    table = _stored_grid(run, opened)  # what fails of the run is not the slide's fault
    if table is None:
        try:
            table = detect_tiles(opened, request)
            picture, remarks = _look(opened, table, request)
        except StorageError as error:
            return failed_slide(slide, request, str(error)), []
        except ContentError as error:
            complaint = f"slide {slide} cannot be read: {error}"
            return failed_slide(slide, request, complaint), []
        # The picture first: a grid that is there is complete.
        run.store.write(run.thumbnail(slide), picture)
        footer = {
            **opened.footer,
            schema.FOOTER_REMARKS: json.dumps(remarks),
            schema.FOOTER_THUMBNAIL: content_digest(picture),
            schema.FOOTER_SLIDE: slide,
        }
        write_part(run.store, run.grid_part(slide), table, footer)
    rows, _ = kept_tiles(table)
    source = source_of_slide(slide, request, opened.stat, opened.geometry, len(rows))
    return source, slide_unit_plans(source, rows, unit_tiles)


def _stored_grid(run: RunDirectory, opened: OpenedSlide) -> pa.Table | None:
    name = run.grid_part(opened.handle.slide)
    if not run.store.exists(name) or not run.store.exists(
        run.thumbnail(opened.handle.slide)
    ):
        return None
    try:
        footer = read_footer(run.store, name)[1]
        if footer.get(schema.FOOTER_GRID) != opened.footer[schema.FOOTER_GRID]:
            return None
        return check_part(run.store, name, schema.GRID.names).table
    except BrokenPartError as error:
        logger.warning("%s is broken and is made anew: %s", name, error)
        return None


def _look(
    opened: OpenedSlide, table: pa.Table, request: SlideRequest
) -> tuple[bytes, list[str]]:
    """The slide as a JPEG, its kept tiles drawn on it, and what is odd about it."""
    image = thumbnail(opened.handle)
    qc = request.tissue.qc
    remarks = []
    if qc != "none" and is_dark_field(np.asarray(image)):
        remarks = [
            f"slide {opened.handle.slide!r} looks like fluorescence (dark background): "
            f"--qc {qc} tells tissue on bright glass only, so the choice of its tiles "
            "means nothing; give such slides a run of their own with --qc none, or leave "
            "them out"
        ]
    rows, cols = kept_tiles(table)
    kept = opened.geometry.empty_grid()
    kept[rows, cols] = True
    scale = image.width / opened.geometry.width
    draw_tiles(image, opened.geometry, kept, scale)
    picture = io.BytesIO()
    image.save(picture, "JPEG", quality=_THUMB_QUALITY)
    return picture.getvalue(), remarks


def load_slide_unit(run: RunDirectory, plan: SlideUnitPlan) -> SlideUnit:
    """The unit with the places of its tiles.

    Raises:
        StorageError: The grid cannot be read, or has changed.
    """
    name = run.grid_part(plan.source.slide)
    geometry, icc = geometry_from_footer(read_footer(run.store, name)[1])
    rows, cols = kept_tiles(read_part(run.store, name))
    if len(rows) != plan.source.n_indexed:
        message = f"{run.uri}/{name} has changed since it was read: run again"
        raise StorageError(message)
    return SlideUnit(
        source=plan.source,
        unit=plan.unit,
        first=plan.first,
        geometry=geometry,
        rows=rows[plan.first : plan.last],
        cols=cols[plan.first : plan.last],
        icc=icc,
    )
