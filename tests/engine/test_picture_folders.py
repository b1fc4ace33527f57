"""Jobs on folders of pictures: rows as of TFRecords, resumed, mapped, drawn, verified."""

import io
import os
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageColor

from raylatent import DatasetFeatures, atlas, cli, schema
from raylatent.config import ActivationsConfig, VerifyConfig
from raylatent.engine.activations import compute_activations
from raylatent.engine.verify import verify_run
from raylatent.mapping.labels import colors_by_name
from raylatent.model.spec import model_spec
from raylatent.run import RunDirectory
from raylatent.source.record import TileRecord
from raylatent.source.write import write_tfrecord
from tests.small_data import TILE_PX, painted

pytestmark = pytest.mark.ray

N = {"s1": 21, "s2": 9}
PATTERN = r"(?P<label>\w+)/(?P<slide>s\d)_(?P<x>\d+)_(?P<y>\d+)\.\w+$"
KINDS = ("png", "tif", "png", "jpg")


@pytest.fixture(scope="module")
def encoded():
    """Pictures of each slide: label, kind, bytes, all as models see the same pixels."""
    found = {}
    for number, (slide, n) in enumerate(N.items()):
        for k in range(n):
            kind = KINDS[k % len(KINDS)]
            buffer = io.BytesIO()
            image = Image.fromarray(painted((90 + number, k)))
            image.save(buffer, {"jpg": "JPEG", "tif": "TIFF"}.get(kind, "PNG"))
            label = ("TUM", "NORM", "STR")[k % 3]
            found[slide, k] = (label, kind, buffer.getvalue())
    return found


@pytest.fixture
def classes(encoded, tmp_path):
    """A folder for each class, as public sets have it: the slide is in the name."""
    folder = tmp_path / "classes"
    for (slide, k), (label, kind, content) in encoded.items():
        path = folder / label / f"{slide}_{100 * k}_{k}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


@pytest.fixture
def folders(encoded, tmp_path):
    """A folder for each slide."""
    folder = tmp_path / "slides"
    for (slide, k), (_, kind, content) in encoded.items():
        path = folder / slide / f"{k:03d}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


@pytest.fixture
def run_on(small_model, tmp_path):
    def compute(folder, **options):
        config = ActivationsConfig(
            out=str(tmp_path / "run"), tiles=(str(folder),), unit_tiles=16, **options
        )
        return compute_activations(config, model_spec(small_model))

    return compute


def as_png(content):
    image = Image.open(io.BytesIO(content))
    if image.format == "JPEG":
        return content
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_rows_are_those_of_tfrecords_of_the_same_pixels(
    in_process, encoded, folders, small_model, tmp_path
):
    records = tmp_path / "records"
    records.mkdir()
    for slide, n in N.items():
        write_tfrecord(
            records / f"{slide}.tfrecords",
            [TileRecord(as_png(encoded[slide, k][2]), slide) for k in range(n)],
        )
    same = {"layers": ["layer1", "postconv"], "pooling": "avg"}
    ours = DatasetFeatures(small_model, folders, outdir=tmp_path / "ours", **same)
    theirs = DatasetFeatures(small_model, records, outdir=tmp_path / "theirs", **same)
    assert ours.slides == theirs.slides == list(N)
    for slide, n in N.items():
        assert len(ours.activations[slide]) == n
        assert np.array_equal(ours.activations[slide], theirs.activations[slide])
        assert np.array_equal(ours.predictions[slide], theirs.predictions[slide])
    sources = RunDirectory.open(str(tmp_path / "ours")).sources()
    assert sources[schema.KIND].to_pylist() == ["tiles"] * 2
    assert sources[schema.TILE_PX].to_pylist() == [TILE_PX] * 2


def test_a_broken_picture_is_one_bad_tile_and_a_change_redoes_its_slide(
    in_process, folders, run_on, tmp_path
):
    (folders / "s1" / "003.jpg").write_bytes(b"no picture")
    report = run_on(folders)
    assert not report.failed
    assert (report.n_rows, report.n_quarantined) == (sum(N.values()) - 1, 1)
    (bad,) = (tmp_path / "run" / "quarantine").rglob("*.parquet")
    (row,) = pq.ParquetFile(bad).read().to_pylist()
    assert (row["tile_index"], row["name"], row["stage"]) == (3, "003.jpg", "decode")
    assert "none of JPEG, PNG, TIFF" in row["error"]
    assert run_on(folders).counts["tiles"] == 0
    os.utime(folders / "s2" / "000.png", ns=(7, 7))
    assert run_on(folders).counts["tiles"] == N["s2"]
    (folders / "s1" / "new.png").write_bytes((folders / "s1" / "000.png").read_bytes())
    assert run_on(folders).counts["tiles"] == N["s1"] + 1


