"""What a mosaic leaves behind: picture, cells, report, description."""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict

import pyarrow as pa
from PIL import Image

from raylatent import schema
from raylatent.errors import MapError
from raylatent.mapping.fitted_map import library_versions
from raylatent.montage.cells import PartialCells
from raylatent.montage.grid import Bounds, Grid
from raylatent.montage.render import Look
from raylatent.seal import (
    DIGEST,
    FILES,
    content_digest,
    seal_in,
    sealed_json,
    sealed_parquet,
)
from raylatent.storage import Store, absolute

PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
_NOT_WRITTEN = (".bmp", ".eps", ".gif", ".pdf", ".svg", ".tif", ".tiff", ".webp")


def picture_format(uri: str) -> str | None:
    """`PNG` or `JPEG` by the suffix, None for a folder; MapError for other pictures.

    >>> picture_format("/runs/mosaic.png"), picture_format("/runs/v1.2")
    ('PNG', None)
    """
    name = uri.rsplit("/", 1)[-1].lower()
    suffix = "." + name.rsplit(".", 1)[-1] if "." in name else ""
    if suffix in _NOT_WRITTEN:
        message = f"cannot write {uri}: a mosaic is saved as .png or .jpg"
        raise MapError(message)
    return PICTURES.get(suffix)


def write_file(path: str, data: bytes) -> None:
    """Put one file in place in one step."""
    folder, name = absolute(path).rsplit("/", 1)
    Store(folder or "/").write(name, data)


def encode_picture(picture: Image.Image, kind: str) -> bytes:
    """As PNG or JPEG."""
    data = io.BytesIO()
    if kind == "JPEG":
        picture.save(data, kind, quality=92, subsampling=0)
    else:
        # The fastest level: tissue hardly shrinks further, and more takes seconds.
        picture.save(data, kind, compress_level=1)
    return data.getvalue()


def encode_cells(cells: pa.Table) -> bytes:
    """As Parquet with page checksums and a seal."""
    return bytes(memoryview(sealed_parquet(cells)))


def write_mosaic(
    folder: str, picture: bytes, cells: bytes, description: Mapping[str, object]
) -> dict[str, str]:
    """Put `mosaic.png` and `cells.parquet` in place, then what describes them.

    Returns:
        Digests of the three by name.
    """
    digests = {"mosaic.png": content_digest(picture), "cells.parquet": seal_in(cells)}
    Store(folder).delete("mosaic.json")  # which tells of those that were there before
    write_file(f"{folder}/mosaic.png", picture)
    write_file(f"{folder}/cells.parquet", cells)
    about = sealed_json({**description, FILES: digests})
    text = json.dumps(about, indent=1, ensure_ascii=False)
    write_file(f"{folder}/mosaic.json", text.encode("utf-8", "replace"))
    return {**digests, "mosaic.json": about[DIGEST]}


def encode_report(cells: pa.Table, number: str) -> bytes:
    """CSV with `slide` and `index` of each drawn tile, which is column `number`."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["slide", "index"])
    columns = (cells[name].to_pylist() for name in (schema.SLIDE, number))
    writer.writerows(zip(*columns, strict=True))
    return text.getvalue().encode("utf-8", "surrogateescape")


def shares(chosen: PartialCells, cells: pa.Table, grid: Grid) -> dict[str, float]:
    """How much of the map and of its points the mosaic shows, each 0 to 1.

    Returns:
        `cells`: of the grid's cells, those with a tile; `rows_in_cells`: of the points,
        those in these cells; `rows_drawn`: of the points, those that stand for a cell.
    """
    n_cells = _cells_of(grid)
    n_points = max(1, chosen.n_points)
    return {
        "cells": len(cells) / n_cells,
        "rows_in_cells": int(cells[schema.N].to_numpy().sum()) / n_points,
        "rows_drawn": len(cells) / n_points,
    }


def in_words(chosen: PartialCells, cells: pa.Table, grid: Grid) -> str:
    """The shares in a line."""
    of = shares(chosen, cells, grid)
    n_cells = _cells_of(grid)
    lost = f", {chosen.n_dropped:,} without a place" if chosen.n_dropped else ""
    return (
        f"{len(cells):,} of {n_cells:,} cells filled, with "
        f"{100 * of['rows_in_cells']:.3g} % of {chosen.n_points:,} rows{lost}; "
        f"{100 * of['rows_drawn']:.3g} % of the rows are drawn"
    )


def describe(
    chosen: PartialCells,
    cells: pa.Table,
    *,
    grid: Grid,
    bounds: Bounds,
    look: Look,
    failed: dict[int, str],
) -> dict[str, object]:
    """What `mosaic.json` holds: parameters, counts, failures, grid, versions."""
    return {
        "schema": schema.SCHEMA_VERSION,
        "parameters": {
            "num_tiles_x": grid.n_cols,
            "grid": grid.kind,
            **asdict(chosen.rule),
            "labels": chosen.tally.labels is not None,
            **asdict(look),
        },
        "counts": {
            "points": chosen.n_points,
            "dropped_not_finite": chosen.n_dropped,
            "cells_of_grid": _cells_of(grid),
            "cells": len(chosen.best),
            "cells_without_tile": len(chosen.best) - len(cells),
            "drawn": len(cells) - len(failed),
            "failed": len(failed),
        },
        "shares": shares(chosen, cells, grid),
        "failed": [
            {**_where(cells, position), "reason": reason}
            for position, reason in sorted(failed.items())
        ],
        "grid": {
            "cell_size": grid.cell,
            "columns": grid.n_cols,
            "rows": grid.n_rows,
            "xmin": bounds.xmin,
            "xmax": bounds.xmax,
            "ymin": bounds.ymin,
            "ymax": bounds.ymax,
        },
        "versions": library_versions(("raylatent", "numpy", "pillow", "pyarrow")),
    }


def _cells_of(grid: Grid) -> int:
    """Slideflow's grid of a flat map has no row, and yet a row of cells."""
    return grid.n_cols * max(1, grid.n_rows)


def _where(cells: pa.Table, position: int) -> dict[str, object]:
    names = (schema.ROW, schema.COL, schema.SLIDE, schema.TILE_INDEX)
    return {name: cells[name][position].as_py() for name in names}
