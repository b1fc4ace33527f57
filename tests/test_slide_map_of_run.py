"""What a SlideMap of a run says of it, and needs of it."""

import json

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageColor

from raylatent import mosaic as mosaic_module
from raylatent import slide_map as module
from raylatent.config import MosaicConfig
from raylatent.errors import AnnotationsError, MapError
from raylatent.main_job import run_mosaic
from raylatent.mapping.fit import fit_map
from raylatent.mapping.labels import colors_by_name
from raylatent.mapping.umap_learn import MapParameters
from raylatent.montage import cells
from raylatent.montage.points import HeldParts
from raylatent.mosaic import Mosaic
from raylatent.parts import part_name, rows_digest
from raylatent.run import RunDirectory
from raylatent.seal import sealed_json
from raylatent.slide_map import SlideMap
from raylatent.storage import Store
from raylatent.stored import map_points as stored_points
from raylatent.stored import mosaic_inputs as inputs
from raylatent.stored.map_points import StoredParts, read_points
from raylatent.stored.maps import read_info, write_info
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


@pytest.mark.slow
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


@pytest.mark.parametrize("how", ["sort", "merge", "reset", "shuffle"])
def test_rows_are_known_by_their_tiles_where_the_index_says_nothing(slide_map, how):
    expected = {
        (row["slide"], row["tile_index"]): (row["x"], row["y"], tuple(features))
        for row, features in zip(
            slide_map.data.to_dict("records"), slide_map.activations(), strict=True
        )
    }
    data = slide_map.data
    if how == "sort":
        data = data.sort_values("x", ignore_index=True)
    elif how == "merge":
        other = data[["slide", "tile_index"]].sample(frac=1, random_state=0)
        data = other.merge(data, on=["slide", "tile_index"])
    elif how == "reset":
        data = data[data["slide"] == "b"].reset_index(drop=True)
    else:
        data = data.sample(frac=1, random_state=0)
    slide_map.data = data
    points = slide_map.points
    tiles = list(zip(data["slide"], data["tile_index"], strict=True))
    own = zip(*(points[n].to_pylist() for n in ("slide", "tile_index")), strict=True)
    assert list(own) == tiles
    found = zip(slide_map.x, slide_map.y, slide_map.activations(), strict=True)
    assert [(x, y, tuple(f)) for x, y, f in found] == [expected[t] for t in tiles]
    slide_map.label_by_preds(0)
    of_tile = dict(zip(tiles, slide_map.data["label"], strict=True))
    mosaic = slide_map.generate_mosaic(**MOSAIC)
    assert not is_stored(mosaic)
    for cell in mosaic.cells.to_pylist():
        if cell["n"] == 1:
            tile = cell["slide"], cell["tile_index"]
            assert list(dict(cell["label_counts"])) == [str(of_tile[tile])]


def test_rows_that_are_no_tiles_of_the_map_are_refused(slide_map):
    data = slide_map.data.reset_index(drop=True)
    slide_map.data = data.assign(tile_index=data["tile_index"] + 1)
    with pytest.raises(MapError, match="2 rows of data are tiles that the map lacks"):
        slide_map.points  # noqa: B018
    slide_map.data = data.drop(columns="tile_index")
    with pytest.raises(MapError, match="has no column 'tile_index' any more"):
        slide_map.points  # noqa: B018


def other_places(points):
    """As many points of the same tiles elsewhere."""
    return {
        slide: table.set_column(
            table.column_names.index("x"), table.schema.field("x"), table["y"]
        )
        for slide, table in points.items()
    }


def save_points(run, points):
    """Points alone, saved by Python as a map of the run; its folder."""
    table = pa.concat_tables(
        table.append_column("slide", pa.array([slide] * len(table)))
        for slide, table in points.items()
    )
    folder = f"{run.uri}/maps/default"
    SlideMap(table, layer=LAYER).save(folder)
    return folder


def test_a_map_of_points_alone_that_was_replaced_by_as_many_is_noticed(
    run_and_points,
):
    run, points = run_and_points
    opened = SlideMap.load(save_points(run, points))
    assert len(opened) == 80
    again = SlideMap.load(save_points(run, points))
    assert len(opened.x) == 80  # the same points were saved again
    save_points(run, other_places(points))
    with pytest.raises(MapError, match="was replaced since it was opened"):
        again.generate_mosaic(**MOSAIC)
    with pytest.raises(MapError, match="was replaced since it was opened"):
        again.x  # noqa: B018


