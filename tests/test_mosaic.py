"""Mosaic, as a user holds it."""

import types

import numpy as np
import pyarrow as pa
import pytest

from raylatent import schema
from raylatent.errors import MapError
from raylatent.mosaic import Mosaic
from raylatent.source.filebytes import read_records
from raylatent.source.index import index_tfrecord
from raylatent.source.record import parse_example
from raylatent.tiles.decode import decode_image


def picture(seed, size=16):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (size, size, 3), dtype=np.uint8)


CORNERS = [(0, 0), (0, 1), (1, 0), (1, 1)]


@pytest.fixture
def pictures():
    return [picture(i) for i in range(4)]


def golden_tile(uri, tile_index):
    index = index_tfrecord(uri)
    (payload,) = read_records(
        uri, index.offsets[[tile_index]], index.lengths[[tile_index]]
    )
    return decode_image(parse_example(payload).image_raw)


def cell_pixels(mosaic, image, cell, cell_px):
    """A cell's pixels in a picture without legend."""
    pixels = np.asarray(image)
    top = pixels.shape[0] - (cell["row"] + 1) * cell_px
    left = cell["col"] * cell_px
    return pixels[top : top + cell_px, left : left + cell_px]


def test_arrays_are_drawn_as_they_are(pictures):
    mosaic = Mosaic(pictures, CORNERS, num_tiles_x=2, cell_px=16)
    assert mosaic.cells.schema == schema.CELLS
    assert mosaic.slide_map is None
    image = mosaic.picture()
    assert image.size == (32, 32)
    cells = mosaic.cells.to_pylist()
    assert [cell["index"] for cell in cells] == [0, 2, 1, 3]  # index 0 is drawn
    for cell in cells:
        shown = cell_pixels(mosaic, image, cell, 16)
        np.testing.assert_array_equal(shown, pictures[cell["index"]])


def test_an_array_of_images_and_mixed_ones(pictures):
    same = Mosaic(np.stack(pictures), CORNERS, num_tiles_x=2, cell_px=16)
    listed = Mosaic(pictures, CORNERS, num_tiles_x=2, cell_px=16)
    assert same.picture().tobytes() == listed.picture().tobytes()
    mixed = [
        pictures[0][..., 0],  # grey
        np.dstack([pictures[1], np.full((16, 16), 9, np.uint8)]),  # RGBA
        picture(2, 40),
        picture(3, 5),
    ]
    image = Mosaic(mixed, CORNERS, num_tiles_x=2, cell_px=16).picture()
    pixels = np.asarray(image)
    np.testing.assert_array_equal(pixels[16:, :16, 1], pictures[0][..., 0])
    np.testing.assert_array_equal(pixels[:16, :16], pictures[1])


def test_tuples_of_slides_and_paths(small_tfrecords):
    folder = str(small_tfrecords)
    named = [("g03", 0), ("g01", 6), ("g04", 40), ("g00", 0)]
    by_name = Mosaic(named, CORNERS, tfrecords=[folder], num_tiles_x=2, cell_px=96)
    paths = [(small_tfrecords / f"{slide}.tfrecords", i) for slide, i in named]
    by_path = Mosaic(paths, CORNERS, num_tiles_x=2, cell_px=96)
    assert by_name.cells == by_path.cells
    image = by_name.picture()
    assert image.tobytes() == by_path.picture().tobytes()
    for cell in by_name.cells.to_pylist():
        slide, tile_index = named[cell["index"]]
        assert (cell["slide"], cell["tile_index"]) == (slide, tile_index)
        expected = golden_tile(f"{folder}/{slide}.tfrecords", tile_index)
        shown = cell_pixels(by_name, image, cell, 96)
        np.testing.assert_array_equal(shown, expected)


def test_points_of_a_map(small_points):
    points, uris = small_points
    mosaic = Mosaic(points, tfrecords=uris, num_tiles_x=6, cell_px=96)
    image = mosaic.picture()
    for cell in mosaic.cells.to_pylist()[::5]:
        expected = golden_tile(uris[cell["slide"]], cell["tile_index"])
        shown = cell_pixels(mosaic, image, cell, 96)
        np.testing.assert_array_equal(shown, expected)
    without = points.drop_columns(["offset", "length"])
    other = Mosaic(without, tfrecords=uris, num_tiles_x=6, cell_px=96)
    assert other.picture().tobytes() == image.tobytes()


