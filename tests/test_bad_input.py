"""What is wrong is said in one line that names it, with the right exit code."""

import pickle
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from raylatent import cli


@pytest.fixture
def refused(capfd, ray_session):
    """refused(argv, *words): exit code 2, and one line on stderr with these words."""

    def check(argv, *words, code=2):
        assert cli.main([str(part) for part in argv]) == code
        said = capfd.readouterr()
        lines = said.err.splitlines()
        assert len(lines) == 1, said.err
        assert lines[0].startswith("raylatent: error: ")
        for word in words:
            assert str(word) in lines[0]
        assert "Traceback" not in said.out
        return lines[0]

    return check


@pytest.mark.parametrize("verb", ["activations", "atlas"])
def test_no_such_path(refused, command_line, tmp_path, verb):
    refused(
        command_line(verb, tfrecords=tmp_path / "gone"), "no such", tmp_path / "gone"
    )


def test_an_empty_folder(refused, command_line, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(command_line(tfrecords=tmp_path / "empty"), tmp_path / "empty", "tfrecord")


def test_two_files_of_one_stem(refused, command_line, small_tfrecords, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / "t" / folder).mkdir(parents=True)
        shutil.copy(small_tfrecords / "g01.tfrecords", tmp_path / "t" / folder)
    refused(command_line(tfrecords=tmp_path / "t"), "'g01'", "/a/g01.", "/b/g01.")


@pytest.mark.parametrize("layers", ["layr1", "layer1.convolution"])
def test_an_unknown_layer(refused, command_line, layers):
    refused(command_line(layers=layers), repr(layers), "layer1")


def test_layers_that_collide(refused, command_line):
    refused([*command_line(layers="layer1"), "LAYER1"], "LAYER1", "collides")
    refused(command_line(layers="slide"), "'slide'", "column")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("fc.bias"), "they lack fc.bias"),
        (lambda s: s.update(extra=torch.ones(1)), "has not, extra"),
        (lambda s: s.update({"fc.bias": torch.ones(9)}), "fc.bias is (9,)"),
    ],
)
def test_weights_that_do_not_fit(
    refused, command_line, model_folder, tmp_path, change, said
):
    folder = model_folder(tmp_path / "model")
    state = load_file(folder / "net.safetensors")
    change(state)
    save_file(state, folder / "net.safetensors")
    refused(command_line(model=folder), "net.safetensors", said)


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("how", ["text", "list", "pickle", "torch"])
def test_weights_that_are_no_state_dict(
    refused, command_line, model_folder, tmp_path, how
):
    folder = model_folder(tmp_path / "model", weights="net.pt")
    bomb = Bomb(tmp_path / "ran")
    if how == "text":
        (folder / "net.pt").write_text("words")
    elif how == "pickle":
        (folder / "net.pt").write_bytes(pickle.dumps(bomb))
    else:
        torch.save([1] if how == "list" else {"w": bomb}, folder / "net.pt")
    refused(command_line(model=folder), "net.pt", "no")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mean": ...}, "lacks 'mean'"),
        ({"factory": ...}, "lacks 'factory'"),
        ({"weights": "../net.safetensors"}, "leaves the model folder"),
        ({"weights": "/etc/passwd"}, "leaves the model folder"),
        ({"weights": "gone.safetensors"}, "gone.safetensors"),
        ({"factory": "small_net:missing"}, "small_net:missing"),
        ({"factory": "nowhere_at_all:build"}, "nowhere_at_all"),
        ({"kwargs": {"width": "wide"}}, "small_net:ResNet"),
        ({"classes": ["a", "b"]}, "2 classes"),
        ({"tile_px": -1}, "tile_px is -1"),
    ],
)
def test_model_json(refused, command_line, model_folder, tmp_path, changes, said):
    refused(command_line(model=model_folder(tmp_path / "model", **changes)), said)


def test_model_json_that_is_none(refused, command_line, tmp_path):
    (tmp_path / "model.json").write_text("{'factory'")
    refused(command_line(model=tmp_path), "model.json is no JSON")


def test_slideflows_model_folder(refused, command_line, tmp_path):
    (tmp_path / "params.json").write_text("{}")
    refused(command_line(model=tmp_path), "Slideflow model folder", "model.json")


def test_no_model(refused, command_line, tmp_path):
    refused(command_line(model=tmp_path / "gone"), "no such model", tmp_path / "gone")
    refused(command_line(model=...), "--model")
    refused(["layers", tmp_path / "gone"], "no such model", tmp_path / "gone")


def test_a_pickled_model(refused, command_line, tmp_path):
    path = tmp_path / "net.pt"
    torch.save(Bomb(tmp_path / "ran"), path)
    refused(command_line(model=path), path, "--allow-pickle")
    refused(["layers", path], path, "--allow-pickle")
    assert not (tmp_path / "ran").exists()
    torch.save(nn.Linear(2, 2).state_dict(), path)
    refused(
        command_line("activations", "--allow-pickle", model=path), "not an nn.Module"
    )