def test_pictures_that_are_gone_or_changed_meanwhile_leave_the_slide_undone(
    in_process, folders, run_on, monkeypatch
):
    from raylatent.engine import activations

    make_plan = activations.make_plan

    def plan_then_harm(*arguments):
        plan = make_plan(*arguments)
        (folders / "s2" / "004.png").unlink()
        return plan

    with monkeypatch.context() as patch:
        patch.setattr(activations, "make_plan", plan_then_harm)
        (failed,) = run_on(folders).failed
    assert failed.slide == "s2"
    assert "have changed since they were listed: run again" in failed.error
    report = run_on(folders)
    assert not report.failed
    assert report.n_rows == sum(N.values()) - 1


def check_frames(file, counts):
    """Around cells of which most tiles have one label is its color."""
    with Image.open(file) as picture:
        pixels = np.asarray(picture.convert("RGB"))[:, : 5 * 100].reshape(-1, 3)
    colors = colors_by_name(["NORM", "STR", "TUM"])
    most = Counter(
        max(own, key=own.get)
        for own in map(dict, counts)
        if max(own.values()) > sum(own.values()) / 2
    )
    assert most
    for label, n_cells in most.items():
        seen = (pixels == ImageColor.getrgb(colors[label])).all(axis=1).sum()
        assert seen > 1000 * n_cells


def test_an_atlas_of_class_folders_is_colored_by_their_names(
    ray_session, classes, encoded, small_model, tmp_path, capsys
):
    out = tmp_path / "run"
    arguments = {
        "tiles": classes,
        "tiles-pattern": PATTERN,
        "model": small_model,
        "out": out,
        "unit-tiles": 16,
        "num-tiles-x": 5,
        "n-neighbors": 5,
    }
    pairs = [part for k, v in arguments.items() for part in (f"--{k}", str(v))]
    assert cli.main(["atlas", *pairs]) == 0
    run = RunDirectory.open(str(out))
    for slide in N:
        rows = run.read_rows(slide).to_pylist()
        for row in rows:
            label, stem = row["label"], row["name"]
            assert stem.startswith(f"{label}/{slide}_{row['loc_x']}_{row['loc_y']}.")
            k = row["loc_y"]
            assert encoded[slide, k][0] == label
    cells = pq.ParquetFile(out / "mosaics/default/cells.parquet").read().to_pylist()
    assert sum(cell["n"] for cell in cells) == sum(N.values())
    for cell in cells:
        assert sum(dict(cell["label_counts"]).values()) == cell["n"]
        assert cell["label"] in dict(cell["label_counts"])
        assert (classes / cell["name"]).is_file()
    assert (out / "maps/default/umap_by_label.png").is_file()
    counts = [cell["label_counts"] for cell in cells]
    check_frames(out / "mosaics/default/mosaic.png", counts)
    assert "umap_by_label.png" in capsys.readouterr().out
    found = verify_run(VerifyConfig(run=str(out)))
    assert not found.findings
    assert found.sources["as they were"] == 2


def test_the_function_and_its_handles_have_the_labels(
    ray_session, classes, small_model, tmp_path
):
    made = atlas(
        out=tmp_path / "run",
        model=small_model,
        tiles=classes,
        tiles_pattern=PATTERN,
        num_tiles_x=5,
        n_neighbors=5,
    )
    assert set(made.slide_map.data["label"]) == {"TUM", "NORM", "STR"}
    moved = tmp_path / "moved"
    classes.rename(moved)
    (tmp_path / "moved").rename(tmp_path / "else")
    mosaic = made.slide_map.generate_mosaic(
        tfrecords=str(tmp_path / "else"), num_tiles_x=5
    )
    mosaic.save(str(tmp_path / "mosaic.png"))
    labels = [dict(counts) for counts in mosaic.cells["label_counts"].to_pylist()]
    check_frames(tmp_path / "mosaic.png", labels)
    assert sum(sum(counts.values()) for counts in labels) == sum(N.values())
