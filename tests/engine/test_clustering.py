"""Clusters of a map's tiles: stored, and known to colors, mosaics, pages and select."""

import csv
import json
import pickle
import warnings

import numpy as np
import pyarrow.parquet as pq
import pytest

from raylatent import SlideMap, cli, schema
from raylatent.config import ExploreConfig, MosaicConfig
from raylatent.engine import clustering
from raylatent.errors import ConfigError, MapError
from raylatent.explorer.named_regions import stored_labels
from raylatent.mapping.fit import fit_map
from raylatent.mapping.fitted_map import normalize
from raylatent.mapping.statistics import cluster_centers, nearest_centers
from raylatent.mapping.umap_learn import MapParameters
from raylatent.montage.cells import choose_cells
from raylatent.montage.points import Rule
from raylatent.parts import partition_folder
from raylatent.run.layout import is_ours
from raylatent.stored.manifest import read_manifest, relisted
from raylatent.stored.map_clusters import ClusterLabels
from raylatent.stored.map_points import StoredPoints, read_points
from raylatent.stored.maps import read_info, save_map, write_info
from tests.explorer.explored_runs import explored, run_of_slides
from tests.explorer.selected_runs import (
    inside_of,
    mapped_run,
    polygon_file,
    regions_file,
    tiles_of,
)
from tests.stored_maps import LAYER

SLIDES = {"007": 30, "=2+b": 25, "a'b ü": 45}
N = 4


def with_model(folder, n_sample=80):
    """A run whose map has a model, fitted on its first rows; the run and its points."""
    return fitted_to(*mapped_run(folder, SLIDES), n_sample)


def fitted_to(run, points, n_sample=80):
    """The same run and points; its map has a model now."""
    store = StoredPoints(f"{run.uri}/maps/default", run).store
    told = read_info(store)
    rows = np.concatenate([features(run, slide) for slide in SLIDES])[:n_sample]
    fitted = fit_map(rows, MapParameters.of(n_neighbors=5, n_epochs=5))
    with relisted(store.uri):
        save_map(store, fitted.with_info(layer=LAYER, points=told["points"]))
    return run, points


def features(run, slide):
    return schema.vectors(run.read_rows(slide), LAYER).astype(np.float32)


@pytest.fixture(scope="module")
def run_and_points(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clustered")
    run, points = with_model(folder / "run")
    assert cli.main(["cluster", run.uri, "--n", str(N)]) == 0
    return run, points


def clusters_of(run):
    """The cluster of each tile, as the files tell it."""
    found = {}
    for slide in SLIDES:
        folder = run.store.path(f"maps/default/clusters/{partition_folder(slide)}")
        table = pq.read_table(folder, partitioning=None)
        assert table.schema.names == ["tile_index", "cluster"]
        assert table.schema.field("cluster").type == "int32"
        found |= {
            (slide, row["tile_index"]): row["cluster"] for row in table.to_pylist()
        }
    return found


def plain_loop(run):
    """The nearest center of each row by itself, in float64."""
    fitted = SlideMap.load(f"{run.uri}/maps/default").fitted
    centers = cluster_centers(fitted.arrays["rows"], N)
    found = {}
    for slide in SLIDES:
        for tile, row in enumerate(normalize(features(run, slide), "cosine")):
            away = [((row.astype(float) - center) ** 2).sum() for center in centers]
            found[slide, tile] = 1 + int(np.argmin(away))
    return found


def test_every_tile_has_its_nearest_center(run_and_points, capsys):
    run, _ = run_and_points
    found = clusters_of(run)
    assert found == plain_loop(run)
    told = json.loads(run.store.read("maps/default/clusters.json"))
    numbers = list(found.values())
    assert told["sizes"] == [numbers.count(i + 1) for i in range(N)]
    assert told["rows"] == sum(SLIDES.values()) == len(found)
    assert min(told["sizes"]) > 0
    assert cli.main(["verify", run.uri]) in (0, 1)
    said = capsys.readouterr()
    assert "clusters" not in said.err


def test_the_largest_of_the_sample_is_the_first():
    rng = np.random.default_rng(0)
    sizes, places = (10, 40, 25, 40), np.eye(4) * 9
    rows = np.repeat(places, sizes, axis=0) + rng.normal(size=(115, 4)) / 9
    rows = rows.astype(np.float32)
    centers = cluster_centers(rows, 4)
    assert [int(np.argmax(center)) for center in centers] == [1, 3, 2, 0]
    own = nearest_centers(rows, centers)
    assert np.bincount(own).tolist() == [40, 40, 25, 10]
    assert cluster_centers(rows, 4).tobytes() == centers.tobytes()
    same = np.zeros((9, 4), np.float32)
    with warnings.catch_warnings(action="error"):
        assert cluster_centers(same, 3).tolist() == [[0.0] * 4]
    with pytest.raises(MapError, match="5 clusters of 3 points"):
        cluster_centers(rows[:3], 5)


def test_a_row_alone_has_the_cluster_that_it_has_among_others():
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(1000, 77)).astype(np.float32)
    centers = rng.normal(size=(9, 77))
    together = nearest_centers(rows, centers)
    assert together.tolist() == [
        int(nearest_centers(r[None], centers)[0]) for r in rows
    ]


