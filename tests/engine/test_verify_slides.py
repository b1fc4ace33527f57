"""Runs over whole slides, and extracted TFRecords: verified, damaged, mended."""

import shutil

import numpy as np
import pytest

from tests.engine import slide_files
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
    grids[1].unlink()
    assert ("missing", "grids/slide=b/000000.parquet") in names(verify_here(out))
    assert again().counts["tiles"] == 0  # rows stay
    assert [grid.read_bytes() for grid in grids] == good
    assert verify_here(out).findings == []


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
        (finding,) = verify_here(out).findings
        assert finding.name == f"{FOLDER}/a.tfrecords"
        assert "its index a.index.npz is not that of its records" in finding.says
    index.write_bytes(b"junk")
    (finding,) = verify_here(out).findings
    assert "a.index.npz is no index" in finding.says
    index.unlink()
    (finding,) = verify_here(out).findings
    assert "its index a.index.npz is missing" in finding.says
    assert again().counts["tiles"] == N["a"]
    assert index.read_bytes() == beside
    assert verify_here(out).findings == []
    record = out / "finished/slide=b/record.json"
    record.write_text("{")
    assert names(verify_here(out)) == {("broken", "finished/slide=b/record.json")}
    record.unlink()
    found = names(verify_here(out))
    assert ("missing", "tiles/slide=b/000000.parquet") in found
    again()
    assert verify_here(out).findings == []
