"""Pictures of an explorer: each tile is where its cell is, at every level that shows it."""

import io
import math
import xml.etree.ElementTree as ET
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from raylatent import schema
from raylatent.explorer import pictures
from raylatent.explorer.pictures import Shown
from raylatent.explorer.pyramid import SIDE
from raylatent.explorer.squares import Pictures, draw_square
from raylatent.montage.cells import CELL

CELL_PX = 16
LEVEL = 5


def shown_of(cells):
    """Tiles of (row, column, since), one for each cell."""
    table = np.array(cells, np.int64).reshape(-1, 3)
    return Shown(rows=table[:, 0], cols=table[:, 1], since=table[:, 2])


def colors(n):
    """A cell of one color for each tile."""
    rng = np.random.default_rng(n)
    one = rng.integers(0, 200, (n, 1, 1, 3), np.uint8)
    return np.broadcast_to(one, (n, CELL_PX, CELL_PX, 3)).copy()


def color_at(files, level, row, col):
    """Mean color of a cell's middle, as a reader of DZI finds it."""
    side = SIDE << level
    x, y = col * CELL_PX, (side - 1 - row) * CELL_PX
    block = SIDE * CELL_PX
    dzi = level + math.ceil(math.log2(block))
    data = files[f"mosaic_files/{dzi}/{x // block}_{y // block}.jpg"]
    picture = simplejpeg.decode_jpeg(data)
    top, left = y % block + 4, x % block + 4
    return picture[top : top + 8, left : left + 8].reshape(-1, 3).mean(axis=0)


sides = st.integers(0, (SIDE << LEVEL) - 1)
tiles = st.lists(
    st.tuples(sides, sides, st.integers(0, LEVEL)),
    min_size=1,
    max_size=30,
    unique_by=lambda cell: cell[:2],
)


@settings(max_examples=25, deadline=None)
@given(tiles)
def test_tiles_are_where_their_cells_are(cells):
    shown, own = shown_of(cells), colors(len(cells))
    files = dict(pictures.draw(LEVEL, shown, own, range(LEVEL + 1)))
    expected = {}
    for i, (row, col, since) in enumerate(cells):
        for level in range(since, LEVEL + 1):
            key = level, row >> (LEVEL - level), col >> (LEVEL - level)
            expected[key] = i  # the last one is drawn over those before
    for (level, row, col), i in expected.items():
        found = color_at(files, level, row, col)
        assert np.abs(found - own[i, 0, 0]).max() < 12
    blocks = {(level, row // SIDE, col // SIDE) for level, row, col in expected}
    assert len(files) == len(blocks)


@settings(max_examples=25, deadline=None)
@given(tiles)
def test_squares_are_drawn_apart_as_all_together(cells):
    shown, own = shown_of(cells), colors(len(cells))
    whole = dict(pictures.draw(LEVEL, shown, own, range(LEVEL + 1)))
    found = {}
    chosen = pa.table(
        {CELL: (shown.rows << 32) | shown.cols, schema.SINCE: shown.since}
    )
    store = SimpleNamespace(write=found.__setitem__)
    reach = SimpleNamespace(finest=LEVEL, own=0)
    made = Pictures(
        store,
        SimpleNamespace(chosen=[chosen], extent=reach),
        SimpleNamespace(places=len, cell_px=CELL_PX, tile_px=CELL_PX),
    )
    seen = []
    for work in made.works():
        seen += work.which.tolist()
        assert len(work.which) <= 64 * 64
        drawn = replace(work, cells=own[work.which])
        made.add(draw_square(store, drawn, CELL_PX, CELL_PX))
        assert len(made._held) < 3
    made.finish()
    assert sorted(seen) == list(range(len(cells)))
    small = {name for name in found if int(name.split("/")[1]) < 7}
    assert {name: data for name, data in found.items() if name not in small} == whole
    assert len(small) == (7 if (shown.since == 0).any() else 0)


def test_the_description_is_what_the_pictures_are():
    data = pictures.description(2, CELL_PX)
    root = ET.fromstring(data)  # noqa: S314
    assert root.attrib["TileSize"] == str(SIDE * CELL_PX)
    size = next(iter(root)).attrib
    assert size["Width"] == size["Height"] == str(32 * CELL_PX)
    deepest = math.ceil(math.log2(32 * CELL_PX))
    assert pictures.dzi_level(2, CELL_PX) == deepest


def test_the_smallest_pictures_go_down_to_a_pixel():
    white = np.full((SIDE * 12, SIDE * 12, 3), 255, np.uint8)
    files = dict(pictures.coarsest(white))
    sizes = [Image.open(io.BytesIO(data)).size[0] for data in files.values()]
    assert sizes == [48, 24, 12, 6, 3, 2, 1]
    assert list(files)[-1] == "mosaic_files/0/0_0.jpg"


@pytest.mark.parametrize("size", [(16, 8), (8, 16), (16, 16), (16, 1)])
def test_a_tile_is_in_the_middle_of_its_cell(size):
    cell = pictures.thumbnail(Image.new("RGB", size, (9, 9, 9)), 16)
    rows, cols = np.nonzero((cell == 9).all(axis=2))
    assert (cols.max() - cols.min() + 1, rows.max() - rows.min() + 1) == size
    assert abs((rows.min() + rows.max()) - 15) <= 1
    assert abs((cols.min() + cols.max()) - 15) <= 1
    assert (cell[(cell != 9).any(axis=2)] == 255).all()


def test_tiles_of_any_size_stand_in_slots():
    sizes = [(5, 3), (7, 7), (1, 9), (2, 2), (4, 4)]
    tiles = [Image.new("RGB", size, (i, i, i)) for i, size in enumerate(sizes)]
    sheet = pictures.sheet([*tiles[:2], None, *tiles[2:]])
    assert sheet.shape == (18, 36, 3)
    for place, i in ((0, 0), (1, 1), (3, 2), (4, 3), (5, 4)):
        top, left = place // 4 * 9, place % 4 * 9
        width, height = sizes[i]
        assert (sheet[top : top + height, left : left + width] == i).all()
    assert (sheet[:9, 18:27] == 255).all()
