"""Command lines and configurations: what is asked, what is refused."""

from dataclasses import MISSING, FrozenInstanceError, fields

import numpy as np
import pytest

from raylatent.arguments import CommandLineError, parse, parser_of
from raylatent.config import (
    ActivationsConfig,
    AtlasConfig,
    LayersConfig,
    MapConfig,
    MosaicConfig,
    VerifyConfig,
)
from raylatent.errors import ConfigError

CONFIGS = [ActivationsConfig, AtlasConfig, LayersConfig, MapConfig, MosaicConfig]


@pytest.mark.parametrize("config", CONFIGS)
def test_every_field_has_help_and_help_has_every_default(config):
    text = " ".join(parser_of(config, "prog").format_help().split())
    for field in fields(config):
        about = field.metadata["help"]
        assert len(about) > 5
        assert " ".join(about.split()) in text
        name = "SPEC" if field.metadata.get("positional") else field.name
        assert name in text or f"--{name.replace('_', '-')}" in text
        assert field.default is not MISSING
        if field.default not in {None, "", (), False}:
            shown = field.default
            shown = " ".join(shown) if isinstance(shown, tuple) else shown
            assert f"{about} (default {shown})" in text


@pytest.mark.parametrize("config", CONFIGS)
def test_every_default_is_what_parsing_gives(config):
    given = ["m"] if config is LayersConfig else ["--out", "run"]
    parsed = parse(config, "prog", given)
    assert parsed == config(**({"model": "m"} if len(given) == 1 else {"out": "run"}))


def test_a_run_by_position_or_by_option():
    by_position = parse(VerifyConfig, "prog", ["run", "--source-root", "x"])
    assert by_position == VerifyConfig(run="run", source_root="x")
    by_option = parse(VerifyConfig, "prog", ["--out", "run"])
    assert by_option.directory == by_position.directory == "run"
    with pytest.raises(ConfigError, match="verify takes one run directory"):
        parse(VerifyConfig, "prog", [])


@pytest.mark.parametrize(
    ("given", "wanted"), [([], None), (["--recheck"], True), (["--no-recheck"], False)]
)
def test_recheck(given, wanted):
    config = parse(ActivationsConfig, "prog", ["--out", "run", *given])
    assert config.recheck is wanted


def test_all_kinds_of_options():
    config = parse(
        AtlasConfig,
        "prog",
        [
            "--out",
            "s3://b/run",
            "--tfrecords",
            "a",
            "b",
            "--tfrecords",
            "c",
            "--layers",
            "conv",
            "layer1.0",
            "--no-preds",
            "--num-gpus",
            "0.5",
            "--sample",
            "10",
            "--umap",
            "spread=2",
            "--umap",
            "init=pca",
            "--overwrite",
            "--actors",
            "2:4",
            "--layer",
            "conv",
            "--select",
            "medoid",
        ],
    )
    assert config.tfrecords == ("a", "b", "c")
    assert config.layers == ("conv", "layer1.0")
    assert config.umap == ("spread=2", "init=pca")
    assert (config.include_preds, config.num_gpus, config.sample) == (False, 0.5, 10)
    assert (config.overwrite, config.allow_pickle) == (True, False)
    assert config.actor_range() == (2, 4)
    assert config.select == "medoid"


@pytest.mark.parametrize(("given", "preds"), [([], None), (["--include-preds"], True)])
def test_three_states(given, preds):
    config = parse(ActivationsConfig, "prog", ["--out", "run", *given])
    assert config.include_preds is preds


@pytest.mark.parametrize(
    "given",
    [
        "",
        "--out",
        "--out run --sample x",
        "--out run --nonsense",
        "--out run --select best",
        "--out run --tfrecords",
        "--out run --include-preds --no-preds",
        "--out run --tfr a",  # no abbreviations: they would change their meaning
        "--out run stray",
    ],
)
def test_the_parser_refuses_in_one_line(given, capsys):
    with pytest.raises(CommandLineError) as caught:
        parse(AtlasConfig, "raylatent atlas", given.split())
    assert caught.value.exit_code == 2
    assert capsys.readouterr() == ("", "")
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("(--help lists the options)")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("--tfr a", "there is no option --tfr, did you mean --tfrecords?"),
        ("--tfrecord=a --out run", "--tfrecord, did you mean --tfrecords?"),
        ("--num_gpus 1", "--num_gpus, did you mean --num-gpus?"),
        ("--n 1", "--n, did you mean --no-recheck or --no-preds or --num-gpus?"),
        ("--no-pred", "--no-pred, did you mean --no-preds?"),
        ("--label kind", "no option --label here, it is one of map (--help"),
        ("--zzz", "there is no option --zzz (--help"),
        ("folder/", "are required: --out"),
        (
            "folder/ --out run",
            "'folder/' belongs to no option, did you mean --tfrecords",
        ),
        ("--out run error: b", "'error:' belongs to no option"),
    ],
)
def test_what_was_meant_is_said(given, says):
    with pytest.raises(CommandLineError) as caught:
        parse(ActivationsConfig, "p", given.split(), {"map": MapConfig})
    assert says in str(caught.value)


