"""What a SlideMap of a run says of it, and needs of it."""

import numpy as np
import pytest

from raylatent import slide_map as module
from raylatent.errors import AnnotationsError, MapError
from raylatent.mapping.fit import fit_map
from raylatent.mapping.fitted_map import MapParameters
from raylatent.montage.points import HeldParts
from raylatent.mosaic import Mosaic
from raylatent.parts import part_name
from raylatent.slide_map import SlideMap
from raylatent.storage import Store
from raylatent.stored.map_points import StoredParts, read_points
from raylatent.stored.maps import read_info
from tests.stored_maps import LAYER, write_map, write_run

ROWS = {"a": 50, "b": 30}
MOSAIC = {"num_tiles_x": 4, "tfrecords": {"a": "a.tfr", "b": "b.tfr"}}


@pytest.fixture
def run_and_points(tmp_path):
    return write_run(tmp_path / "run", ROWS)


@pytest.fixture
def folder(run_and_points):
    return write_map(*run_and_points)


@pytest.fixture
def slide_map(folder):
    return SlideMap.load(folder)


@pytest.fixture
def unread(slide_map, monkeypatch):
    """The map, whose points cannot be read all at once."""

    def refused(store):
        message = "all points are read"
        raise AssertionError(message)

    monkeypatch.setattr(module, "read_points", refused)
    return slide_map


def held(slide_map, folder):
    """The same points, given as a table."""
    return SlideMap(read_points(Store(folder)), run=slide_map.run, layer=LAYER)


def is_stored(mosaic):
    """Whether a mosaic goes through points where they are stored, else in memory."""
    assert isinstance(mosaic._parts, StoredParts | HeldParts)
    return isinstance(mosaic._parts, StoredParts)


def test_a_map_is_opened_without_its_points(unread):
    assert unread.slides == ["a", "b"]
    assert len(unread) == 80
    assert repr(unread) == "SlideMap(80 tiles of 2 slides)"
    assert unread.layer == LAYER
    unread.label_by_slide({"a": "x", "b": "y"})
    with pytest.raises(AnnotationsError, match="of any of the 2 slides"):
        unread.label_by_slide({"c": "x"})
    for name in ("x", "y", "data", "points"):
        with pytest.raises(AssertionError, match="all points are read"):
            getattr(unread, name)


@pytest.mark.parametrize("labels", [None, {"a": "x"}, {"a": 1}, {"a": 0.5, "b": 1}])
@pytest.mark.parametrize("select", ["nearest", "medoid", "first"])
def test_a_mosaic_of_a_whole_map_is_that_of_points_in_memory(
    unread, folder, labels, select
):
    table = held(unread, folder)
    if labels is not None:
        unread.label_by_slide(labels)
        table.label_by_slide(labels)
    stored = unread.generate_mosaic(select=select, **MOSAIC)
    expected = table.generate_mosaic(select=select, **MOSAIC)
    assert is_stored(stored)
    assert not is_stored(expected)
    assert stored.cells.equals(expected.cells)
    assert stored.slide_map is unread
    by_class = Mosaic(unread, select=select, labels=labels, **MOSAIC)
    assert is_stored(by_class)
    if labels != {"a": 0.5, "b": 1}:  # in a column 1 is 1.0
        assert by_class.cells.equals(expected.cells)


def test_labels_that_are_given_to_a_mosaic_of_a_whole_map(unread, folder, caplog):
    stored = unread.generate_mosaic(labels={"a.svs": "x"}, **MOSAIC)
    assert "1 of 2 slides have no label in the labels given, as 'b'" in caplog.text
    by_tile = ["x"] * 50 + [None] * 30
    table = held(unread, folder).generate_mosaic(labels=by_tile, **MOSAIC)
    assert stored.cells.equals(table.cells)
    with pytest.raises(AnnotationsError, match="of any of the 2 slides"):
        unread.generate_mosaic(labels={"c": "x"}, **MOSAIC)


def test_points_that_were_looked_at_are_still_those_of_the_folder(slide_map, folder):
    slide_map.label_by_slide({"a": "x", "b": "y"})
    before = slide_map.generate_mosaic(**MOSAIC)
    assert slide_map.data["label"].tolist() == ["x"] * 50 + ["y"] * 30
    after = slide_map.generate_mosaic(**MOSAIC)
    assert is_stored(after)
    assert after.cells.equals(before.cells)


