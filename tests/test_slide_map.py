"""SlideMap: labels, pictures, save and load, and what a run knows of its tiles."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from matplotlib.colors import to_hex

from raylatent import schema
from raylatent.errors import AnnotationsError, MapError
from raylatent.montage.points import label_words
from raylatent.mosaic import Mosaic
from raylatent.parts import part_name, read_part, write_part
from raylatent.run import RunDirectory
from raylatent.seal import sealed_json
from raylatent.slide_map import SlideMap
from raylatent.stored import map_points
from raylatent.stored.map_points import MAP_POINTS

SIZES = {"007": 40, "a b": 25, "x=1%2F": 30}
N = sum(SIZES.values())
N_FEATURES, N_CLASSES = 6, 3


def tile_vectors(slide, n, width):
    rng = np.random.default_rng(sum(slide.encode()) + width)
    return (rng.normal(size=(n, width)) + 3 * (slide == "a b")).astype(np.float32)


@pytest.fixture
def run(tmp_path):
    """A run of three slides; the first slide's tiles are in two parts."""
    run = RunDirectory(str(tmp_path / "run"))
    settings = {
        "schema_version": schema.SCHEMA_VERSION,
        "layers": {"postconv": [N_FEATURES]},
        "fingerprint": "",
        "fields": {"predictions": True},
    }
    run.store.write("run.json", json.dumps(sealed_json(settings)).encode())
    layers = {"postconv": N_FEATURES}
    for source, (slide, n) in enumerate(SIZES.items()):
        vectors = tile_vectors(slide, n, N_FEATURES)
        table = pa.table(
            {
                "tile_index": pa.array(range(n), pa.int64()),
                "loc_x": pa.array(range(n), pa.int32()),
                "loc_y": pa.nulls(n, pa.int32()),
                "source": pa.array([source] * n, pa.int32()),
                "offset": pa.array(range(n), pa.int64()),
                "length": pa.array([9] * n, pa.int32()),
                "name": pa.nulls(n, pa.string()),
                "label": pa.nulls(n, pa.string()),
                "postconv": pa.array(vectors.tolist(), pa.list_(pa.float32(), 6)),
                "predictions": pa.array(
                    tile_vectors(slide, n, N_CLASSES).tolist(),
                    pa.list_(pa.float32(), 3),
                ),
            }
        ).cast(schema.activations_schema(layers, n_classes=N_CLASSES))
        for unit, start in enumerate(range(0, n, 30)):
            part = part_name("activations", slide, unit)
            footer = {
                schema.FOOTER_FIRST: str(start),
                schema.FOOTER_LAST: str(min(start + 30, n)),
            }
            write_part(run.store, part, table.slice(start, 30), footer)
    return run


def make_map(**keywords):
    rng = np.random.default_rng(0)
    slides = [slide for slide, n in SIZES.items() for _ in range(n)]
    order = rng.permutation(N)
    tiles = np.concatenate([np.arange(n) for n in SIZES.values()])
    return SlideMap.from_xy(
        rng.random(N), rng.random(N), np.array(slides)[order], tiles[order], **keywords
    )


@pytest.fixture(scope="module")
def fitted():
    from raylatent.mapping.fit import fit_map
    from raylatent.mapping.umap_learn import MapParameters

    rows = np.random.default_rng(0).normal(size=(5, N_FEATURES))
    return fit_map(rows, MapParameters())


def test_points_are_sorted_by_slide_then_tile():
    slide_map = make_map()
    data = slide_map.data
    assert data["slide"].tolist() == sorted(data["slide"])
    for slide, n in SIZES.items():
        tiles = data.loc[data["slide"] == slide, "tile_index"]
        assert tiles.tolist() == list(range(n))
    assert len(slide_map) == N
    assert slide_map.x.dtype == slide_map.y.dtype == np.float32
    assert slide_map.slides == sorted(SIZES)
    assert slide_map.points.schema == MAP_POINTS


