"""Deeper levels than were written, drawn when asked: those that would have been written."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raylatent import schema
from raylatent.explorer import deeper
from raylatent.explorer.deeper import DeeperLevels
from raylatent.explorer.pictures import dzi_level
from raylatent.explorer.pyramid import (
    SIDE,
    Square,
    choose_nested,
    level_table,
    partial_levels,
)
from raylatent.montage.grid import Bounds
from raylatent.montage.points import Points, Rule
from raylatent.stored.map_points import StoredPoints, read_points
from raylatent.stored.mosaic_inputs import source_places
from raylatent.tiles.fetch import stored_tiles
from tests.engine.slide_files import write_slide
from tests.explorer.selected_runs import mapped_run

FINEST, LAST, CELL_PX = 1, 4, 16
RULE = Rule(seed=7)


@pytest.fixture(scope="module")
def levels(tmp_path_factory):
    """The deeper levels of an explorer, and all levels as they would be written."""
    folder = tmp_path_factory.mktemp("deeper")
    slide = write_slide(folder / "s.tif", 1, width=900, height=1300)
    about = {"window_px": 20, "tile_px": 20, "uri": str(slide)}
    run, _ = mapped_run(folder / "run", {"a": 60, "b": 50, "c": 60}, **about)
    stored = StoredPoints(f"{run.uri}/maps/default", run)
    table = read_points(stored.store)
    xy = schema.places(table)
    points, square = Points.of(xy, reference=table), Square.around(Bounds.of(xy))
    found = partial_levels(points, square, LAST + 1, RULE)
    chosen = choose_nested(square, found)
    tables = [
        level_table(level, *both)
        for level, both in enumerate(zip(chosen, found, strict=True))
    ]
    cells = folder / "cells.parquet"
    pq.write_table(pa.concat_tables(tables[: FINEST + 1]), cells)
    rule = {"select": "nearest", "ties": "hash", "seed": 7, "max_dist": None}
    told = {"cell_px": CELL_PX, "levels": [{"level": FINEST}], "rule": rule}
    return DeeperLevels(stored, cells, told, square), tables, run


@pytest.mark.parametrize("level", range(FINEST + 1, LAST + 1))
def test_cells_are_those_that_would_have_been_written(levels, level):
    made, tables, _ = levels
    wanted = tables[level]
    found = []
    for row in range(1 << level):
        for col in range(1 << level):
            own = made.tiles(level, row, col)
            ids = own["cell"].to_numpy()
            assert ((ids >> 32) // SIDE == row).all()
            if len(own):
                names = (
                    own[schema.SLIDE].to_pylist(),
                    own[schema.TILE_INDEX].to_pylist(),
                )
                found += zip(ids.tolist(), *names, strict=True)
    rows, cols = (wanted[name].to_numpy().astype(np.int64) for name in ("row", "col"))
    ids = (rows << 32) | cols
    names = wanted[schema.SLIDE].to_pylist(), wanted[schema.TILE_INDEX].to_pylist()
    assert sorted(found) == sorted(zip(ids.tolist(), *names, strict=True))
    assert len(found) > 15


def test_a_block_has_the_tiles_in_their_places(levels):
    made, tables, run = levels
    level, located = FINEST + 2, source_places(run)
    row, col = (tables[level][name].to_pylist()[0] for name in ("row", "col"))
    last = (1 << level) - 1
    dzi = dzi_level(level, CELL_PX)
    data = made.jpeg(dzi, col // SIDE, last - row // SIDE, located)
    picture = np.asarray(Image.open(io.BytesIO(data)))
    assert picture.shape == (SIDE * CELL_PX, SIDE * CELL_PX, 3)
    expected = np.full(picture.shape, 255, np.uint8)
    rows = [
        one
        for one in tables[level].to_pylist()
        if (one["row"] // SIDE, one["col"] // SIDE) == (row // SIDE, col // SIDE)
    ]
    places = [located[one["source"]].place(one) for one in rows]
    for at, tile in stored_tiles(places, CELL_PX):
        top = (SIDE - 1 - rows[at]["row"] % SIDE) * CELL_PX
        left = rows[at]["col"] % SIDE * CELL_PX
        expected[top : top + CELL_PX, left : left + CELL_PX] = np.asarray(tile)
    assert len(rows) > 1
    assert np.abs(picture.astype(int) - expected).mean() < 6


def test_a_block_without_tiles_is_white_and_there_is_none_beyond_the_grid(levels):
    made, tables, run = levels
    located = source_places(run)
    level = LAST
    blocks = {
        (row // SIDE, col // SIDE)
        for row, col in zip(
            *(tables[level][name].to_pylist() for name in ("row", "col")), strict=True
        )
    }
    last = (1 << level) - 1
    row, col = next(
        (r, c) for r in range(last + 1) for c in range(last + 1) if (r, c) not in blocks
    )
    dzi = dzi_level(level, CELL_PX)
    white = Image.open(io.BytesIO(made.jpeg(dzi, col, last - row, located)))
    assert np.asarray(white).min() == 255
    assert made.jpeg(dzi, last + 1, 0, located) is None
    assert made.jpeg(dzi, 0, 10**17, located) is None
    for written_or_not in (
        0,
        dzi_level(FINEST, CELL_PX),
        dzi_level(14, CELL_PX),
        10**9,
    ):
        assert made.jpeg(written_or_not, 0, 0, located) is None


def test_below_very_many_points_nothing_is_drawn(levels, monkeypatch, caplog):
    made, tables, run = levels
    told = {"cell_px": CELL_PX, "levels": [{"level": FINEST}], "rule": vars(RULE)}
    few = DeeperLevels(made._stored, made._cells, told, made._square)
    row, col = (tables[FINEST + 1][name].to_pylist()[0] for name in ("row", "col"))
    asked = (FINEST + 1, row // SIDE, col // SIDE)
    assert len(made.tiles(*asked)) > 0
    monkeypatch.setattr(deeper, "MOST_POINTS", 2)
    assert few.tiles(*asked) is None
    assert "has more than 2 tiles" in caplog.text
    dzi, last = dzi_level(FINEST + 1, CELL_PX), (1 << FINEST + 1) - 1
    assert few.jpeg(dzi, asked[2], last - asked[1], source_places(run)) is None
