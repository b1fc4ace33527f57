"""What is odd about whole slides that are worked on all the same: said, and reported."""

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from raylatent.run import RunDirectory
from raylatent.source.kinds import kind_of
from raylatent.source.protocol import Request

logger = logging.getLogger(__name__)

_THREADS = 16
_SHOWN = 20

Remarks = Mapping[str, Sequence[str]]


def slide_remarks(run: RunDirectory, requests: Mapping[str, Request]) -> Remarks:
    """Sentences on each slide, from its grid in the run directory.

    Args:
        run: The run directory.
        requests: What is asked of each whole slide.
    """

    def one(slide: str) -> list[str]:
        request = requests[slide]
        return kind_of(request).remarks(run, slide, request)

    with ThreadPoolExecutor(_THREADS) as pool:
        found = dict(zip(requests, pool.map(one, requests), strict=True))
    return {slide: remarks for slide, remarks in found.items() if remarks}


def say_remarks(run: RunDirectory, requests: Mapping[str, Request]) -> Remarks:
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