@pytest.mark.parametrize("verb", ["atlas", "map", "mosaic"])
@pytest.mark.parametrize(
    ("content", "label", "said"),
    [
        ("slide,kind\ng00,a\n", "subtype", "'subtype'"),
        ("patient,subtype\ng00,a\n", "subtype", "'slide'"),
        ("", "subtype", "'slide'"),
        ("slide,subtype\ng00,a\ng00,b\n", "subtype", "two labels"),
        (None, "subtype", "annotations"),
        (b"\xff\xfe\x00", "subtype", "UTF-8"),
    ],
)
def test_annotations(refused, command_line, tmp_path, verb, content, label, said):
    path = tmp_path / "annotations.csv"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    own = {} if verb == "atlas" else {"tfrecords": ..., "model": ...}
    argv = command_line(verb, annotations=path, label=label, **own)
    refused(argv, path, said)
    assert not (tmp_path / "run" / "run.json").exists()


def test_annotations_of_other_slides(refused, command_line, tmp_path):
    path = tmp_path / "annotations.csv"
    path.write_text("slide,subtype\ns00,a\n")
    refused(command_line("atlas", annotations=path, label="subtype"), path, "'g00'")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"actors": "many"}, "--actors is 'many'"),
        ({"actors": "0"}, "--actors is '0'"),
        ({"actors": "4:2"}, "--actors is '4:2'"),
        ({"batch_size": "8"}, "--batch-size is 8"),
        ({"batch_size": "x"}, "--batch-size"),
        ({"unit_tiles": "0"}, "--unit-tiles is 0"),
        ({"num_gpus": "-1"}, "--num-gpus is -1"),
        ({"max_bad_fraction": "2"}, "--max-bad-fraction is 2"),
        ({"pooling": "median"}, "median"),
        ({"dtype": "float64"}, "float64"),
        ({"colour": "red"}, "--colour"),
        ({"out": ...}, "--out"),
        ({"tfrecords": ...}, "--tfrecords"),
    ],
)
@pytest.mark.parametrize("verb", ["activations", "atlas"])
def test_options_out_of_range(refused, command_line, verb, options, said):
    refused(command_line(verb, **options), said)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"umap": "n_components=3"}, "n_components=3"),
        ({"umap": "densmap=true"}, "densmap"),
        ({"umap": "spread"}, "'spread'"),
        ({"umap": "nonsense=1"}, "'nonsense'"),
        ({"umap": "n_neighbors=3"}, "--n-neighbors"),
        ({"metric": "cosmic"}, "cosmic"),
        ({"n_neighbors": "1"}, "neighbors is 1"),
        ({"sample": "0"}, "--sample is 0"),
        ({"seed": "-1"}, "--seed is -1"),
        ({"map": "../x"}, "--map"),
        ({"label": "subtype"}, "--annotations"),
    ],
)
@pytest.mark.parametrize("verb", ["map", "atlas"])
def test_maps_that_make_no_sense(refused, command_line, tmp_path, verb, options, said):
    own = {} if verb == "atlas" else {"tfrecords": ..., "model": ...}
    refused(command_line(verb, **own, **options), said)
    assert not (tmp_path / "run").exists()


def test_a_layer_to_map_that_is_not_computed(refused, command_line, tmp_path):
    refused(
        command_line("atlas", layer="stem", layers="layer1"), "--layer stem", "layer1"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("verb", ["map", "mosaic"])
def test_no_run(refused, tmp_path, verb):
    refused([verb, "--out", tmp_path / "none"], tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_the_demo_brings_its_own(refused, command_line):
    refused(command_line("atlas", "--demo"), "--demo")
    refused(["atlas", "--demo", "--out", "s3://bucket/run"], "s3://bucket/run", "local")


@pytest.mark.parametrize(
    ("argv", "said"),
    [([], "a verb is missing"), (["explode"], "'explode'"), (["--loud"], "--loud")],
)
def test_verbs(refused, argv, said):
    line = refused(argv, said)
    assert "atlas, activations, map" in line


def test_in_a_process_of_its_own(command_line, tmp_path):
    for argv, code in (
        (command_line(tfrecords=tmp_path / "gone"), 2),
        (["layers", tmp_path / "gone"], 2),
        ([], 2),
    ):
        found = subprocess.run(  # noqa: S603
            [sys.executable, "-m", "raylatent.cli", *map(str, argv)],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert found.returncode == code
        assert found.stdout == ""
        assert len(found.stderr.splitlines()) == 1
        assert found.stderr.startswith("raylatent: error: ")
