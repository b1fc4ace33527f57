"""Every line of the contract's section 1, as a user types it (slides excepted)."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import raylatent as sf
from raylatent.errors import AnnotationsError, ConfigError, MapError, SourceError

pytest_plugins = ("tests.golden_runs",)
pytestmark = pytest.mark.ray

SLIDES = ["g00", "g01", "g02", "g03", "g04"]
N_TILES = dict(zip(SLIDES, [1, 7, 33, 64, 41], strict=True))


@pytest.fixture
def sm(golden_map):
    """A map of one's own: labels and filters change it."""
    return sf.SlideMap.load(f"{golden_map.run.uri}/maps/default")


@pytest.fixture(scope="module")
def batch():
    return np.random.default_rng(0).integers(0, 256, (5, 96, 96, 3), np.uint8)


def test_features_at_postconv(golden_model, batch):
    ftrs = sf.model.Features(
        golden_model, layers="postconv", include_preds=False, pooling=None
    )
    acts = ftrs(batch)
    assert acts.shape == (5, 64)
    assert acts.dtype == np.float32
    assert ftrs.num_features == 64


def test_layer_is_a_synonym_of_layers(golden_model, batch):
    by_layer = sf.model.Features(golden_model, layer="layer2.0", pooling="avg")
    by_layers = sf.model.Features(golden_model, layers="layer2.0", pooling="avg")
    assert by_layer(batch).shape == (5, 64)
    np.testing.assert_array_equal(by_layer(batch), by_layers(batch))


def test_a_list_of_layers_is_concatenated_on_axis_1(golden_model, batch):
    both = sf.model.Features(golden_model, ["layer1", "postconv"], pooling="avg")(batch)
    layer1 = sf.model.Features(golden_model, "layer1", pooling="avg")(batch)
    postconv = sf.model.Features(golden_model, "postconv")(batch)
    assert both.shape == (5, 32 + 64)
    np.testing.assert_array_equal(both, np.concatenate([layer1, postconv], axis=1))


def test_include_preds_gives_a_pair(golden_model, batch):
    acts, preds = sf.model.Features(golden_model, include_preds=True)(batch)
    assert acts.shape == (5, 64)
    assert preds.shape == (5, 3)
    np.testing.assert_allclose(preds.sum(axis=1), 1, rtol=1e-5)
    plain = sf.model.Features(golden_model)(batch)
    np.testing.assert_array_equal(acts, plain)


def test_a_float_batch_is_taken_as_standardized(golden_model, batch):
    ftrs = sf.model.Features(golden_model)
    standardized = batch.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1
    np.testing.assert_allclose(ftrs(standardized), ftrs(batch), atol=1e-5)
    np.testing.assert_array_equal(ftrs(batch.transpose(0, 3, 1, 2)), ftrs(batch))


@pytest.mark.parametrize(
    ("layout", "arguments"),
    [
        ("tfrecords/96px_96um", {"tile_px": 96, "tile_um": 96}),
        ("tfrecords/96px_96um", {"tile_px": 96, "tile_um": 96.0}),
        ("tfrecords/96px_96um", {"tile_px": 96}),
        ("tfrecords/96px_96um", {}),
        ("tfrecords/96px_10x", {"tile_px": 96, "tile_um": "10x"}),
        ("tfrecords/96px_10X", {"tile_px": 96, "tile_um": "10x"}),
        ("96px_10x", {"tile_px": 96, "tile_um": "10x"}),
        ("tfrecords", {"tile_px": 96, "tile_um": "10x"}),
        ("tfrecords", {}),
        ("", {"tile_px": 96, "tile_um": 96}),
    ],
)
def test_a_dataset_of_each_layout(golden_tfrecords, tmp_path, layout, arguments):
    folder = tmp_path / layout
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(golden_tfrecords / "g01.tfrecords", folder)
    dataset = sf.Project(str(tmp_path)).dataset(**arguments)
    assert dataset.slides() == ["g01"]
    assert dataset.tfrecords() == [str(folder / "g01.tfrecords")]
    assert dataset.tile_px == arguments.get("tile_px")


