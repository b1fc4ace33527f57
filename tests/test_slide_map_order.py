"""A SlideMap whose `data` was put in another order."""

import numpy as np
import pytest

from raylatent import schema
from raylatent.slide_map import SlideMap
from raylatent.stored.map_points import read_vectors
from tests.stored_maps import LAYER, write_map, write_run


@pytest.fixture
def slide_map(tmp_path):
    """Two slides of some parts each."""
    return SlideMap.load(write_map(*write_run(tmp_path / "run", {"a": 50, "b": 30})))


def by_tile(slide_map, rows):
    keys = zip(slide_map.data["slide"], slide_map.data["tile_index"], strict=True)
    return {key: np.asarray(row).tolist() for key, row in zip(keys, rows, strict=True)}


@pytest.mark.parametrize("keep", [["a", "b"], ["b"]])
def test_rows_follow_the_order_of_data(slide_map, keep):
    of_tiles = by_tile(slide_map, slide_map.activations())
    slide_map.label_by_preds(0)
    of_class = by_tile(slide_map, slide_map.data["label"])
    slide_map.filter(keep)
    slide_map.data = slide_map.data.sort_values("x", ascending=False)
    assert slide_map.points["x"].to_numpy().tolist() == slide_map.x.tolist()
    assert slide_map.points["slide"].to_pylist() == list(slide_map.data["slide"])
    found = by_tile(slide_map, slide_map.activations())
    assert len(found) == len(slide_map)
    assert all(of_tiles[tile] == row for tile, row in found.items())
    slide_map.label_by_preds(0)
    labels = by_tile(slide_map, slide_map.data["label"])
    assert all(of_class[tile] == label for tile, label in labels.items())


def test_a_mosaic_has_each_tiles_own_label():
    slide_map = SlideMap.from_xy([0, 0.2, 9, 9.2], [0, 0, 9, 9], list("aabb"))
    slide_map.label_by_slide({"a": "A", "b": "B"})
    slide_map.data = slide_map.data.sort_values("x", ascending=False)
    cells = slide_map.generate_mosaic(num_tiles_x=2).cells.to_pylist()
    assert [dict(cell["label_counts"]) for cell in cells] == [{"A": 2}, {"B": 2}]
    assert [cell["slide"] for cell in cells] == ["a", "b"]


def test_a_map_in_another_order_is_saved_whole(slide_map, tmp_path):
    slide_map.data = slide_map.data.sort_values("x")
    slide_map.save(tmp_path / "saved")
    saved = SlideMap.load(tmp_path / "saved")
    slide_map.data = slide_map.data.sort_index()
    assert saved.points.equals(slide_map.points)


def test_vectors_of_a_tile_asked_for_twice(slide_map):
    points = slide_map.points.take([7, 60, 7, 3])
    whole = read_vectors(slide_map.run, slide_map.points, LAYER)
    found = read_vectors(slide_map.run, points, LAYER)
    np.testing.assert_array_equal(found, whole[[7, 60, 7, 3]])
    assert schema.TILE_INDEX in points.column_names
