"""Every line of the contract's section 1, as a user types it (slides excepted)."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import raylatent as sf
from raylatent.errors import AnnotationsError, ConfigError, SourceError

pytestmark = pytest.mark.ray

SLIDES = ["g00", "g01", "g02", "g03", "g04"]
N_TILES = dict(zip(SLIDES, [1, 7, 33, 64, 41], strict=True))


@pytest.fixture(scope="module")
def batch():
    return np.random.default_rng(0).integers(0, 256, (5, 96, 96, 3), np.uint8)


def test_features_at_postconv(small_model, batch):
    ftrs = sf.model.Features(
        small_model, layers="postconv", include_preds=False, pooling=None
    )
    acts = ftrs(batch)
    assert acts.shape == (5, 64)
    assert acts.dtype == np.float32
    assert ftrs.num_features == 64


def test_layer_is_a_synonym_of_layers(small_model, batch):
    by_layer = sf.model.Features(small_model, layer="layer2.0", pooling="avg")
    by_layers = sf.model.Features(small_model, layers="layer2.0", pooling="avg")
    assert by_layer(batch).shape == (5, 64)
    np.testing.assert_array_equal(by_layer(batch), by_layers(batch))


def test_a_list_of_layers_is_concatenated_on_axis_1(small_model, batch):
    both = sf.model.Features(small_model, ["layer1", "postconv"], pooling="avg")(batch)
    layer1 = sf.model.Features(small_model, "layer1", pooling="avg")(batch)
    postconv = sf.model.Features(small_model, "postconv")(batch)
    assert both.shape == (5, 32 + 64)
    np.testing.assert_array_equal(both, np.concatenate([layer1, postconv], axis=1))


def test_include_preds_gives_a_pair(small_model, batch):
    acts, preds = sf.model.Features(small_model, include_preds=True)(batch)
    assert acts.shape == (5, 64)
    assert preds.shape == (5, 3)
    np.testing.assert_allclose(preds.sum(axis=1), 1, rtol=1e-5)
    plain = sf.model.Features(small_model)(batch)
    np.testing.assert_array_equal(acts, plain)


def test_a_float_batch_is_taken_as_standardized(small_model, batch):
    ftrs = sf.model.Features(small_model)
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
def test_a_dataset_of_each_layout(small_tfrecords, tmp_path, layout, arguments):
    folder = tmp_path / layout
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(small_tfrecords / "g01.tfrecords", folder)
    dataset = sf.Project(str(tmp_path)).dataset(**arguments)
    assert dataset.slides() == ["g01"]
    assert dataset.tfrecords() == [str(folder / "g01.tfrecords")]
    assert dataset.tile_px == arguments.get("tile_px")


def test_of_several_tile_sizes_the_right_one(small_tfrecords, tmp_path):
    for size, slide in (("96px_96um", "g01"), ("96px_10x", "g02"), ("48px_10x", "g00")):
        folder = tmp_path / "tfrecords" / size
        folder.mkdir(parents=True)
        shutil.copy(small_tfrecords / f"{slide}.tfrecords", folder)
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


def test_labels(small_project):
    dataset = sf.Project(small_project).dataset(tile_px=96, tile_um=96)
    labels, unique = dataset.labels("subtype", format="name")
    assert sorted(labels) == SLIDES
    assert unique == sorted(set(labels.values()))
    numbers, same = dataset.labels("subtype")
    assert same == unique
    assert {slide: unique[i] for slide, i in numbers.items()} == labels
    with pytest.raises(AnnotationsError, match="'stage'"):
        dataset.labels("stage")


def test_the_default_outdir_is_the_models_name_and_fingerprint(
    small_project, small_dts
):
    uri = Path(small_dts.run.uri)
    fingerprint = small_dts.run.settings()["fingerprint"]
    assert uri.parent == small_project / "features"
    name, _, digest = uri.name.rpartition("-")
    assert name == "small"
    assert fingerprint.startswith(digest)
    assert len(digest) >= 8


def test_the_same_project_again_computes_nothing(small_project, small_model, small_dts):
    parts = sorted(Path(small_dts.run.uri, "activations").rglob("*.parquet"))
    before = [part.stat().st_mtime_ns for part in parts]
    again = sf.Project(str(small_project)).generate_features(str(small_model))
    assert again.run.uri == small_dts.run.uri
    assert [part.stat().st_mtime_ns for part in parts] == before
    assert len(parts) == 5


def test_dataset_features_by_itself(ray_session, small_model, tmp_path, small_dts):
    dataset = sf.Project(Path(small_dts.run.uri).parents[1]).dataset()
    two = dataset.filter({"slide": ["g00", "g01"]})
    dts = sf.DatasetFeatures(
        str(small_model), two, layer="postconv", outdir=str(tmp_path / "run")
    )
    assert dts.slides == ["g00", "g01"]
    np.testing.assert_array_equal(dts.activations["g01"], small_dts.activations["g01"])


def test_a_finished_run_is_opened_later(small_dts):
    run = small_dts.run.uri
    for path in (run, Path(run)):
        dts = sf.DatasetFeatures.open(path)
        assert dts.slides == SLIDES
        np.testing.assert_array_equal(
            dts.activations["g02"], small_dts.activations["g02"]
        )


def test_arrays_are_lazy_mappings(small_dts):
    assert list(small_dts.activations) == SLIDES
    for slide, n in N_TILES.items():
        assert small_dts.activations[slide].shape == (n, 64)
        assert small_dts.predictions[slide].shape == (n, 3)
        assert small_dts.locations[slide].shape == (n, 2)
        assert small_dts.locations[slide].dtype.kind == "i"
    assert small_dts.activations["g03"] is not small_dts.activations["g03"]
    assert "g03" in small_dts.activations
    assert "g9" not in small_dts.activations
    assert small_dts.activations.get("g9") is None
    with pytest.raises(KeyError, match="g9"):
        small_dts.activations["g9"]
    assert len(small_dts.predictions) == 5
    assert small_dts.num_features == 64
    assert small_dts.num_classes == 3
    assert small_dts.classes == ["Lupus", "Vulpes", "Ursus"]


def test_without_predictions(layers_dts):
    assert dict(layers_dts.predictions) == {}
    assert layers_dts.num_classes == 0
    assert layers_dts.num_features == 96
    assert "predictions" not in layers_dts.to_df().columns


def test_to_df(small_dts):
    frame = small_dts.to_df()
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
        np.stack(of_slide["activations"]), small_dts.activations["g03"]
    )
    np.testing.assert_array_equal(
        np.stack(of_slide["locations"]), small_dts.locations["g03"]
    )


def test_to_torch_writes_slideflows_bags(small_dts, tmp_path):
    import torch

    small_dts.to_torch(tmp_path / "bags")
    assert sorted(path.name for path in (tmp_path / "bags").iterdir()) == sorted(
        ["bags_config.json"]
        + [f"{slide}{end}" for slide in SLIDES for end in (".pt", ".index.npz")]
    )
    bag = torch.load(tmp_path / "bags" / "g02.pt", weights_only=True)
    assert bag.dtype == torch.float32
    np.testing.assert_array_equal(bag.numpy(), small_dts.activations["g02"])
    with np.load(tmp_path / "bags" / "g02.index.npz") as index:
        np.testing.assert_array_equal(index["arr_0"], small_dts.locations["g02"])
    config = json.loads((tmp_path / "bags" / "bags_config.json").read_text())
    assert config["num_features"] == 64
    assert config["tile_px"] == 96


def test_a_slideflow_model_folder_is_told_what_to_do(tmp_path):
    (tmp_path / "params.json").write_text("{}")
    with pytest.raises(sf.errors.ModelError, match=re.escape("model.json")):
        sf.model.Features(str(tmp_path))


def test_both_layer_and_layers_are_refused(small_model):
    with pytest.raises(ConfigError, match="not both"):
        sf.model.Features(small_model, layers="stem", layer="stem")