def test_of_several_tile_sizes_the_right_one(golden_tfrecords, tmp_path):
    for size, slide in (("96px_96um", "g01"), ("96px_10x", "g02"), ("48px_10x", "g00")):
        folder = tmp_path / "tfrecords" / size
        folder.mkdir(parents=True)
        shutil.copy(golden_tfrecords / f"{slide}.tfrecords", folder)
    project = sf.Project(tmp_path)
    assert project.dataset(96, 96).slides() == ["g01"]
    assert project.dataset(96, "10x").slides() == ["g02"]
    assert project.dataset(48).slides() == ["g00"]
    folders = {
        project.dataset(*size).features_folder("net")
        for size in ((96, 96), (96, "10x"), (48,))
    }
    assert len(folders) == 3
    for wrong in ((96,), (), (96, 9), (299, "10x")):
        with pytest.raises(SourceError, match="48px_10x, 96px_10x, 96px_96um"):
            project.dataset(*wrong)


def test_labels(golden_project):
    dataset = sf.Project(golden_project).dataset(tile_px=96, tile_um=96)
    labels, unique = dataset.labels("subtype", format="name")
    assert sorted(labels) == SLIDES
    assert unique == sorted(set(labels.values()))
    numbers, same = dataset.labels("subtype")
    assert same == unique
    assert {slide: unique[i] for slide, i in numbers.items()} == labels
    with pytest.raises(AnnotationsError, match="'stage'"):
        dataset.labels("stage")


def test_the_default_outdir_is_the_models_name_and_fingerprint(
    golden_project, golden_dts
):
    uri = Path(golden_dts.run.uri)
    fingerprint = golden_dts.run.settings()["fingerprint"]
    assert uri.parent == golden_project / "features"
    name, _, digest = uri.name.rpartition("-")
    assert name == "golden"
    assert fingerprint.startswith(digest)
    assert len(digest) >= 8


def test_the_same_project_again_computes_nothing(
    golden_project, golden_model, golden_dts
):
    parts = sorted(Path(golden_dts.run.uri, "activations").rglob("*.parquet"))
    before = [part.stat().st_mtime_ns for part in parts]
    again = sf.Project(str(golden_project)).generate_features(str(golden_model))
    assert again.run.uri == golden_dts.run.uri
    assert [part.stat().st_mtime_ns for part in parts] == before
    assert len(parts) == 5


def test_dataset_features_by_itself(ray_session, golden_model, tmp_path, golden_dts):
    dataset = sf.Project(Path(golden_dts.run.uri).parents[1]).dataset()
    two = dataset.filter({"slide": ["g00", "g01"]})
    dts = sf.DatasetFeatures(
        str(golden_model), two, layer="postconv", outdir=str(tmp_path / "run")
    )
    assert dts.slides == ["g00", "g01"]
    np.testing.assert_array_equal(dts.activations["g01"], golden_dts.activations["g01"])


def test_a_finished_run_is_opened_later(golden_dts):
    run = golden_dts.run.uri
    for path in (run, Path(run)):
        dts = sf.DatasetFeatures.open(path)
        assert dts.slides == SLIDES
        np.testing.assert_array_equal(
            dts.activations["g02"], golden_dts.activations["g02"]
        )


def test_arrays_are_lazy_mappings(golden_dts):
    assert list(golden_dts.activations) == SLIDES
    for slide, n in N_TILES.items():
        assert golden_dts.activations[slide].shape == (n, 64)
        assert golden_dts.predictions[slide].shape == (n, 3)
        assert golden_dts.locations[slide].shape == (n, 2)
        assert golden_dts.locations[slide].dtype.kind == "i"
    assert golden_dts.activations["g03"] is not golden_dts.activations["g03"]
    assert "g03" in golden_dts.activations
    assert "g9" not in golden_dts.activations
    assert golden_dts.activations.get("g9") is None
    with pytest.raises(KeyError, match="g9"):
        golden_dts.activations["g9"]
    assert len(golden_dts.predictions) == 5
    assert golden_dts.num_features == 64
    assert golden_dts.num_classes == 3
    assert golden_dts.classes == ["Lupus", "Vulpes", "Ursus"]


def test_without_predictions(layers_dts):
    assert dict(layers_dts.predictions) == {}
    assert layers_dts.num_classes == 0
    assert layers_dts.num_features == 96
    assert "predictions" not in layers_dts.to_df().columns


def test_to_df(golden_dts):
    frame = golden_dts.to_df()
    assert len(frame) == sum(N_TILES.values())
    assert set(frame.columns) == {
        "slide",
        "tfr_index",
        "locations",
        "activations",
        "predictions",
    }
    assert frame.groupby("slide").size().to_dict() == N_TILES
    of_slide = frame.loc["g03"]
    assert of_slide["tfr_index"].tolist() == list(range(64))
    np.testing.assert_array_equal(
        np.stack(of_slide["activations"]), golden_dts.activations["g03"]
    )
    np.testing.assert_array_equal(
        np.stack(of_slide["locations"]), golden_dts.locations["g03"]
    )