def test_tiles_are_counted_where_no_index_is_given():
    slide_map = SlideMap.from_xy([1, 2, 3], [4, 5, 6], ["b", "a", "b"])
    assert slide_map.data["tile_index"].tolist() == [0, 0, 1]
    assert slide_map.x.tolist() == [2, 1, 3]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([1.0], [1.0, 2.0], ["a", "b"]), r"x has shape \(1,\) for 2 slides"),
        (([1.0, np.nan], [1.0, 2.0], ["a", "b"]), "1 points have no finite x"),
        (([1.0], [1.0], ["a"], ["first"]), "must be numbers"),
    ],
)
def test_bad_places_are_refused(arguments, words):
    with pytest.raises(MapError, match=words):
        SlideMap.from_xy(*arguments)


def test_labels_and_filter():
    slide_map = make_map()
    slide_map.label_by_slide()
    assert (slide_map.data["label"] == slide_map.data["slide"]).all()
    slide_map.label_by_slide({"007": "tumor", "a b": "normal"})
    assert set(slide_map.data["label"].dropna()) == {"tumor", "normal"}
    slide_map.label("slide", {"007": 7})
    assert slide_map.data["label"].max() == 7
    with pytest.raises(MapError, match="no column 'stage'"):
        slide_map.label("stage")
    slide_map.filter(["a b", "elsewhere"])
    assert len(slide_map) == SIZES["a b"]
    assert slide_map.points["slide"].unique().to_pylist() == ["a b"]
    np.testing.assert_array_equal(slide_map.points["x"].to_numpy(), slide_map.x)
    with pytest.raises(MapError, match="no tile is of any"):
        slide_map.filter(["007"])


def test_save_and_load_without_pickle(tmp_path, fitted):
    rows = np.random.default_rng(1).normal(size=(20, N_FEATURES))
    slide_map = make_map(fitted=fitted, layer="postconv")
    slide_map.save(tmp_path / "map")
    opened = SlideMap.load(tmp_path / "map")
    assert opened.points.equals(slide_map.points)
    assert opened.layer == "postconv"
    assert opened.run is None
    expected = slide_map.umap_transform(rows)
    assert opened.umap_transform(rows).tobytes() == expected.tobytes()
    files = {p.suffix for p in (tmp_path / "map").rglob("*") if p.is_file()}
    assert files == {".json", ".npz", ".parquet"}
    # Saved again with fewer slides, nothing of the others stays.
    opened.filter(["007"])
    opened.save(tmp_path / "map")
    assert SlideMap.load(tmp_path / "map").slides == ["007"]


def test_a_map_from_places_is_saved_and_cannot_place(tmp_path):
    make_map().save(tmp_path / "map")
    opened = SlideMap.load(tmp_path / "map")
    assert opened.points.equals(make_map().points)
    with pytest.raises(MapError, match="was not fitted"):
        opened.umap_transform(np.zeros((1, 4)))


def test_folders_without_a_whole_map_are_refused(tmp_path):
    with pytest.raises(MapError, match=r"holds no map\.json"):
        SlideMap.load(tmp_path)
    make_map().save(tmp_path / "map")
    (tmp_path / "map" / "map.json").write_text("{}")
    with pytest.raises(MapError, match="is broken"):
        SlideMap.load(tmp_path / "map")


def test_activations_are_the_runs_and_aligned(run):
    slide_map = make_map(run=run)
    rows = slide_map.activations()
    for slide, n in SIZES.items():
        of_slide = (slide_map.data["slide"] == slide).to_numpy()
        expected = tile_vectors(slide, n, N_FEATURES)
        np.testing.assert_array_equal(rows[of_slide], expected)
    slide_map.label_by_preds(1)
    expected = tile_vectors("007", 40, N_CLASSES)[:, 1]
    of_slide = slide_map.data["slide"] == "007"
    np.testing.assert_array_equal(slide_map.data["label"][of_slide], expected)
    with pytest.raises(MapError, match="no class 3"):
        slide_map.label_by_preds(3)


def test_only_the_parts_of_the_tiles_are_read(run, monkeypatch):
    read = []

    def noted(store, name, columns):
        read.append(name)
        return read_part(store, name, columns)

    monkeypatch.setattr(map_points, "read_part", noted)
    of_second = SlideMap.from_xy([1], [1], ["007"], [35], run=run)
    expected = tile_vectors("007", 40, N_FEATURES)[[35]]
    np.testing.assert_array_equal(of_second.activations(), expected)
    assert read == [part_name("activations", "007", 1)]


