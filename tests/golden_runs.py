"""Fixtures that several test files share: the goldens' model, and runs with it.

conftest.py imports them, so that each is made once in a session.
"""

import json
import shutil

import numpy as np
import pyarrow as pa
import pytest

TILE_PX = 96
CLASSES = ["Lupus", "Vulpes", "Ursus"]


def make_model_folder(folder, goldens, **changes):
    """The goldens' network as a model folder; entries of model.json may be changed."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    shutil.copy(goldens / "golden_net.py", folder)
    state = torch.load(goldens / "golden_net.pt", weights_only=True)
    save_file({k: v.contiguous() for k, v in state.items()}, folder / "net.safetensors")
    content = {
        "factory": "golden_net:ResNet",
        "weights": "net.safetensors",
        "tile_px": TILE_PX,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "classes": CLASSES,
        "outcome": "subtype",
        **changes,
    }
    kept = {key: value for key, value in content.items() if value is not ...}
    (folder / "model.json").write_text(json.dumps(kept))
    return folder


@pytest.fixture(scope="session")
def golden_model(goldens, tmp_path_factory):
    """A model folder of the network that Slideflow's goldens were made with."""
    return make_model_folder(tmp_path_factory.mktemp("model") / "golden", goldens)


@pytest.fixture(scope="session")
def model_folder(goldens):
    """Makes a model folder: model_folder(folder, **changes of model.json)."""
    return lambda folder, **changes: make_model_folder(folder, goldens, **changes)


@pytest.fixture(scope="session")
def golden_project(goldens, golden_tfrecords, tmp_path_factory):
    """A project folder as Slideflow lays it out."""
    root = tmp_path_factory.mktemp("project")
    shutil.copytree(golden_tfrecords, root / "tfrecords" / "96px_96um")
    shutil.copy(goldens / "annotations.csv", root)
    return root


@pytest.fixture(scope="session")
def golden_dts(ray_session, golden_project, golden_model):
    """The whole project's `postconv` and predictions, in the default outdir."""
    import raylatent as sf

    project = sf.Project(golden_project)
    dataset = project.dataset(tile_px=TILE_PX, tile_um=96)
    return project.generate_features(golden_model, dataset, actors=1)


@pytest.fixture(scope="session")
def golden_map(golden_dts):
    """Its map."""
    return golden_dts.map_activations(n_neighbors=10, min_dist=0.2)


@pytest.fixture(scope="session")
def layers_dts(ray_session, golden_tfrecords, golden_model, tmp_path_factory):
    """Two layers, pooled, without predictions."""
    import raylatent as sf

    return sf.DatasetFeatures(
        golden_model,
        golden_tfrecords,
        layers=["layer1", "postconv"],
        pooling="avg",
        include_preds=False,
        outdir=tmp_path_factory.mktemp("layers") / "run",
        actors=1,
    )


@pytest.fixture
def command_line(golden_model, golden_tfrecords, tmp_path):
    """command_line(**options) is the command line of `activations` with changed options."""

    def argv(verb="activations", *more, **changes):
        options = {
            "tfrecords": golden_tfrecords,
            "model": golden_model,
            "out": tmp_path / "run",
            **changes,
        }
        pairs = [
            (f"--{name.replace('_', '-')}", value)
            for name, value in options.items()
            if value is not ...
        ]
        return [verb, *(part for pair in pairs for part in pair), *more]

    return argv


@pytest.fixture(scope="session")
def golden_points(golden_tfrecords):
    """All 146 golden tiles as points with offsets, and where their files are."""
    from raylatent.source.tfrecord import index_tfrecord

    tables, uris = [], {}
    rng = np.random.default_rng(0)
    for slide, n in (("g00", 1), ("g01", 7), ("g02", 33), ("g03", 64), ("g04", 41)):
        uris[slide] = str(golden_tfrecords / f"{slide}.tfrecords")
        index = index_tfrecord(uris[slide])
        columns = {
            "slide": [slide] * n,
            "tile_index": np.arange(n),
            "offset": index.offsets,
            "length": index.lengths.astype(np.int32),
            "x": rng.random(n, np.float32),
            "y": rng.random(n, np.float32),
        }
        tables.append(pa.table(columns))
    return pa.concat_tables(tables), uris
