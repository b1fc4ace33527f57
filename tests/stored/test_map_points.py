"""Pictures of a stored map, read in blocks, are those of the map held in memory."""

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from raylatent.errors import MapError
from raylatent.mapping import density, plot
from raylatent.mosaic import Mosaic
from raylatent.parts import write_part
from raylatent.slide_map import SlideMap
from raylatent.storage import Store
from raylatent.stored import map_pictures, map_points
from raylatent.stored.map_points import (
    StoredPoints,
    iter_places,
    iter_points,
    points_parts,
    read_points,
)

pytestmark = [pytest.mark.ray]


@pytest.fixture
def map_folder(small_dts, small_map):
    """Of the golden run's map."""
    return f"{small_dts.run.uri}/maps/default"


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of one or a few slides."""
    monkeypatch.setattr(map_points, "_BLOCK_ROWS", 20)
    monkeypatch.setattr(map_pictures, "_BLOCK_ROWS", 20)


def test_blocks_are_the_whole(map_folder):
    store = Store(map_folder)
    whole = read_points(store)
    blocks = list(iter_points(store, points_parts(store), 20))
    assert len(blocks) > 2
    first = 0
    for block in blocks:
        assert block.equals(whole.slice(first, block.num_rows))
        first += block.num_rows
    assert first == whole.num_rows


@pytest.mark.parametrize("grid", ["square", "slideflow"])
@pytest.mark.parametrize("select", ["nearest", "medoid", "first"])
def test_a_mosaic(small_dts, map_folder, small_blocks, select, grid):
    # Points that are given as a table are held.
    of_map = SlideMap(read_points(Store(map_folder)), run=small_dts.run)
    labels = {"g00": "a", "g01": "b", "g03": "b"}
    of_map.label_by_slide(labels)
    options = {"num_tiles_x": 6, "select": select, "grid": grid, "cell_px": 24}
    held = of_map.generate_mosaic(**options)
    stored = Mosaic(StoredPoints(map_folder, small_dts.run), labels=labels, **options)
    opened = SlideMap.load(map_folder)
    opened.label_by_slide(labels)
    by_handle = opened.generate_mosaic(**options)
    for mosaic in (stored, by_handle):
        assert mosaic.cells.equals(held.cells)
        assert np.array_equal(mosaic.picture(), held.picture())
    row, col = (held.cells[name][0].as_py() for name in ("row", "col"))
    assert np.array_equal(
        stored.points_in_cell(row, col), held.points_in_cell(row, col)
    )
    focus = {"focus_slide": "g01"}
    assert np.array_equal(stored.picture(**focus), held.picture(**focus))


@pytest.mark.parametrize(
    ("labels", "max_dots", "max_labels"),
    [
        (None, 10, 64),
        ({"g00": "a", "g01": "b", "g03": "b"}, 10, 64),
        ({"g00": "a", "g01": "b", "g03": "b"}, 10, 1),
        ({"g00": "a", "g01": "b", "g03": "b"}, 200_000, 64),
        ({}, 10, 64),
    ],
)
def test_a_plot(
    map_folder, small_blocks, tmp_path, monkeypatch, labels, max_dots, max_labels
):
    monkeypatch.setattr(plot, "MAX_DOTS", max_dots)
    monkeypatch.setattr(density, "MAX_LABELS", max_labels)
    of_map = SlideMap.load(map_folder)
    n = len(of_map)
    if labels is not None:
        of_map.data["label"] = of_map.data["slide"].map(labels.get).astype(object)
    of_map.save_plot(tmp_path / "held.png", max_dots=max_dots)
    store, path = Store(map_folder), str(tmp_path / "stored.png")
    map_pictures.save_stored_map(store, [path], labels, n_points=n)
    held, stored = Image.open(tmp_path / "held.png"), Image.open(path)
    assert np.array_equal(held, stored)


@pytest.mark.parametrize("suffix", ["pdf", "svg"])
def test_counts_in_a_vector_picture(map_folder, tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(plot, "MAX_DOTS", 10)
    path = tmp_path / f"map.{suffix}"
    n = len(SlideMap.load(map_folder))
    map_pictures.save_stored_map(Store(map_folder), [str(path)], None, n_points=n)
    image = {"pdf": b"/Subtype /Image", "svg": b"<image"}[suffix]
    assert image in path.read_bytes()


@pytest.mark.parametrize("block_rows", [1, 20, 10_000])
def test_places_alone_are_those_of_the_points(map_folder, block_rows):
    store = Store(map_folder)
    whole = read_points(store)
    blocks = list(iter_places(store, points_parts(store), block_rows))
    xy = np.concatenate([xy for xy, _ in blocks])
    assert np.array_equal(xy[:, 0], whole["x"].to_numpy())
    assert np.array_equal(xy[:, 1], whole["y"].to_numpy())
    slides = [slide for _, runs in blocks for slide, n in runs for _ in range(n)]
    assert slides == whole["slide"].to_pylist()
    assert all(len(xy) >= min(block_rows, len(whole)) for xy, _ in blocks[:-1])


def test_a_place_that_is_not_finite_is_refused(tmp_path):
    store = Store(tmp_path)
    points = pa.table(
        {
            "tile_index": pa.array([0, 1]),
            "source": pa.array([0, 0], pa.int32()),
            "x": pa.array([0.0, np.nan], pa.float32()),
            "y": pa.array([0.0, 1.0], pa.float32()),
        }
    )
    write_part(store, "points/slide=a/000000.parquet", points, {})
    with pytest.raises(MapError, match=r"slide=a/000000\.parquet has points without"):
        list(iter_places(store, points_parts(store), 10))
