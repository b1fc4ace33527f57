"""What is odd about whole slides that are worked on all the same: said, and reported."""

import json
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from raylatent import schema
from raylatent.errors import StorageError
from raylatent.parts import read_footer
from raylatent.run import RunDirectory
from raylatent.source.grids import SlideRequest, own_size
from raylatent.source.wsi.geometry import remarks_on_mpp

logger = logging.getLogger(__name__)

_THREADS = 16
_SHOWN = 20

Remarks = Mapping[str, Sequence[str]]


def slide_remarks(run: RunDirectory, requests: Mapping[str, SlideRequest]) -> Remarks:
    """Sentences on each slide, from its grid in the run directory.

    Args:
        run: The run directory.
        requests: What is asked of each whole slide.
    """

    def one(slide: str) -> list[str]:
        try:
            footer = read_footer(run.store, run.grid_part(slide))[1]
            own = own_size(footer)
            seen: list[str] = json.loads(footer.get(schema.FOOTER_REMARKS, "[]"))
        except (StorageError, LookupError, ValueError, TypeError):
            return []  # it failed, which is said by itself
        return [*remarks_on_mpp(slide, own, requests[slide].tiles.given_mpp), *seen]

    with ThreadPoolExecutor(_THREADS) as pool:
        found = dict(zip(requests, pool.map(one, requests), strict=True))
    return {slide: remarks for slide, remarks in found.items() if remarks}


def say_remarks(run: RunDirectory, requests: Mapping[str, SlideRequest]) -> Remarks:
    """Say what is odd before hours of work; of very many slides the report has it all.

    Args:
        run: The run directory.
        requests: What is asked of each whole slide.

    Returns:
        See `slide_remarks`.
    """
    remarks = slide_remarks(run, requests)
    lines = [remark for of_slide in remarks.values() for remark in of_slide]
    for line in lines[:_SHOWN]:
        logger.warning("%s", line)
    if len(lines) > _SHOWN:
        logger.warning("and %d more such lines, see report.json", len(lines) - _SHOWN)
    return remarks
