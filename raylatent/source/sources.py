"""sources.parquet: the plan as data."""

from collections.abc import Mapping
from dataclasses import replace

import pyarrow as pa

from raylatent import schema
from raylatent.source.units import Source
from raylatent.storage import FileStat


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
