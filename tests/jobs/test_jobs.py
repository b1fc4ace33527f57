"""Each job's `main(argv)` on tiny data: the atlas first, then its parts on that run."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import raylatent as sf

JOBS = Path(__file__).parents[2] / "jobs"
N_TILES = 146


def job(name):
    spec = importlib.util.spec_from_file_location(f"job_{name}", JOBS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda *argv: module.main([str(part) for part in argv])


def lines_of(text):
    """The words of the lines on stdout, by their first."""
    return {line.split()[0]: line for line in text.splitlines() if line.strip()}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tmp_path_factory.mktemp("jobs") / "run"


@pytest.fixture(scope="module")
def atlas(ray_session, run, small_tfrecords, small_model, small_project):
    """Arguments of the job, and its exit code the first time."""
    argv = [
        *("--tfrecords", small_tfrecords, "--model", small_model),
        *("--layers", "layer1", "postconv", "--pooling", "avg", "--no-preds"),
        *("--actors", "1", "--unit-tiles", "32", "--n-neighbors", "10"),
        *("--umap", "n_epochs=30", "--num-tiles-x", "8", "--cell-px", "24"),
        *("--annotations", small_project / "annotations.csv", "--label", "subtype"),
        *("--out", run),
    ]
    return argv, job("atlas")(*argv)


@pytest.mark.ray
def test_the_atlas_has_rows_a_map_and_a_mosaic(atlas, run):
    assert atlas[1] == 0
    dts = sf.DatasetFeatures.open(run)
    assert sum(len(dts.activations[slide]) for slide in dts.slides) == N_TILES
    assert dts.num_features == 96
    assert dts.num_classes == 0
    pictures = ("maps/default/umap.png", "maps/default/umap_by_label.png")
    for name in (*pictures, "mosaics/default/mosaic.png"):
        assert (run / name).read_bytes().startswith(b"\x89PNG")
    about = json.loads((run / "maps" / "default" / "map.json").read_text())
    assert about["layer"] == "layer1"  # of several the first
    assert about["parameters"]["other"] == {"n_epochs": 30}
    cells = pq.read_table(run / "mosaics" / "default" / "cells.parquet")
    assert cells["n"].to_numpy().sum() == N_TILES
    counts = [dict(pairs) for pairs in cells["label_counts"].to_pylist()]
    assert set().union(*counts) == {"A", "B"}


@pytest.mark.ray
def test_the_atlas_again_computes_nothing_and_says_where_things_are(atlas, run, capfd):
    parts = sorted((run / "activations").rglob("*.parquet"))
    before = [part.stat().st_mtime_ns for part in parts]
    fitted = (run / "maps" / "default" / "map.json").stat().st_mtime_ns
    assert job("atlas")(*atlas[0]) == 0
    said = capfd.readouterr()
    lines = lines_of(said.out)
    assert "146 rows" in lines["slides"]
    assert lines["map"].endswith(f"{run}/maps/default/umap.png")
    assert lines["mosaic"].endswith(f"{run}/mosaics/default/mosaic.png")
    assert "cells filled, with 100 % of 146 rows" in lines["cells"]
    assert lines["layer"].split()[1] == "layer1"
    assert list(lines)[-2:] == ["mosaic", "open"]
    assert lines["open"].endswith("/explorer/default/index.html")
    assert "Traceback" not in said.err
    assert [part.stat().st_mtime_ns for part in parts] == before
    assert (run / "maps" / "default" / "map.json").stat().st_mtime_ns == fitted


@pytest.mark.ray
def test_activations(atlas, run, small_tfrecords, small_model, capfd):
    argv = ["--tfrecords", small_tfrecords, "--model", small_model, "--out", run]
    same = ["--layers", "layer1", "postconv", "--pooling", "avg", "--no-preds"]
    assert job("activations")(*argv, *same, "--unit-tiles", "32") == 0
    assert "146 rows" in capfd.readouterr().out
    assert job("activations")(*argv) == 2
    assert 'layers was ["layer1", "postconv"]' in capfd.readouterr().err


@pytest.mark.ray
def test_map_of_another_layer_and_a_mosaic_of_it(atlas, run, capfd):
    argv = ["--out", run, "--layer", "postconv", "--map", "second"]
    assert job("map")(*argv, "--n-neighbors", "5", "--umap", "n_epochs=20") == 0
    assert lines_of(capfd.readouterr().out)["map"].endswith("maps/second/umap.png")
    assert sf.SlideMap.load(run / "maps" / "second").layer == "postconv"
    options = ["--select", "medoid", "--num-tiles-x", "5", "--mosaic", "m"]
    assert job("mosaic")("--out", run, "--map", "second", *options) == 0
    assert lines_of(capfd.readouterr().out)["mosaic"].endswith("mosaics/m/mosaic.png")
    assert job("mosaic")("--out", run, "--map", "third") == 2
    assert "maps/third" in capfd.readouterr().err


@pytest.mark.ray
def test_mosaic_on_slideflows_grid_from_moved_sources(atlas, run, small_project, capfd):
    options = ["--grid", "slideflow", "--num-tiles-x", "6", "--mosaic", "moved"]
    moved = small_project / "tfrecords"
    assert job("mosaic")("--out", run, "--source-root", moved, *options) == 0
    about = json.loads((run / "mosaics" / "moved" / "mosaic.json").read_text())
    assert about
    assert job("mosaic")("--out", run, "--source-root", run / "gone", *options) == 2
    assert "gone" in capfd.readouterr().err


@pytest.mark.ray
def test_verify(atlas, run, capfd):
    assert job("verify")(run) == 0
    assert "146 rows" in lines_of(capfd.readouterr().out)["slides"]


@pytest.mark.parametrize("name", ["atlas", "activations", "map", "mosaic", "verify"])
def test_a_job_is_a_script(name, tmp_path):
    found = subprocess.run(  # noqa: S603
        [sys.executable, str(JOBS / f"{name}.py"), "--help"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=tmp_path,
    )
    assert found.returncode == 0
    assert found.stderr == ""
    assert f"raylatent {name}" in found.stdout
    assert "--out RUN" in found.stdout