@pytest.mark.parametrize("together", [1, 3])
def test_any_division_of_the_work_gives_the_same_bytes(
    run_and_points, tmp_path, monkeypatch, together
):
    run, _ = run_and_points
    monkeypatch.setattr(clustering, "_TOGETHER", together)
    calls = []

    def here(work, some, _):
        calls.extend(some)
        return (work(*call) for call in some)

    monkeypatch.setattr(clustering, "spread", here)
    again, _ = with_model(tmp_path / "run")
    stored = StoredPoints(f"{again.uri}/maps/default", again)
    clustering.build_clusters(stored, N)
    assert len(calls) > 2
    names = run.store.list("maps/default/clusters")
    assert names == again.store.list("maps/default/clusters")
    for name in names:
        assert run.store.read(name) == again.store.read(name)
        assert is_ours(name)
    assert is_ours("maps/default/clusters.json")


def test_the_manifest_lists_them(run_and_points):
    run, _ = run_and_points
    listed = read_manifest(run.store, "manifest/map-default.parquet")
    names = [name for name in listed if "clusters" in name]
    assert "maps/default/clusters.json" in names
    assert set(names) > set(run.store.list("maps/default/clusters"))


def test_python_mosaics_and_pages_know_them(run_and_points):
    run, _ = run_and_points
    expected = {tile: f"cluster {n}" for tile, n in clusters_of(run).items()}
    slide_map = SlideMap.load(f"{run.uri}/maps/default")
    _, shown, _ = slide_map._for_mosaic(None, None, "nearest")
    assert isinstance(shown, ClusterLabels)
    rows = slide_map.data[["slide", "tile_index", "label"]].to_numpy()
    assert {(slide, tile): label for slide, tile, label in rows} == expected
    stored = StoredPoints(f"{run.uri}/maps/default", run)
    labels = stored_labels(stored.store, "cluster")
    chosen = choose_cells(stored.labeled(labels), "square", 3, Rule())
    counted = chosen.cells.tally.labels
    assert set(counted["label"].to_pylist()) == set(labels.names)
    table = read_points(stored.store)
    shuffled = table.take(np.random.default_rng(0).permutation(len(table)))
    for one in (table, shuffled):
        tiles = zip(*(one[c].to_pylist() for c in ("slide", "tile_index")), strict=True)
        travelled = pickle.loads(pickle.dumps(labels))  # noqa: S301  (ours)
        told = dict(zip(tiles, travelled(one).to_pylist(), strict=True))
        assert told == expected


def test_a_page_is_colored_by_them(tmp_path, monkeypatch):
    run, _ = fitted_to(*run_of_slides(tmp_path, SLIDES))
    assert cli.main(["cluster", run.uri, "--n", "3"]) == 0
    explored(run, tmp_path / "page", monkeypatch)
    text = (tmp_path / "page/data/meta.js").read_text()
    labels = json.loads(text.removeprefix("raylatent.meta(")[:-3])["labels"]
    told = json.loads(run.store.read("maps/default/clusters.json"))
    assert (labels["column"], labels["of"]) == ("cluster", "tile")
    assert labels["names"] == ["cluster 1", "cluster 2", "cluster 3"]
    assert labels["counts"] == told["sizes"]
    rows = pq.read_table(tmp_path / "page/cells.parquet").to_pylist()
    first = [dict(row["label_counts"]) for row in rows if row["level"] == 0]
    assert sum(one.get("cluster 2", 0) for one in first) == told["sizes"][1]


def test_the_word_names_them_without_annotations():
    assert MosaicConfig(out="r", label="cluster").stored_labels() == "cluster"
    assert ExploreConfig(run="r").stored_labels() == ""
    for words in (["mosaic", "--label", "c"], ["map", "--label", "cluster"]):
        assert cli.main([*words, "--out", "r"]) == 2


