"""Runs over whole slides, and extracted TFRecords: verified, damaged, mended."""

import shutil

import numpy as np
import pytest

from tests.engine import slide_files
from tests.tampering import reseal
from tests.verify_runs import flip

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("in_process")]

FOLDER = "96px_48um"
N = {"a": 33, "b": 30}


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """Slides of 33 and 30 tiles; the second is torn."""
    folder = tmp_path_factory.mktemp("slides")
    slide_files.write_slide(folder / "a.tif", 1, width=1000, height=900)
    slide_files.write_slide(folder / "b.tif", 2, jpeg=True, width=900, height=800)
    slide_files.harm(folder / "b.tif", row=2, col=4)
    return folder


def names(report):
    return {(finding.kind, finding.name) for finding in report.findings}


def test_grids_are_compared_with_the_plan_and_made_again(
    compute_slides, slides, tmp_path, verify_here
):
    out = tmp_path / "run"

    def again():
        return compute_slides(out, [slides], unit_tiles=12, max_bad_fraction=1)

    again()
    grids = [out / f"grids/slide={slide}/000000.parquet" for slide in "ab"]
    good = [grid.read_bytes() for grid in grids]
    report = verify_here(out)
    assert report.findings == []
    assert report.counts["rows"] + report.counts["quarantined"] == sum(N.values())
    assert report.sources == {"as they were": 2}
    shutil.copy(grids[0], grids[1])
    flip(grids[0], 8 * 200)
    assert names(verify_here(out)) == {
        ("broken", "grids/slide=a/000000.parquet"),
        ("wrong", "grids/slide=b/000000.parquet"),
    }
    (out / "manifest/activations.parquet").unlink()
    assert ("wrong", "grids/slide=b/000000.parquet") in names(verify_here(out))
    grids[1].unlink()
    assert ("missing", "grids/slide=b/000000.parquet") in names(verify_here(out))
    assert again().counts["tiles"] == 0  # rows stay
    assert [grid.read_bytes() for grid in grids] == good
    assert verify_here(out).findings == []
    picture = "thumbnails/slide=a/grid.jpg"
    flip(out / picture, 8 * 200)
    assert names(verify_here(out)) == {("broken", picture)}
    (out / "manifest/activations.parquet").unlink()
    assert names(verify_here(out)) == {("broken", picture)}
    (out / picture).unlink()
    assert names(verify_here(out)) == {("missing", picture)}
    again()
    assert verify_here(out).findings == []


def test_slides_are_looked_for_where_they_are_said_to_be(
    compute_slides, slides, tmp_path, verify_here
):
    out, moved = tmp_path / "run", tmp_path / "moved"
    compute_slides(out, [slides], unit_tiles=12, max_bad_fraction=1)
    moved.mkdir()
    shutil.copy2(slides / "a.tif", moved)
    report = verify_here(out, source_root=str(moved))
    assert report.sources == {"as they were": 1, "gone": 1}
    assert names(report) == {("missing", "the source of slide 'b'")}


def test_a_slide_that_could_not_be_opened_has_not_changed(
    compute_slides, slides, tmp_path, verify_here
):
    folder, out = tmp_path / "slides", tmp_path / "run"
    folder.mkdir()
    shutil.copy(slides / "a.tif", folder / "a.tif")
    (folder / "b.tif").write_bytes(b"no slide")
    failed = compute_slides(out, [folder], unit_tiles=12).failed
    assert [report.slide for report in failed] == ["b"]
    assert verify_here(out).sources == {"as they were": 1}


