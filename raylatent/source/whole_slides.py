"""Whole slides as a kind of source: tiles are cut out by a grid that the run keeps."""

import io
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylatent import schema
from raylatent.annotations import read_mpps
from raylatent.config import SlidesConfig
from raylatent.errors import (
    BrokenPartError,
    ContentError,
    MissingMPPError,
    SourceError,
    StorageError,
)
from raylatent.parts import check_part, read_footer, read_part, write_part
from raylatent.run import REMOVED, RunDirectory
from raylatent.seal import content_digest
from raylatent.source.find import below
from raylatent.source.names import match
from raylatent.source.picture import MAX_BYTES, MAX_SIDE_PX
from raylatent.source.protocol import (
    Chunk,
    Config,
    Kind,
    Source,
    SourceTile,
    Unit,
    UnitPlan,
)
from raylatent.source.slides import SLIDE_SUFFIXES, find_slides, slide_name, slide_stat
from raylatent.source.tissue import TissueOptions, is_dark_field
from raylatent.source.wsi import (
    READER,
    Geometry,
    Region,
    SlideHandle,
    TileOptions,
    detect_format,
    draw_tiles,
    longer_side,
    open_grid,
    parse_tile_um,
    select_tiles,
    thumbnail,
)
from raylatent.source.wsi.geometry import GENERIC, FileSize, mpp_of, remarks_on_mpp
from raylatent.source.wsi.regions import SlideCache, SlideTile, tile_at
from raylatent.source.wsi.selection import (
    geometry_from_footer,
    grid_footer,
    grid_table,
    kept_tiles,
    own_size,
)
from raylatent.storage import NOT_SEEN, FileStat, file_stat, is_uri

logger = logging.getLogger(__name__)

SLIDES = "slides"
_THUMB_QUALITY = 85
_TRIED_TIFFS = 16  # of a folder, for what they are
TIFF_SUFFIXES = (".tif", ".tiff")
_TO_BE_SAID_PX = 1  # until the model is known, see SlideRequest.by_model


@dataclass(frozen=True, kw_only=True)
class SlideRequest:
    """A whole slide that is to be cut into tiles.

    Attributes:
        uri: Where it is.
        tiles: What is asked of its tiles; its mpp is what others say of it.
        tissue: Which are left out.
        by_model: Whether the side of its tiles in pixels is the model's to say.
    """

    uri: str
    kind: ClassVar[str] = SLIDES
    tiles: TileOptions
    tissue: TissueOptions
    by_model: bool = False

    def sized(self, tile_px: int) -> Self:
        """The same, its tiles of this side where none was asked for."""
        if not self.by_model:
            return self
        tiles = replace(self.tiles, tile_px=tile_px)
        return replace(self, tiles=tiles, by_model=False)