def test_a_map_without_them_says_so(tmp_path, capsys):
    run, _ = mapped_run(tmp_path / "run", SLIDES)
    words = ["--cluster", "1", "--out", str(tmp_path / "s.csv")]
    assert cli.main(["select", run.uri, *words]) == 2
    assert "has no clusters: run `raylatent cluster` first" in capsys.readouterr().err
    stored = StoredPoints(f"{run.uri}/maps/default", run)
    assert stored_labels(stored.store) is None
    with pytest.raises(MapError, match="run `raylatent cluster` first"):
        stored_labels(stored.store, "cluster")
    with pytest.raises(MapError, match="no fitted model"):
        clustering.build_clusters(stored, N)


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_select_takes_a_cluster_alone_and_in_a_polygon(
    run_and_points, tmp_path, capsys
):
    run, points = run_and_points
    own = {tile for tile, number in clusters_of(run).items() if number == 2}
    out = tmp_path / "s.csv"
    words = ["--cluster", "2", "--out", str(out)]
    assert cli.main(["select", run.uri, *words]) == 0
    found = [(r["slide"].lstrip("'"), int(r["tile_index"])) for r in rows_of(out)]
    assert set(found) == own
    assert found == sorted(found)
    assert {row["region"] for row in rows_of(out)} == {"cluster 2"}
    polygon = polygon_file(tmp_path / "p.json", run)
    assert cli.main(["select", run.uri, str(polygon), *words]) == 0
    found = {(r["slide"].lstrip("'"), int(r["tile_index"])) for r in rows_of(out)}
    assert found == own & set(tiles_of(inside_of(points)))
    assert 0 < len(found) < len(own)
    out.unlink()
    words[1] = "9"
    assert cli.main(["select", run.uri, *words]) == 2
    assert "has clusters 1 to 4" in capsys.readouterr().err
    assert not out.exists()
    assert cli.main(["select", run.uri, "--out", str(out)]) == 2
    assert "a polygon file or --cluster N" in capsys.readouterr().err
    assert cli.main(["select", run.uri, "--region", "a", *words]) == 2
    assert "--region chooses among" in capsys.readouterr().err


def test_they_are_taken_away_and_those_of_another_map_label_nothing(tmp_path, caplog):
    run, _ = with_model(tmp_path / "run")
    store = StoredPoints(f"{run.uri}/maps/default", run).store
    assert cli.main(["cluster", run.uri, "--n", "2"]) == 0
    assert (tmp_path / "run/maps/default/umap_by_label.png").exists()
    write_info(store, {**read_info(store), "anew": True})
    assert stored_labels(store) is None
    assert "of a map that was here before" in caplog.text
    assert cli.main(["cluster", run.uri, "--n", "0"]) == 0
    assert not store.list("clusters")
    assert not store.exists("clusters.json")
    assert not (tmp_path / "run/maps/default/umap_by_label.png").exists()
    with pytest.raises(ConfigError, match="--n is 1001"):
        cli.VERBS["cluster"][0](run="r", n=1001)


def test_other_warnings_of_k_means_are_not_hidden(monkeypatch):
    from sklearn.cluster import KMeans

    fitted = KMeans.fit

    def odd(model, rows):
        warnings.warn("an odd one", stacklevel=1)
        return fitted(model, rows)

    monkeypatch.setattr(KMeans, "fit", odd)
    with pytest.warns(UserWarning, match="an odd one"):
        cluster_centers(np.eye(4, dtype=np.float32), 2)


def test_where_regions_go_before_clusters_it_is_said(tmp_path, capsys):
    run, _ = with_model(tmp_path / "run")
    assert cli.main(["cluster", run.uri, "--n", "2"]) == 0
    assert "named regions" not in capsys.readouterr().err
    ring = [[-9, -9], [9, -9], [0, 9]]
    regions = regions_file(tmp_path / "r.json", run, low=[ring])
    assert cli.main(["label", run.uri, str(regions)]) == 0
    assert cli.main(["cluster", run.uri, "--n", "2"]) == 0
    assert "the map has named regions" in capsys.readouterr().err
    assert cli.main(["cluster", run.uri, "--n", "0"]) == 0
    assert "named regions" not in capsys.readouterr().err


@pytest.mark.ray
def test_tasks_of_the_cluster_give_the_same_bytes(small_map, monkeypatch):
    stored = small_map._stored
    monkeypatch.setattr(clustering, "_TOGETHER", 1)
    try:
        found = []
        for _ in range(2):
            assert sum(clustering.build_clusters(stored, 3)) == len(small_map)
            names = [*stored.store.list("clusters"), "clusters.json"]
            found.append({name: stored.store.read(name) for name in names})
            monkeypatch.setattr(
                clustering, "spread", lambda work, calls, _: (work(*c) for c in calls)
            )
        assert len(found[0]) > 3
        assert found[0] == found[1]
    finally:
        clustering.build_clusters(stored, 0)
    assert not stored.store.exists("clusters.json")