def test_tiles_that_the_run_lacks_are_named(run):
    with pytest.raises(MapError, match="lacks slide 'c'"):
        SlideMap.from_xy([1], [1], ["c"], run=run).activations()
    with pytest.raises(MapError, match="lacks tile 99 of slide '007'"):
        SlideMap.from_xy([1], [1], ["007"], [99], run=run).activations()
    with pytest.raises(MapError, match="no layer 'conv'"):
        SlideMap.from_xy([1], [1], ["007"], run=run, layer="conv").activations()
    with pytest.raises(MapError, match="belongs to no run"):
        make_map().activations()


def test_a_map_in_a_run_finds_it(run):
    make_map().save(run.store.path("maps/default"))
    opened = SlideMap.load(f"{run.uri}/maps/default")
    assert opened.activations().shape == (N, N_FEATURES)


def test_clusters_are_of_activations_and_repeat(run):
    slide_map = make_map(run=run)
    slide_map.cluster(2)
    # The slide "a b" was made apart in feature space, not on the map.
    pairs = slide_map.data.groupby("slide")["cluster"].nunique()
    assert pairs.tolist() == [1, 1, 1]
    assert slide_map.data["label"].equals(slide_map.data["cluster"].rename("label"))
    again = make_map(run=run)
    again.cluster(2)
    assert again.data["cluster"].equals(slide_map.data["cluster"])
    places = make_map()
    places.cluster(4)
    assert places.data["cluster"].nunique() == 4
    with pytest.raises(MapError, match="96 clusters of 95 points"):
        places.cluster(96)


def test_neighbors_as_counted_by_hand():
    slide_map = make_map()
    kinds = {"007": "t", "a b": "n", "x=1%2F": "t"}
    slide_map.neighbors(kinds, k=10)
    data = slide_map.data
    xy = data[["x", "y"]].to_numpy(np.float64)
    squares = ((xy[:, None] - xy[None]) ** 2).sum(axis=2)
    for i, near in enumerate(np.argsort(squares, axis=1)[:, :10]):
        slides = data["slide"].iloc[near]
        assert data["num_unique_neighbors"].iloc[i] == slides.nunique()
        share = (slides.map(kinds) == kinds[data["slide"].iloc[i]]).mean()
        assert data["percent_matching_categories"].iloc[i] == pytest.approx(share)
    slide_map.neighbors()
    assert data["num_unique_neighbors"].max() == 3
    with pytest.raises(MapError, match="2 of 3 slides have no category"):
        slide_map.neighbors({"007": "t"})
    with pytest.raises(MapError, match="k=0"):
        slide_map.neighbors(k=0)
    with pytest.raises(MapError, match="method='pca'"):
        slide_map.neighbors(method="pca")


def test_mosaic_is_of_this_maps_points(small_tfrecords):
    slide_map = SlideMap.from_xy(
        [0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 0.0, 1.0],
        ["g02", "g02", "g03", "g03"], [0, 5, 1, 2],
    )  # fmt: skip
    slide_map.label_by_slide({"g02": "t", "g03": "n"})
    mosaic = slide_map.generate_mosaic(tfrecords=[str(small_tfrecords)], num_tiles_x=4)
    assert mosaic.slide_map is slide_map
    assert sorted(mosaic.cells["tile_index"].to_pylist()) == [0, 1, 2, 5]
    assert mosaic.cells["label_counts"].to_pylist()[0] == [("t", 1)]
    assert mosaic.picture().width > 100


def test_medoid_of_too_many_features_is_refused(run, monkeypatch):
    from raylatent.stored import mosaic_inputs

    monkeypatch.setattr(mosaic_inputs, "MAX_FEATURE_BYTES", N * N_FEATURES * 4)
    mosaic_inputs.check_feature_bytes(run, "postconv", N)
    with pytest.raises(
        MapError, match=r"GiB of features \(96 tiles\).*'nearest' needs"
    ):
        mosaic_inputs.check_feature_bytes(run, "postconv", N + 1)
    monkeypatch.setattr(mosaic_inputs, "MAX_FEATURE_BYTES", 1)
    slide_map = make_map(run=run)
    with pytest.raises(MapError, match="'nearest' needs none"):
        slide_map.generate_mosaic(tfrecords={}, select="medoid")


