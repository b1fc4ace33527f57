"""`raylatent select`: the members of polygons as files, against a plain loop."""

import csv
import json
from uuid import NAMESPACE_URL, uuid5

import numpy as np
import pyarrow.parquet as pq
import pytest

from raylatent import cli
from raylatent.explorer.exports import Export, rectangles
from raylatent.explorer.members import MEMBERS
from raylatent.explorer.tile_squares import TileSquare
from tests.explorer.selected_runs import (
    SLIDES,
    SQUARE,
    inside_of,
    mapped_run,
    polygon_file,
    regions_file,
    tiles_of,
)

STAR = [[0, 1.6], [1, -1.4], [-1.5, 0.5], [1.5, 0.5], [-1, -1.4]]


def select(run, polygon, to, out, *more):
    argv = ["select", run.uri, polygon, "--to", to, "--out", out, *more]
    return cli.main([str(word) for word in argv])


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def run_and_points(tmp_path):
    return mapped_run(tmp_path / "run", window_px=21, bounds_x=1000, bounds_y=500)


def test_a_table_has_the_members_in_order(run_and_points, tmp_path, capsys):
    run, points = run_and_points
    polygon = polygon_file(tmp_path / "p.json", run, [STAR, SQUARE])
    assert select(run, polygon, "csv", tmp_path / "s.csv") == 0
    expected = inside_of(points, [STAR, SQUARE])
    assert 5 < len(expected) < sum(SLIDES.values())
    assert f"tiles     {len(expected)}\n" in capsys.readouterr().out
    data = (tmp_path / "s.csv").read_bytes()
    assert data.startswith(b"slide,tile_index,loc_x,loc_y,x,y,")
    assert data.count(b"\r\n") == data.count(b"\n") == len(expected) + 1
    rows = rows_of(tmp_path / "s.csv")
    guarded = {"=2+b": "'=2+b"}
    for row, (slide, point) in zip(rows, expected, strict=True):
        assert row["slide"] == guarded.get(slide, slide)
        assert int(row["tile_index"]) == point["tile_index"]
        assert int(row["loc_x"]) == point["loc_x"]
        for name in ("x", "y", "knn_distance"):
            assert np.float32(row[name]) == np.float32(point[name])
        assert row["region"] == row["label"] == ""


def test_parquet_has_whole_references(run_and_points, tmp_path):
    run, points = run_and_points
    polygon = polygon_file(tmp_path / "p.json", run)
    assert select(run, polygon, "parquet", tmp_path / "s.parquet") == 0
    table = pq.read_table(tmp_path / "s.parquet")
    found = [(row["slide"], row["tile_index"]) for row in table.to_pylist()]
    expected = inside_of(points)
    assert found == tiles_of(expected)
    assert table.column_names[:6] == ["slide", "tile_index", "loc_x", "loc_y", "x", "y"]
    assert table["offset"].to_pylist() == [row["offset"] for _, row in expected]
    assert table["x"].to_pylist() == [row["x"] for _, row in expected]


def test_geojson_is_shifted_by_exactly_the_bounds(run_and_points, tmp_path):
    run, points = run_and_points
    polygon = polygon_file(tmp_path / "p.json", run)
    assert select(run, polygon, "geojson", tmp_path / "q") == 0
    expected = inside_of(points)
    files = sorted(path.name for path in (tmp_path / "q").iterdir())
    assert files == sorted(f"{slide}.geojson" for slide, _ in dict(expected).items())
    found = []
    fingerprint = run.settings()["fingerprint"]
    for slide in sorted(dict(expected)):
        text = (tmp_path / "q" / f"{slide}.geojson").read_text("utf-8")
        collection = json.loads(text)
        assert collection["type"] == "FeatureCollection"
        for feature in collection["features"]:
            tile = int(feature["properties"]["metadata"]["tile_index"])
            found.append((slide, tile))
            assert feature["properties"]["objectType"] == "detection"
            assert feature["properties"]["classification"]["name"] == "selection"
            unique = f"raylatent:{fingerprint}:{slide}:{tile}"
            assert feature["id"] == str(uuid5(NAMESPACE_URL, unique))
            # As of reference(): locations are 10 and 20 times the tile's index.
            x, y = tile * 10 - 10 - 1000, tile * 20 - 10 - 500
            ring = [[x, y], [x + 21, y], [x + 21, y + 21], [x, y + 21], [x, y]]
            assert feature["geometry"] == {"type": "Polygon", "coordinates": [ring]}
    assert found == tiles_of(expected)


