"""Names, labels and files that were made to do harm."""

import gzip
import io
import json
import pickle
import shutil
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree as ET

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

import raylatent as sf
from raylatent import cli, schema
from raylatent.annotations import read_labels
from raylatent.engine.report import SlideReport, slides_page
from raylatent.errors import AnnotationsError, ModelError, SourceError
from raylatent.mapping.plot import MapStyle, draw_map
from raylatent.model.features import Features
from raylatent.montage.render import add_legend
from raylatent.parts import escape_partition
from raylatent.run import RunDirectory
from raylatent.source.index import index_tfrecord
from raylatent.source.record import TileRecord
from raylatent.source.write import write_tfrecord
from tests.source.frames import frames_of, write_frames, write_sidecar

NAMES = [
    "..",
    "...",
    ".hidden",
    "-rf",
    "~",
    "%2F..%2F..",
    "slide=x",
    "a=b",
    "two\nlines\tand more\r",
    "\x1b[31mred\x07",
    "<img src=x onerror=alert(1)>",
    "'; DROP TABLE tiles; --",
    "$(id) `id`",
    "\u202egnp.evil",
    "שקופית",
    "🧬 👩🏽‍🔬",
    "007",
    "null",
    "e\u0301 and \u00e9",
    "x" * 240,
    "é" * 120,
    'C:\\nul "q"',
    "{a}[b]^?*:#",
]
LABELS = [
    "$x^{$",
    "$\\frac$",
    "_nolegend_",
    "<script>alert(1)</script>",
    "two\nlines " * 200,
    "שלום",
    "\u202eevil",
    "🧬",
    "\x1b[31mred\x00",
    "x" * 5000,
    "%s%n{0}",
]


@pytest.mark.ray
def test_slides_of_any_name(
    ray_session, compute, campaign, files, plain_loop, small_model, tmp_path
):
    out = tmp_path / "run"
    report = compute(out, [files])
    campaign.run()
    campaign.fault("hostile: slide names", len(NAMES) + 1)
    assert not report.failed
    assert report.counts["other_slide"] == 2
    expected = plain_loop(small_model, [files])
    assert set(expected) == {*NAMES, "other"}
    campaign.audit(out, expected)
    assert sorted(RunDirectory.open(str(out)).slides()) == sorted(expected)
    wanted = {slide: len(rows) for slide, (rows, _) in expected.items()}
    assert counted(sf.read(out)) == wanted
    hive = ds.partitioning(pa.schema([(schema.SLIDE, pa.string())]), flavor="hive")
    assert counted(ds.dataset(out / "activations", partitioning=hive)) == wanted
    # Nothing is anywhere else.
    assert {path.name for path in tmp_path.iterdir()} == {"tfrecords", "run"}
    told = json.loads((out / "report.json").read_text())
    assert {slide["slide"] for slide in told["by_slide"]} == set(expected)


@pytest.fixture
def files(tiles, write_slide, tmp_path):
    """A TFRecord of each name; in one, records that name another slide."""
    folder = tmp_path / "tfrecords"
    folder.mkdir()
    for i, name in enumerate(NAMES):
        write_slide(folder, name, tiles[i : i + 2])
    write_slide(folder, "other", [])
    path = folder / "other.tfrecords"
    records = [replace(tile, slide="../../<b>elsewhere</b>") for tile in tiles[:2]]
    write_tfrecord(path, records)
    return folder


def counted(dataset):
    """Rows by slide."""
    counts = dataset.to_table(columns=["slide"])["slide"].value_counts().to_pylist()
    return {row["values"]: row["counts"] for row in counts}


@pytest.mark.ray
def test_what_is_said_of_names_is_one_line_each(
    ray_session, command_line, tmp_path, capfd
):
    folder = tmp_path / "t"
    for name in ("a\nrows      /etc/passwd", "\x1b]0;title\x07"):
        write_tfrecord(folder / f"{name}.tfrecords", [])
    (folder / "bad\nraylatent: all is well.tfrecords").write_bytes(b"no TFRecord")
    write_tfrecord(folder / "good.tfrecords", [TileRecord(b"no picture")])
    argv = command_line("activations", tfrecords=folder)
    assert cli.main([str(part) for part in argv]) == 1
    said = capfd.readouterr()
    assert "\x1b]0;title" not in said.out + said.err
    assert not any(line.startswith("rows      /etc") for line in said.out.splitlines())
    assert "raylatent: all is well" not in said.err.splitlines()


@pytest.mark.parametrize("name", ["x" * 250, "#" * 90, "é" * 125])
def test_names_that_are_too_long(campaign, name):
    campaign.fault("hostile: name too long")
    with pytest.raises(SourceError, match="give its file a shorter name") as caught:
        escape_partition(name)
    assert len(str(caught.value)) < 400


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("label", LABELS)
def test_labels_are_text_whatever_is_in_them(campaign, label):
    campaign.fault("hostile: labels")
    figure = Figure()
    xy = np.random.default_rng(0).random((20, 2))
    labels = [label] * 10 + ["b"] * 10
    draw_map(figure.add_subplot(), xy, labels, MapStyle(legend="$label^{$"))
    drawn = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert len(drawn) == 2
    for suffix in ("png", "svg", "pdf"):
        picture = io.BytesIO()
        figure.savefig(picture, format=suffix, bbox_inches="tight")
        if suffix == "png":
            assert max(Image.open(picture).size) < 2000
        if suffix == "svg":
            tags = ET.fromstring(picture.getvalue()).iter()  # noqa: S314
            assert not any(tag.tag.endswith("script") for tag in tags)
    with_legend = add_legend(Image.new("RGB", (100, 100)), [(label, "#fff")], "white")
    assert max(with_legend.size) < 2000