def of_two_slides():
    places = np.arange(20.0)
    return SlideMap.from_xy(places % 5, places // 5, ["a"] * 10 + ["b"] * 10)


def test_labels_by_slide_as_a_series_and_written_otherwise(caplog):
    slide_map = of_two_slides()
    labels = pd.Series({"a.svs": " x", "b ": "y"})
    slide_map.label_by_slide(labels)
    assert slide_map.data["label"].tolist() == ["x"] * 10 + ["y"] * 10
    slide_map.label("slide", pd.DataFrame({"slide": ["a"], "site": ["z"]}))
    assert slide_map.data["label"].isna().sum() == 10
    assert "1 of 2 slides have no label in the labels given, as 'b'" in caplog.text
    slide_map.neighbors(labels, k=3)
    by_dict = of_two_slides()
    by_dict.neighbors({"a": "x", "b": "y"}, k=3)
    column = "percent_matching_categories"
    assert (slide_map.data[column] == by_dict.data[column]).all()


@pytest.mark.parametrize("labels", [{}, {"A": "x"}, pd.Series(["x", "y"])], ids=str)
def test_labels_of_no_slide_are_refused(labels):
    with pytest.raises(AnnotationsError, match="of any of the 2 slides, as 'a'"):
        of_two_slides().label_by_slide(labels)
    with pytest.raises(MapError, match="2 of 2 slides have no category"):
        of_two_slides().neighbors(labels)


def test_slides_to_keep_are_found_as_they_are_written(caplog):
    slide_map = of_two_slides()
    slide_map.filter(["a.svs ", "c", "B"])
    assert slide_map.slides == ["a"]
    assert "no tile is of 'B', 'c'" in caplog.text


def test_predictions_that_are_not_there_are_no_label(run):
    settings = {**run.settings(), "fields": {"predictions": False}}
    run.store.write("run.json", json.dumps(sealed_json(settings)).encode())
    slide_map = make_map(run=RunDirectory(run.uri))
    with pytest.raises(MapError, match="has no predictions to label by: compute"):
        slide_map.label_by_preds(0)


def test_whole_numbers_stay_whole_where_a_slide_has_none():
    slide_map = of_two_slides()
    slide_map.label_by_slide({"a": 1})
    ax = slide_map.plot()
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["1", "(no label)"]
    plt.close("all")


def test_map_and_mosaic_name_the_same_labels_in_the_same_colors():
    names = [f"s{i}" for i in range(30)]
    rng = np.random.default_rng(0)
    slides = [names[i] for i in rng.integers(0, 30, 600)]
    slide_map = SlideMap.from_xy(rng.random(600), rng.random(600), slides)
    for labels in (
        {name: int(name[1:]) * 5 % 150 for name in names},  # on a scale
        {name: f"label {name[1:]}" for name in names[1:]},
        {name: ["mixed", "(no label)", 3, 10][i % 4] for i, name in enumerate(names)},
        {name: i % 11 for i, name in enumerate(names[:-1])},
    ):
        slide_map.label_by_slide(labels)
        ax = slide_map.plot()
        pixels = [np.zeros((4, 4, 3), np.uint8)] * 600
        mosaic = Mosaic(
            pixels,
            np.stack([slide_map.x, slide_map.y], axis=1),
            num_tiles_x=60,
            labels=label_words(slide_map.data["label"]),
        )
        on_map, on_mosaic = legend_of(ax), legend_of(mosaic.plot())
        on_mosaic.pop("(several labels)", None)
        on_mosaic.pop("(a cell's mean)", None)
        if len(ax.figure.axes) == 1:
            assert list(on_map.items()) == list(on_mosaic.items())
        else:
            assert not on_map
            assert ax.collections[0].get_clim() == (0, 145)
            assert [float(tick) for tick in on_mosaic] == sorted(map(float, on_mosaic))[
                ::-1
            ]
        plt.close("all")


def legend_of(ax):
    """Texts and colors."""
    legend = ax.get_legend()
    if legend is None:
        return {}
    found = {}
    for handle, text in zip(legend.legend_handles, legend.texts, strict=True):
        patch = hasattr(handle, "get_facecolor")
        color = handle.get_facecolor() if patch else handle.get_color()
        nothing = color[3] == 0 if patch else handle.get_marker() == "None"
        found[text.get_text()] = None if nothing else to_hex(color)
    return found