def test_to_torch_writes_slideflows_bags(golden_dts, tmp_path):
    import torch

    golden_dts.to_torch(tmp_path / "bags")
    assert sorted(path.name for path in (tmp_path / "bags").iterdir()) == sorted(
        ["bags_config.json"]
        + [f"{slide}{end}" for slide in SLIDES for end in (".pt", ".index.npz")]
    )
    bag = torch.load(tmp_path / "bags" / "g02.pt", weights_only=True)
    assert bag.dtype == torch.float32
    np.testing.assert_array_equal(bag.numpy(), golden_dts.activations["g02"])
    with np.load(tmp_path / "bags" / "g02.index.npz") as index:
        np.testing.assert_array_equal(index["arr_0"], golden_dts.locations["g02"])
    config = json.loads((tmp_path / "bags" / "bags_config.json").read_text())
    assert config["num_features"] == 64
    assert config["tile_px"] == 96


def test_the_same_map_again_is_opened_and_others_replace_it(golden_dts):
    folder = Path(golden_dts.run.uri) / "maps" / "twice"
    first = golden_dts.map_activations(n_neighbors=10, min_dist=0.2, name="twice")
    before = (folder / "map.json").stat().st_mtime_ns
    again = golden_dts.map_activations(min_dist=0.2, n_neighbors=10, name="twice")
    assert (folder / "map.json").stat().st_mtime_ns == before
    np.testing.assert_array_equal(first.x, again.x)
    other = golden_dts.map_activations(n_neighbors=15, min_dist=0.2, name="twice")
    assert (folder / "map.json").stat().st_mtime_ns != before
    assert not np.array_equal(first.x, other.x)
    for wrong in ({"n_components": 3}, {"densmap": True}, {"target_metric": "l2"}):
        with pytest.raises(MapError, match=next(iter(wrong))):
            golden_dts.map_activations(**wrong)


def test_a_map_has_every_tile(golden_map):
    assert len(golden_map) == sum(N_TILES.values())
    assert golden_map.data.groupby("slide").size().to_dict() == N_TILES
    assert np.isfinite(golden_map.x).all()


def test_plot(sm):
    import matplotlib.pyplot as plt

    axes = sm.plot(s=5)
    assert axes.collections[0].get_sizes().tolist() == [5]
    plt.close(axes.figure)


def test_label_by_slide_plots_the_labels(sm, golden_project):
    import matplotlib.pyplot as plt

    labels, unique = (
        sf.Project(golden_project).dataset().labels("subtype", format="name")
    )
    sm.label_by_slide(labels)
    assert sm.data["label"].tolist() == [labels[s] for s in sm.data["slide"]]
    axes = sm.plot(s=5)
    shown = {text.get_text() for text in axes.get_legend().get_texts()}
    assert all(any(name in text for text in shown) for name in unique)
    plt.close(axes.figure)


def test_umap_transform(sm, golden_dts):
    rows = np.concatenate([golden_dts.activations[s] for s in golden_dts.slides])
    places = sm.umap_transform(rows)
    assert places.shape == (len(rows), 2)
    np.testing.assert_array_equal(places, np.stack([sm.x, sm.y], axis=1))
    np.testing.assert_array_equal(sm.umap_transform(rows[7:8]), places[7:8])


def test_cluster_neighbors_and_predictions(sm, golden_project, golden_dts):
    sm.cluster(3)
    assert sm.data["cluster"].nunique() == 3
    labels, _ = sf.Project(golden_project).dataset().labels("subtype", format="name")
    sm.neighbors()
    assert sm.data["num_unique_neighbors"].between(1, 5).all()
    sm.neighbors(labels, method="features", k=5)
    assert sm.data["percent_matching_categories"].between(0, 1).all()
    sm.label_by_preds(1)
    wanted = np.concatenate(
        [golden_dts.predictions[s][:, 1] for s in golden_dts.slides]
    )
    np.testing.assert_array_equal(sm.data["label"], wanted)


def test_filter(sm):
    sm.filter(["g01", "g03"])
    assert sm.slides == ["g01", "g03"]
    assert len(sm) == 7 + 64


