"""Every line of the contract's section 1 on maps and mosaics, as a user types it."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import raylatent as sf
from raylatent.errors import MapError
from tests.test_readers import snippet

pytestmark = pytest.mark.ray

SLIDES = ["g00", "g01", "g02", "g03", "g04"]
N_TILES = dict(zip(SLIDES, [1, 7, 33, 64, 41], strict=True))


@pytest.fixture
def sm(small_map):
    """A map of one's own: labels and filters change it."""
    return sf.SlideMap.load(f"{small_map.run.uri}/maps/default")


def test_the_same_map_again_is_opened_and_others_replace_it(small_dts):
    folder = Path(small_dts.run.uri) / "maps" / "twice"
    first = small_dts.map_activations(n_neighbors=10, min_dist=0.2, name="twice")
    before = (folder / "map.json").stat().st_mtime_ns
    again = small_dts.map_activations(min_dist=0.2, n_neighbors=10, name="twice")
    assert (folder / "map.json").stat().st_mtime_ns == before
    np.testing.assert_array_equal(first.x, again.x)
    other = small_dts.map_activations(n_neighbors=15, min_dist=0.2, name="twice")
    assert (folder / "map.json").stat().st_mtime_ns != before
    assert not np.array_equal(first.x, other.x)
    for wrong in ({"n_components": 3}, {"densmap": True}, {"target_metric": "l2"}):
        with pytest.raises(MapError, match=next(iter(wrong))):
            small_dts.map_activations(**wrong)


def test_a_map_has_every_tile(small_map):
    assert len(small_map) == sum(N_TILES.values())
    assert small_map.data.groupby("slide").size().to_dict() == N_TILES
    assert np.isfinite(small_map.x).all()


def test_the_documents_join_of_a_map_and_its_rows(small_map):
    duckdb = pytest.importorskip("duckdb")
    query = snippet("sql", "JOIN").replace("out/run", small_map.run.uri)
    layer = next(iter(small_map.run.settings()["layers"]))
    found = duckdb.sql(query.replace("postconv", f'"{layer}"')).fetchall()
    assert len(found) == len(small_map)
    assert {(x, y) for x, y, _ in found} == set(
        zip(small_map.x, small_map.y, strict=True)
    )


def test_plot(sm):
    import matplotlib.pyplot as plt

    axes = sm.plot(s=5)
    assert axes.collections[0].get_sizes().tolist() == [5]
    plt.close(axes.figure)


def test_label_by_slide_plots_the_labels(sm, small_project):
    import matplotlib.pyplot as plt

    labels, unique = (
        sf.Project(small_project).dataset().labels("subtype", format="name")
    )
    sm.label_by_slide(labels)
    assert sm.data["label"].tolist() == [labels[s] for s in sm.data["slide"]]
    axes = sm.plot(s=5)
    shown = {text.get_text() for text in axes.get_legend().get_texts()}
    assert all(any(name in text for text in shown) for name in unique)
    plt.close(axes.figure)


def test_umap_transform(sm, small_dts):
    rows = np.concatenate([small_dts.activations[s] for s in small_dts.slides])
    places = sm.umap_transform(rows)
    assert places.shape == (len(rows), 2)
    np.testing.assert_array_equal(places, np.stack([sm.x, sm.y], axis=1))
    np.testing.assert_array_equal(sm.umap_transform(rows[7:8]), places[7:8])


def test_cluster_neighbors_and_predictions(sm, small_project, small_dts):
    sm.cluster(3)
    assert sm.data["cluster"].nunique() == 3
    labels, _ = sf.Project(small_project).dataset().labels("subtype", format="name")
    sm.neighbors()
    assert sm.data["num_unique_neighbors"].between(1, 5).all()
    sm.neighbors(labels, method="features", k=5)
    assert sm.data["percent_matching_categories"].between(0, 1).all()
    sm.label_by_preds(1)
    wanted = np.concatenate([small_dts.predictions[s][:, 1] for s in small_dts.slides])
    np.testing.assert_array_equal(sm.data["label"], wanted)


def test_filter(sm):
    sm.filter(["g01", "g03"])
    assert sm.slides == ["g01", "g03"]
    assert len(sm) == 7 + 64


def test_save_and_load(sm, small_dts, tmp_path):
    for folder in (tmp_path / "a", f"{tmp_path}/b/"):
        sm.save(folder)
        loaded = sf.SlideMap.load(folder)
        np.testing.assert_array_equal(loaded.x, sm.x)
        rows = small_dts.activations["g04"]
        np.testing.assert_array_equal(
            loaded.umap_transform(rows), sm.umap_transform(rows)
        )
    assert not list(tmp_path.rglob("*.pkl"))


def test_save_a_picture(sm, tmp_path):
    sm.save(str(tmp_path / "umap.png"))
    assert (tmp_path / "umap.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["umap.png"]


def test_generate_mosaic_three_ways(small_project, small_dts, sm, monkeypatch):
    from raylatent import slide_map

    monkeypatch.delattr(slide_map, "read_points")  # none of them reads all points
    arguments = {"n_neighbors": 10, "min_dist": 0.2}
    by_project = sf.Project(small_project).generate_mosaic(
        small_dts, umap_kwargs=arguments, num_tiles_x=10
    )
    by_map = sm.generate_mosaic(num_tiles_x=10)
    by_class = sf.Mosaic(sm, num_tiles_x=10, tfrecords=[str(small_project)])
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
def test_mosaic_of_tuples(small_tfrecords, tmp_path, how):
    file = small_tfrecords / "g03.tfrecords"
    name = str(file) if how == "path" else "g03"
    given = {"path": None, "slide": [file], "folder": str(small_tfrecords)}[how]
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


def test_of_several_layers_the_first_is_mapped_and_said(
    layers_dts, caplog, monkeypatch
):
    from raylatent import dataset_features

    asked = []

    def build_map(out, params, *, layer, name, stall_timeout_s):
        asked.append(layer)
        raise MapError(out)

    monkeypatch.setattr(dataset_features, "build_map", build_map)
    with pytest.raises(MapError):
        layers_dts.map_activations()
    assert "of layers layer1, postconv the first is mapped" in caplog.text
    caplog.clear()
    with pytest.raises(MapError):
        layers_dts.map_activations(layer="postconv")
    assert caplog.text == ""
    assert asked == ["", "postconv"]
