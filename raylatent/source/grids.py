"""A slide's grid as a table: which tiles there are, and which were left out and why."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raylatent import schema
from raylatent.source.tissue import REASONS, TissueOptions
from raylatent.source.wsi import READER, Geometry
from raylatent.source.wsi.geometry import FileSize
from raylatent.storage import FileStat


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
    tissue: TissueOptions,
    stat: FileStat,
    geometry: Geometry,
    own: FileSize,
    *,
    icc: bool,
) -> dict[str, str]:
    """What a grid was made with: a grid of the same is the same.

    Args:
        tissue: Which tiles are left out.
        stat: Of the slide's files.
        geometry: The grid.
        own: What the slide's file says of the size of its pixels.
        icc: Whether colors are converted by the slide's profile.
    """
    made_with = {
        "geometry": asdict(geometry),
        "own_mpp": asdict(own),
        "tissue": asdict(tissue),
        "stat": asdict(stat),
        "icc": icc,
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