def test_a_fitted_map_of_as_many_other_tiles_is_noticed(slide_map, folder):
    fitted = fit_map(slide_map.activations(), MapParameters(n_neighbors=5))
    # No point is outside of the frame or novel: all counts are the same.
    frame = {"lower": [-1e6, -1e6], "upper": [1e6, 1e6]}
    fitted = fitted.with_info(points={"rows": 80}, frame=frame)
    points = slide_map.points
    points = points.set_column(
        points.column_names.index("knn_distance"),
        points.schema.field("knn_distance"),
        pa.array(np.zeros(80, np.float32)),
    )

    def saved(slide):
        some = SlideMap(points, fitted=fitted, run=slide_map.run, layer=LAYER)
        some.data = some.data[some.data["slide"] == slide].head(30)
        some.save(folder)
        return SlideMap.load(folder)

    opened = saved("a")
    assert len(opened) == 30
    assert len(saved("b")) == 30
    with pytest.raises(MapError, match="was replaced since it was opened"):
        opened.generate_mosaic(**MOSAIC)


def test_a_mosaic_goes_on_with_the_map_that_it_was_made_of_or_not_at_all(
    run_and_points,
):
    run, points = run_and_points
    mosaic = SlideMap.load(save_points(run, points)).generate_mosaic(**MOSAIC)
    assert is_stored(mosaic)
    cell = mosaic.cells.to_pylist()[0]
    assert len(mosaic.points_in_cell(cell["row"], cell["col"])) == cell["n"]
    save_points(run, other_places(points))
    with pytest.raises(MapError, match="was replaced since it was opened"):
        mosaic.points_in_cell(cell["row"], cell["col"])


def test_a_map_that_is_replaced_between_the_passes_of_a_mosaic(
    run_and_points, monkeypatch
):
    run, points = run_and_points
    opened = SlideMap.load(save_points(run, points))
    make_grid = cells.make_grid

    def replaced_meanwhile(*arguments):
        save_points(run, other_places(points))
        return make_grid(*arguments)

    monkeypatch.setattr(cells, "make_grid", replaced_meanwhile)
    with pytest.raises(MapError, match="was replaced since it was opened"):
        opened.generate_mosaic(**MOSAIC)


def test_a_map_of_other_rows_is_refused_in_memory_as_well(run_and_points, monkeypatch):
    run, points = run_and_points
    monkeypatch.setattr(RunDirectory, "slides", lambda _: sorted(ROWS))
    folder = save_points(run, points)
    store = Store(folder)
    rows = rows_digest(part for part in run.footers(run.slides()) if part.rows)
    write_info(store, {**read_info(store), "rows": rows})
    opened = SlideMap.load(folder)
    opened.filter(["b"])
    assert opened.generate_mosaic(**MOSAIC).cells.num_rows
    assert len(opened.activations()) == 30
    seen = SlideMap.load(folder)
    seen.filter(["b"])
    write_run(run.uri, {"a": 50, "b": 30}, seed=1)
    for use in (
        lambda: seen.generate_mosaic(**MOSAIC),
        lambda: seen.cluster(2),
        lambda: seen.label_by_preds(0),
        lambda: SlideMap.load(folder).generate_mosaic(
            features=np.zeros((80, 2)), **MOSAIC
        ),
    ):
        with pytest.raises(MapError, match="is of other rows than the run has now"):
            use()


def test_of_several_layers_none_is_guessed(run_and_points):
    run, points = run_and_points
    folder = save_points(run, points)
    store = Store(folder)
    write_info(store, {k: v for k, v in read_info(store).items() if k != "layer"})
    settings = json.loads(run.store.read("run.json"))
    settings["layers"] = {"layer1": [3], LAYER: [6]}
    run.store.write("run.json", json.dumps(sealed_json(settings)).encode())
    for filtered in (False, True):
        opened = SlideMap.load(folder)
        if filtered:
            opened.filter(["b"])
        assert opened.generate_mosaic(**MOSAIC).cells.num_rows
        with pytest.raises(MapError, match="say which layer was mapped, layer=: the"):
            opened.generate_mosaic(select="medoid", **MOSAIC)
    told = SlideMap.load(folder, layer=LAYER)
    assert told.generate_mosaic(select="medoid", **MOSAIC).cells.num_rows


def test_labels_of_a_map_are_those_of_its_mosaic_until_they_are_deleted(slide_map):
    slide_map.label_by_slide({"a": "x", "b": "y"})
    for made in (slide_map.generate_mosaic(**MOSAIC), Mosaic(slide_map, **MOSAIC)):
        assert is_stored(made)
        assert labels_of(made) == {"x", "y"}
    without = slide_map.generate_mosaic(labels=False, **MOSAIC)
    assert is_stored(without)
    assert without.cells["label_counts"].null_count == len(without.cells)
    assert len(slide_map.data)
    del slide_map.data["label"]
    again = slide_map.generate_mosaic(**MOSAIC)
    assert is_stored(again)
    assert again.cells.equals(without.cells)


def tile_labels_of(run, points):
    """The run and its points, of which each tile has a label of its own."""
    settings = json.loads(run.store.read("run.json"))
    settings["fields"]["tile_labels"] = True
    run.store.write("run.json", json.dumps(sealed_json(settings)).encode())
    labeled = {}
    for slide, table in points.items():
        own = pa.array([("p", "q", "r")[i % 3] for i in range(len(table))])
        at = table.column_names.index("label")
        labeled[slide] = table.set_column(at, table.schema.field("label"), own)
    return RunDirectory(run.uri), labeled


