"""A slide's grid as a table: which tiles there are, and which were left out and why."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raylatent import schema
from raylatent.source.slides import slide_stat
from raylatent.source.tissue import REASONS, TissueOptions
from raylatent.source.units import Source
from raylatent.source.wsi import (
    READER,
    Geometry,
    SlideHandle,
    TileOptions,
    open_grid,
    select_tiles,
)
from raylatent.source.wsi.geometry import FileSize
from raylatent.storage import NOT_SEEN, FileStat


@dataclass(frozen=True, kw_only=True)
class SlideRequest:
    """A whole slide that is to be cut into tiles.

    Attributes:
        uri: Where it is.
        tiles: What is asked of its tiles; its mpp is what others say of it.
        tissue: Which are left out.
    """

    uri: str
    tiles: TileOptions
    tissue: TissueOptions


@dataclass(frozen=True, kw_only=True)
class SlideUnit:
    """Whole rows of a slide's grid: what one part holds.

    Attributes:
        source: The slide.
        unit: Its number in the slide.
        first: Tile index of its first tile.
        geometry: The grid.
        rows: Row of each tile in the grid, (n,).
        cols: Column likewise.
        icc: Convert colors by the slide's profile.
    """

    source: Source
    unit: int
    first: int
    geometry: Geometry
    rows: NDArray[np.int64]
    cols: NDArray[np.int64]
    icc: bool = False

    def __len__(self) -> int:
        """Number of tiles."""
        return len(self.rows)

    @property
    def last(self) -> int:
        """One past the last tile's index."""
        return self.first + len(self)

    def locations(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Centers (x, y) of the tiles, level-0 pixels."""
        return self.geometry.centers(self.rows, self.cols)


def source_of_slide(
    slide: str, request: SlideRequest, stat: FileStat, geometry: Geometry, n_tiles: int
) -> Source:
    """A slide as in sources.parquet; the id is 0 until it is given one."""
    return Source(
        source=0,
        slide=slide,
        uri=request.uri,
        stat=stat,
        n_indexed=n_tiles,
        tile_px=geometry.tile_px,
        tile_um=geometry.tile_um,
        mpp=geometry.mpp,
        window_px=geometry.window_px,
    )


def failed_slide(slide: str, request: SlideRequest, error: str) -> Source:
    """A slide that cannot be worked on."""
    return Source(
        source=0,
        slide=slide,
        uri=request.uri,
        stat=NOT_SEEN,
        n_indexed=0,
        error=error,
    )


def grid_table(geometry: Geometry, reasons: NDArray[np.uint8]) -> pa.Table:
    """A grid as schema.GRID.

    Args:
        geometry: Where the tiles are.
        reasons: Why each is left out, numbers of `tissue.REASONS`, (rows, cols).
    """
    coord = geometry.coord()
    rows, cols = coord[:, 3], coord[:, 2]
    xs, ys = geometry.centers(rows, cols)
    names = pa.array([None, *REASONS[1:]], pa.string())
    return pa.Table.from_arrays(
        [
            *(pa.array(values.astype(np.int32)) for values in (rows, cols, xs, ys)),
            names.take(pa.array(reasons.reshape(-1))),
        ],
        schema=schema.GRID,
    )


def kept_tiles(table: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of the tiles that a grid keeps, in tile order."""
    kept = table.filter(pc.is_null(table[schema.REASON]))
    rows, cols = (
        kept[name].to_numpy().astype(np.int64) for name in (schema.ROW, schema.COL)
    )
    return rows, cols


def left_out(table: pa.Table) -> dict[str, int]:
    """How many tiles of a grid were left out for each reason."""
    counts = table[schema.REASON].drop_null().value_counts().to_pylist()
    return {row["values"]: row["counts"] for row in counts}


def grid_footer(
    request: SlideRequest, stat: FileStat, geometry: Geometry, own: FileSize
) -> dict[str, str]:
    """What a grid was made with: a grid of the same is the same.

    Args:
        request: What is asked.
        stat: Of the slide's files.
        geometry: The grid.
        own: What the slide's file says of the size of its pixels.
    """
    made_with = {
        "geometry": asdict(geometry),
        "own_mpp": asdict(own),
        "tissue": asdict(request.tissue),
        "stat": asdict(stat),
        "icc": request.tiles.icc,
        "reader": READER,
    }
    return {schema.FOOTER_GRID: json.dumps(made_with, sort_keys=True)}


def geometry_from_footer(footer: Mapping[str, str]) -> tuple[Geometry, bool]:
    """The grid that a footer tells of, and whether colors are converted."""
    made_with: dict[str, Any] = json.loads(footer[schema.FOOTER_GRID])
    values = made_with["geometry"]
    geometry = Geometry(**{**values, "origin": tuple(values["origin"])})
    return geometry, bool(made_with["icc"])


def own_size(footer: Mapping[str, str]) -> FileSize:
    """What the file of a grid's slide says of the size of its pixels."""
    made_with: dict[str, Any] = json.loads(footer[schema.FOOTER_GRID])
    return FileSize(**made_with["own_mpp"])


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
    footer = grid_footer(request, stat, geometry, handle.file_size)
    return OpenedSlide(handle=handle, geometry=geometry, stat=stat, footer=footer)


def detect_tiles(opened: OpenedSlide, request: SlideRequest) -> pa.Table:
    """Which tiles are kept, as schema.GRID.

    Raises:
        ContentError: Nothing of the slide can be read.
        StorageError: It cannot be read at all.
    """
    reasons = select_tiles(opened.handle, opened.geometry, request.tissue)
    return grid_table(opened.geometry, reasons)
