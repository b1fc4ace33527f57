"""What a second extraction does: only slides that are not whole, and no file in parts."""

import json
import os
import shutil

import pytest

from raylatent.claim import Claim
from raylatent.engine.finishing import finish_slide
from raylatent.errors import ClaimError, FingerprintError
from raylatent.run import ExtractionDirectory
from raylatent.source.index import index_tfrecord
from raylatent.source.protocol import sources_from_table
from tests.engine import slide_files
from tests.tampering import reseal

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("in_process")]

N = {"a": 33, "b": 30}
FOLDER = "96px_48um"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Slides of 33 and 30 tiles; the second, torn, does not say its mpp."""
    folder = tmp_path_factory.mktemp("made")
    slide_files.write_slide(folder / "a.tif", 1, width=1000, height=900)
    path = folder / "b.tif"
    slide_files.write_slide(path, 2, mpp=None, jpeg=True, width=900, height=800)
    slide_files.harm(path, row=2, col=4)
    return folder


@pytest.fixture
def slides(made, tmp_path):
    return shutil.copytree(made, tmp_path / "slides")


@pytest.fixture
def again(extract, slides, tmp_path):
    """Extract once more."""

    def run(**options):
        options = {"mpp": 0.5, "unit_tiles": 8, **options}
        return extract(tmp_path / "run", [slides], **options)

    return run


@pytest.fixture
def out(again, tmp_path):
    """A run of both slides."""
    report = again()
    assert {slide.slide: slide.n_indexed for slide in report.slides} == N
    assert not report.failed
    assert report.n_quarantined > 0
    return tmp_path / "run"


def tfrecords_of(out):
    return {
        file.name: (file.stat().st_ino, file.stat().st_mtime_ns, file.read_bytes())
        for file in sorted((out / FOLDER).glob("*.tfrecords"))
    }


def redone(out, before):
    after = tfrecords_of(out)
    assert not list((out / "tiles").rglob("*.parquet"))
    return {name for name in before if after[name][:2] != before[name][:2]}


def test_run_again_it_does_nothing(out, again):
    before = tfrecords_of(out)
    report = again()
    assert report.counts["tiles"] == 0
    assert not report.failed
    assert report.n_rows + report.n_quarantined == sum(N.values())
    assert redone(out, before) == set()


def test_a_slide_that_is_not_whole_is_done_again(out, again):
    file, record = out / FOLDER / "b.tfrecords", out / "finished/slide=b/record.json"
    for harm in (
        file.unlink,
        lambda: file.write_bytes(file.read_bytes()[:-1]),
        record.unlink,
        lambda: record.write_text("{"),
        lambda: reseal("finished/slide=b/record.json", tiles="x")(out),
        lambda: reseal("finished/slide=b/record.json", files={})(out),
        lambda: shutil.rmtree(out / "quarantine/slide=b"),
    ):
        before = tfrecords_of(out)
        harm()
        report = again()
        assert not report.failed
        assert report.counts["tiles"] == N["b"]
        assert redone(out, before) == {"b.tfrecords"}
        assert tfrecords_of(out)["b.tfrecords"][2] == before["b.tfrecords"][2]


def test_a_slide_that_changed_is_done_again_and_a_new_one_added(out, again, slides):
    before = tfrecords_of(out)
    slide_files.write_slide(slides / "a.tif", 5, width=700, height=500)
    slide_files.write_slide(slides / "c.tif", 6, width=700, height=500)
    report = again()
    rows = {slide.slide: slide.rows for slide in report.slides}
    assert report.counts["tiles"] == rows["a"] + rows["c"]
    assert redone(out, before) == {"a.tfrecords"}
    for name in "ac":
        index = index_tfrecord(str(out / FOLDER / f"{name}.tfrecords"))
        assert len(index) == rows[name] > 0
        assert index.sidecar
    manifest = json.loads((out / FOLDER / "manifest.json").read_text())
    assert manifest == {f"{s}.tfrecords": {"total": n} for s, n in rows.items()}


def test_another_mpp_does_again_only_what_does_not_say_its_own(out, again):
    before = tfrecords_of(out)
    report = again(mpp=0.45)
    assert report.counts["tiles"] == report.slides[1].n_indexed != N["b"]
    assert redone(out, before) == {"b.tfrecords"}


def test_parts_that_a_killed_run_left_are_used_or_taken_away(
    out, again, monkeypatch, slides
):
    from raylatent.engine import extraction

    whole, before = extraction.stream, tfrecords_of(out)

    def killed(*arguments, **options):
        for i, row in enumerate(whole(*arguments, **options)):
            if i == 3:
                raise KeyboardInterrupt
            yield row

    os.utime(slides / "a.tif", ns=(1, 1))
    with monkeypatch.context() as patch:
        patch.setattr(extraction, "stream", killed)
        with pytest.raises(KeyboardInterrupt):
            again()
    parts = list((out / "tiles").rglob("*.parquet"))
    assert len(parts) == 4
    # The old one is of a slide that is no more.
    assert set(tfrecords_of(out)) == set(before) - {"a.tfrecords"}
    # As if the run had been killed between the record and the end of its parts.
    shutil.copytree(out / "tiles/slide=a", out / "tiles/slide=b")
    report = again()
    assert 0 < report.counts["tiles"] < N["a"]
    assert redone(out, before) == {"a.tfrecords"}
    assert tfrecords_of(out)["a.tfrecords"][2] == before["a.tfrecords"][2]


def test_a_slide_with_a_part_missing_is_not_put_in_place(out, again, monkeypatch):
    """A task of a killed run may take parts away while the next one reads them."""
    from raylatent.engine import extraction

    before = tfrecords_of(out)
    (out / "finished/slide=a/record.json").unlink()
    monkeypatch.setattr(extraction, "finish_slide", lambda *arguments: None)
    again()
    parts = sorted((out / "tiles/slide=a").glob("*.parquet"))
    assert len(parts) > 2
    run = ExtractionDirectory(str(out))
    (source,) = [s for s in sources_from_table(run.sources()) if s.slide == "a"]
    content = parts[1].read_bytes()
    parts[1].unlink()
    same = run.settings()["fingerprint"]
    assert finish_slide(run, source, same) is None
    assert set(tfrecords_of(out)) == set(before) - {"a.tfrecords"}
    assert not (out / "finished/slide=a/record.json").exists()
    parts[1].write_bytes(content)
    run = ExtractionDirectory(str(out))
    with pytest.raises(ClaimError, match="no longer this driver's"):
        finish_slide(run, source, same)
    with Claim(run.store, run.store.writer):
        assert finish_slide(run, source, same).tiles == N["a"]
    assert redone(out, before) == {"a.tfrecords"}
    assert tfrecords_of(out)["a.tfrecords"][2] == before["a.tfrecords"][2]


def test_a_slide_that_is_no_longer_named_comes_back_without_being_done(
    out, again, slides, tmp_path
):
    before = tfrecords_of(out)
    away = (slides / "b.tif").rename(tmp_path / "b.tif")
    report = again()
    assert report.removed == ["b"]
    assert [slide.slide for slide in report.slides] == ["a"]
    away.rename(slides / "b.tif")
    report = again()
    assert report.counts["tiles"] == 0
    assert not report.failed
    assert report.n_rows + report.n_quarantined == sum(N.values())
    assert redone(out, before) == set()

    away = (slides / "a.tif").rename(tmp_path / "a.tif")
    assert again().removed == ["a"]
    away.rename(slides / "a.tif")
    again(mpp=0.45)  # which is nothing to a slide that says its own
    assert redone(out, before) == {"b.tfrecords"}


def test_other_pictures_are_refused_and_replace_the_files_on_demand(out, again):
    before = tfrecords_of(out)
    for option, says in (
        ({"jpeg_quality": 80}, "jpeg_quality was 95, now 80"),
        ({"img_format": "png"}, 'img_format was "jpg", now "png"'),
        ({"qc": "none"}, 'qc was "otsu", now "none"'),
        ({"tile_px": 64}, "tile_px was 96, now 64"),
    ):
        with pytest.raises(FingerprintError, match=says):
            again(**option)
    assert tfrecords_of(out) == before
    report = again(tile_px=64, overwrite=True)
    assert report.counts["tiles"] == sum(N.values())
    assert not list((out / FOLDER).glob("*.tfrecords"))
    assert not list((out / FOLDER).glob("*.npz"))
    found = sorted(file.name for file in (out / "64px_48um").glob("*.tfrecords"))
    assert found == ["a.tfrecords", "b.tfrecords"]


def test_a_slide_without_a_tile_any_more_has_no_tfrecord_any_more(out, again, slides):
    slide_files.write_slide(slides / "a.tif", color=slide_files.PALE, grain=0)
    report = again()
    assert not report.failed
    assert report.counts["tiles"] == 0
    names = sorted(file.name for file in (out / FOLDER).iterdir())
    assert names == ["b.index.npz", "b.tfrecords", "manifest.json"]
    manifest = json.loads((out / FOLDER / "manifest.json").read_text())
    assert set(manifest) == {"b.tfrecords"}
