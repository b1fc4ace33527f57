"""Writing what an explorer has beside pictures: cells, points, slides, and the page."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylatent import schema
from raylatent.explorer import pictures, pyramid
from raylatent.explorer.blocks import (
    Write,
    write_cells,
    write_points,
    write_similar,
    write_slides,
)
from raylatent.explorer.folder import CELLS, Told, page_files, picture_bitmap
from raylatent.explorer.pyramid import CONTRAST_LEVEL
from raylatent.explorer.scripts import meta_script
from raylatent.explorer.squares import Drawn
from raylatent.montage.cells import CELL, PLACE_X, PLACE_Y
from raylatent.montage.points import Parts, cell_ids
from raylatent.seal import sealed_parquet

Similar = tuple[int, NDArray[np.int64]]
"""A level, and of each of its cells the likest ones, as of `write_similar`."""


def write_data(
    write: Write,
    told: Told,
    meta: dict[str, Any],
    parts: Parts,
    drawn: Drawn,
    similar: Similar | None,
) -> None:
    """Write all but pictures of tiles and explorer.json; `meta` is filled in."""
    found = told.found
    meta["slides"], thumbnails = told.slides()
    meta["levels"] = _write_cells(write, told, drawn)
    if similar is not None:
        level, near = similar
        write_similar(write, level, found.chosen[level][CELL].to_numpy(), near)
    meta["similar"] = None if similar is None else similar[0]
    blocks = write_points(write, parts, found, told.names)
    meta["points"] |= {"n": sum(one["n"] for one in blocks), "blocks": blocks}
    dzi = pictures.description(found.extent.finest, told.wanted.cell_px)
    write(f"{pictures.MOSAIC}.dzi", dzi)
    write("data/meta.js", meta_script(meta))
    for name, data in (*thumbnails.items(), *page_files()):
        write(name, data)


def _write_cells(write: Write, told: Told, drawn: Drawn) -> list[dict[str, Any]]:
    """Write the cells of all levels; what the page is told of each."""
    found, names = told.found, told.names
    tables, levels = [], []
    for level, chosen in enumerate(found.chosen):
        table = pyramid.level_table(level, told.hidden(chosen), found.levels[level])
        if told.wanted.pseudonyms is not None:
            at = table.schema.get_field_index(schema.TOP_SLIDE)
            table = table.set_column(
                at, table.schema.field(at), told.shown(table[schema.TOP_SLIDE])
            )
        table, sizes = _with_pictures(told, drawn, table, chosen)
        blocks = write_cells(write, level, table, names, sizes, found.square)
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


def _with_pictures(
    told: Told, drawn: Drawn, table: pa.Table, chosen: pa.Table
) -> tuple[pa.Table, NDArray[np.uint16]]:
    """The cells of a level, and the sizes of their tiles' own pictures, (cells, 2)."""
    found = told.found
    finest = found.square.grid(found.extent.finest)
    places = np.stack([chosen[name].to_numpy() for name in (PLACE_X, PLACE_Y)], axis=1)
    cells = found.chosen[-1][CELL].to_numpy()
    at = np.searchsorted(cells, cell_ids(finest, places)[0])
    sizes = drawn.sizes[at]
    picture = np.where(sizes[:, 0] == 0, -1, drawn.picture[at])  # it cannot be read
    for name, values in ((schema.PICTURE, picture), (schema.SLOT, drawn.slot[at])):
        column = table.schema.get_field_index(name)
        array = pa.array(values.astype(np.int32), mask=picture < 0)
        table = table.set_column(column, schema.EXPLORER_CELLS.field(name), array)
    return table, sizes
