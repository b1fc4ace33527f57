"""The main job as a function: the verb's options by their names, and handles."""

import inspect
from dataclasses import fields
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import raylatent as sf
from raylatent.config import AtlasConfig
from raylatent.errors import ConfigError, IncompleteError, ModelError

OPTIONS = {"pooling": "avg", "n_neighbors": 10, "umap": {"n_epochs": 30}, "actors": 1}
OPTIONS |= {"num_tiles_x": 8, "cell_px": 24, "unit_tiles": 32}


def test_the_options_are_those_of_the_verb():
    given = inspect.signature(sf.atlas).parameters
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in given.values())
    options = {field.name: field.default for field in fields(AtlasConfig)}
    del options["demo"]
    assert set(given) == {*options, "mean", "std"}
    for name in set(options) - {"out", "model"}:
        assert given[name].default == options[name], name
    documented = inspect.getdoc(sf.atlas)
    assert all(f"\n    {name}: " in documented for name in given)


@pytest.mark.ray
def test_handles_of_what_it_made(ray_session, small_project, small_model, tmp_path):
    tfrecords = small_project / "tfrecords" / "96px_96um"
    made = sf.atlas(
        tfrecords=tfrecords,
        model=small_model,
        out=tmp_path / "run",
        annotations=small_project / "annotations.csv",
        label="subtype",
        **OPTIONS,
    )
    assert made.features.slides == [f"g0{i}" for i in range(5)]
    assert made.features.num_features == 64
    assert len(made.slide_map) == 146
    assert made.slide_map.layer == "postconv"
    cells = made.mosaic.cells
    assert sum(cells["n"].to_pylist()) == 146
    assert made.mosaic.slide_map is made.slide_map
    stored = pq.read_table(Path(made.picture).with_name("cells.parquet"))
    assert stored.equals(cells)
    labels, _ = sf.Project(small_project).dataset().labels("subtype", format="name")
    drawn = made.slide_map.generate_mosaic(num_tiles_x=8, labels=labels, cell_px=24)
    assert drawn.cells.equals(cells)
    assert set(made.slide_map.data["label"]) == set(labels.values())
    assert Path(made.picture).read_bytes().startswith(b"\x89PNG")
    assert Path(made.map_folder, "umap_by_label.png").exists()
    again = sf.atlas(
        tfrecords=[tfrecords], model=str(small_model), out=made.run, **OPTIONS
    )
    np.testing.assert_array_equal(again.slide_map.x, made.slide_map.x)
    assert again.mosaic.cells.select(["slide", "tile_index"]).equals(
        cells.select(["slide", "tile_index"])
    )


@pytest.mark.ray
def test_pixels_of_a_module_are_standardized_as_it_takes_them(
    ray_session, small_tfrecords, tmp_path
):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten())
    given = {"mean": (0.7, 0.6, 0.5), "std": 0.25}
    made = sf.atlas(
        tfrecords=small_tfrecords / "g02.tfrecords",
        model=net,
        out=tmp_path / "run",
        **given,
        **OPTIONS,
    )
    fields = made.features.run.settings()["fields"]
    assert (fields["mean"], fields["std"]) == ([0.7, 0.6, 0.5], [0.25] * 3)
    alone = sf.DatasetFeatures(
        net, small_tfrecords / "g02.tfrecords", outdir=tmp_path / "alone", **given
    )
    np.testing.assert_array_equal(
        made.features.activations["g02"], alone.activations["g02"]
    )


@pytest.mark.ray
def test_a_slide_that_fails_is_raised_when_all_is_drawn(
    ray_session, small_tfrecords, small_model, tmp_path
):
    (tmp_path / "bad.tfrecords").write_bytes(b"nothing of the kind" * 10)
    files = [small_tfrecords / "g03.tfrecords", tmp_path / "bad.tfrecords"]
    out = tmp_path / "run"
    with pytest.raises(IncompleteError, match="1 of 2 slides failed, as 'bad'"):
        sf.atlas(tfrecords=files, model=small_model, out=out, **OPTIONS)
    assert (out / "mosaics/default/mosaic.png").exists()


def test_what_makes_no_sense_is_refused(small_model):
    with pytest.raises(ModelError, match="mean and std take 3 numbers"):
        sf.atlas(tfrecords="t", model=str(small_model), out="run", mean=[0.5])
    for names in ({"map": "../x"}, {"mosaic": "a/b"}):
        with pytest.raises(ConfigError, match="must be a plain folder name"):
            sf.atlas(tfrecords="t", model=str(small_model), out="run", **names)
    with pytest.raises(ConfigError, match="batch_size is '32'"):
        sf.atlas(tfrecords="t", model=str(small_model), out="run", batch_size="32")