@dataclass(frozen=True, kw_only=True)
class SlideUnit(Unit):
    """Whole rows of a slide's grid: what one part holds.

    Attributes:
        geometry: The grid.
        rows: Row of each tile in the grid, (n,).
        cols: Column likewise.
        icc: Convert colors by the slide's profile.
    """

    encoded: ClassVar[bool] = False
    geometry: Geometry
    rows: NDArray[np.int64]
    cols: NDArray[np.int64]
    icc: bool = False

    def __len__(self) -> int:
        """Number of tiles."""
        return len(self.rows)

    def chunks(self, opened: SlideCache | None = None) -> Iterator[Chunk]:
        """Regions of the slide, each read once."""
        try:
            reader = (opened or SlideCache()).reader(
                self.source, self.geometry, icc=self.icc
            )
        except SourceError as error:  # it could be opened when it was planned
            message = f"{error} (it could be when it was planned: run again)"
            raise StorageError(message) from error
        xs, ys = (values.tolist() for values in self.locations())

        def tiles(region: Region) -> Iterator[SourceTile]:
            for i, found in reader.read(region):
                yield SourceTile(i, found, xs[i], ys[i])

        for region in reader.regions(self.rows, self.cols):
            yield Chunk(tiles=partial(tiles, region))

    def part(self, start: int, stop: int) -> Self:
        """Pixels are read by this process only."""
        raise NotImplementedError

    def locations(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Centers (x, y) of the tiles, level-0 pixels."""
        return self.geometry.centers(self.rows, self.cols)


@dataclass(frozen=True, kw_only=True)
class OpenedSlide:
    """A slide that can be worked on.

    Attributes:
        handle: The slide.
        geometry: Its grid.
        stat: Of its files.
        footer: What its grid is made with.
    """

    handle: SlideHandle
    geometry: Geometry
    stat: FileStat
    footer: Mapping[str, str]


def open_slide(slide: str, request: SlideRequest) -> OpenedSlide:
    """Open a slide and lay the grid over it.

    Raises:
        SourceError: It cannot be opened, lacks mpp, or has no such tiles.
        StorageError: It cannot be read.
    """
    stat = slide_stat(request.uri)
    handle, geometry = open_grid(request.uri, slide, request.tiles)
    footer = grid_footer(
        request.tissue, stat, geometry, handle.file_size, icc=request.tiles.icc
    )
    return OpenedSlide(handle=handle, geometry=geometry, stat=stat, footer=footer)


def detect_tiles(opened: OpenedSlide, request: SlideRequest) -> pa.Table:
    """Which tiles are kept, as schema.GRID.

    Raises:
        ContentError: Nothing of the slide can be read.
        StorageError: It cannot be read at all.
    """
    reasons = select_tiles(opened.handle, opened.geometry, request.tissue)
    return grid_table(opened.geometry, reasons)


def source_of_slide(
    slide: str, request: SlideRequest, opened: OpenedSlide, n_tiles: int
) -> Source:
    """A slide as in sources.parquet; the id is 0 until it is given one."""
    geometry, bounds = opened.geometry, opened.handle.bounds
    return Source(
        source=0,
        slide=slide,
        kind=SLIDES,
        uri=request.uri,
        stat=opened.stat,
        n_indexed=n_tiles,
        tile_px=geometry.tile_px,
        tile_um=geometry.tile_um,
        mpp=geometry.mpp,
        window_px=geometry.window_px,
        bounds_x=bounds[0],
        bounds_y=bounds[1],
    )


def failed_slide(
    run: RunDirectory, slide: str, request: SlideRequest, error: str
) -> Source:
    """A slide that cannot be worked on; a picture is there only beside its grid."""
    if not run.store.exists(run.grid_part(slide)):
        run.store.delete(run.thumbnail(slide))
    return Source(
        source=0,
        slide=slide,
        kind=SLIDES,
        uri=request.uri,
        stat=NOT_SEEN,
        n_indexed=0,
        error=error,
    )


def index_slide(
    run: RunDirectory, slide: str, request: SlideRequest, unit_tiles: int
) -> tuple[Source, list[UnitPlan]]:
    """A slide and its units; its grid is put into the run directory.

    A grid that is there and was made with the same is used as it is. A slide that
    cannot be worked on has no tiles and says why in `error`.
    """
    try:
        opened = open_slide(slide, request)
    except (SourceError, StorageError) as error:
        return failed_slide(run, slide, request, f"{error}{_of_tile(request)}"), []
    table = _stored_grid(run, opened)  # what fails of the run is not the slide's fault
    if table is None:
        try:
            table = detect_tiles(opened, request)
            picture, remarks = _look(opened, table, request)
        except StorageError as error:
            return failed_slide(run, slide, request, str(error)), []
        except ContentError as error:
            complaint = f"slide {slide} cannot be read: {error}"
            return failed_slide(run, slide, request, complaint), []
        # The picture first: a grid that is there is complete, and of this picture.
        run.store.delete(run.grid_part(slide))
        run.store.write(run.thumbnail(slide), picture)
        footer = {
            **opened.footer,
            schema.FOOTER_REMARKS: json.dumps(remarks),
            schema.FOOTER_THUMBNAIL: content_digest(picture),
            schema.FOOTER_SLIDE: slide,
        }
        write_part(run.store, run.grid_part(slide), table, footer)
    rows, _ = kept_tiles(table)
    source = source_of_slide(slide, request, opened, len(rows))
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


def slide_unit_plans(
    source: Source, rows: NDArray[np.integer], unit_tiles: int
) -> list[UnitPlan]:
    """The units over a slide: whole grid rows, each as near to `unit_tiles` as it comes.

    Args:
        source: The slide.
        rows: Grid row of each tile, (n,), ascending.
        unit_tiles: Tiles that a unit should have.
    """
    ends = np.flatnonzero(np.diff(rows, append=-1)) + 1  # tiles up to each row's end
    plans: list[UnitPlan] = []
    first = end = 0
    for i, row_end in enumerate(ends.tolist()):
        end = row_end
        ahead = ends[i + 1] if i + 1 < len(ends) else None
        short = unit_tiles - (end - first)
        if ahead is not None and abs(ahead - first - unit_tiles) < short:
            continue  # with the next row it comes nearer
        plans.append(
            UnitPlan(source=source, unit=len(plans), first=first, count=end - first)
        )
        first = end
    return plans


def load_slide_unit(run: RunDirectory, plan: UnitPlan) -> SlideUnit:
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


class WholeSlides(Kind):
    """Slides that OpenSlide opens, see `source.protocol.Kind`."""

    name: ClassVar[str] = SLIDES
    has_grid: ClassVar[bool] = True

    def holds(self, files: Sequence[str]) -> bool:
        """Whether one is a slide; some of the TIFFs are looked at, which may be tiles."""
        named = [file for file in files if _is_called_slide(file)]
        tiffs = [file for file in named if file.lower().endswith(TIFF_SUFFIXES)]
        if len(named) > len(tiffs) or (tiffs and len(files) == 1):
            return bool(named)
        some = tiffs[:: max(1, len(tiffs) // _TRIED_TIFFS)]
        return any(map(_is_no_tile, some[:_TRIED_TIFFS]))

    def find(self, config: Config) -> dict[str, SlideRequest]:
        """The slides of `--slides`, and what is asked of their tiles."""
        return slide_requests(config, find_slides(config.slides))

    def fields(self, config: Config, tile_px: int) -> dict[str, Any]:
        """What of the tiles changes a number; what differs by slide is in footers."""
        return {self.name: slides_fields(config, tile_px)}

    def index(
        self,
        run: RunDirectory,
        slide: str,
        request: SlideRequest,
        unit_tiles: int,
    ) -> tuple[Source, list[UnitPlan]]:
        """A slide and its units; its grid is put into the run directory."""
        return index_slide(run, slide, request, unit_tiles)

    def stat(self, request: SlideRequest | Source) -> FileStat:
        """Of all its files."""
        return slide_stat(request.uri)

    def is_unchanged(
        self, run: RunDirectory, source: Source, request: SlideRequest
    ) -> bool:
        """Whether the slide is as it was when it was planned, and its pixels' size."""
        try:
            grid = run.grid_part(source.slide)
            grid = grid if run.store.exists(grid) else f"{REMOVED}/{grid}"
            own = own_size(read_footer(run.store, grid)[1])
        except (StorageError, LookupError, ValueError, TypeError):
            own = FileSize()  # the grid is lost: it is made again where it is needed
        try:
            if mpp_of(source.slide, own, request.tiles.given_mpp) != source.mpp:
                return False
        except MissingMPPError:
            pass  # as it was given before
        except SourceError:
            return False  # which is said when it is opened
        try:
            return slide_stat(request.uri) == source.stat
        except StorageError:
            return False

    def remarks(
        self, run: RunDirectory, slide: str, request: SlideRequest
    ) -> list[str]:
        """What is odd about its pixels' size, and about how it looks."""
        try:
            footer = read_footer(run.store, run.grid_part(slide))[1]
            own = own_size(footer)
            seen: list[str] = json.loads(footer.get(schema.FOOTER_REMARKS, "[]"))
        except (StorageError, LookupError, ValueError, TypeError):
            return []  # it failed, which is said by itself
        return [*remarks_on_mpp(slide, own, request.tiles.given_mpp), *seen]

    def load(self, run: RunDirectory, plan: UnitPlan) -> SlideUnit:
        """The unit with the places of its tiles."""
        return load_slide_unit(run, plan)

    def moved(
        self, roots: Sequence[str], sources: Mapping[str, Source]
    ) -> dict[str, str]:
        """These slides below other folders."""
        return below(
            roots,
            sources,
            find=find_slides,
            suffixes=SLIDE_SUFFIXES,
            name_of=slide_name,
            may_lack=True,
        )

    def place(
        self, source: Source, uri: str, row: Mapping[str, Any], *, icc: bool
    ) -> SlideTile:
        """The tile around its location."""
        return tile_at(source, uri, row[schema.LOC_X], row[schema.LOC_Y], icc=icc)


def _is_called_slide(file: str) -> bool:
    name = file.rsplit("/", 1)[-1].lower()
    return not name.startswith("._") and name.endswith(SLIDE_SUFFIXES)


def _is_no_tile(file: str) -> bool:
    """Whether a TIFF is a slide: a scanner's, or too large for a tile."""
    large = file_stat(file).size > MAX_BYTES
    if large or is_uri(file):
        return large
    kind = detect_format(file)  # a tile that is stored in squares is a generic one
    return kind is not None and (kind != GENERIC or longer_side(file) > MAX_SIDE_PX)


def _of_tile(request: SlideRequest) -> str:
    """A hint that a file may be a tile, not a slide; nothing where it cannot be."""
    if not request.uri.lower().endswith(TIFF_SUFFIXES):
        return ""
    return " (TIFF files that are tiles are given as folders, --tiles FOLDER)"


def slide_requests(
    config: SlidesConfig, slides: Mapping[str, str]
) -> dict[str, SlideRequest]:
    """What is asked of each slide.

    Args:
        config: Tiles, tissue, and the annotations that may have `mpp`.
        slides: Where each is.

    Raises:
        AnnotationsError: The annotations cannot be read.
    """
    mpps = _mpps(config.annotations, slides) if config.annotations else {}
    return {
        slide: SlideRequest(
            uri=uri,
            tiles=TileOptions(
                tile_px=config.tile_px or _TO_BE_SAID_PX,
                tile_um=config.tile_um,
                stride_div=config.stride_div,
                mpp=config.mpp,
                mpp_of_slide=mpps.get(slide),
                allow_upsampling=config.allow_upsampling,
                icc=config.icc,
            ),
            tissue=TissueOptions(
                qc=config.qc,
                grayspace_fraction=config.grayspace_fraction,
                whitespace_fraction=config.whitespace_fraction,
            ),
            by_model=config.tile_px is None,
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


def slides_fields(config: SlidesConfig, tile_px: int) -> dict[str, Any] | None:
    """What of the tiles changes a number, for the fingerprint; None without slides."""
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
