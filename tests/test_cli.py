"""The command line: its help, its verbs, its exit codes, what it leaves behind."""

import logging
import os
import re
import signal
import threading
from dataclasses import fields

import pytest

import raylatent
from raylatent import cli
from raylatent.cli.verbs import VERBS
from raylatent.errors import ConfigError, FingerprintError, IncompleteError, SourceError

# Of the contract's table, without those of slides: option -> verbs, default.
OPTIONS = {
    "--tfrecords": ("atlas activations", None),
    "--model": ("atlas activations", None),
    "--layers": ("atlas activations", "postconv"),
    "--pooling": ("atlas activations", "default"),
    "--include-preds": ("atlas activations", "if the model has classes"),
    "--no-preds": ("atlas activations", None),
    "--resize": ("atlas activations", "default"),
    "--no-resize": ("atlas activations", None),
    "--dtype": ("atlas activations", "float32"),
    "--actors": ("atlas activations", "default"),
    "--num-gpus": ("atlas activations", "default"),
    "--batch-size": ("atlas activations", "32"),
    "--unit-tiles": ("atlas activations", "2048"),
    "--sample": ("atlas map", "default"),
    "--seed": ("atlas map", "default"),
    "--n-neighbors": ("atlas map", "50"),
    "--min-dist": ("atlas map", "0.1"),
    "--metric": ("atlas map", "cosine"),
    "--umap": ("atlas map", None),
    "--vector": ("atlas map", "none"),
    "--layer": ("atlas map", "default"),
    "--map": ("atlas map mosaic", "default"),
    "--mosaic": ("atlas mosaic", "default"),
    "--num-tiles-x": ("atlas mosaic", "50"),
    "--select": ("atlas mosaic", "nearest"),
    "--grid": ("atlas mosaic", "square"),
    "--cell-px": ("atlas mosaic", "100"),
    "--annotations": ("atlas map mosaic", None),
    "--label": ("atlas map mosaic", None),
    "--source-root": ("mosaic verify", None),
    "--max-bad-fraction": ("atlas activations", "0.01"),
    "--recheck": ("atlas activations extract-tiles", "default"),
    "--no-recheck": ("atlas activations extract-tiles", None),
    "--out": ("atlas activations map mosaic verify", None),
    "--overwrite": ("atlas activations", None),
    "--allow-pickle": ("atlas activations layers", None),
    "--demo": ("atlas", None),
}


def help_of(verb, capsys):
    assert cli.main([verb, "--help"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    return said.out


def test_help_lists_the_verbs(capsys):
    for argv in (["--help"], ["-h"]):
        assert cli.main(argv) == 0
        said = capsys.readouterr()
        assert said.err == ""
        assert all(f"\n  {verb} " in said.out for verb in VERBS)


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"raylatent {raylatent.__version__}\n"


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_every_option_of_the_contract_with_its_default(verb, capsys):
    text = help_of(verb, capsys)
    paragraphs = dict(re.findall(r"^  (--[\w-]+)(.*(?:\n   .*)*)", text, re.MULTILINE))
    for option, (verbs, default) in OPTIONS.items():
        if verb in verbs.split():
            assert option in paragraphs, option
            said = " ".join(paragraphs[option].split())
            assert len(said) > 8, option
            if default is not None:
                assert default in said, option


@pytest.mark.parametrize("verb", VERBS)
def test_help_explains_every_option(verb, capsys):
    text = help_of(verb, capsys)
    for field in fields(VERBS[verb][0]):
        assert field.metadata["help"]
        if not field.metadata.get("positional"):
            assert f"--{field.name.replace('_', '-')}" in text


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("a\nb"), 2),
        (SourceError("a b"), 2),
        (FingerprintError("a b"), 2),
        (IncompleteError("a b"), 1),
    ],
)
def test_errors_are_one_line_and_an_exit_code(monkeypatch, capsys, error, code):
    def fails(config):
        raise error

    monkeypatch.setitem(VERBS, "layers", (VERBS["layers"][0], fails))
    assert cli.main(["layers", "x"]) == code
    assert capsys.readouterr().err == "raylatent: error: a b\n"


