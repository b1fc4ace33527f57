"""What a Mosaic leaves behind: pictures, folder, report, plot."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from raylatent.config.options import plain_name
from raylatent.errors import MapError
from raylatent.mosaic import Mosaic
from raylatent.stored import mosaics
from raylatent.stored.mosaics import REFERENCES, folder_of_label, picture_format

CORNERS = [(0, 0), (0, 1), (1, 0), (1, 1)]


@pytest.fixture
def pictures():
    rng = np.random.default_rng(0)
    return list(rng.integers(0, 256, (4, 16, 16, 3), dtype=np.uint8))


def test_saved_in_a_folder(small_points, tmp_path):
    points, uris = small_points
    x = points["x"].to_numpy().copy()
    x[3] = np.nan
    points = points.set_column(points.column_names.index("x"), "x", pa.array(x))
    labels = {"g01": "a", "g02": "b", "g03": "a", "g04": "b"}
    mosaic = Mosaic(points, tfrecords=uris, num_tiles_x=4, labels=labels)
    mosaic.save(tmp_path / "mosaics" / "default", cell_px=30, label_style="backdrop")
    folder = tmp_path / "mosaics" / "default"
    assert sorted(file.name for file in folder.iterdir()) == [
        *("cells.parquet", "mosaic.json", "mosaic.png")
    ]
    assert pq.read_table(folder / "cells.parquet") == mosaic.cells
    told = json.loads((folder / "mosaic.json").read_text())
    assert told["counts"] == {
        "points": 146,
        "dropped_not_finite": 1,
        "cells_of_grid": 16,
        "cells": 16,
        "cells_without_tile": 0,
        "drawn": 16,
        "failed": 0,
    }
    shares = {"cells": 1.0, "rows_in_cells": 145 / 146, "rows_drawn": 16 / 146}
    assert told["shares"] == shares
    assert mosaic.summary() == (
        "16 of 16 cells filled, with 99.3 % of 146 rows, 1 without a place; 11 % of "
        "the rows are drawn"
    )
    assert told["parameters"]["seed"] == 0
    assert told["parameters"]["cell_px"] == 30
    assert told["parameters"]["label_style"] == "backdrop"
    assert told["grid"]["cell_size"] == mosaic.tile_size
    assert told["versions"]["numpy"] == np.__version__
    with Image.open(folder / "mosaic.png") as image:
        assert image.height == 120
        assert image.width > 120  # the legend


def test_saved_as_a_picture(pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mosaic = Mosaic(pictures, CORNERS, num_tiles_x=2, cell_px=16)
    mosaic.save("mosaic.png")
    with Image.open(tmp_path / "mosaic.png") as image:
        assert image.tobytes() == mosaic.picture().tobytes()
    mosaic.save(tmp_path / "new" / "mosaic.jpg", background="black")
    assert (tmp_path / "new" / "mosaic.jpg").read_bytes()[:2] == b"\xff\xd8"
    mosaic.export("folder.v1")
    assert (tmp_path / "folder.v1" / "mosaic.json").exists()
    with pytest.raises(MapError, match=r"saved as .png, .jpg or .pdf"):
        mosaic.save("mosaic.svg")


def test_the_report(pictures, small_points, tmp_path):
    points, _ = small_points
    mosaic = Mosaic(points, num_tiles_x=3)
    mosaic.save_report(tmp_path / "report.csv")
    lines = (tmp_path / "report.csv").read_text().splitlines()
    first = mosaic.cells.to_pylist()[0]
    assert lines[:2] == ["slide,index", f"{first['slide']},{first['tile_index']}"]
    Mosaic(pictures, CORNERS, num_tiles_x=2).save_report(str(tmp_path / "a.csv"))
    assert (tmp_path / "a.csv").read_text().splitlines()[1:] == [",0", ",2", ",1", ",3"]


def test_a_report_is_csv(tmp_path):
    points = pa.table({"slide": ['a,"b'], "tile_index": [3], "x": [0.0], "y": [0.0]})
    Mosaic(points).save_report(tmp_path / "report.csv")
    assert (tmp_path / "report.csv").read_bytes() == b'slide,index\r\n"a,""b",3\r\n'


def test_pictures_by_suffix():
    assert picture_format("/a/b.JPG") == "JPEG"
    assert picture_format("/a.png/b") is None
    assert picture_format("/a/b.pdf") == "PDF"
    with pytest.raises(MapError, match=r"saved as .png, .jpg or .pdf"):
        picture_format("/a/b.webp")


def test_plot_overlays_the_scatter(pictures):
    labels = ["a", "a", "b", "b"]
    mosaic = Mosaic(pictures, CORNERS, num_tiles_x=2, cell_px=16, labels=labels)
    ax = mosaic.plot(figsize=(2, 2))
    assert ax.images[0].get_extent() == [0, 1, 0, 1]
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["a", "b"]
    plt.close("all")


def test_tiles_that_cannot_be_read(small_points, tmp_path, caplog):
    points, uris = small_points
    moved = {**uris, "g03": str(tmp_path / "g03.tfrecords")}
    mosaic = Mosaic(points, tfrecords=moved, num_tiles_x=5, cell_px=10)
    mosaic.export(tmp_path / "out")
    of_g03 = [i for i, s in enumerate(mosaic.cells["slide"].to_pylist()) if s == "g03"]
    assert sorted(mosaic.failed) == of_g03
    told = json.loads((tmp_path / "out" / "mosaic.json").read_text())
    assert told["counts"]["failed"] == len(of_g03) == len(told["failed"])
    assert told["failed"][0]["slide"] == "g03"
    assert "g03.tfrecords" in told["failed"][0]["reason"]
    assert "tiles cannot be read" in caplog.text
    nowhere = dict.fromkeys(uris, str(tmp_path / "no.tfrecords"))
    lost = Mosaic(points, tfrecords=nowhere, num_tiles_x=5, cell_px=10)
    with pytest.raises(MapError, match="none of the mosaic's 25 tiles can be read"):
        lost.save(tmp_path / "lost.png")
    assert not (tmp_path / "lost.png").exists()


def test_killed_while_it_is_drawn_anew_a_mosaic_is_unfinished_not_damaged(
    pictures, tmp_path, monkeypatch
):
    """What describes the files of before is gone before they are."""
    mosaic = Mosaic(pictures, CORNERS, num_tiles_x=2)
    mosaic.save(tmp_path / "mosaic")
    before = (tmp_path / "mosaic/mosaic.png").read_bytes()

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("raylatent.stored.mosaics.write_file", killed)
    with pytest.raises(KeyboardInterrupt):
        mosaic.save(tmp_path / "mosaic")
    assert (tmp_path / "mosaic/mosaic.png").read_bytes() == before
    assert not (tmp_path / "mosaic/mosaic.json").exists()


def island_pictures():
    """Tiles of one color each, most in two islands far from each other."""
    xy = [(x, y) for x in range(4) for y in range(4)]
    xy += [(x + 12, y + 9) for x in range(3) for y in range(3)]
    colors = np.random.default_rng(3).integers(0, 256, (25, 1, 1, 3), dtype=np.uint8)
    return list(np.broadcast_to(colors, (25, 6, 6, 3))), np.array(xy, float)


@pytest.mark.parametrize("layout", ["plain", "compact", "even"])
@pytest.mark.parametrize("look", [{}, {"title": "T", "gap_px": 2, "cell_px": 20}])
def test_a_png_tells_its_tiles(tmp_path, layout, look):
    images, xy = island_pictures()
    labels = ["a", "b"] * 12 + ["a"]
    mosaic = Mosaic(images, xy, num_tiles_x=15, layout=layout, labels=labels)
    mosaic.save(tmp_path / "m.png", **look)
    with Image.open(tmp_path / "m.png") as image:
        told = json.loads(image.text[REFERENCES])
        pixels = np.asarray(image)
    assert told["columns"][:2] == ["row", "col"]
    assert len(told["tiles"]) == len(mosaic.cells)
    pitch = told["cell_px"] + told["gap_px"]
    for (row, col, *_), index in zip(
        told["tiles"], mosaic.cells["index"].to_pylist(), strict=True
    ):
        top = told["above_px"] + (told["rows"] - 1 - row) * pitch
        middle = pixels[top + told["cell_px"] // 2, col * pitch + told["cell_px"] // 2]
        np.testing.assert_array_equal(middle, images[index][0, 0])


def test_references_name_slides_and_are_bounded(small_points, tmp_path, monkeypatch):
    points, uris = small_points
    mosaic = Mosaic(points, tfrecords=uris, num_tiles_x=4, cell_px=10)
    mosaic.save(tmp_path / "m.png")
    told = json.loads(Image.open(tmp_path / "m.png").text[REFERENCES])
    found = [(told["slides"][slide], tile) for _, _, slide, tile, *_ in told["tiles"]]
    names = ("slide", "tile_index")
    columns = (mosaic.cells[name].to_pylist() for name in names)
    assert found == list(zip(*columns, strict=True))
    monkeypatch.setattr(mosaics, "MAX_REFERENCES", 300)
    mosaic.save(tmp_path / "m.png")
    told = json.loads(Image.open(tmp_path / "m.png").text[REFERENCES])
    assert (told["tiles"], told["rows"]) == (None, 4)


def test_as_many_references_as_are_told_can_be_opened(pictures, tmp_path):
    png = mosaics.encoded(Image.new("RGB", (2, 2)), "PNG", "x" * 1_000_000)
    (tmp_path / "m.png").write_bytes(png)
    assert len(Image.open(tmp_path / "m.png").text[REFERENCES]) == 1_000_000


def test_a_pdf_is_the_same_on_any_day(pictures, tmp_path, monkeypatch):
    mosaic = Mosaic(pictures, CORNERS, num_tiles_x=2, cell_px=16)
    mosaic.save(tmp_path / "m.pdf")
    data = (tmp_path / "m.pdf").read_bytes()
    assert data.startswith(b"%PDF")
    assert b"Date" not in data
    mosaic.export(tmp_path / "m", pdf=True)
    assert (tmp_path / "m" / "mosaic.pdf").read_bytes() == data
    assert "mosaic.pdf" in json.loads((tmp_path / "m/mosaic.json").read_text())["files"]
    mosaic.export(tmp_path / "m")  # it would be of another mosaic
    assert not (tmp_path / "m" / "mosaic.pdf").exists()


def test_mosaic_json_tells_the_layout(tmp_path):
    images, xy = island_pictures()
    told = {}
    for layout in ("plain", "compact", "even"):
        mosaic = Mosaic(images, xy, num_tiles_x=15, layout=layout, cell_px=8)
        mosaic.export(tmp_path / layout)
        about = json.loads((tmp_path / layout / "mosaic.json").read_text())
        told[layout] = about["layout"]
        assert about["parameters"]["gap_px"] == 0
    assert told["plain"]["filled"] < 0.2
    assert told["compact"]["filled"] > 0.35
    assert told["even"]["filled"] == 1.0
    assert told["plain"]["trustworthiness"] is None
    for layout in ("compact", "even"):
        assert 0.5 < told[layout]["trustworthiness"] <= 1.0
    stored = pq.read_table(tmp_path / "compact" / "cells.parquet")
    assert stored.column_names[-2:] == ["picture_row", "picture_col"]


@given(st.text(min_size=1, max_size=300), st.text(min_size=1, max_size=300))
def test_no_label_becomes_a_path(label, other):
    name = folder_of_label("m", label)
    plain_name("--mosaic", name)
    assert len(name.encode()) < 100
    assert "." not in name
    assert (name == folder_of_label("m", other)) == (label == other)