def test_values_may_look_like_options_after_an_equals_sign():
    config = parse(ActivationsConfig, "p", ["--out=--run", "--model=-m"])
    assert (config.out, config.model) == ("--run", "-m")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"out": ""}, "--out RUN is missing"),
        ({"batch_size": 15}, "--batch-size is 15, less than 16"),
        ({"unit_tiles": 0}, "--unit-tiles is 0, less than 1"),
        ({"pooling": "mean"}, "--pooling is 'mean', not none, avg, max, cls"),
        ({"dtype": "float64"}, "--dtype is 'float64'"),
        ({"max_bad_fraction": 1.5}, "--max-bad-fraction is 1.5, not 0 to 1"),
        ({"max_bad_fraction": float("nan")}, "--max-bad-fraction is nan"),
        ({"num_gpus": -1}, "--num-gpus is -1"),
        ({"num_gpus": float("nan")}, "--num-gpus is nan"),
        ({"actors": "0"}, "--actors is '0'"),
        ({"actors": "4:2"}, "--actors is '4:2'"),
        ({"actors": "many"}, "--actors is 'many'"),
        ({"actors": "1:"}, "--actors is '1:'"),
        ({"layers": ()}, "--layers has an empty name"),
        ({"layers": ("a", "")}, "--layers has an empty name"),
        ({"layers": ("a", "b", "a")}, "--layers has a twice"),
        ({"sample": 0}, "--sample is 0"),
        ({"n_neighbors": 1}, "--n-neighbors is 1, less than 2"),
        ({"seed": -1}, "--seed is -1, not 0 to 4294967295"),
        ({"min_dist": float("nan")}, "--min-dist is nan"),
        ({"umap": ("spread",)}, "--umap is 'spread', not KEY=VALUE"),
        ({"map": "../x"}, "--map is '../x': it must be a plain folder name"),
        ({"map": ".."}, "--map is '..'"),
        ({"map": "a\nb"}, "--map is 'a.nb'"),
        ({"mosaic": ""}, "--mosaic is ''"),
        ({"mosaic": "é" * 101}, "at most 200 bytes"),
        ({"num_tiles_x": 0}, "--num-tiles-x is 0"),
        ({"cell_px": 0}, "--cell-px is 0"),
        ({"select": "best"}, "--select is 'best'"),
        ({"grid": "hex"}, "--grid is 'hex'"),
        ({"label": "x"}, "--label x needs --annotations CSV"),
        ({"layer": "conv"}, "--layer conv is not among --layers postconv"),
        ({"demo": True, "model": "m"}, "--demo brings its own"),
    ],
)
def test_configurations_refuse_nonsense_with_its_value(values, says):
    with pytest.raises(ConfigError) as caught:
        AtlasConfig(**{"out": "run", **values})
    message = str(caught.value).replace("\\", ".")
    assert says in message
    assert "\n" not in message


def test_configurations_are_frozen_and_by_keyword():
    config = MapConfig(out="run")
    with pytest.raises(FrozenInstanceError):
        config.seed = 1
    with pytest.raises(TypeError):
        MapConfig("run")


@pytest.mark.parametrize(
    ("actors", "wanted"), [("", None), ("3", (3, 3)), ("1:8", (1, 8)), ("2:2", (2, 2))]
)
def test_actor_range(actors, wanted):
    assert ActivationsConfig(out="run", actors=actors).actor_range() == wanted


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (
            {"batch_size": "32"},
            r"batch_size is '32' \(str\), which is not a whole number",
        ),
        ({"batch_size": None}, r"batch_size is None"),
        ({"batch_size": True}, r"batch_size is True \(bool\)"),
        ({"batch_size": 32.0}, r"batch_size is 32.0 \(float\)"),
        ({"num_gpus": "1"}, r"num_gpus is '1' \(str\), which is not a number"),
        ({"compile": "no"}, r"compile is 'no' \(str\), which is not True or False"),
        ({"stall_timeout_s": "60"}, r"stall_timeout_s is '60'"),
    ],
)
def test_a_word_for_a_number_is_refused_by_name(values, says):
    with pytest.raises(ConfigError, match=says):
        ActivationsConfig(out="run", **values)


def test_numbers_of_other_libraries_are_numbers():
    config = ActivationsConfig(
        out="run", batch_size=np.int64(64), num_gpus=1, stall_timeout_s=np.float32(60)
    )
    assert config.batch_size == 64
