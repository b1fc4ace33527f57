"""What a configuration asks of whole slides: requests, and what of them tells a run."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from raylatent.annotations import read_mpps
from raylatent.config import SlidesConfig
from raylatent.engine.visibility import refuse_temporary_copy
from raylatent.errors import (
    ConfigError,
    ContentError,
    IncompleteError,
    SourceError,
    StorageError,
)
from raylatent.parts import escape_partition
from raylatent.source.grids import SlideRequest
from raylatent.source.names import match
from raylatent.source.tfrecord import index_tfrecord, iter_records, parse_example
from raylatent.source.tissue import TissueOptions
from raylatent.source.wsi import READER, TileOptions, parse_tile_um
from raylatent.tiles.decode import decode_image

logger = logging.getLogger(__name__)


def first_tile_px(files: Mapping[str, str]) -> int:
    """Side of the first tile that can be read, for a model that does not say."""
    if not files:
        message = "the model does not say how large its tiles are: give --tile-px"
        raise ConfigError(message)
    problem = "the files are empty"
    for uri in files.values():
        try:
            index = index_tfrecord(uri)
            for payload in iter_records(uri, index.offsets[:64], index.lengths[:64]):
                try:
                    return _width(payload)
                except ContentError as error:  # that tile's matter: the next may do
                    problem = f"{uri}: {error}"
        except (SourceError, StorageError) as error:
            problem = str(error)
    message = f"no tile can be read: {problem}"
    raise IncompleteError(message)


def _width(payload: memoryview | ContentError) -> int:
    if isinstance(payload, ContentError):
        raise payload
    return int(decode_image(parse_example(payload).image_raw).shape[1])


def refuse_bad_names(files: Iterable[str], slides: Iterable[str]) -> None:
    """Refuse slides that cannot be folders, and those that are named twice.

    Raises:
        SourceError: The message names the slide.
    """
    named = set(files)
    for slide in [*named, *slides]:
        escape_partition(slide)
    both = sorted(named & set(slides))
    if both:
        message = (
            f"slide {both[0]!r} is among the TFRecords and among the slides"
            f"{f' (as {len(both) - 1} more)' if len(both) > 1 else ''}: give it once"
        )
        raise SourceError(message)


def refuse_other_side(tile_px: int | None, wanted: int) -> None:
    """Refuse to cut tiles that the model would then refuse, one by one.

    Raises:
        ConfigError: The message says both sides.
    """
    if tile_px not in {None, wanted}:
        message = (
            f"--tile-px is {tile_px}, the model takes {wanted}: without --no-resize "
            "tiles are resized"
        )
        raise ConfigError(message)


def slide_requests(
    config: SlidesConfig, slides: Mapping[str, str], tile_px: int
) -> dict[str, SlideRequest]:
    """What is asked of each slide.

    Args:
        config: Tiles, tissue, and the annotations that may have `mpp`.
        slides: Where each is.
        tile_px: Side of the tiles, where the configuration does not say.

    Raises:
        AnnotationsError: The annotations cannot be read.
    """
    if not slides:
        return {}
    refuse_temporary_copy("--slides", config.slides)
    mpps = _mpps(config.annotations, slides) if config.annotations else {}
    tissue = tissue_options(config)
    return {
        slide: SlideRequest(
            uri=uri,
            tiles=TileOptions(
                tile_px=config.tile_px or tile_px,
                tile_um=config.tile_um,
                stride_div=config.stride_div,
                mpp=config.mpp,
                mpp_of_slide=mpps.get(slide),
                allow_upsampling=config.allow_upsampling,
                icc=config.icc,
            ),
            tissue=tissue,
        )
        for slide, uri in slides.items()
    }


def _mpps(annotations: str, slides: Mapping[str, str]) -> dict[str, float]:
    """µm a pixel by slide, as the annotations give it."""
    given = read_mpps(annotations)
    found = match(given.items(), slides)
    if given and not found:
        logger.warning(
            "annotations %s give the mpp of none of the slides: they name %r, and the "
            "slides are called as %r",
            *(annotations, next(iter(given)), next(iter(slides))),
        )
    return found


def tissue_options(config: SlidesConfig) -> TissueOptions:
    """Which tiles are left out."""
    return TissueOptions(
        qc=config.qc,
        grayspace_fraction=config.grayspace_fraction,
        whitespace_fraction=config.whitespace_fraction,
    )


def slides_fields(config: SlidesConfig, tile_px: int) -> dict[str, Any] | None:
    """What of the tiles changes a number, for the fingerprint; None without slides.

    What differs from slide to slide (its mpp) is in its parts' footers.
    """
    if not config.slides:
        return None
    kind, value = parse_tile_um(config.tile_um)
    return {
        "tile_px": config.tile_px or tile_px,
        "tile_um": f"{value:g}{kind}",
        "stride_div": config.stride_div,
        "qc": config.qc,
        "grayspace_fraction": config.grayspace_fraction,
        "whitespace_fraction": config.whitespace_fraction,
        "icc": config.icc,
        "reader": READER,
    }
