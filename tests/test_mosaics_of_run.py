"""Layouts, and a mosaic for each label, as `raylatent mosaic` draws them of a run."""

import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raylatent import mosaic as mosaic_module
from raylatent import schema
from raylatent import slide_map as module
from raylatent.config import AtlasConfig, MosaicConfig
from raylatent.engine.cells import ClusterPoints
from raylatent.errors import ConfigError, MapError
from raylatent.main_job import run_mosaic
from raylatent.montage.cells import choose_cells, finish_cells
from raylatent.montage.points import Rule, of_label
from raylatent.run import RunDirectory, layout
from raylatent.slide_map import SlideMap
from raylatent.stored import mosaic_inputs as inputs
from raylatent.stored.manifest import read_manifest
from raylatent.stored.map_points import StoredPoints
from raylatent.stored.mosaics import REFERENCES
from tests.stored_maps import write_map, write_run

ROWS = {"a": 50, "b/c": 30}
FILES = {"a": "a.tfr", "b/c": "b.tfr"}
LABELS = {"a": "../up", "b/c": "x y"}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run with a map of two slides, whose tiles are gray wherever they would be."""

    def gray(frames, tile_px):
        for i in range(len(frames)):
            yield i, Image.new("RGB", (tile_px, tile_px), (127, 127, 127))

    made, points = write_run(tmp_path / "run", ROWS)
    write_map(made, points)
    monkeypatch.setattr(mosaic_module, "stored_tiles", gray)
    monkeypatch.setattr(RunDirectory, "slides", lambda _: list(ROWS))
    monkeypatch.setattr(module, "where", lambda *_: FILES)
    monkeypatch.setattr(inputs, "where", lambda *_: FILES)
    return made


def drawn(run, tmp_path, **options):
    lines = [f"{slide},{label}\n" for slide, label in LABELS.items()]
    (tmp_path / "a.csv").write_text("".join(["slide,kind\n", *lines]))
    given = {"annotations": str(tmp_path / "a.csv"), "label": "kind", **options}
    return run_mosaic(MosaicConfig(out=run.uri, num_tiles_x=5, cell_px=12, **given))


@pytest.mark.parametrize("kind", ["plain", "compact", "even"])
def test_a_folder_for_each_label(run, tmp_path, kind):
    options = {"each": "label", "layout": kind, "title": "T", "gap_px": 1, "pdf": True}
    made, _ = drawn(run, tmp_path, **options)
    assert made.layout == kind
    names = ["default", "default-label=%2E%2E%2Fup", "default-label=x%20y"]
    found = sorted(path.name for path in (tmp_path / "run" / "mosaics").iterdir())
    assert found == names
    files = ["cells.parquet", "mosaic.json", "mosaic.pdf", "mosaic.png"]
    n_rows = []
    for name in names:
        place = tmp_path / "run" / "mosaics" / name
        assert sorted(path.name for path in place.iterdir()) == files
        told = json.loads((place / "mosaic.json").read_text())
        assert told["layout"]["kind"] == kind
        assert told["map"]["name"] == "default"
        assert told["parameters"]["gap_px"] == 1
        n_rows.append(told["counts"]["points"])
        listed = read_manifest(run.store, layout.manifest_of("mosaic", name))
        assert len(listed) == len(files)
        assert all(layout.is_ours(path) for path in listed)
        tiles = json.loads(Image.open(place / "mosaic.png").text[REFERENCES])
        assert set(tiles["slides"]) <= set(ROWS)
        cells = pq.read_table(place / "cells.parquet")
        assert len(cells) == told["counts"]["drawn"]
    assert n_rows == [80, 50, 30]
    assert json.loads((place / "mosaic.json").read_text())["label"] == "x y"
    drawn(run, tmp_path, layout=kind)
    assert not (tmp_path / "run/mosaics/default/mosaic.pdf").exists()
    found = sorted(path.name for path in (tmp_path / "run/mosaics").iterdir())
    assert found == names  # without `each` the others stay


def test_mosaics_of_labels_that_are_no_more_are_deleted(
    run, tmp_path, monkeypatch, caplog
):
    drawn(run, tmp_path, each="label", mosaic="other")
    drawn(run, tmp_path, mosaic="default-label=mine")
    drawn(run, tmp_path, each="label")
    place = tmp_path / "run/mosaics"
    (place / "default-label=x%20y/notes.txt").write_text("mine")
    own = place / "default-label=by hand"
    own.mkdir()
    (own / "mosaic.png").write_bytes(b"mine")
    monkeypatch.setitem(LABELS, "a", "new")
    monkeypatch.setitem(LABELS, "b/c", "x")
    drawn(run, tmp_path, each="label")
    names = ["default", "default-label=mine", "default-label=new", "default-label=x"]
    others = ["other", "other-label=%2E%2E%2Fup", "other-label=x%20y"]
    assert (own / "mosaic.png").read_bytes() == b"mine"
    assert "WARNING" in caplog.text
    assert "default-label=x%20y is of an earlier drawing" in caplog.text
    assert "default-label=mine is of" not in caplog.text
    kept = place / "default-label=x%20y"
    assert sorted(place.iterdir()) == sorted(
        [*(place / n for n in names + others), kept, own]
    )
    assert [path.name for path in kept.iterdir()] == ["notes.txt"]
    caplog.clear()
    drawn(run, tmp_path, each="label")
    assert "earlier drawing" not in caplog.text
    listed = {path.name for path in (tmp_path / "run/manifest").iterdir()}
    assert listed == {f"mosaic-{name}.parquet" for name in names + others}


def test_without_labels_there_is_none_for_each(run):
    with pytest.raises(MapError, match="labels are not there"):
        run_mosaic(MosaicConfig(out=run.uri, each="label"))


@pytest.mark.parametrize("label", [None, "x y"])
@pytest.mark.parametrize("select", ["nearest", "medoid"])
def test_stored_points_and_held_ones_are_drawn_alike(run, label, select):
    folder = f"{run.uri}/maps/default"
    stored, held = (SlideMap.load(folder) for _ in range(2))
    held.data["extra"] = 0
    held._stored = None  # as a table
    made = []
    for one in (stored, held):
        one.label_by_slide(LABELS)
        whole = one.generate_mosaic(num_tiles_x=6, layout="even", select=select)
        made.append(whole if label is None else whole.by_label()[label])
    assert made[0].cells.equals(made[1].cells)
    assert len(made[0].cells) == made[0].num_tiles_x * made[0].num_tiles_y


def test_what_goes_to_a_cluster_can_be_sent(run):
    stored = StoredPoints(f"{run.uri}/maps/default", run)
    parts = of_label(stored.labeled(by_slide), "b/c")
    chosen = choose_cells(parts, "even", 5, Rule())
    chosen.grid.bin(np.zeros((3, 2)))  # which keeps a tree
    sent = pickle.loads(pickle.dumps((chosen.grid, parts)))  # noqa: S301
    again = choose_cells(sent[1], "even", 5, Rule())
    np.testing.assert_array_equal(sent[0].centers, again.grid.centers)
    assert finish_cells(again.grid, again.cells).equals(
        finish_cells(chosen.grid, chosen.cells)
    )


def by_slide(points):
    return points[schema.SLIDE].combine_chunks().cast("string")


@pytest.mark.ray
@pytest.mark.parametrize("kind", ["square", "even"])
def test_the_cluster_finds_the_same_cells(run, ray_session, kind):
    folder = f"{run.uri}/maps/default"
    found = []
    for points in (StoredPoints(folder, run), ClusterPoints(folder, run, few_parts=0)):
        for parts in (
            points.labeled(by_slide),
            of_label(points.labeled(by_slide), "a"),
        ):
            chosen = choose_cells(parts, kind, 5, Rule())
            found.append(finish_cells(chosen.grid, chosen.cells))
    assert found[0].equals(found[2])
    assert found[1].equals(found[3])
    assert sum(found[1]["n"].to_pylist()) == 50


def sides(run, monkeypatch, *values):
    columns = {schema.SLIDE: list(ROWS), schema.TILE_UM: values}
    monkeypatch.setattr(RunDirectory, "sources", lambda _: pa.table(columns))


@pytest.mark.parametrize(
    ("values", "bar"),
    [((302.0, 302.0), True), ((302.0, 151.0), False), ((1.0, None), False)],
)
def test_a_scale_bar_where_all_tiles_have_a_side(run, monkeypatch, values, bar, caplog):
    sides(run, monkeypatch, *values)
    made = SlideMap.load(f"{run.uri}/maps/default").generate_mosaic(cell_px=40)
    plain, with_bar = (made.picture(scale_bar=on) for on in (False, True))
    assert (with_bar.height > plain.height) == bar
    assert ("no scale bar" in caplog.text) == (not bar)
    if bar:  # 200 µm of 302
        below = np.asarray(with_bar)[plain.height :]
        runs = [
            len(r) for row in (below == 0).all(axis=2) for r in bytes(row).split(b"\0")
        ]
        assert max(runs) == round(40 * 200 / 302)


def test_options_that_do_not_go_together():
    with pytest.raises(ConfigError, match="has cells of its own"):
        MosaicConfig(out="run", layout="even", grid="slideflow")
    with pytest.raises(ConfigError, match="at most 120 bytes"):
        MosaicConfig(out="run", mosaic="m" * 130, each="label")
    for wrong in ({"layout": "dense"}, {"each": "slide"}, {"gap_px": -1}):
        with pytest.raises(ConfigError):
            AtlasConfig(out="run", **wrong)
