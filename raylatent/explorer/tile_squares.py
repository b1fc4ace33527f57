"""Where tiles are on their slides: the square that each was cut out of, in level 0.

The square of a tile is `loc - window_px // 2`, `window_px` a side. Of tiles in TFRecords
neither the window nor the slide's bounds are known, unless the slides are there as well.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from raylatent.errors import MapError, SourceError, StorageError
from raylatent.run import RunDirectory
from raylatent.source.kinds import kind_of
from raylatent.source.names import match
from raylatent.source.protocol import Source, sources_from_table
from raylatent.source.slides import find_slides, local_slide
from raylatent.source.wsi.geometry import GivenSize, mpp_of
from raylatent.source.wsi.handle import SlideHandle

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TileSquare:
    """What the tiles of a source have in common.

    Attributes:
        window_px: Side in level-0 pixels; None where it is not known.
        bounds: Left and upper edge of what was scanned, (0, 0) where the slide's file
            does not say; None where the file is not known.
    """

    window_px: int | None = None
    bounds: tuple[int, int] | None = None

    def corner(self, loc_x: int, loc_y: int) -> tuple[int, int]:
        """The upper left corner of a tile around a location, in level-0 pixels.

        >>> TileSquare(window_px=5, bounds=(100, 0)).corner(10, 20)
        (8, 18)
        """
        half = (self.window_px or 0) // 2
        return loc_x - half, loc_y - half


def tile_squares(
    run: RunDirectory, slides: Sequence[str], needed: Collection[str]
) -> dict[int, TileSquare]:
    """The squares of a run's sources of needed slides, by source id.

    `slides` are whole slides, or folders of them, of tiles that were read from elsewhere;
    SourceError where one is not there, or no whole slide.
    """
    every = sources_from_table(run.sources())
    sources = [source for source in every if source.slide in needed]
    files, found = slide_files_of([one.slide for one in sources], slides), {}
    for source in sources:
        known = _planned(source)
        if source.slide in files and None in (known.window_px, known.bounds):
            known = _looked_up(source, known, files[source.slide])
        found[source.source] = known
    return found


def slide_files_of(names: Collection[str], slides: Sequence[str]) -> dict[str, str]:
    """Where whole slides of these names are below paths; others are left out."""
    return match(find_slides(slides).items(), names) if slides else {}


def say_unknown(found: Mapping[int, TileSquare], *, qupath: bool) -> None:
    """Log how many slides have no window, or no bounds, which tell QuPath's places.

    Raises:
        MapError: One has no window, and it is not for QuPath.
    """
    n_points = sum(one.window_px is None for one in found.values())
    n_unshifted = sum(one.bounds is None for one in found.values())
    give = "give --slides DIR, the slides themselves"
    unknown = f"of {len(found)} slides it is not known how large tiles are on the slide"
    if n_points and not qupath:
        message = f"of {n_points} {unknown}: {give}"
        raise MapError(message)
    if n_points:
        logger.warning(
            "of %d %s: they are written as points; %s", n_points, unknown, give
        )
    if qupath and n_unshifted:
        logger.warning(
            "of %d of %d slides the bounds are not known: where the scanner wrote any, "
            "QuPath counts from there, and what is written is shifted; %s",
            *(n_unshifted, len(found), give),
        )


def _planned(source: Source) -> TileSquare:
    # Where there is a grid, the plan has read the file's bounds.
    known = kind_of(source).has_grid or source.bounds_x is not None
    bounds = (source.bounds_x or 0, source.bounds_y or 0) if known else None
    return TileSquare(window_px=source.window_px, bounds=bounds)


def _looked_up(source: Source, known: TileSquare, uri: str) -> TileSquare:
    """With what the slide itself tells; a slide that cannot be opened tells nothing."""
    try:
        handle = SlideHandle(local_slide(uri), slide=source.slide)
        x, y = handle.bounds
        known = replace(known, bounds=(x or 0, y or 0))
        if known.window_px is None and source.tile_um is not None:
            mpp = source.mpp or mpp_of(source.slide, handle.file_size, GivenSize())
            return replace(known, window_px=max(1, int(source.tile_um / mpp)))
    except (SourceError, StorageError) as error:
        logger.warning("slide %s does not tell its tiles: %s", source.slide, error)
    return known