def test_interrupted(monkeypatch, capsys):
    def waits(config):
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(10)

    monkeypatch.setitem(VERBS, "layers", (VERBS["layers"][0], waits))
    before = signal.getsignal(signal.SIGTERM)
    assert cli.main(["layers", "x"]) == 130
    assert "goes on from here" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


def test_bugs_are_not_hidden(monkeypatch):
    def has_a_bug(config):
        return 1 // 0

    monkeypatch.setitem(VERBS, "layers", (VERBS["layers"][0], has_a_bug))
    with pytest.raises(ZeroDivisionError):
        cli.main(["layers", "x"])


def test_log_lines_go_to_stderr_and_nothing_stays(monkeypatch, capsys):
    def says(config):
        logging.getLogger("raylatent.some.room").info("%d tiles", 3)
        return 0

    monkeypatch.setitem(VERBS, "layers", (VERBS["layers"][0], says))
    log = logging.getLogger("raylatent")
    before = (list(log.handlers), log.level, log.propagate)
    for _ in range(2):
        assert cli.main(["layers", "x"]) == 0
        assert capsys.readouterr().err == "raylatent: 3 tiles\n"
    assert (list(log.handlers), log.level, log.propagate) == before


def test_a_line_is_given_once(monkeypatch, capsys):
    def says(config):
        for _ in range(3):
            logging.getLogger("raylatent.x").warning("one has no label")
            logging.getLogger("raylatent.x").info("a stage")
        return 0

    monkeypatch.setitem(VERBS, "layers", (VERBS["layers"][0], says))
    for _ in range(2):  # by each command
        assert cli.main(["layers", "x"]) == 0
        lines = capsys.readouterr().err.splitlines()
        assert lines.count("raylatent: one has no label") == 1
        assert lines.count("raylatent: a stage") == 1


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["activation"], "no verb 'activation', did you mean activations? There are"),
        (["--out", "run"], "a verb comes first, then --out: atlas, "),
        ([], "a verb is missing: atlas, "),
        (["zzz"], "there is no verb 'zzz': atlas, "),
        (
            ["map", "--tfrecords", "a"],
            "map: there is no option --tfrecords here, it is",
        ),
        (["atlas", "--slide", "a"], "atlas: there is no option --slide, did you mean"),
        (["map", "--out", "error: x", "--layr", "a"], "map: there is no option --layr"),
    ],
)
def test_what_was_meant_is_said(argv, says, capsys):
    assert cli.main(argv) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("raylatent: error: ")
    assert said.err.count("\n") == 1
    assert says in said.err


def test_in_another_thread(capsys):
    codes = []
    thread = threading.Thread(target=lambda: codes.append(cli.main(["layers", "gone"])))
    thread.start()
    thread.join()
    assert codes == [2]


def test_layers(small_model, capsys):
    assert cli.main(["layers", str(small_model)]) == 0
    rows = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()]
    assert ["layer1", "Block", "(32, 12, 12)"] in rows
    assert ["fc", "Linear", "(3,)"] in rows
    assert rows[0][0] == "stem.conv"  # in order of execution
    assert rows[-1] == ["postconv", "(64,)"]


def test_slides_without_label_are_said(small_tfrecords, tmp_path, caplog):
    """Then the model is missed: labels are looked at first."""
    path = tmp_path / "annotations.csv"
    path.write_text("slide,subtype\ng00,a\ng03,b\n")
    argv = ["atlas", "--tfrecords", str(small_tfrecords), "--out", str(tmp_path / "r")]
    logging.getLogger("raylatent").addHandler(caplog.handler)
    try:
        assert cli.main([*argv, "--annotations", str(path), "--label", "subtype"]) == 2
    finally:
        logging.getLogger("raylatent").removeHandler(caplog.handler)
    assert f"3 of 5 slides have no 'subtype' in annotations {path}, as" in caplog.text


