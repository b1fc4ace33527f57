"""The plan: which slides there are, and the units of work over each.

A unit is tiles [k U, (k+1) U) of one slide, U fixed for a run, so that a file that
grows renames nothing. sources.parquet is the plan as data.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylatent import schema
from raylatent.errors import ContentError, SourceError, StorageError
from raylatent.source.find import tile_um_of
from raylatent.source.picture import open_image
from raylatent.source.tfrecord import (
    TFRecordIndex,
    frames_beside,
    frames_from,
    index_tfrecord,
    iter_records,
    parse_example,
)
from raylatent.storage import NOT_SEEN, FileStat, file_stat

_PROBED_RECORDS = 3
_PROBED_AT_LAST = 256  # before it is said that a file holds no tiles


@dataclass(frozen=True, kw_only=True)
class Source:
    """One slide's file, as in sources.parquet.

    Attributes:
        source: Id that rows refer to, kept as long as the run lives.
        slide: The slide's name.
        uri: Where the file was when it was planned.
        stat: What tells whether it has changed.
        n_indexed: Tiles that the run promises a row or a quarantine row for.
        tile_px: Side of the tiles in pixels, None where not known.
        tile_um: Side in µm where it is known.
        mpp: µm a pixel of a slide's level 0.
        window_px: Side of the tiles in level-0 pixels; None for TFRecords.
        error: Why the slide, or its rest, was given up; None where nothing is wrong.
    """

    source: int
    slide: str
    uri: str
    stat: FileStat
    n_indexed: int
    tile_px: int | None = None
    tile_um: float | None = None
    mpp: float | None = None
    window_px: int | None = None
    error: str | None = None

    @property
    def is_slide(self) -> bool:
        """Whether tiles are cut out of a whole slide, not read from a TFRecord."""
        return self.window_px is not None


@dataclass(frozen=True, kw_only=True)
class UnitPlan:
    """A run of tiles of one slide, before its frames are read.

    Attributes:
        source: The file.
        unit: Its number k in the slide.
        first: Tile index of its first tile.
        count: Number of tiles.
        start: First byte of its first frame.
        sidecar: Whether the frames come from the `.index.npz` beside the file.
    """

    source: Source
    unit: int
    first: int
    count: int
    start: int
    sidecar: bool

    @property
    def last(self) -> int:
        """One past the last tile's index."""
        return self.first + self.count


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A run of tiles of one slide: what one task reads and one part holds.

    Attributes:
        source: The file.
        unit: Its number k in the slide.
        first: Tile index of its first tile.
        offsets: First byte of each record's frame, shape (n,), int64.
        lengths: Bytes of each frame, shape (n,), int64.
    """

    source: Source
    unit: int
    first: int
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]

    def __len__(self) -> int:
        """Number of tiles."""
        return len(self.offsets)

    @property
    def last(self) -> int:
        """One past the last tile's index."""
        return self.first + len(self)


@dataclass(frozen=True, kw_only=True)
class SlideUnitPlan:
    """Whole rows of a slide's grid, before the grid is read.

    Attributes:
        source: The slide.
        unit: Its number in the slide.
        first: Tile index of its first tile.
        count: Number of tiles.
    """

    source: Source
    unit: int
    first: int
    count: int

    @property
    def last(self) -> int:
        """One past the last tile's index."""
        return self.first + self.count


def slide_unit_plans(
    source: Source, rows: NDArray[np.integer], unit_tiles: int
) -> list[SlideUnitPlan]:
    """The units over a slide: whole grid rows, each as near to `unit_tiles` as it comes.

    Args:
        source: The slide.
        rows: Grid row of each tile, (n,), ascending.
        unit_tiles: Tiles that a unit should have.
    """
    ends = np.flatnonzero(np.diff(rows, append=-1)) + 1  # tiles up to each row's end
    plans: list[SlideUnitPlan] = []
    first = end = 0
    for i, row_end in enumerate(ends.tolist()):
        end = row_end
        ahead = ends[i + 1] if i + 1 < len(ends) else None
        short = unit_tiles - (end - first)
        if ahead is not None and abs(ahead - first - unit_tiles) < short:
            continue  # with the next row it comes nearer
        plans.append(
            SlideUnitPlan(
                source=source, unit=len(plans), first=first, count=end - first
            )
        )
        first = end
    return plans


def index_source(
    slide: str, uri: str, tile_px: int | None
) -> tuple[Source, TFRecordIndex]:
    """Index one file; one that cannot be has no tiles and says why in `error`.

    The id is 0 until `number_sources` gives it one.

    Args:
        slide: The slide's name.
        uri: The file.
        tile_px: Side of the tiles where no picture tells it.
    """
    empty = TFRecordIndex(np.empty(0, np.int64), np.empty(0, np.int64))
    stat = NOT_SEEN
    try:
        stat = file_stat(uri)
        index = index_tfrecord(uri)
        complaint, width = _look_inside(uri, index)
        tile_px = tile_px if width is None else width
        error = index.error or complaint
    except (SourceError, StorageError) as failure:
        index, error = empty, str(failure)
    if error is not None and index.error is None:
        index = empty
    source = Source(
        source=0,
        slide=slide,
        uri=uri,
        stat=stat,
        n_indexed=len(index),
        tile_px=tile_px,
        tile_um=tile_um_of(uri),
        error=error,
    )
    return source, index


