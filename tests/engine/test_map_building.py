"""What is said before a map is fitted, and what is listed after it was mended."""

import logging

import numpy as np
import pytest

from raylatent.engine.map_building import build_map, say_fit
from raylatent.errors import ConfigError
from raylatent.mapping.umap_learn import MapParameters
from raylatent.storage import Store
from raylatent.stored.manifest import read_manifest
from raylatent.stored.maps import load_map
from tests.stored_maps import write_run


@pytest.mark.parametrize(
    ("changed", "said"), [(0.0, ["the same in all 30 sampled rows"]), (1e-3, [])]
)
def test_rows_that_are_all_the_same_are_said(caplog, changed, said):
    features = np.full((30, 4), 0.25, np.float32)
    features[-1, -1] += changed
    with caplog.at_level(logging.WARNING):
        say_fit(features, "postconv", MapParameters(n_neighbors=29))
    assert len(caplog.messages) == len(said)
    for message, words in zip(caplog.messages, said, strict=True):
        assert message.startswith("layer 'postconv' is")
        assert words in message


def test_more_neighbors_than_there_are_is_said(caplog):
    features = np.arange(90, dtype=np.float32).reshape(30, 3)
    with caplog.at_level(logging.WARNING):
        say_fit(features, "postconv", MapParameters(n_neighbors=29))
        say_fit(features, "postconv", MapParameters(n_neighbors=30))
    (said,) = caplog.messages
    assert said.startswith("n_neighbors is 30, of 30 sampled rows it can be 29")


@pytest.mark.ray
@pytest.mark.parametrize("name", ["../../x", "a/b", "..", "", "a\nb"])
def test_a_name_that_is_a_path_is_refused(tmp_path, name):
    run, _ = write_run(tmp_path / "run", {"a": 3})
    with pytest.raises(
        ConfigError, match=r"name= is .*: it must be a plain folder name"
    ):
        build_map(run.uri, MapParameters(), name=name)
    assert not run.store.list("maps")


def test_pictures_stay_listed_when_points_are_mended(made, in_process, verify_here):
    store = Store(made.out)
    params = load_map(store.child("maps/default")).parameters
    part = made.out / "maps/default/points/slide=a/000001.parquet"
    good = part.read_bytes()
    part.unlink()
    build_map(str(made.out), params)
    assert part.read_bytes() == good
    listed = read_manifest(store, "manifest/map-default.parquet")
    assert "maps/default/umap.png" in listed
    assert verify_here(made.out).findings == []
