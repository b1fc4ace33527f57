"""The plan: which slides there are, and the units of work over each.

A unit is tiles [k U, (k+1) U) of one slide, U fixed for a run, so that a file that
grows renames nothing. sources.parquet is the plan as data.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pyarrow as pa

from raylatent import schema
from raylatent.storage import FileStat


@dataclass(frozen=True, kw_only=True)
class Source:
    """One slide's tiles, as in sources.parquet.

    Attributes:
        source: Id that rows refer to, kept as long as the run lives.
        slide: The slide's name.
        kind: What its tiles are read from, see `source.kinds`.
        uri: Where that was when it was planned: a file, or a folder.
        pattern: Of a folder: a regular expression that its files' paths match, and
            whose group `slide` is the slide's name where it has one; None: all files.
        stat: What tells whether it has changed.
        n_indexed: Tiles that the run promises a row or a quarantine row for.
        tile_px: Side of the tiles in pixels, None where not known.
        tile_um: Side in µm where it is known.
        mpp: µm a pixel of a slide's level 0.
        window_px: Side of the tiles in level-0 pixels, where they are cut out of a slide.
        bounds_x: Left edge of what was scanned of a slide, level-0 pixels; None where
            its file does not say.
        bounds_y: Upper edge likewise.
        error: Why the slide, or its rest, was given up; None where nothing is wrong.
    """

    source: int
    slide: str
    kind: str
    uri: str
    stat: FileStat
    n_indexed: int
    pattern: str | None = None
    tile_px: int | None = None
    tile_um: float | None = None
    mpp: float | None = None
    window_px: int | None = None
    bounds_x: int | None = None
    bounds_y: int | None = None
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class UnitPlan:
    """A run of tiles of one slide, before anything of them is read.

    Attributes:
        source: The slide's source.
        unit: Its number k in the slide.
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
                schema.KIND: source.kind,
                schema.URI: source.uri,
                schema.PATTERN: source.pattern,
                schema.SIZE: source.stat.size,
                schema.MTIME: source.stat.mtime_ns,
                schema.ETAG: source.stat.etag,
                schema.N_INDEXED: source.n_indexed,
                schema.TILE_PX: source.tile_px,
                schema.TILE_UM: source.tile_um,
                schema.MPP: source.mpp,
                schema.WINDOW_PX: source.window_px,
                schema.BOUNDS_X: source.bounds_x,
                schema.BOUNDS_Y: source.bounds_y,
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
            kind=row[schema.KIND],
            uri=row[schema.URI],
            pattern=row[schema.PATTERN],
            stat=FileStat(size=row[schema.SIZE], mtime_ns=mtime, etag=row[schema.ETAG]),
            n_indexed=row[schema.N_INDEXED],
            tile_px=row[schema.TILE_PX],
            tile_um=row[schema.TILE_UM],
            mpp=row[schema.MPP],
            window_px=row[schema.WINDOW_PX],
            bounds_x=row[schema.BOUNDS_X],
            bounds_y=row[schema.BOUNDS_Y],
            error=row[schema.ERROR],
        )
        for row, mtime in zip(rows, mtimes, strict=True)
    ]
