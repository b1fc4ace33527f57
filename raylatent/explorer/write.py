"""Writing what an explorer has beside pictures: cells, points, slides, and the page."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylatent import schema
from raylatent.explorer import pictures
from raylatent.explorer.blocks import (
    Write,
    write_cells,
    write_points,
    write_similar,
    write_slides,
)
from raylatent.explorer.folder import CELLS, META, Told, page_files, picture_bitmap
from raylatent.explorer.pyramid import CONTRAST_LEVEL, level_table, places_of
from raylatent.explorer.scripts import meta_script
from raylatent.explorer.squares import Pictures
from raylatent.montage.cells import CELL
from raylatent.montage.points import Parts, cell_ids
from raylatent.seal import sealed_parquet

Similar = tuple[int, NDArray[np.int64]]
"""A level, and of each of its cells the likest ones, as of `write_similar`."""


def write_data(
    write: Write,
    told: Told,
    meta: dict[str, Any],
    parts: Parts,
    drawn: Pictures,
    similar: Similar | None,
    folder: str,
) -> None:
    """Write all but pictures of tiles and explorer.json; `meta` is filled in."""
    found = told.found
    meta["slides"] = told.slides(write)
    meta["levels"] = _write_cells(write, told, drawn)
    meta["similar"] = None
    if similar is not None:
        level, near = similar
        write_similar(write, level, found.chosen[level][CELL].to_numpy(), near)
        meta["similar"] = level
    blocks = write_points(write, parts, found, told.names, folder)
    meta["points"] |= {"n": sum(one["n"] for one in blocks), "blocks": blocks}
    dzi = pictures.description(found.extent.finest, told.wanted.cell_px)
    write(f"{pictures.MOSAIC}.dzi", dzi)
    write(META, meta_script(meta))
    for name, data in page_files():
        write(name, data)


def _write_cells(write: Write, told: Told, drawn: Pictures) -> list[dict[str, Any]]:
    """Write the cells of all levels; what the page is told of each."""
    found, names = told.found, told.names
    finest, cells = found.square.grid(found.extent.finest), found.chosen[-1][CELL]
    tables, levels = [], []
    for level, chosen in enumerate(found.chosen):
        # A tile of any level is in the cell of the finest one in which it lies.
        at = np.searchsorted(cells.to_numpy(), cell_ids(finest, places_of(chosen))[0])
        none = (drawn.picture[at] < 0) | (drawn.sizes[at, 0] == 0)  # not to be read
        own = {schema.PICTURE: drawn.picture[at], schema.SLOT: drawn.slot[at]}
        table = level_table(
            level,
            told.hidden(chosen),
            found.levels[level],
            told.shown,
            **{key: pa.array(of, pa.int32(), mask=none) for key, of in own.items()},
        )
        blocks = write_cells(write, level, table, names, drawn.sizes[at], found.square)
        pairs = level <= CONTRAST_LEVEL and not len(found.levels[level].counted)
        if pairs:
            write_slides(write, level, found.levels[level].slides, names)
        rows, cols = (table[name].to_numpy() for name in (schema.ROW, schema.COL))
        levels.append(
            {
                "level": level,
                "cells": len(table),
                "slides": pairs,
                "most": int(table[schema.N].to_numpy().max()),
                "blocks": blocks,
                "tiles_stored": level < found.extent.own,
                "pictures": picture_bitmap(level, rows, cols),
            }
        )
        tables.append(table)
    write(CELLS, bytes(memoryview(sealed_parquet(pa.concat_tables(tables)))))
    return levels
