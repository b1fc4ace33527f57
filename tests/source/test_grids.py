"""Grids as tables: which tiles are kept, in which order, and what they were made with."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylatent import schema
from raylatent.errors import SourceError, StorageError
from raylatent.parts import read_footer, read_part, write_part
from raylatent.run import RunDirectory
from raylatent.source import tissue
from raylatent.source.protocol import sources_from_table, sources_table
from raylatent.source.tissue import TissueOptions
from raylatent.source.whole_slides import (
    OpenedSlide,
    SlideRequest,
    SlideUnit,
    failed_slide,
    open_slide,
    slide_unit_plans,
    source_of_slide,
)
from raylatent.source.wsi import Geometry, TileOptions
from raylatent.source.wsi.geometry import FileSize
from raylatent.source.wsi.selection import (
    geometry_from_footer,
    grid_footer,
    grid_table,
    kept_tiles,
    left_out,
    own_size,
)
from raylatent.storage import FileStat, Store
from tests.engine import slide_files

STAT = FileStat(size=7, mtime_ns=1_700_000_000_123_456_789, etag='"é"')


@st.composite
def geometries(draw):
    window = draw(st.integers(1, 40))
    return Geometry(
        tile_px=draw(st.integers(1, 64)),
        window_px=window,
        stride_px=draw(st.integers(max(1, window // 4), 2 * window)),
        mpp=draw(st.floats(0.01, 50)),
        width=draw(st.integers(1, 300)),
        height=draw(st.integers(1, 300)),
        origin=(draw(st.integers(0, 50)), draw(st.integers(0, 50))),
        use_edge_tiles=draw(st.booleans()),
    )


def request_of(**options):
    tiles = TileOptions(**{"tile_px": 96, "tile_um": "48", **options})
    return SlideRequest(uri="/s.svs", tiles=tiles, tissue=TissueOptions())


@st.composite
def grids(draw):
    """A geometry and why each tile is left out."""
    geometry = draw(geometries())
    seed = draw(st.integers(0, 1000))
    reasons = np.random.default_rng(seed).integers(0, 5, geometry.shape)
    return geometry, reasons.astype(np.uint8)


@given(grids())
def test_a_table_has_every_tile_of_the_grid_and_the_kept_ones_in_order(grid):
    geometry, reasons = grid
    table = grid_table(geometry, reasons)
    assert table.schema == schema.GRID
    assert len(table) == reasons.size
    rows, cols = kept_tiles(table)
    assert np.array_equal(np.stack([rows, cols], 1), np.argwhere(reasons == 0))
    coord = geometry.coord()
    half = geometry.window_px // 2
    assert table[schema.LOC_X].to_pylist() == (coord[:, 0] + half).tolist()
    assert table[schema.LOC_Y].to_pylist() == (coord[:, 1] + half).tolist()
    counts = {
        name: int((reasons == i).sum())
        for i, name in enumerate(tissue.REASONS)
        if i and (reasons == i).any()
    }
    assert left_out(table) == counts


OWN = st.builds(
    FileSize,
    x=st.none() | st.floats(1e-6, 1e3),
    y=st.none() | st.floats(1e-6, 1e3),
    power=st.none() | st.floats(1, 100),
)


@given(geometries(), st.booleans(), OWN)
def test_the_geometry_and_the_files_words_come_back_from_the_footer(geometry, icc, own):
    request = request_of(icc=icc)
    footer = grid_footer(request.tissue, STAT, geometry, own, icc=request.tiles.icc)
    assert geometry_from_footer(footer) == (geometry, icc)
    assert own_size(footer) == own


def test_a_grid_survives_being_stored(tmp_path):
    geometry = Geometry(
        tile_px=96, window_px=160, stride_px=80, mpp=0.3, width=900, height=500
    )
    reasons = np.arange(np.prod(geometry.shape)).reshape(geometry.shape) % 5
    table = grid_table(geometry, reasons.astype(np.uint8))
    footer = grid_footer(
        TissueOptions(), STAT, geometry, FileSize(x=0.3, y=0.3), icc=False
    )
    store = Store(tmp_path)
    write_part(store, "grids/slide=s/000000.parquet", table, footer)
    stored = read_part(store, "grids/slide=s/000000.parquet")
    assert stored.replace_schema_metadata(None).equals(table)
    found = read_footer(store, "grids/slide=s/000000.parquet")[1]
    assert geometry_from_footer(found)[0] == geometry
    assert found[schema.FOOTER_GRID] == footer[schema.FOOTER_GRID]


def test_whatever_changes_a_grid_changes_its_footer():
    geometry = Geometry(
        tile_px=96, window_px=96, stride_px=96, mpp=0.5, width=900, height=500
    )

    def footer(request=None, stat=STAT, geometry=geometry):
        request = request or request_of()
        footer = grid_footer(
            request.tissue, stat, geometry, FileSize(), icc=request.tiles.icc
        )
        return footer[schema.FOOTER_GRID]

    other_tissue = SlideRequest(
        uri="/s.svs", tiles=request_of().tiles, tissue=TissueOptions(qc="both")
    )
    values = {name: getattr(geometry, name) for name in ("tile_px", "width", "height")}
    moved = Geometry(**values, window_px=96, stride_px=96, mpp=0.5, origin=(1, 0))
    found = [
        footer(),
        footer(stat=FileStat(size=7, mtime_ns=1)),
        footer(geometry=moved),
        footer(request=other_tissue),
        footer(request=request_of(icc=True)),
    ]
    assert len(set(found)) == len(found)
    assert footer() == found[0]
    elsewhere = SlideRequest(
        uri="/moved/s.svs", tiles=request_of().tiles, tissue=TissueOptions()
    )
    assert footer(request=elsewhere) == found[0]
    assert json.loads(found[0])["reader"].startswith("openslide-")


@given(grids(), st.integers(1, 50))
def test_units_of_a_grid_have_the_locations_of_their_tiles(grid, unit_tiles):
    geometry, reasons = grid
    rows, cols = kept_tiles(grid_table(geometry, reasons))
    handle = SimpleNamespace(bounds=(3, None))
    opened = OpenedSlide(handle=handle, geometry=geometry, stat=STAT, footer={})
    source = source_of_slide("s", request_of(), opened, len(rows))
    assert (source.kind, source.bounds_x, source.bounds_y) == ("slides", 3, None)
    assert sources_from_table(sources_table([source])) == [source]
    locations = np.stack(geometry.centers(rows, cols), axis=1)
    for plan in slide_unit_plans(source, rows, unit_tiles):
        unit = SlideUnit(
            source=source,
            unit=plan.unit,
            first=plan.first,
            geometry=geometry,
            rows=rows[plan.first : plan.last],
            cols=cols[plan.first : plan.last],
        )
        assert (len(unit), unit.last) == (plan.count, plan.last)
        found = np.stack(unit.locations(), axis=1)
        assert np.array_equal(found, locations[plan.first : plan.last])


def test_a_slide_that_cannot_be_worked_on_says_why(tmp_path):
    with pytest.raises(StorageError, match="no such"):
        open_slide("s", request_of())
    path = tmp_path / "s.svs"
    path.write_bytes(b"no slide")
    request = SlideRequest(
        uri=str(path), tiles=request_of().tiles, tissue=TissueOptions()
    )
    with pytest.raises(SourceError, match="slide s cannot be opened"):
        open_slide("s", request)
    run = RunDirectory(str(tmp_path / "run"))
    failed = failed_slide(run, "s", request, "it is no slide")
    assert (failed.n_indexed, failed.error) == (0, "it is no slide")
    assert failed.kind == "slides"
    assert sources_from_table(sources_table([failed])) == [failed]


@pytest.mark.parametrize("qc", ["otsu", "blur", "both"])
def test_what_is_broken_in_the_file_neither_hides_itself_nor_other_tissue(tmp_path, qc):
    path = tmp_path / "s.tif"
    slide_files.write_slide(path, 1, jpeg=True, width=1400, height=1100, levels=1)
    whole = slide_files.plain_slide(path, qc=qc).grid
    for row, col in [(4, 5), (4, 6), (5, 5), (5, 6)]:
        slide_files.harm(path, row=row, col=col)
    torn = slide_files.plain_slide(path, qc=qc)
    assert not (whole & ~torn.grid).any()
    corners = torn.coord[:, :2].reshape(*torn.grid.shape, 2)
    side = slide_files.SIDE
    low = np.array([5, 4]) * side
    touching = ((corners < low + 2 * side) & (corners + 96 > low)).all(axis=2)
    assert touching.sum() >= 9
    assert torn.grid[touching].all()
    added = torn.grid & ~whole & ~touching
    assert added.sum() <= 3  # what is near it is read in the same block