def _look_inside(uri: str, index: TFRecordIndex) -> tuple[str | None, int | None]:
    """What some records show of a file: the first, middle and last, or more of them.

    Returns:
        What is wrong if none has a picture, and the width of the first picture that
        can be opened, in pixels.
    """
    complaint = None
    for most in (_PROBED_RECORDS, _PROBED_AT_LAST):
        complaint, fine, width = _probe(uri, index, most)
        if fine:
            return None, width
    return complaint, None


def _probe(
    uri: str, index: TFRecordIndex, most: int
) -> tuple[str | None, bool, int | None]:
    """A complaint, whether any record is a tile or broken bytes, a picture's width."""
    n = len(index)
    probed = np.unique(np.linspace(0, n - 1, min(n, most)).astype(np.int64))
    complaint, fine = None, n == 0
    for payload in iter_records(uri, index.offsets[probed], index.lengths[probed]):
        if isinstance(payload, ContentError):
            fine = True  # broken bytes are the tile's matter, not the file's
            continue
        try:
            record = parse_example(payload)
        except ContentError as error:
            complaint = f"{uri}: {error}"
            continue
        fine = True
        with contextlib.suppress(ContentError):
            return None, True, open_image(record.image_raw).width
    return complaint, fine, None


def unit_plans(source: Source, index: TFRecordIndex, unit_tiles: int) -> list[UnitPlan]:
    """The units over one indexed file, in tile order."""
    return [
        UnitPlan(
            source=source,
            unit=unit,
            first=first,
            count=min(unit_tiles, len(index) - first),
            start=int(index.offsets[first]),
            sidecar=index.sidecar,
        )
        for unit, first in enumerate(range(0, len(index), unit_tiles))
    ]


def load_unit(plan: UnitPlan) -> Unit:
    """The unit with its frames.

    Raises:
        StorageError: The file cannot be read, or has changed since it was planned.
    """
    uri = plan.source.uri
    if plan.sidecar:
        index = frames_beside(uri, plan.first, plan.count)
        if int(index.offsets[0]) != plan.start:
            message = f"the index beside {uri} has changed since it was read: run again"
            raise StorageError(message)
    else:
        index = frames_from(uri, plan.start, plan.count)
    return Unit(
        source=plan.source,
        unit=plan.unit,
        first=plan.first,
        offsets=index.offsets,
        lengths=index.lengths,
    )


def number_sources(sources: list[Source], known: Mapping[str, int]) -> list[Source]:
    """Give each source the id its slide has, or the next that none ever had."""
    following = max(known.values(), default=-1) + 1
    numbered = []
    for source in sources:
        number = known.get(source.slide)
        if number is None:
            number, following = following, following + 1
        numbered.append(replace(source, source=number))
    return numbered


def sources_table(sources: list[Source]) -> pa.Table:
    """Sources as schema.SOURCES."""
    return pa.Table.from_pylist(
        [
            {
                schema.SOURCE: source.source,
                schema.SLIDE: source.slide,
                schema.URI: source.uri,
                schema.SIZE: source.stat.size,
                schema.MTIME: source.stat.mtime_ns,
                schema.ETAG: source.stat.etag,
                schema.N_INDEXED: source.n_indexed,
                schema.TILE_PX: source.tile_px,
                schema.TILE_UM: source.tile_um,
                schema.MPP: source.mpp,
                schema.WINDOW_PX: source.window_px,
                schema.ERROR: source.error,
            }
            for source in sources
        ],
        schema=schema.SOURCES,
    )


def sources_from_table(table: pa.Table) -> list[Source]:
    """The inverse of `sources_table`."""
    mtimes = table[schema.MTIME].cast(pa.int64()).to_pylist()
    rows = table.drop_columns([schema.MTIME]).to_pylist()
    return [
        Source(
            source=row[schema.SOURCE],
            slide=row[schema.SLIDE],
            uri=row[schema.URI],
            stat=FileStat(size=row[schema.SIZE], mtime_ns=mtime, etag=row[schema.ETAG]),
            n_indexed=row[schema.N_INDEXED],
            tile_px=row[schema.TILE_PX],
            tile_um=row[schema.TILE_UM],
            mpp=row[schema.MPP],
            window_px=row[schema.WINDOW_PX],
            error=row[schema.ERROR],
        )
        for row, mtime in zip(rows, mtimes, strict=True)
    ]
