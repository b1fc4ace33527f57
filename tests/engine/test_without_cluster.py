"""What needs no cluster asks for none: nothing to do, and what is refused."""

import shutil

import numpy as np
import pytest

from raylatent import cli
from raylatent.engine import (
    activations,
    cells,
    cluster,
    connection,
    extraction,
    map_building,
)
from tests.engine import slide_files
from tests.small_data import LABELS, make_model_folder, make_tfrecords

pytestmark = pytest.mark.ray

OPTIONS = ("--n-neighbors", "10", "--num-tiles-x", "6", "--cell-px", "24")


class AskedForClusterError(Exception):
    """There was work for it."""


@pytest.fixture(scope="module")
def finished(ray_session, tmp_path_factory):
    """A folder with TFRecords, a model and a finished run."""
    folder = tmp_path_factory.mktemp("finished")
    make_tfrecords(folder / "tiles")
    make_model_folder(folder / "model")
    assert cli.main(atlas(folder)) == 0
    return folder


@pytest.fixture(scope="module")
def partly(ray_session, tmp_path_factory):
    """The command of a run of a TFRecord that is cut off and a slide without tissue."""
    folder = tmp_path_factory.mktemp("partly")
    make_tfrecords(folder / "tiles")
    cut = folder / "tiles/g03.tfrecords"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    white = np.full((400, 400, 3), 243, np.uint8)
    (folder / "slides").mkdir()
    slide_files.write_slide(folder / "slides/white.tif", pixels=white, levels=1)
    make_model_folder(folder / "model")
    words = ["activations", "--tfrecords", folder / "tiles"]
    words += ["--slides", folder / "slides", "--tile-um", 48]
    words += ["--model", folder / "model", "--out", folder / "run"]
    argv = [str(word) for word in words]
    assert cli.main(argv) == 1
    return argv


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of its run; sources and model are the same."""
    shutil.copytree(finished / "run", tmp_path / "run")
    for name in ("tiles", "model"):
        (tmp_path / name).symlink_to(finished / name)
    return tmp_path


@pytest.fixture(autouse=True)
def no_cluster(finished, monkeypatch):
    """As if there were none, once the run is made."""

    def connect():
        raise AskedForClusterError

    for module in (activations, cells, cluster, extraction, map_building):
        monkeypatch.setattr(module, "connect", connect)
    monkeypatch.setattr(connection, "start_ahead", connect)


def atlas(folder, *more, model="model", out="run"):
    words = ("atlas", "--tfrecords", folder / "tiles", "--model", folder / model)
    return [str(word) for word in (*words, "--out", folder / out, *OPTIONS, *more)]


def contents(folder, *more):
    stages = ("activations", "maps", "mosaics", *more)
    files = (file for name in stages for file in folder.glob(f"{name}/**/*.parquet"))
    return {file: file.read_bytes() for file in files}


def test_all_is_done(folder, capsys):
    before = contents(folder / "run")
    assert cli.main(atlas(folder)) == 0
    said = capsys.readouterr()
    assert "146 rows" in said.out
    assert "done 146" in said.err
    assert "mosaic.png" in said.out
    after = contents(folder / "run")
    assert {file: after[file] for file in before} == before
    assert cli.main(["verify", str(folder / "run")]) == 0


def test_a_slide_that_always_fails_is_looked_at_again(finished, folder, capsys):
    """Its index is read by the driver, and there is nothing to do for the cluster."""
    (folder / "tiles").unlink()
    shutil.copytree(finished / "tiles", folder / "tiles")
    (folder / "tiles/torn.tfrecords").write_bytes(b"nothing of the kind" * 10)
    assert cli.main(atlas(folder)) == 1
    assert "slide 'torn' failed" in capsys.readouterr().err


def test_what_cannot_be_had_of_slides_is_no_work(partly, capsys):
    assert cli.main(partly) == 1
    said = capsys.readouterr().err
    assert "slide 'g03' failed" in said
    assert "done" in said


def test_work_is_the_clusters(folder):
    (folder / "run/activations/slide=g03/000000.parquet").unlink()
    with pytest.raises(AskedForClusterError):
        cli.main(atlas(folder))
    with pytest.raises(AskedForClusterError):
        cli.main(atlas(folder, out="new"))
    assert not (folder / "new/run.json").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--dtype", "float16"), 'dtype was "float32", now "float16"'),
        (("--num-gpus", "1"), 'device was "cpu", now "gpu"'),
        (("--layers", "layer1"), "layers was"),
        (("--layers", "no.such"), "no.such"),
        (("--batch-size", "8"), "--batch-size"),
        (("--umap", "seed=3"), "--seed 3"),
    ],
)
def test_another_configuration(folder, capsys, more, said):
    assert cli.main(atlas(folder, *more)) == 2
    assert said in capsys.readouterr().err


def test_another_model(folder, capsys):
    make_model_folder(folder / "other", factory="small_net:build", weights=None)
    (folder / "other/small_net.py").write_text(
        (folder / "other/small_net.py").read_text().replace("seed=1234", "seed=4321")
    )
    assert cli.main(atlas(folder, model="other")) == 2
    assert "holds a run of another configuration" in capsys.readouterr().err


def test_labels_that_fit_no_slide(folder, capsys):
    rows = "\n".join(f"x{slide},{label}" for slide, label in LABELS.items())
    (folder / "labels.csv").write_text(f"slide,subtype\n{rows}\n")
    more = ("--annotations", folder / "labels.csv", "--label", "subtype")
    assert cli.main(atlas(folder, *more)) == 2
    assert "labels.csv" in capsys.readouterr().err


def test_a_folder_that_is_no_run(folder, capsys):
    (folder / "mine").mkdir()
    (folder / "mine/letter.txt").write_text("mine")
    assert cli.main(atlas(folder, out="mine")) == 2
    assert "is no run directory" in capsys.readouterr().err
    for verb in ("map", "mosaic"):
        assert cli.main([verb, "--out", str(folder / "mine")]) == 2
        assert "is no run directory" in capsys.readouterr().err


def test_a_cluster_with_gpus_goes_on_with_no_run_of_cpus(folder, monkeypatch, capsys):
    """Which it has is known when it is asked: if there is work."""
    monkeypatch.setattr(activations, "connect", lambda: True)
    with_gpus = cluster.Pool(smallest=1, largest=1, num_cpus=0.5, num_gpus=1, threads=1)
    monkeypatch.setattr(activations, "pool", lambda *given, **options: with_gpus)
    assert cli.main(atlas(folder)) == 0
    (folder / "run/activations/slide=g03/000000.parquet").unlink()
    before = contents(folder / "run", "manifest")
    assert cli.main(atlas(folder)) == 2
    assert 'device was "cpu", now "gpu"' in capsys.readouterr().err
    assert contents(folder / "run", "manifest") == before