@pytest.mark.parametrize("value", [len, np.zeros(3), {1}, {"p": object()}])
def test_umap_arguments_that_are_no_values_are_refused(small_model, value):
    with pytest.raises(ConfigError, match=r"umap={'spread': ...} is a .*: give"):
        sf.atlas(tfrecords="t", model=str(small_model), out="r", umap={"spread": value})


@pytest.fixture
def small_job(monkeypatch):
    """What maps, mosaics and pages are asked of `run_atlas`; no tile is computed."""
    from types import SimpleNamespace

    from raylatent import main_job

    asked = {}
    report = SimpleNamespace(n_rows=1, failed=[], run="/runs/x-0123")
    monkeypatch.setattr(main_job, "run_activations", lambda *_: report)
    monkeypatch.setattr(main_job, "run_map", lambda config: asked.update(map=config))
    monkeypatch.setattr(
        main_job, "run_mosaic", lambda config: asked.update(mosaic=config)
    )
    monkeypatch.setattr(main_job, "_explored", lambda config: asked.update(page=config))
    return asked


def test_numbers_of_numpy_are_umap_arguments(small_job, small_model):
    given = {"spread": np.float32(1.5), "n_epochs": np.int64(30), "verbose": np.True_}
    given["metric_kwds"] = {"p": np.float32(2)}
    with pytest.raises(IncompleteError):  # nothing is made
        sf.atlas(tfrecords="t", model=str(small_model), out="run", umap=given)
    assert small_job["map"].umap == (
        *("spread=1.5", "n_epochs=30", "verbose=true"),
        'metric_kwds={"p": 2.0}',
    )


def test_a_run_that_is_called_by_its_fingerprint_is_mapped_and_drawn(small_job):
    from raylatent.main_job import run_atlas

    run_atlas(AtlasConfig(tfrecords=("t",), model="m", out="/runs/x-{fingerprint}"))
    assert {config.out for config in small_job.values()} == {"/runs/x-0123"}


def test_of_a_run_at_a_uri_the_two_ways_to_its_page_are_told(caplog):
    from raylatent.main_job import _explored

    with caplog.at_level("INFO"):
        assert (
            _explored(AtlasConfig(tfrecords=("t",), model="m", out="s3://b/r")) is None
        )
    for way in ("explore s3://b/r --out DIR`", "serve s3://b/r --explorer DIR`"):
        assert f"`raylatent {way}" in caplog.text


def test_slides_that_failed_are_said_before_the_map_can_fail(monkeypatch, capsys):
    from types import SimpleNamespace

    from raylatent import cli, main_job

    bad = SimpleNamespace(slide="bad", error="torn", n_indexed=0, left_out=None)
    report = SimpleNamespace(
        n_rows=1, n_quarantined=0, failed=[bad], slides=[bad], counts={}, run="run"
    )

    def refused(config):
        message = "the map cannot be fitted"
        raise sf.errors.MapError(message)

    monkeypatch.setattr(main_job, "run_activations", lambda *_: report)
    monkeypatch.setattr(main_job, "run_map", refused)
    argv = ["atlas", "--tfrecords", "t", "--model", "m", "--out", "run"]
    assert cli.main(argv) != 0
    said = capsys.readouterr()
    assert "1 (1 failed)" in said.out
    assert said.err.index("slide 'bad' failed: torn") < said.err.index("the map cannot")


def test_sources_are_found_once(monkeypatch, caplog, small_model, tmp_path):
    from PIL import Image

    from raylatent import main_job
    from raylatent.engine import activations

    folder = tmp_path / "tiles" / "s"
    folder.mkdir(parents=True)
    Image.new("RGB", (96, 96)).save(folder / "1.png")
    (folder / "notes.txt").write_text("x")
    (tmp_path / "labels.csv").write_text("slide,region\ns,a\n")

    def refused(*_args, **_options):
        message = "as far as this"
        raise ConfigError(message)

    monkeypatch.setattr(activations, "_tried", refused)
    monkeypatch.setattr(main_job, "_start_ray_ahead", lambda _: None)
    with pytest.raises(ConfigError, match="as far as this"):
        sf.atlas(
            tiles=folder.parent,
            model=str(small_model),
            out=tmp_path / "run",
            annotations=tmp_path / "labels.csv",
            label="region",
        )
    assert caplog.text.count("are left alone: 1 is no picture") == 1
