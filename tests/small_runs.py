"""Fixtures that several test files share: the small model, and runs with it.

conftest.py imports them, so that each is made once in a session.
"""

import shutil

import numpy as np
import pyarrow as pa
import pytest

from tests.small_data import (
    N_TILES,
    TILE_PX,
    make_model_folder,
    make_tfrecords,
    write_annotations,
)


@pytest.fixture(scope="session")
def project_model(tmp_path_factory):
    """A model folder of the small network; no folder of tests has another of this name."""
    return make_model_folder(tmp_path_factory.mktemp("model") / "small")


@pytest.fixture(scope="session")
def small_model(project_model):
    """The same; tests of the engine have another."""
    return project_model


@pytest.fixture(scope="session")
def small_tfrecords(tmp_path_factory):
    """Five small slides g00..g04, 96 px tiles."""
    return make_tfrecords(tmp_path_factory.mktemp("small") / "96px_96um")


@pytest.fixture(scope="session")
def model_folder():
    """Makes a model folder: model_folder(folder, **changes of model.json)."""
    return make_model_folder


@pytest.fixture(scope="session")
def large_slide(tmp_path_factory):
    """A slide of 3,000 x 2,200 px."""
    from tests.engine.slide_files import write_slide

    path = tmp_path_factory.mktemp("slide") / "large.tif"
    return write_slide(path, 1, width=3000, height=2200)


@pytest.fixture(scope="session")
def small_project(small_tfrecords, tmp_path_factory):
    """A project folder as Slideflow lays it out."""
    root = tmp_path_factory.mktemp("project")
    shutil.copytree(small_tfrecords, root / "tfrecords" / "96px_96um")
    write_annotations(root / "annotations.csv")
    return root


@pytest.fixture(scope="session")
def small_dts(ray_session, small_project, project_model):
    """The whole project's `postconv` and predictions, in the default outdir."""
    import raylatent as sf

    project = sf.Project(small_project)
    dataset = project.dataset(tile_px=TILE_PX, tile_um=96)
    return project.generate_features(project_model, dataset, actors=1)


@pytest.fixture(scope="session")
def small_map(small_dts):
    """Its map."""
    return small_dts.map_activations(n_neighbors=10, min_dist=0.2)


@pytest.fixture(scope="session")
def layers_dts(ray_session, small_tfrecords, project_model, tmp_path_factory):
    """Two layers, pooled, without predictions."""
    import raylatent as sf

    return sf.DatasetFeatures(
        project_model,
        small_tfrecords,
        layers=["layer1", "postconv"],
        pooling="avg",
        include_preds=False,
        outdir=tmp_path_factory.mktemp("layers") / "run",
        actors=1,
    )


@pytest.fixture
def command_line(small_model, small_tfrecords, tmp_path):
    """command_line(**options) is the command line of `activations` with changed options."""

    def argv(verb="activations", *more, **changes):
        options = {
            "tfrecords": small_tfrecords,
            "model": small_model,
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
def small_points(small_tfrecords):
    """All 146 tiles as points with offsets, and where their files are."""
    from raylatent.source.index import index_tfrecord

    tables, uris = [], {}
    rng = np.random.default_rng(0)
    for slide, n in N_TILES.items():
        uris[slide] = str(small_tfrecords / f"{slide}.tfrecords")
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