@pytest.mark.parametrize("how", ["filter", "cluster", "sort", "label", "features"])
def test_other_points_and_labels_are_held(slide_map, folder, how):
    more = {}
    slide_map.label_by_slide({"a": "x", "b": "y"})
    if how == "filter":
        slide_map.filter(["b"])
    elif how == "cluster":
        slide_map.cluster(3)
    elif how == "sort":
        slide_map.data = slide_map.data.sort_values("x")
    elif how == "label":
        slide_map.data["label"] = np.arange(80) % 3
    else:
        more = {"features": slide_map.activations(), "select": "medoid"}
    mosaic = slide_map.generate_mosaic(**MOSAIC, **more)
    assert not is_stored(mosaic)
    assert mosaic.cells["n"].to_numpy().sum() == len(slide_map)
    labels = {
        label for cell in mosaic.cells["label_counts"] for label, _ in cell.as_py()
    }
    of_tiles = {"cluster": {"0", "1", "2"}, "label": {"0", "1", "2"}, "filter": {"y"}}
    assert labels == of_tiles.get(how, {"x", "y"})


def test_a_map_that_was_replaced_is_not_read_as_if_it_were_the_same(
    slide_map, folder, run_and_points
):
    run, points = run_and_points
    seen = SlideMap.load(folder)
    before = seen.generate_mosaic(**MOSAIC)
    assert len(seen.x) == 80
    write_map(run, {"a": points["a"]})
    with pytest.raises(MapError, match="was replaced since it was opened: open it"):
        slide_map.x  # noqa: B018
    with pytest.raises(MapError, match="was replaced since it was opened: open it"):
        slide_map.generate_mosaic(**MOSAIC)
    after = seen.generate_mosaic(**MOSAIC)
    assert not is_stored(after)
    assert after.cells.equals(before.cells)


def test_a_map_that_is_saved_where_it_is_keeps_its_points(slide_map, folder):
    expected = read_points(Store(folder))
    slide_map.save(folder)
    assert read_points(Store(folder)).equals(expected)
    assert slide_map.points.equals(expected)


def test_a_filtered_map_tells_of_its_own_points(slide_map, tmp_path):
    fitted = fit_map(slide_map.activations(), MapParameters(n_neighbors=5))
    counts = {"rows": 80, "outside": 1, "novel": 9}
    fitted = fitted.with_info(rows="of the run", points=counts)
    of_run = SlideMap(slide_map.points, fitted=fitted, run=slide_map.run, layer=LAYER)
    of_run.filter(["b"])
    of_run.save(tmp_path / "b")
    info = read_info(Store(tmp_path / "b"))
    frame = fitted.frame
    xy = np.stack([of_run.x, of_run.y], axis=1)
    assert info["points"] == {
        "rows": 30,
        "outside": sum(any(p < frame.lower) or any(p > frame.upper) for p in xy),
        "novel": sum(of_run.data["knn_distance"] > fitted.knn_threshold),
    }
    assert "rows" not in info
    opened = SlideMap.load(tmp_path / "b")
    opened.save(tmp_path / "again")
    assert read_info(Store(tmp_path / "again"))["points"] == info["points"]


def test_a_mosaic_of_points_needs_no_predictions(slide_map, folder, caplog):
    table = held(slide_map, folder)
    whole = table.generate_mosaic(**MOSAIC)
    assert whole.cells["predictions_mean"].null_count == 0
    run = slide_map.run
    run.store.delete(part_name(run.rows, "b", 0))
    lacking = table.generate_mosaic(**MOSAIC)
    assert "made without predictions: " in caplog.text
    assert lacking.cells["predictions_mean"].null_count == len(lacking.cells)
    assert lacking.cells["index"].equals(whole.cells["index"])
    # As `raylatent mosaic`, which refuses a map of rows that are gone.
    with pytest.raises(MapError, match="lacks tile 0 of slide 'b', which the map has"):
        slide_map.generate_mosaic(**MOSAIC)