def test_extracted_tiles(extract, slides, tmp_path, verify_here):
    out = tmp_path / "tiles"

    def again(**options):
        options = {"unit_tiles": 8, "max_bad_fraction": 1, **options}
        return extract(out, [slides], **options)

    first = again()
    good = (out / FOLDER / "a.tfrecords").read_bytes()
    report = verify_here(out)
    assert report.findings == []
    assert report.counts["rows"] == first.n_rows
    assert report.counts["quarantined"] == first.n_quarantined > 0
    flip(out / FOLDER / "a.tfrecords", 8 * 2000)
    assert names(verify_here(out)) == {("broken", f"{FOLDER}/a.tfrecords")}
    assert again(recheck=False).counts["tiles"] == 0
    assert again().counts["tiles"] == N["a"]
    assert (out / FOLDER / "a.tfrecords").read_bytes() == good
    assert verify_here(out).findings == []
    (out / FOLDER / "b.tfrecords").unlink()
    assert names(verify_here(out)) == {("missing", f"{FOLDER}/b.tfrecords")}
    again()
    index = out / FOLDER / "a.index.npz"
    beside = index.read_bytes()
    with np.load(index) as arrays:
        found = dict(arrays)
    for name in found:
        np.savez(index, **{**found, name: found[name][::-1]})
        assert names(verify_here(out)) == {("broken", f"{FOLDER}/a.index.npz")}
    index.unlink()
    assert names(verify_here(out)) == {("missing", f"{FOLDER}/a.index.npz")}
    manifest = out / "manifest/extract-tiles.parquet"
    whole = manifest.read_bytes()
    manifest.unlink()
    assert names(verify_here(out)) == {("missing", f"{FOLDER}/a.index.npz")}
    manifest.write_bytes(whole)
    assert again().counts["tiles"] == N["a"]
    assert index.read_bytes() == beside
    assert verify_here(out).findings == []
    record = out / "finished/slide=b/record.json"
    record.write_text("{")
    assert names(verify_here(out)) == {("broken", "finished/slide=b/record.json")}
    record.unlink()
    assert names(verify_here(out)) == {("missing", "finished/slide=b/record.json")}
    manifest.unlink()
    assert names(verify_here(out)) == {("incomplete", "tiles/slide=b")}
    again()
    assert verify_here(out).findings == []


def test_an_extraction_without_run_json(extract, slides, tmp_path, verify_here):
    """What else is wrong is told all the same."""
    out = tmp_path / "tiles"
    extract(out, [slides], unit_tiles=8, max_bad_fraction=1)
    (out / "run.json").write_text("{")
    flip(out / FOLDER / "a.tfrecords", 8 * 2000)
    (out / FOLDER / f".0123456789ab-{'0' * 32}.aside").write_bytes(b"x")
    for harm in (lambda: None, (out / "manifest/extract-tiles.parquet").unlink):
        harm()
        report = verify_here(out)
        assert names(report) == {
            ("broken", "run.json"),
            ("broken", f"{FOLDER}/a.tfrecords"),
        }
        assert any(".aside was left by a writer" in note for note in report.notes)
    (out / "run.json").unlink()
    assert ("missing", "run.json") in names(verify_here(out))


def test_extracted_slides_that_are_no_longer_named(
    extract, slides, tmp_path, verify_here
):
    """Their TFRecords stay where they are: they are sound, and in no plan."""
    out = tmp_path / "tiles"
    both = extract(out, [slides], unit_tiles=8, max_bad_fraction=1)
    one = extract(out, [slides / "a.tif"], unit_tiles=8)
    assert one.n_rows < both.n_rows
    assert (out / FOLDER / "b.tfrecords").exists()
    report = verify_here(out)
    assert report.findings == []
    assert (report.counts["rows"], report.counts["slides"]) == (one.n_rows, 1)
    flip(out / FOLDER / "b.tfrecords", 8 * 2000)
    assert names(verify_here(out)) == {("broken", f"{FOLDER}/b.tfrecords")}


def test_a_record_that_tells_no_number(extract, slides, tmp_path, verify_here):
    out = tmp_path / "tiles"
    extract(out, [slides / "a.tif"], unit_tiles=8)
    name = "finished/slide=a/record.json"
    reseal(name, tiles="x", files={})(out)
    assert ("wrong", name) in names(verify_here(out))