@pytest.mark.parametrize("select", ["nearest", "medoid", "first"])
def test_the_order_of_points_does_not_show(small_points, select):
    points, uris = small_points
    features = np.random.default_rng(1).normal(size=(len(points), 9))
    order = np.random.default_rng(2).permutation(len(points))
    one, two = (
        Mosaic(
            points.take(rows),
            tfrecords=uris,
            features=features[rows],
            select=select,
            num_tiles_x=4,
            cell_px=20,
            labels=dict.fromkeys(["g03"], "three"),
        )
        for rows in (np.arange(len(points)), order)
    )
    assert one.cells.drop_columns("index") == two.cells.drop_columns("index")
    assert one.picture().tobytes() == two.picture().tobytes()


def test_a_slide_map(small_points):
    points, uris = small_points
    slide_map = types.SimpleNamespace(points=points)
    mosaic = Mosaic(slide_map, tfrecords=list(uris.values()), num_tiles_x=5)
    assert mosaic.slide_map is slide_map
    assert mosaic.cells == Mosaic(points, num_tiles_x=5).cells


def test_slideflows_words(small_points):
    points, _ = small_points
    features = np.random.default_rng(1).normal(size=(len(points), 3))
    word = Mosaic(points, tile_select="centroid", features=features, num_tiles_x=3)
    ours = Mosaic(points, select="medoid", features=features, num_tiles_x=3)
    assert word.cells == ours.cells


def test_slideflows_grid_takes_rows_in_their_order(goldens):
    golden = np.load(goldens / "mosaic_grids.npz")
    points = pa.table(
        {
            "slide": golden["slide"].tolist(),
            "tile_index": golden["tfr_index"],
            "x": golden["x"],
            "y": golden["y"],
        }
    )
    for nx in (10, 50):
        for select in ("first", "nearest"):
            mosaic = Mosaic(points, num_tiles_x=nx, select=select, grid="slideflow")
            expected = np.flatnonzero(golden[f"{nx}_{select}/selected"])
            chosen = np.sort(mosaic.cells["index"].to_numpy())
            np.testing.assert_array_equal(chosen, expected)
            assert mosaic.tile_size == golden[f"{nx}_{select}/tile_size"]
            assert mosaic.num_tiles_y == golden[f"{nx}_{select}/num_tiles_y"]


def test_slideflows_extra_bin_is_drawn(pictures):
    # Column 49 of 0..48: see test_grid.
    places = [(0.0, 0.0), (1.0, 1.0), (0.5, 0.5), (0.2, 0.9)]
    mosaic = Mosaic(
        pictures, places, num_tiles_x=49, grid="slideflow", select="first", cell_px=2
    )
    assert mosaic.picture().width == 100


@pytest.mark.parametrize(
    "places",
    [[(1, 1)] * 4, [(0, 2), (1, 2), (2, 2), (3, 2)], [(5, 0), (5, 1), (5, 2), (5, 3)]],
)
def test_flat_maps_are_drawn(pictures, places):
    mosaic = Mosaic(pictures, places, num_tiles_x=4, cell_px=8)
    assert sum(mosaic.cells["n"].to_pylist()) == 4
    assert mosaic.picture().size == (
        8 * mosaic.num_tiles_x,
        8 * mosaic.num_tiles_y,
    )
    one = Mosaic(pictures, CORNERS, num_tiles_x=1, cell_px=8)
    assert one.picture().size == (8, 8)


def test_a_slide_in_focus(small_points):
    points, uris = small_points
    mosaic = Mosaic(points, tfrecords=uris, num_tiles_x=20, cell_px=8)
    image = mosaic.picture(focus_slide="g00")
    drawn = [
        cell
        for cell in mosaic.cells.to_pylist()
        if (cell_pixels(mosaic, image, cell, 8) != 0xDF).any()
    ]
    assert len(drawn) == 1
    members = mosaic.points_in_cell(drawn[0]["row"], drawn[0]["col"])
    assert "g00" in points["slide"].take(members).to_pylist()
    with pytest.raises(MapError, match="made of arrays"):
        Mosaic([picture(0)], [(0, 0)]).picture(focus_slide="g00")