def test_tiles_without_a_window_are_points_and_that_is_said(tmp_path, capsys):
    run, _ = mapped_run(tmp_path / "run", kind="tfrecords", tile_um=302.0)
    polygon = polygon_file(tmp_path / "p.json", run)
    assert select(run, polygon, "geojson", tmp_path / "q") == 0
    said = capsys.readouterr().err
    assert "of 3 of 3 slides" in said or "3 of 3 slides" in said
    assert "written as points" in said
    assert "bounds are not known" in said
    for path in (tmp_path / "q").iterdir():
        for feature in json.loads(path.read_text("utf-8"))["features"]:
            tile = int(feature["properties"]["metadata"]["tile_index"])
            point = {"type": "Point", "coordinates": [tile * 10, tile * 20]}
            assert feature["geometry"] == point
    assert select(run, polygon, "roi", tmp_path / "roi") == 2
    assert "give --slides DIR" in capsys.readouterr().err
    assert not (tmp_path / "roi").exists()


def test_slides_tell_window_and_bounds(tmp_path, monkeypatch, capsys):
    from raylatent.explorer import tile_squares
    from tests.engine.slide_files import write_slide

    folder = tmp_path / "slides"
    folder.mkdir()
    write_slide(folder / "007.tif", 1, width=400, height=300)

    class Handle:
        bounds = (700, 900)

        def __init__(self, local, *, slide):
            self.file_size = tile_squares.GivenSize()

    monkeypatch.setattr(tile_squares, "SlideHandle", Handle)
    monkeypatch.setattr(tile_squares, "mpp_of", lambda *_: 0.5)
    run, _ = mapped_run(tmp_path / "run", kind="tfrecords", tile_um=302.0)
    polygon = polygon_file(tmp_path / "p.json", run)
    argv = ("geojson", tmp_path / "q", "--slides", folder)
    assert select(run, polygon, *argv) == 0
    assert "2 of 3 slides" in capsys.readouterr().err
    feature = json.loads((tmp_path / "q" / "007.geojson").read_text())["features"][0]
    tile = int(feature["properties"]["metadata"]["tile_index"])
    corner = [tile * 10 - 302 - 700, tile * 20 - 302 - 900]
    ring = feature["geometry"]["coordinates"][0]
    assert ring[0] == ring[-1] == corner
    assert ring[2] == [corner[0] + 604, corner[1] + 604]


