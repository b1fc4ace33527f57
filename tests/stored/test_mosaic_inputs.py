"""What a mosaic can be made of, and what is refused with which words."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from raylatent.errors import MapError, SourceError
from raylatent.montage.columns import as_xy, feature_array, label_array
from raylatent.stored.mosaic_inputs import from_any, from_images, from_table


def table(**more):
    return pa.table({"slide": ["a", "b"], "tile_index": [0, 1], **more})


def test_a_pandas_frame_is_a_table():
    frame = table(x=[0.0, 1.0], y=[0.0, 1.0]).to_pandas()
    assert isinstance(frame, pd.DataFrame)
    given = from_any(frame, None, {"a": "/a", "b": "/b"})
    np.testing.assert_array_equal(given.xy, [[0, 0], [1, 1]])
    assert given.reference["slide"].to_pylist() == ["a", "b"]


def test_files_are_found_by_slide_or_by_source():
    points = table(x=[0.0, 1.0], y=[0.0, 1.0], source=[7, 8])
    by_slide = from_table(points, {"a": "/x/a.tfrecords", "b": "/x/b.tfrecords"})
    by_source = from_table(points, {7: "/y/7.tfrecords", 8: "s3://y/8.tfrecords"})
    for given, uris in (
        (by_slide, ["/x/a.tfrecords", "/x/b.tfrecords"]),
        (by_source, ["/y/7.tfrecords", "s3://y/8.tfrecords"]),
    ):
        frames = given.frames(given.reference)
        assert [frame.uri for frame in frames] == uris
        assert [frame.tile_index for frame in frames] == [0, 1]
    lacking = from_table(points, {7: "/y/7.tfrecords"})
    with pytest.raises(MapError, match="no source 8: they have 7"):
        lacking.frames(lacking.reference)


def test_a_slide_as_a_dictionary_column():
    points = table(x=[0.0, 1.0], y=[0.0, 1.0])
    encoded = points.set_column(0, "slide", points["slide"].dictionary_encode())
    assert from_table(encoded, None).reference["slide"].to_pylist() == ["a", "b"]


@pytest.mark.parametrize("missing", ["slide", "tile_index", "x", "y"])
def test_points_that_lack_a_column(missing):
    points = table(x=[0.0, 1.0], y=[0.0, 1.0]).drop_columns(missing)
    with pytest.raises(MapError, match=f"points lack the column '{missing}'"):
        from_table(points, None)


def test_points_have_their_own_coordinates():
    with pytest.raises(MapError, match="leave out coords"):
        from_any(table(x=[0.0, 1.0], y=[0.0, 1.0]), [(0, 0), (1, 1)], None)


@pytest.mark.parametrize(
    ("coords", "sentence"),
    [
        ([1, 2], r"coords have shape \(2,\)"),
        ([(1, 2, 3)], r"coords have shape \(1, 3\)"),
        ([("a", "b")], "coords are not numbers"),
    ],
)
def test_coords_that_are_none(coords, sentence):
    with pytest.raises(MapError, match=sentence):
        as_xy(coords)


def test_labels_by_slide_and_by_point():
    slides = pa.chunked_array([["a", "b"], ["a", "c"]])
    by_slide = label_array({"a": 1, "b": None}, slides, 4)
    assert by_slide.to_pylist() == ["1", None, "1", None]
    by_point = label_array(np.array(["p", "q"]), None, 2)
    assert by_point.to_pylist() == ["p", "q"]
    assert label_array([float("nan"), 2.5], None, 2).to_pylist() == [None, "2.5"]
    with pytest.raises(MapError, match="3 points and 1 labels"):
        label_array(["a"], None, 3)
    with pytest.raises(MapError, match="need slides"):
        label_array({"a": 1}, None, 3)


def test_features_are_a_row_for_each_point():
    assert feature_array([[1, 2]], 1).shape == (1, 2)
    for bad in ([[1, 2]], [1, 2], [["a"], ["b"]]):
        with pytest.raises(MapError, match="a row for each point"):
            feature_array(bad, 2)


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        ([("a", 0)], "no path of a TFRecord: to name slides, give tfrecords="),
        ([("a.tfrecords", 1.5)], "the index must be an integer, not 1.5"),
        ([("a.tfrecords", None)], "the index must be an integer, not None"),
    ],
)
def test_tuples_that_name_nothing(images, sentence):
    with pytest.raises(MapError, match=sentence):
        from_images(images, [(0, 0)], None)


def test_tuples_and_slides(small_tfrecords):
    folder = str(small_tfrecords)
    path = f"{folder}/g03.tfrecords"
    images = [("g03", 5), (path, 63), ["g00", np.int64(0)]]
    given = from_images(images, [(0, 0)] * 3, folder)
    assert given.reference["slide"].to_pylist() == ["g03", "g03", "g00"]
    cells = pa.table({"index": [1, 2]})
    assert [frame.tile_index for frame in given.frames(cells)] == [63, 0]
    assert given.frames(cells)[0].uri == path
    other = from_images([("g03.svs ", 5)], [(0, 0)], folder)
    assert other.frames(pa.table({"index": [0]}))[0].uri == path
    with pytest.raises(MapError, match="no slide 'g30' among the tfrecords: near it"):
        from_images([("g30", 0)], [(0, 0)], [folder])
    with pytest.raises(MapError, match=r"no tile 7 in .*g01.tfrecords, which has 7"):
        from_images([("g01", 7)], [(0, 0)], [folder])
    with pytest.raises(MapError, match=r"images\[1\] is no \(TFRecord or slide"):
        from_images([("g01", 0), np.zeros((2, 2, 3), np.uint8)], [(0, 0)] * 2, folder)
    with pytest.raises(SourceError, match="no such file or folder"):
        from_images([("g01", 0)], [(0, 0)], [f"{folder}/nowhere"])


@pytest.mark.parametrize(
    "missing",
    [None, float("nan"), np.float32("nan"), pd.NA, pd.NaT, np.datetime64("NaT")],
)
def test_a_label_that_is_missing_is_none(missing):
    assert label_array([missing, "u"], None, 2).to_pylist() == [None, "u"]
    slides = pa.chunked_array([["a", "b", "a"]])
    by_slide = {"a": missing, "b": "u"}
    assert label_array(by_slide, slides, 3).to_pylist() == [None, "u", None]


def test_labels_as_columns_of_arrow_and_pandas():
    slides = pa.chunked_array([["a", "b", "a"]])
    expected = ["u", None, "v"]
    for kind in (pa.array, lambda v: pa.chunked_array([v]), pd.Series, np.array):
        assert label_array(kind(expected), slides, 3).to_pylist() == expected
    words = pd.Series(expected, dtype="string")
    assert label_array(words, slides, 3).to_pylist() == expected
    by_slide = pd.Series({"a": "u", "c": "w"})
    assert label_array(by_slide, slides, 3).to_pylist() == ["u", None, "u"]
    # Of each point, by names that are there twice.
    by_point = pd.Series(expected, index=["a", "b", "a"])
    assert label_array(by_point, slides, 3).to_pylist() == expected