def test_a_slide_that_has_no_file(small_points):
    points, uris = small_points
    with pytest.raises(MapError, match="no slide 'g03' among the tfrecords: near it"):
        Mosaic(points, tfrecords={k: v for k, v in uris.items() if k != "g03"})
    with pytest.raises(MapError, match="give tfrecords="):
        Mosaic(points).picture()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"coords": None}, "needs coords"),
        ({"coords": CORNERS[:3]}, "4 images and 3 coords"),
        ({"images": [], "coords": []}, "needs points, and there are none"),
        ({"select": "best"}, "unknown select 'best'"),
        ({"grid": "hex"}, "unknown grid 'hex'"),
        ({"select": "medoid"}, "needs features"),
        ({"select": "medoid", "features": np.zeros((3, 2))}, "a row for each point"),
        ({"num_tiles_x": 0}, "num_tiles_x must be 1 or more"),
        ({"cell_px": 0}, "cell_px must be 1"),
        ({"labels": ["a"]}, "4 points and 1 labels"),
        ({"images": [np.zeros((4, 4, 3))] * 4}, r"images\[0\] is float64"),
        ({"max_dist": 1e-9, "num_tiles_x": 3}, "no cell has a tile"),
    ],
)
def test_bad_arguments(pictures, arguments, sentence):
    given = {"images": pictures, "coords": CORNERS, **arguments}
    with pytest.raises(MapError, match=sentence):
        Mosaic(**given)


def test_unknown_look(pictures):
    mosaic = Mosaic(pictures, CORNERS)
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        mosaic.picture(colour="red")
    with pytest.raises(MapError, match="cell_px must be 1 to 20000 pixels, not 0"):
        mosaic.picture(cell_px=0)


def test_two_files_of_one_stem_matter_only_where_the_slide_is_needed(
    small_points, small_tfrecords, tmp_path
):
    import shutil

    from raylatent.errors import SourceError

    points = small_points[0]
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        shutil.copy(
            small_tfrecords / "g00.tfrecords", tmp_path / folder / "x.tfrecords"
        )
    for path in small_tfrecords.glob("*.tfrecords"):
        shutil.copy(path, tmp_path / "one")
    mosaic = Mosaic(points, tfrecords=[str(tmp_path)], num_tiles_x=4, cell_px=16)
    mosaic.save(tmp_path / "mosaic.png")
    assert mosaic.failed == {}
    shutil.copy(small_tfrecords / "g03.tfrecords", tmp_path / "two")
    with pytest.raises(SourceError, match="two slides are called 'g03'"):
        Mosaic(points, tfrecords=[str(tmp_path)], num_tiles_x=4)


def two_clusters(n=300):
    rng = np.random.default_rng(4)
    xy = rng.normal(size=(n, 2)) + np.where(np.arange(n) % 3 == 0, 9, 0)[:, None]
    pixels = rng.integers(0, 256, (n, 4, 4, 3), dtype=np.uint8)
    return list(pixels), xy, [["a", "b", "c"][i % 3] for i in range(n)]


def test_compact_shows_the_same_tiles_in_less_room():
    images, xy, labels = two_clusters()
    given = {"labels": labels, "num_tiles_x": 20, "cell_px": 30}
    plain = Mosaic(images, xy, **given)
    made = Mosaic(images, xy, layout="compact", **given)
    assert made.cells.select(schema.CELLS.names) == plain.cells
    small, large = (one.picture(legend=False).size for one in (made, plain))
    assert small[0] * small[1] < 0.75 * large[0] * large[1]
    assert plain.layout == "plain"


