"""What a Mosaic leaves behind: pictures, folder, report, plot."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raylatent.errors import MapError
from raylatent.mosaic import Mosaic
from raylatent.stored.mosaics import picture_format

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
    with pytest.raises(MapError, match=r"saved as .png or .jpg"):
        mosaic.save("mosaic.pdf")


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
    with pytest.raises(MapError, match=r"saved as .png or .jpg"):
        picture_format("/a/b.pdf")


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