def test_a_page_of_names_and_reasons_has_no_tags_of_theirs():
    text = "<img src=x onerror=alert(1)>"
    slides = [
        SlideReport(
            slide=name,
            n_indexed=1,
            rows=0,
            quarantined=1,
            reasons={text: 1},
            error=f"{name} {text}",
        )
        for name in NAMES
    ]
    run = SimpleNamespace(thumbnail=lambda slide: slide)
    assert "<img" not in slides_page(run, slides)


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def zipped(content, name="arr_0.npy", how=zipfile.ZIP_DEFLATED, told=None):
    """A zip of one member, whose entry may tell another size."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", how) as members:
        members.writestr(name, content)
    data = bytearray(buffer.getvalue())
    if told is not None:
        entry = data.rindex(b"PK\x01\x02")
        data[entry + 24 : entry + 28] = told.to_bytes(4, "little")
    return bytes(data)


BOMBS = {
    "bomb": {},
    "bomb that lies": {"told": 176},
    "bzip2 bomb": {"how": zipfile.ZIP_BZIP2, "told": 176},
    "lzma bomb": {"how": zipfile.ZIP_LZMA, "told": 176},
}


@pytest.mark.parametrize("kind", ["object", "pickle", *BOMBS])
def test_an_index_that_would_do_harm_is_not_used(campaign, tmp_path, kind):
    campaign.fault("hostile: index with pickles")
    path = write_frames(tmp_path, [b"12345"] * 3)
    beside, ran = tmp_path / "s.index.npz", tmp_path / "ran"
    if kind == "object":
        np.savez(beside, arr_0=np.array([Bomb(ran)], object), allow_pickle=True)
    elif kind == "pickle":
        beside.write_bytes(pickle.dumps(Bomb(ran)))
    else:
        beside.write_bytes(zipped(bytes(64 << 20), **BOMBS[kind]))
    tracemalloc.start()
    index = index_tfrecord(str(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (len(index), index.sidecar, index.error) == (3, False, None)
    assert not ran.exists()
    assert peak < 8 << 20


@pytest.mark.parametrize("shift", [1 << 62, 1 << 40, 84, -21])
def test_an_index_beyond_the_file_is_not_used(campaign, tmp_path, shift):
    campaign.fault("hostile: index beyond the file")
    path = write_frames(tmp_path, [b"12345"] * 3)
    for column in (0, 1):
        frames = frames_of([b"12345"] * 3)
        frames[1, column] += shift
        write_sidecar(path, frames)
        index = index_tfrecord(str(path))
        assert (len(index), index.sidecar, index.error) == (3, False, None)


@pytest.mark.parametrize("weights", ["../weights.safetensors", "/etc/passwd"])
def test_a_model_that_leaves_its_folder(campaign, small_model, tmp_path, weights):
    campaign.fault("hostile: model.json leaves its folder")
    about = json.loads((Path(small_model) / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps({**about, "weights": weights}))
    with pytest.raises(ModelError, match="leaves the model folder"):
        Features(str(tmp_path), device="cpu")


def test_weights_that_would_run(campaign, small_model, tmp_path):
    campaign.fault("hostile: pickle in weights")
    folder, ran = tmp_path / "model", tmp_path / "ran"
    shutil.copytree(small_model, folder)
    about = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**about, "weights": "net.pt"}))
    torch.save({"fc.weight": Bomb(ran)}, folder / "net.pt")
    with pytest.raises(ModelError, match=r"net\.pt"):
        Features(str(folder), device="cpu")
    assert not ran.exists()


def rows(n_bytes):
    return b"slide,label\n" + b"a,b\n" * (n_bytes // 4)


ANNOTATION_BOMBS = {
    "zip": (
        lambda: zipped(bytes(100 << 20), "a.csv"),
        "a spreadsheet .* or a zip, no CSV",
    ),
    "gzip": (lambda: gzip.compress(bytes(100 << 20), 1), "a gzip'ed file, no CSV"),
    "too large": (lambda: rows(80 << 20), "bytes: is it a CSV"),
    "too many rows": (lambda: rows(8 << 20), "more than 1000000 rows"),
    "one field": (lambda: b'slide,label\na,"' + b"x" * (10 << 20), "field larger than"),
    "zeros": (lambda: bytes(1 << 20), "no CSV|no column 'slide'"),
    "columns": (lambda: b"slide" + b"," * (1 << 17) + b"\na\n", "no column 'label'"),
}
"""Makes the content, and what is said of it."""
OF_SECONDS = ("too many rows", "columns")  # while memory is traced


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[pytest.mark.slow] * (kind in OF_SECONDS))
        for kind in ANNOTATION_BOMBS
    ],
)
def test_annotations_that_are_none(campaign, tmp_path, kind):
    campaign.fault("hostile: annotations bomb")
    make, says = ANNOTATION_BOMBS[kind]
    path = tmp_path / "annotations.csv"
    path.write_bytes(make())
    tracemalloc.start()
    with pytest.raises(AnnotationsError, match=says) as caught:
        read_labels(str(path), "label")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 2000
    assert peak < 1 << 30