def test_even_fills_its_rectangle_with_tiles_of_different_places():
    images, xy, labels = two_clusters()
    made = Mosaic(images, xy, labels=labels, layout="even", num_tiles_x=9, cell_px=4)
    assert len(made.cells) == made.num_tiles_x * made.num_tiles_y
    assert made.num_tiles_x == 9
    assert len(set(made.cells["index"].to_pylist())) == len(made.cells)
    assert sum(made.cells["n"].to_pylist()) == 300
    for cell in made.cells.to_pylist():
        assert cell["index"] in made.points_in_cell(cell["row"], cell["col"])
        np.testing.assert_array_equal(xy[cell["index"]], (cell["x"], cell["y"]))
    few = Mosaic(images[:7], xy[:7], layout="even")
    assert len(few.cells) == few.num_tiles_x * few.num_tiles_y >= 6
    assert Mosaic(images[:1], xy[:1], layout="even").picture().size[0] >= 100


@pytest.mark.parametrize("layout", ["compact", "even"])
def test_the_order_of_points_does_not_show_in_other_layouts(small_points, layout):
    points, uris = small_points
    order = np.random.default_rng(2).permutation(len(points))
    given = {"tfrecords": uris, "num_tiles_x": 7, "cell_px": 12, "layout": layout}
    one, two = (Mosaic(p, **given) for p in (points, points.take(order)))
    assert one.cells.drop_columns("index") == two.cells.drop_columns("index")
    assert one.picture().tobytes() == two.picture().tobytes()


@pytest.mark.parametrize("layout", ["plain", "compact", "even"])
def test_a_mosaic_for_each_label(layout):
    images, xy, labels = two_clusters()
    given = {"num_tiles_x": 6, "cell_px": 10, "layout": layout}
    whole = Mosaic(images, xy, labels=labels, **given)
    made = whole.by_label()
    assert list(made) == ["a", "b", "c"]
    for name, one in made.items():
        rows = np.flatnonzero(np.array(labels) == name)
        alone = Mosaic([images[i] for i in rows], xy[rows], **given)
        assert one._bounds == alone._bounds
        assert sum(one.cells["n"].to_pylist()) == len(rows)
        assert {labels[i] for i in one.cells["index"].to_pylist()} == {name}
        if layout != "even":  # whose lot is by number
            assert rows[alone.cells["index"].to_numpy()].tolist() == (
                one.cells["index"].to_pylist()
            )
        assert one._entries(one._look) == [(name, whole._coloring.colors[name])]
        assert one.picture().size[0] > 60
    assert len(whole.cells) > 0
    with pytest.raises(MapError, match="labels are not there"):
        Mosaic(images, xy, **given).by_label()
    ages = [str(i) for i in range(300)]
    with pytest.raises(MapError, match="numbers on a scale"):
        Mosaic(images, xy, labels=ages, **given).by_label()


def test_of_many_labels_those_of_the_most_points_have_a_mosaic(caplog):
    images, xy, _ = two_clusters()
    labels = [f"l{min(i % 40, 30):02}" for i in range(300)]
    made = Mosaic(images, xy, labels=labels, num_tiles_x=5).by_label()
    assert len(made) == 24
    assert "l30" in made
    assert "of 31 labels the 24 with the most tiles" in caplog.text


def test_a_layout_that_is_none():
    images, xy, _ = two_clusters(9)
    with pytest.raises(MapError, match="unknown layout 'dense'"):
        Mosaic(images, xy, layout="dense")
    with pytest.raises(MapError, match="layout='even' has cells of its own"):
        Mosaic(images, xy, layout="even", grid="slideflow")
    assert (
        Mosaic(images, xy, layout="compact", grid="slideflow").grid.kind == "slideflow"
    )


@pytest.mark.parametrize("layout", ["compact", "even"])
def test_shown_beside_no_coordinates_of_the_map(layout):
    import matplotlib.pyplot as plt

    images, xy, labels = two_clusters()
    made = Mosaic(images, xy, num_tiles_x=8, layout=layout, labels=labels)
    ax = made.plot(figsize=(2, 2), title="$T")
    assert ax.get_xticks().size == 0
    assert "trustworthiness 0." in ax.get_xlabel()
    assert ax.get_title() == "$T"
    plt.close("all")


def test_without_a_run_there_is_no_scale_bar(caplog):
    images, xy, _ = two_clusters(9)
    made = Mosaic(images, xy, num_tiles_x=3, cell_px=10)
    assert made.picture(scale_bar=True).size == made.picture().size
    assert "no scale bar: the side of the tiles in µm is not known" in caplog.text
