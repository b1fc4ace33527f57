"""Rows of whole slides are, bit for bit, those of the plain loop over WSI and Features."""

import json
import shutil
import sys
from pathlib import Path

import pytest

import raylatent
from raylatent import schema
from raylatent.errors import SourceError
from raylatent.model.features import Features
from raylatent.run import RunDirectory
from raylatent.source.slides import find_slides
from tests.engine import slide_files

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """Slides of other sizes of a pixel and compressions, of 70 and 24 tiles."""
    folder = tmp_path_factory.mktemp("slides")
    slide_files.write_slide(folder / "a 1.tif", 1)
    slide_files.write_slide(folder / "h.tif", 2, mpp=0.3, jpeg=True)
    return folder


@pytest.fixture(scope="module")
def records(tiles, write_slide, tmp_path_factory):
    """A TFRecord of 30 tiles, one of which is no picture."""
    folder = tmp_path_factory.mktemp("records")
    write_slide(folder, "b", tiles[:30], bad={7})
    return folder


@pytest.fixture(scope="module")
def plain(slides, small_model):
    """plain(ids, batch_size): what each slide's rows are to be."""
    made = {}

    def rows(ids, *, batch_size=32):
        if batch_size not in made:
            features = Features(
                small_model, include_preds=True, batch_size=batch_size, device="cpu"
            )
            made[batch_size] = {
                name: (features, slide_files.plain_slide(uri))
                for name, uri in find_slides([str(slides)]).items()
            }
        return {
            name: slide_files.plain_rows(features, wsi, ids[name])
            for name, (features, wsi) in made[batch_size].items()
        }

    return rows


def sources_of(out):
    rows = RunDirectory.open(str(out)).sources().drop_columns(["mtime"]).to_pylist()
    return {row["slide"]: row for row in rows}


def ids_of(out):
    return {slide: row["source"] for slide, row in sources_of(out).items()}


@pytest.mark.parametrize(("unit_tiles", "batch_size"), [(4, 32), (20, 16), (2048, 32)])
@pytest.mark.usefixtures("in_process")
def test_rows_do_not_depend_on_units_or_the_order_they_are_read_in(
    tmp_path, slides, plain, compute_slides, assert_rows, unit_tiles, batch_size
):
    out = tmp_path / "run"
    options = {"unit_tiles": unit_tiles, "batch_size": batch_size}
    report = compute_slides(out, [slides], **options)
    assert not report.failed
    assert report.n_rows == report.counts["tiles"] == 70 + 24
    assert_rows(out, plain(ids_of(out), batch_size=batch_size))
    if unit_tiles == 4:  # rows of the grid with more tiles than that stand alone
        parts = RunDirectory.open(str(out)).footers(["a 1"])
        assert max(part.rows for part in parts) > 4


def test_slides_and_tfrecords_in_one_run_have_one_schema(
    tmp_path, slides, records, compute_slides, plain, assert_same, assert_rows
):
    out = tmp_path / "run"
    options = {"unit_tiles": 16, "actors": "2"}
    report = compute_slides(out, [slides], tfrecords=[records], **options)
    assert not report.failed
    ids = ids_of(out)
    assert sorted(ids) == ["a 1", "b", "h"]
    assert_rows(out, plain(ids))
    assert_same(out, [records], ids=ids, unit_tiles=16)

    table = raylatent.read(out).to_table()
    assert table.num_rows == 70 + 29 + 24
    of_slides = {
        row["slide"]: row["offset"] is None and row["length"] is None
        for row in table.select(["slide", "offset", "length"]).to_pylist()
    }
    assert of_slides == {"a 1": True, "b": False, "h": True}
    found = sources_of(out)
    about = {
        slide: [row[name] for name in ("tile_px", "window_px", "mpp", "tile_um")]
        for slide, row in found.items()
    }
    assert about["a 1"] == [96, 96, 0.5, 48]
    assert about["b"] == [96, None, None, None]
    assert about["h"] == [96, 160, pytest.approx(0.3), pytest.approx(48)]
    assert found["a 1"]["uri"] == str(slides / "a 1.tif")