@pytest.mark.parametrize(
    ("pairs", "other"),
    [
        (["spread=2"], {"spread": 2}),
        (["n_epochs=5", "init=pca"], {"n_epochs": 5, "init": "pca"}),
        (['metric_kwds={"p": 3}'], {"metric_kwds": {"p": 3}}),
        (["densmap=false"], {}),
    ],
)
def test_umap_arguments_are_json_or_words(pairs, other):
    from raylatent.config import MapConfig
    from raylatent.main_job import map_parameters

    found = map_parameters(MapConfig(out="run", umap=tuple(pairs)))
    assert dict(found.other) == other


def test_atlas_without_rows_ends_before_the_map(
    small_tfrecords, tmp_path, monkeypatch, capsys
):
    import types

    from raylatent import main_job

    report = types.SimpleNamespace(
        n_rows=0, n_quarantined=0, failed=[], slides=[], counts={}, run="run"
    )
    monkeypatch.setattr(main_job, "run_activations", lambda *_: report)
    argv = ["atlas", "--tfrecords", str(small_tfrecords), "--out", str(tmp_path)]
    assert cli.main([*argv, "--model", "timm:resnet18"]) == 1
    said = capsys.readouterr()
    assert "0 rows" in said.out
    assert said.err == (
        "raylatent: not one tile has activations: there is nothing to map\n"
    )


def test_annotations_of_other_slides_are_refused_before_the_map(
    tmp_path, monkeypatch, capsys
):
    from raylatent.engine import map_building
    from raylatent.run import RunDirectory

    def built(*args, **kwargs):
        raise AssertionError

    table = tmp_path / "a.csv"
    table.write_text("slide,kind\nother,x\n")
    monkeypatch.setattr(map_building, "build_map", built)
    monkeypatch.setattr(RunDirectory, "settings", lambda self: {})
    monkeypatch.setattr(RunDirectory, "slides", lambda self: ["a"])
    argv = ["map", "--out", str(tmp_path / "run"), "--annotations", str(table)]
    assert cli.main([*argv, "--label", "kind"]) == 2
    assert "have no 'kind' of any of the 1 slides" in capsys.readouterr().err


def test_the_demo_is_not_put_among_other_things(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("")
    assert cli.main(["atlas", "--demo", "--out", str(tmp_path)]) == 2
    assert "has no run.json but 'thesis.tex'" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_mosaic_called_as_a_picture_is_a_folder(tmp_path, monkeypatch):
    import numpy as np

    from raylatent.run import RunDirectory
    from raylatent.slide_map import SlideMap

    images = [np.zeros((8, 8, 3), np.uint8)] * 2
    made = raylatent.Mosaic(images, [(0, 0), (1, 1)], num_tiles_x=2, cell_px=8)
    SlideMap.from_xy([0, 1], [0, 1], ["a", "a"]).save(tmp_path / "maps" / "default")
    monkeypatch.setattr(RunDirectory, "settings", lambda self: {})
    monkeypatch.setattr(SlideMap, "generate_mosaic", lambda self, **options: made)
    assert cli.main(["mosaic", "--out", str(tmp_path), "--mosaic", "fig.png"]) == 0
    files = sorted(p.name for p in (tmp_path / "mosaics" / "fig.png").iterdir())
    assert files == ["cells.parquet", "mosaic.json", "mosaic.png"]


def test_a_working_directory_that_was_deleted_is_said(tmp_path, monkeypatch, capsys):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert cli.main(["map", "--out", str(tmp_path / "run")]) == 2
    assert "the working directory cannot be used" in capsys.readouterr().err


def test_the_last_line_is_the_page_to_open(monkeypatch, capsys):
    facts = {"levels": [{"cells": 1}], "counts": {"points": 1}, "points": "all"}
    made = ("/runs/a b/explorer/default/index.html", {**facts, "failed": 0})
    monkeypatch.setattr("raylatent.map_job.run_explore", lambda config: made)
    assert cli.main(["explore", "/runs/a b"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "open      file:///runs/a%20b/explorer/default/index.html"
