"""`raylatent label`: names of regions as labels of tiles, in maps, mosaics, and Python."""

import json

import pytest

from raylatent import SlideMap, cli
from raylatent.explorer.named_regions import RegionLabels, put_regions, region_labels
from raylatent.explorer.polygon import read_polygons
from raylatent.run.layout import is_ours
from raylatent.storage import Store
from raylatent.stored.map_points import StoredPoints, read_points
from raylatent.stored.maps import read_info, write_info
from tests.explorer.explored_runs import annotations, explored, run_of_slides
from tests.explorer.selected_runs import (
    SQUARE,
    inside_of,
    mapped_run,
    polygon_file,
    regions_file,
    tiles_of,
)

RIGHT = [[0.4, -3], [3, -3], [3, 3], [0.4, 3]]


@pytest.fixture
def run_and_points(tmp_path):
    return mapped_run(tmp_path / "run")


def label(run, file):
    return cli.main(["label", run.uri, str(file)])


def expected_labels(points):
    middle, right = (set(tiles_of(inside_of(points, [r]))) for r in (SQUARE, RIGHT))
    return {
        (slide, tile): "middle"
        if (slide, tile) in middle
        else "right"
        if (slide, tile) in right
        else None
        for slide in points
        for tile in points[slide]["tile_index"].to_pylist()
    }


def labeled(run, tmp_path):
    file = regions_file(tmp_path / "r.json", run, middle=[SQUARE], right=[RIGHT])
    assert label(run, file) == 0


def test_labels_are_by_the_first_region(run_and_points, tmp_path):
    run, points = run_and_points
    store = Store(f"{run.uri}/maps/default")
    assert region_labels(store) is None
    labeled(run, tmp_path)
    labels = region_labels(store)
    assert isinstance(labels, RegionLabels)
    assert labels.names == ["middle", "right"]
    table = read_points(store)
    tiles = zip(
        table["slide"].to_pylist(), table["tile_index"].to_pylist(), strict=True
    )
    assert dict(zip(tiles, labels(table).to_pylist(), strict=True)) == expected_labels(
        points
    )
    assert is_ours("maps/default/regions.json")


def test_the_map_is_drawn_by_regions(run_and_points, tmp_path, capsys):
    run, _ = run_and_points
    labeled(run, tmp_path)
    folder = tmp_path / "run" / "maps" / "default"
    assert "labels    middle, right\n" in capsys.readouterr().out
    first = (folder / "umap_by_label.png").read_bytes()
    assert first.startswith(b"\x89PNG")
    other = regions_file(tmp_path / "o.json", run, right=[RIGHT], low=[SQUARE])
    assert label(run, other) == 0
    assert (folder / "umap_by_label.png").read_bytes() != first
    (tmp_path / "none.json").write_text("[]")
    assert label(run, tmp_path / "none.json") == 0
    assert not (folder / "umap_by_label.png").exists()
    assert not (folder / "regions.json").exists()


def test_python_and_mosaics_know_them(run_and_points, tmp_path):
    run, points = run_and_points
    labeled(run, tmp_path)
    expected = expected_labels(points)
    slide_map = SlideMap.load(f"{run.uri}/maps/default")
    _, shown, _ = slide_map._for_mosaic(None, None, "nearest")
    assert isinstance(shown, RegionLabels)
    data = slide_map.data
    told = [
        (slide, tile, label if isinstance(label, str) else None)
        for slide, tile, label in data[["slide", "tile_index", "label"]].to_numpy()
    ]
    assert {(slide, tile): label for slide, tile, label in told} == expected


def test_cells_of_a_mosaic_count_them(run_and_points, tmp_path):
    from raylatent.montage.cells import choose_cells
    from raylatent.montage.points import Rule

    run, points = run_and_points
    labeled(run, tmp_path)
    stored = StoredPoints(f"{run.uri}/maps/default", run)
    parts = stored.labeled(region_labels(stored.store))
    chosen = choose_cells(parts, "square", 3, Rule(select="nearest"))
    assert chosen.cells is not None
    told = [
        label for points in parts.read("labels") for label in points.labels.to_pylist()
    ]
    assert sorted(map(str, told)) == sorted(map(str, expected_labels(points).values()))


def test_what_is_no_regions_file_is_refused(run_and_points, tmp_path, capsys):
    run, _ = run_and_points
    polygon = polygon_file(tmp_path / "p.json", run)
    assert label(run, polygon) == 2
    assert 'has no "name"' in capsys.readouterr().err
    (tmp_path / "o.json").write_text(
        json.dumps([{"name": "a", "map": "0", "polygon": SQUARE}])
    )
    assert label(run, tmp_path / "o.json") == 2
    assert "drawn on another map" in capsys.readouterr().err
    assert not (tmp_path / "run" / "maps" / "default" / "regions.json").exists()


def test_regions_of_a_map_that_was_here_before_label_nothing(
    run_and_points, tmp_path, caplog
):
    run, _ = run_and_points
    labeled(run, tmp_path)
    store = Store(f"{run.uri}/maps/default")
    write_info(store, {**read_info(store), "anew": True})
    assert region_labels(store) is None
    assert "of a map that was here before" in caplog.text


def test_a_page_has_regions_beside_annotations(tmp_path, monkeypatch):
    run, _ = run_of_slides(tmp_path, {"a": 30, "b": 20})
    file = regions_file(tmp_path / "r.json", run, left=[[[-9, -9], [0, -9], [0, 9]]])
    stored = StoredPoints(f"{run.uri}/maps/default", run)
    put_regions(stored, read_polygons(str(file)), str(file))
    table = annotations(tmp_path / "a.csv", ["a", "b"])
    own = tmp_path / "b.csv"
    own.write_text("slide,region\na,north\nb,south\n", "utf-8")
    found = {}
    for path in (table, str(own)):
        about = {"annotations": path, "label": "region"}
        explored(run, tmp_path / "page", monkeypatch, **about)
        meta = (tmp_path / "page/data/meta.js").read_text()
        told = json.loads(meta.removeprefix("raylatent.meta(").removesuffix(");\n"))
        columns = [one["name"] for one in told["annotations"]["columns"]]
        found[path] = told["labels"]["names"], columns
    assert found[table] == (["left"], ["patient", "secret", "kind", "age"])
    assert found[str(own)] == (["north", "south"], ["region"])