@pytest.mark.usefixtures("in_process")
def test_locations_are_centers_in_the_order_of_the_grid(
    tmp_path, slides, compute_slides
):
    out = tmp_path / "run"
    compute_slides(out, [slides / "a 1.tif"], unit_tiles=30)
    rows = RunDirectory.open(str(out)).read_rows("a 1")
    wsi = slide_files.plain_slide(slides / "a 1.tif")
    corners = wsi.coord[wsi.grid.reshape(-1)][:, :2]
    for axis, name in enumerate((schema.LOC_X, schema.LOC_Y)):
        assert rows[name].to_pylist() == (corners[:, axis] + 96 // 2).tolist()
    assert rows[schema.TILE_INDEX].to_pylist() == list(range(70))
    grid = raylatent.parts.read_part(
        RunDirectory.open(str(out)).store, "grids/slide=a 1/000000.parquet"
    )
    assert len(grid) == wsi.grid.size
    kept = [reason is None for reason in grid[schema.REASON].to_pylist()]
    assert kept == wsi.grid.reshape(-1).tolist()


@pytest.mark.usefixtures("in_process")
def test_no_qc_keeps_the_whole_grid_and_other_tiles_are_resized_for_the_model(
    tmp_path, slides, compute_slides
):
    out = tmp_path / "run"
    report = compute_slides(out, [slides / "h.tif"], qc="none", tile_px=64)
    assert report.n_rows == report.counts["resized"] == 7 * 9
    assert sources_of(out)["h"]["tile_px"] == 64
    page = (out / "slides.html").read_text()
    assert "thumbnails" in page


def test_one_name_among_the_tfrecords_and_the_slides_is_refused(
    tmp_path, slides, tiles, write_slide, compute_slides
):
    write_slide(tmp_path, "h", tiles[:2])
    with pytest.raises(SourceError, match="slide 'h' is among --tfrecords and among"):
        compute_slides(tmp_path / "run", [slides], tfrecords=[tmp_path / "h.tfrecords"])
    copy = tmp_path / "more"
    copy.mkdir()
    shutil.copy(slides / "h.tif", copy / "h.tiff")
    with pytest.raises(SourceError, match="h"):
        compute_slides(tmp_path / "run", [slides, copy])
    assert not (tmp_path / "run").exists()


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_nodes_with_shared_paths_and_with_copies_of_remote_slides(
    tmp_path, slides, plain, sandbox, small_model, assert_rows
):
    """`local://` is a store of fsspec's, so that slides are copied to the scratch."""
    scratch = tmp_path / "scratch"
    common = {"model": small_model, "tile_um": "48", "unit_tiles": 12}
    given = [
        {**common, "slides": [folder], "actors": n, "out": str(tmp_path / name)}
        for name, folder, n in (
            ("shared", str(slides), "1"),
            ("remote", f"local://{slides}", "2"),
        )
    ]
    code, out, err = sandbox.run(
        *(sys.executable, Path(__file__).with_name("two_nodes.py"), json.dumps(given)),
        timeout_s=500,
        RAYLATENT_SCRATCH=str(scratch),
    )
    assert code == 0, err[-3000:]
    (line,) = [line for line in out.splitlines() if line.startswith("RESULTS ")]
    assert json.loads(line.removeprefix("RESULTS ")) == [{"failed": [], "nodes": 3}] * 2
    for run in ("shared", "remote"):
        assert_rows(tmp_path / run, plain(ids_of(tmp_path / run)))
    copies = [file.name for file in scratch.rglob("*.tif")]
    assert sorted(copies) == ["a 1.tif", "h.tif"]  # once each: nodes share the machine
    uri = sources_of(tmp_path / "remote")["h"]["uri"]
    assert uri == f"local://{slides}/h.tif"