def test_save_and_load(sm, golden_dts, tmp_path):
    for folder in (tmp_path / "a", f"{tmp_path}/b/"):
        sm.save(folder)
        loaded = sf.SlideMap.load(folder)
        np.testing.assert_array_equal(loaded.x, sm.x)
        rows = golden_dts.activations["g04"]
        np.testing.assert_array_equal(
            loaded.umap_transform(rows), sm.umap_transform(rows)
        )
    assert not list(tmp_path.rglob("*.pkl"))


def test_save_a_picture(sm, tmp_path):
    sm.save(str(tmp_path / "umap.png"))
    assert (tmp_path / "umap.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["umap.png"]


def test_generate_mosaic_three_ways(golden_project, golden_dts, sm):
    arguments = {"n_neighbors": 10, "min_dist": 0.2}
    by_project = sf.Project(golden_project).generate_mosaic(
        golden_dts, umap_kwargs=arguments, num_tiles_x=10
    )
    by_map = sm.generate_mosaic(num_tiles_x=10)
    by_class = sf.Mosaic(sm, num_tiles_x=10, tfrecords=[str(golden_project)])
    for mosaic in (by_project, by_map, by_class):
        assert mosaic.cells.equals(by_map.cells)
        assert isinstance(mosaic.slide_map, sf.SlideMap)
    assert by_map.slide_map is sm


def test_mosaic_save(sm, tmp_path):
    from PIL import Image

    mosaic = sm.generate_mosaic(num_tiles_x=10, cell_px=24)
    mosaic.save(str(tmp_path / "mosaic.png"))
    with Image.open(tmp_path / "mosaic.png") as picture:
        assert picture.size[0] >= 240
    assert mosaic.failed == {}
    mosaic.save(tmp_path / "folder")
    cells = pq.read_table(tmp_path / "folder" / "cells.parquet")
    assert cells.num_rows == mosaic.cells.num_rows


def test_mosaic_of_arrays():
    images = [np.full((8, 8, 3), 10 * i, np.uint8) for i in range(4)]
    mosaic = sf.Mosaic(images, [(0, 0), (0, 1), (1, 0), (1, 1)], num_tiles_x=2)
    assert mosaic.cells["index"].to_pylist() == [0, 2, 1, 3]
    assert mosaic.slide_map is None
    assert {"row", "col", "n", "index", "distance"} <= set(mosaic.cells.column_names)


@pytest.mark.parametrize("how", ["path", "slide", "folder"])
def test_mosaic_of_tuples(golden_tfrecords, tmp_path, how):
    file = golden_tfrecords / "g03.tfrecords"
    name = str(file) if how == "path" else "g03"
    given = {"path": None, "slide": [file], "folder": str(golden_tfrecords)}[how]
    coords = np.random.default_rng(0).random((64, 2))
    mosaic = sf.Mosaic(
        [(name, i) for i in range(64)], coords, tfrecords=given, num_tiles_x=6
    )
    mosaic.save(tmp_path / "mosaic.png", cell_px=16)
    assert mosaic.failed == {}
    assert mosaic.cells["n"].to_numpy().sum() == 64
    chosen = mosaic.cells["index"].to_numpy()
    assert mosaic.cells["tile_index"].to_pylist() == chosen.tolist()


def test_slideflows_words_for_select(sm):
    centroid = sm.generate_mosaic(num_tiles_x=8, tile_select="centroid")
    medoid = sm.generate_mosaic(num_tiles_x=8, select="medoid")
    assert centroid.cells.equals(medoid.cells)
    nearest = sm.generate_mosaic(num_tiles_x=8)
    assert not nearest.cells.equals(medoid.cells)
    first = sm.generate_mosaic(num_tiles_x=8, tile_select="first")
    assert first.cells["n"].to_numpy().sum() == len(sm)


def test_slideflows_grid(sm):
    square = sm.generate_mosaic(num_tiles_x=10)
    theirs = sm.generate_mosaic(num_tiles_x=10, grid="slideflow")
    assert theirs.cells["n"].to_numpy().sum() == len(sm)
    assert not theirs.cells.equals(square.cells)


def test_a_slideflow_model_folder_is_told_what_to_do(tmp_path):
    (tmp_path / "params.json").write_text("{}")
    with pytest.raises(sf.errors.ModelError, match=re.escape("model.json")):
        sf.model.Features(str(tmp_path))


def test_both_layer_and_layers_are_refused(golden_model):
    with pytest.raises(ConfigError, match="not both"):
        sf.model.Features(golden_model, layers="stem", layer="stem")