def test_rois_cover_exactly_the_tiles(tmp_path):
    run, points = mapped_run(tmp_path / "run", window_px=10)
    polygon = regions_file(tmp_path / "r.json", run, tumor=[SQUARE], rest=[STAR])
    assert select(run, polygon, "roi", tmp_path / "roi") == 0
    covered = set()
    for path in (tmp_path / "roi").iterdir():
        rows = rows_of(path)
        for start in range(0, len(rows), 4):
            some = rows[start : start + 4]
            assert {row["roi_name"] for row in some} == {f"ROI_{start // 4 + 1}"}
            xs, ys = ({int(row[f"{axis}_base"]) for row in some} for axis in "xy")
            assert max(ys) - min(ys) == 10
            tiles = range(min(xs), max(xs), 10)
            label = some[0]["label"]
            covered |= {(path.stem, label, (x + 5) // 10) for x in tiles}
    expected = {(s, "tumor", row["tile_index"]) for s, row in inside_of(points)}
    tumor = set(tiles_of(inside_of(points)))
    expected |= {
        (slide, "rest", tile)
        for slide, tile in tiles_of(inside_of(points, [STAR]))
        if (slide, tile) not in tumor
    }
    assert covered == expected


@pytest.mark.parametrize("apart", [1, 5, 10, 11])
def test_tiles_that_touch_in_a_row_are_one_rectangle(apart):
    n = 4
    table = MEMBERS.empty_table()
    rows = [
        {
            **dict.fromkeys(MEMBERS.names),
            "slide": "a",
            "tile_index": i,
            "source": 0,
            "x": 0.0,
            "y": 0.0,
            "loc_x": 50 + apart * i,
            "loc_y": 30,
            "region": None,
        }
        for i in (2, 0, 3, 1)[:n]
    ]
    table = table.from_pylist(rows, schema=MEMBERS)
    export = Export(fingerprint="", regions=[""], squares={0: TileSquare(window_px=10)})
    found = [box for _, box in rectangles(table, export)]
    if apart <= 10:
        assert found == [(45, 25, 55 + 3 * apart, 35)]
    else:
        assert found == [(45 + apart * i, 25, 55 + apart * i, 35) for i in range(n)]


def test_named_regions_are_chosen_and_told(run_and_points, tmp_path, capsys):
    run, points = run_and_points
    file = regions_file(tmp_path / "r.json", run, **{"=x": [STAR], "b": [SQUARE]})
    assert select(run, file, "csv", tmp_path / "s.csv") == 0
    star = set(tiles_of(inside_of(points, [STAR])))
    for row in rows_of(tmp_path / "s.csv"):
        tile = (row["slide"].lstrip("'"), int(row["tile_index"]))
        assert row["region"] == ("'=x" if tile in star else "b")
    assert select(run, file, "csv", tmp_path / "b.csv", "--region", "b") == 0
    only = [
        (row["slide"].lstrip("'"), int(row["tile_index"]))
        for row in rows_of(tmp_path / "b.csv")
    ]
    assert only == tiles_of(inside_of(points))
    assert select(run, file, "csv", tmp_path / "no.csv", "--region", "c") == 2
    assert "has no region 'c': it has '=x', 'b'" in capsys.readouterr().err
    assert not (tmp_path / "no.csv").exists()


def test_another_maps_polygon_is_refused_and_nothing_is_written(
    run_and_points, tmp_path, capsys
):
    run, points = run_and_points
    file = tmp_path / "p.json"
    file.write_text(json.dumps({"map": "0" * 32, "polygon": SQUARE}))
    for to in ("csv", "geojson", "roi", "parquet", "png"):
        assert select(run, file, to, tmp_path / "out") == 2
        assert "drawn on another map" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
    assert select(run, file, "csv", tmp_path / "out", "--any-map") == 0
    assert len(rows_of(tmp_path / "out")) == len(inside_of(points))


def test_files_of_an_earlier_selection_are_told(run_and_points, tmp_path, capsys):
    run, _ = run_and_points
    polygon = polygon_file(tmp_path / "p.json", run)
    assert select(run, polygon, "geojson", tmp_path / "q") == 0
    written = {path.name: path.read_bytes() for path in (tmp_path / "q").iterdir()}
    assert "other files" not in capsys.readouterr().err
    assert select(run, polygon, "geojson", tmp_path / "q") == 0
    again = {path.name: path.read_bytes() for path in (tmp_path / "q").iterdir()}
    assert again == written
    assert "other files" not in capsys.readouterr().err
    (tmp_path / "q" / "old.geojson").write_bytes(b"")
    assert select(run, polygon, "geojson", tmp_path / "q") == 0
    assert "has 1 other files .geojson" in capsys.readouterr().err


def test_nothing_inside_is_an_empty_table(run_and_points, tmp_path):
    run, _ = run_and_points
    far = [[90, 90], [91, 90], [91, 91]]
    polygon = polygon_file(tmp_path / "p.json", run, [far])
    assert select(run, polygon, "csv", tmp_path / "s.csv") == 0
    assert rows_of(tmp_path / "s.csv") == []
    assert select(run, polygon, "parquet", tmp_path / "s.parquet") == 0
    assert pq.read_table(tmp_path / "s.parquet").num_rows == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nowhere.json", "--out", "x"], "there is no polygon file"),
        (["{run}/run.json", "--out", "x"], "is no polygon file"),
        (["p.json"], "--out"),
        (["p.json", "--out", "x", "--to", "svg"], "svg"),
        (["p.json", "--out", "x", "--map", "../b"], "--map"),
    ],
)
def test_what_makes_no_sense_is_refused(run_and_points, tmp_path, capsys, words, says):
    run, _ = run_and_points
    argv = [word.format(run=run.uri) for word in words]
    assert cli.main(["select", run.uri, *argv]) == 2
    assert says in capsys.readouterr().err