@pytest.fixture
def pictures_of_tiles(monkeypatch):
    """Tiles are gray, wherever they would be read."""

    def gray(frames, tile_px):
        for i in range(len(frames)):
            yield i, Image.new("RGB", (tile_px, tile_px), (127, 127, 127))

    monkeypatch.setattr(mosaic_module, "stored_tiles", gray)


def test_frames_of_tile_labels_are_seen_in_stored_and_in_held_mosaics(
    run_and_points, pictures_of_tiles
):
    run, points = tile_labels_of(*run_and_points)
    folder = write_map(run, points)
    stored = SlideMap.load(folder)
    held = SlideMap.load(folder)
    assert set(held.data["label"]) == {"p", "q", "r"}
    assert is_stored(held.generate_mosaic(**MOSAIC))  # as it is in the folder
    vars(held)["_own_labels"] = None  # as if they had been set here
    made = [stored.generate_mosaic(**MOSAIC), held.generate_mosaic(**MOSAIC)]
    made += [Mosaic(stored, **MOSAIC), Mosaic(held, **MOSAIC)]
    assert [is_stored(one) for one in made] == [True, False, True, False]
    colors = {tuple(ImageColor.getrgb(c)) for c in colors_by_name("pqr").values()}
    for one in made:
        assert one.cells.equals(made[0].cells)
        picture = np.asarray(one.picture(cell_px=40, legend=False).convert("RGB"))
        assert np.array_equal(picture, made[0].picture(cell_px=40, legend=False))
        shown = {tuple(pixel) for pixel in picture.reshape(-1, 3).tolist()}
        assert len(shown & colors) >= 2
        plain = one.picture(cell_px=40, legend=False, label_style=None).convert("RGB")
        assert not {tuple(p) for p in np.asarray(plain).reshape(-1, 3)} & colors
    held.filter(["b"])
    assert labels_of(Mosaic(held, **MOSAIC)) == {"p", "q", "r"}
    del held.data["label"]
    assert labels_of(held.generate_mosaic(**MOSAIC)) == set()


@pytest.fixture
def mosaic_of(pictures_of_tiles, monkeypatch, tmp_path):
    """Draw with `raylatent mosaic` by an annotations file of some slides."""

    def drawn(run, slides):
        lines = [f"{slide},x\n" for slide in slides]
        (tmp_path / "a.csv").write_text("".join(["slide,kind\n", *lines]))
        options = {"annotations": str(tmp_path / "a.csv"), "label": "kind"}
        made, _ = run_mosaic(
            MosaicConfig(out=run.uri, num_tiles_x=4, cell_px=16, **options)
        )
        return made

    monkeypatch.setattr(RunDirectory, "slides", lambda _: [*ROWS, "c"])
    monkeypatch.setattr(module, "where", lambda *_: MOSAIC["tfrecords"])
    monkeypatch.setattr(inputs, "where", lambda *_: MOSAIC["tfrecords"])
    return drawn


def test_labels_of_slides_without_tiles_do_not_make_room_for_those_of_tiles(
    run_and_points, mosaic_of, caplog
):
    run, points = tile_labels_of(*run_and_points)
    write_map(run, points)
    made = mosaic_of(run, ["c"])
    assert labels_of(made) == set()
    assert "no slide that has a label has tiles" in caplog.text
    made = mosaic_of(run, ["a", "c"])
    assert labels_of(made) == {"x"}
    assert made.slide_map.data["label"].dropna().unique().tolist() == ["x"]


def test_too_many_labels_of_tiles_are_not_counted(run_and_points, monkeypatch, caplog):
    run, points = tile_labels_of(*run_and_points)
    opened = SlideMap.load(write_map(run, points))
    monkeypatch.setattr(stored_points, "_BLOCK_ROWS", 1)
    monkeypatch.setattr(cells, "MOST_LABELS", 3)
    assert labels_of(opened.generate_mosaic(**MOSAIC)) == {"p", "q", "r"}
    monkeypatch.setattr(cells, "MOST_LABELS", 2)
    made = opened.generate_mosaic(**MOSAIC)
    assert is_stored(made)
    assert labels_of(made) == set()
    assert made.cells["label_counts"].null_count == len(made.cells)
    assert "labels of their own, which are drawn in no colors" in caplog.text
    monkeypatch.setattr(module, "MOST_LABELS", 2)
    held = SlideMap.load(opened._stored.store.uri)
    assert "label" not in held.data
    assert held.generate_mosaic(**MOSAIC).cells.equals(made.cells)
    opened.label_by_slide()  # as many as there are slides
    monkeypatch.setattr(cells, "MOST_LABELS", 1)
    assert labels_of(opened.generate_mosaic(**MOSAIC)) == {"a", "b"}


def labels_of(mosaic):
    """All labels that its cells count."""
    return {
        label
        for cell in mosaic.cells["label_counts"]
        for label, _ in cell.as_py() or ()
    }
