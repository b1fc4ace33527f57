"""What a second invocation does over whole slides: only what has changed."""

import json
import os
import re
import shutil

import pytest

from raylatent.errors import FingerprintError
from raylatent.model.features import Features
from raylatent.run import RunDirectory
from raylatent.source import whole_slides
from raylatent.source.tissue import TissueOptions
from raylatent.source.whole_slides import SlideRequest
from raylatent.source.wsi import TileOptions
from tests.engine import slide_files

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("in_process")]

N = {"a": 33, "b": 29}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Slides of 33 and 29 tiles; the second does not say its mpp."""
    folder = tmp_path_factory.mktemp("made")
    slide_files.write_slide(folder / "a.tif", 1, width=1000, height=900)
    slide_files.write_slide(folder / "b.tif", 2, mpp=None, width=900, height=800)
    return folder


@pytest.fixture
def slides(made, tmp_path):
    return shutil.copytree(made, tmp_path / "slides")


@pytest.fixture
def again(compute_slides, slides, tmp_path):
    """Run on the folder once more."""

    def run(**options):
        options = {"mpp": 0.5, "unit_tiles": 12, **options}
        return compute_slides(tmp_path / "run", [slides], **options)

    return run


@pytest.fixture
def out(again, tmp_path):
    """A run of both slides."""
    report = again()
    assert {slide.slide: slide.rows for slide in report.slides} == N
    return tmp_path / "run"


@pytest.fixture(scope="module")
def features(small_model):
    return Features(small_model, include_preds=True, device="cpu")


@pytest.fixture
def assert_plain(slides, features, assert_rows):
    """Assert that the run has the rows of the plain loop over the slides as they are."""

    def check(out, **mpps):
        found = RunDirectory.open(str(out)).sources().select(["slide", "source"])
        assert_rows(
            out,
            {
                row["slide"]: slide_files.plain_rows(
                    features,
                    slide_files.plain_slide(
                        slides / f"{row['slide']}.tif", mpp=mpps.get(row["slide"], 0.5)
                    ),
                    row["source"],
                )
                for row in found.to_pylist()
            },
        )

    return check


def times_of(out, *stages):
    """Name -> inode and time: the same where nothing was written."""
    return {
        file.relative_to(out).as_posix(): (file.stat().st_ino, file.stat().st_mtime_ns)
        for stage in stages or ("activations", "grids", "thumbnails")
        for file in sorted((out / stage).rglob("*.*"))
    }


def of(slide, names):
    return {name for name in names if f"slide={slide}/" in name}


def test_run_again_it_does_nothing(out, again, assert_plain):
    before = times_of(out)
    assert len(of("a", before)) == 3 + 2
    report = again()
    assert report.counts["tiles"] == 0
    assert not report.failed
    assert report.n_rows == sum(N.values())
    assert times_of(out) == before
    assert_plain(out)


def test_a_slide_that_is_new_is_added(out, again, slides, assert_plain):
    before = times_of(out)
    slide_files.write_slide(slides / "aa.tif", 4, width=800, height=700)
    report = again()
    (new,) = [slide for slide in report.slides if slide.slide == "aa"]
    assert report.counts["tiles"] == new.rows > 10
    after = times_of(out)
    assert {name: after[name] for name in before} == before
    assert_plain(out)


def test_a_slide_that_changed_is_done_again(out, again, slides, assert_plain):
    before = times_of(out)
    os.utime(slides / "a.tif", ns=(1, 1))
    assert again().counts["tiles"] == N["a"]
    after = times_of(out)
    changed = {name for name in before if after[name] != before[name]}
    assert changed == of("a", before)
    assert_plain(out)

    slide_files.write_slide(slides / "a.tif", 5, width=700, height=500)  # smaller
    report = again()
    (smaller,) = [slide for slide in report.slides if slide.slide == "a"]
    assert 0 < report.counts["tiles"] == smaller.rows < 18
    assert len(of("a", times_of(out, "activations"))) < 3
    assert_plain(out)


def test_other_tiles_are_refused_naming_what_differs(out, again):
    before = times_of(out)
    for option, says in (
        ({"tile_um": "60"}, 'slides.tile_um was "48um", now "60um"'),
        ({"qc": "none"}, 'slides.qc was "otsu", now "none"'),
        ({"stride_div": 2.0}, "slides.stride_div was 1.0, now 2.0"),
        ({"grayspace_fraction": 0.5}, "slides.grayspace_fraction was 0.6, now 0.5"),
    ):
        with pytest.raises(FingerprintError, match=re.escape(f"({says})")):
            again(**option)
    assert times_of(out) == before
    assert not (out / "claim.json").exists()


def test_another_mpp_does_again_only_what_does_not_say_its_own(
    out, again, assert_plain
):
    before = times_of(out)
    report = again(mpp=0.45)
    (b,) = [slide for slide in report.slides if slide.slide == "b"]
    assert report.counts["tiles"] == b.rows != N["b"]
    after = times_of(out)
    assert {name for name in before if after.get(name) != before[name]} == of(
        "b", before
    )
    assert_plain(out, b=0.45)


def test_a_slide_that_is_no_longer_named_is_set_aside_and_comes_back(
    out, again, slides, tmp_path, assert_plain
):
    before = times_of(out)
    away = (slides / "a.tif").rename(tmp_path / "a.tif")
    report = again()
    assert report.removed == ["a"]
    assert report.counts["tiles"] == 0
    assert not of("a", times_of(out))
    kept = {name.removeprefix("removed/") for name in times_of(out, "removed")}
    assert kept == of("a", before) | {"sources.parquet"}
    away.rename(slides / "a.tif")
    report = again()
    assert report.removed == []
    assert report.counts["tiles"] == 0
    assert times_of(out) == before
    assert not (out / "removed").exists()
    assert_plain(out)


def test_a_moved_slide_is_not_computed_again(out, again, slides, tmp_path):
    before = times_of(out)
    moved = slides.rename(tmp_path / "moved")
    slides.mkdir()
    for file in moved.iterdir():
        (slides / file.name).symlink_to(file)
    assert again().counts["tiles"] == 0
    assert times_of(out) == before


def test_lost_parts_are_made_again_on_the_grid_that_is_there(out, again, assert_plain):
    before = times_of(out, "grids", "thumbnails")
    (out / "activations/slide=a/000001.parquet").unlink()
    (out / "activations/slide=b/000000.parquet").write_bytes(b"PAR1 no more")
    report = again()
    assert 18 <= report.counts["tiles"] <= 30
    assert times_of(out, "grids", "thumbnails") == before
    assert_plain(out)


def test_a_broken_or_lost_grid_is_made_anew(out, again, assert_plain):
    grid, picture = (
        out / name
        for name in ("grids/slide=a/000000.parquet", "thumbnails/slide=a/grid.jpg")
    )
    torn = bytearray(grid.read_bytes())
    torn[40:60] = bytes(20)
    for harm in (
        lambda: grid.write_bytes(b"PAR1 no more"),
        lambda: grid.write_bytes(torn),
        grid.unlink,
        picture.unlink,
    ):
        harm()
        (out / "activations/slide=a/000001.parquet").unlink()
        kept = times_of(out, "activations")
        report = again()
        assert not report.failed
        assert report.slides[0].left_out
        after = times_of(out, "activations")
        assert {name: after[name] for name in kept} == kept
        assert picture.exists()
    assert_plain(out)


def test_a_grid_that_breaks_while_units_are_read_leaves_them_undone(
    out, again, monkeypatch, assert_plain
):
    from raylatent.engine import activations

    make_plan = activations.make_plan
    (out / "activations/slide=a/000001.parquet").unlink()

    def plan_then_harm(*arguments):
        plan = make_plan(*arguments)
        (out / "grids/slide=a/000000.parquet").write_bytes(b"PAR1 no more")
        return plan

    with monkeypatch.context() as patch:
        patch.setattr(activations, "make_plan", plan_then_harm)
        (failed,) = again().failed
    assert failed.slide == "a"
    assert not again().failed
    assert_plain(out)


def test_tissue_is_looked_for_once(tmp_path, made, monkeypatch):
    run = RunDirectory(str(tmp_path / "run"))
    looked = []
    detect = whole_slides.detect_tiles
    monkeypatch.setattr(
        whole_slides,
        "detect_tiles",
        lambda *arguments: looked.append(1) or detect(*arguments),
    )

    def index(**tissue):
        tiles = TileOptions(tile_px=96, tile_um="48")
        request = SlideRequest(
            uri=str(made / "a.tif"), tiles=tiles, tissue=TissueOptions(**tissue)
        )
        return whole_slides.index_slide(run, "a", request, 12)

    first = index()
    assert index() == first
    assert len(looked) == 1
    assert sum(unit.count for unit in first[1]) == first[0].n_indexed == N["a"]
    index(filter_threshold=0.5)  # another grid
    assert len(looked) == 2


@pytest.mark.parametrize("before", [False, True])
def test_a_picture_whose_grid_was_never_written_goes_with_the_slide(
    tmp_path, made, monkeypatch, before
):
    run = RunDirectory(str(tmp_path / "run"))
    path = tmp_path / "a.tif"
    shutil.copy(made / "a.tif", path)
    request = SlideRequest(
        uri=str(path),
        tiles=TileOptions(tile_px=96, tile_um="48"),
        tissue=TissueOptions(),
    )

    def killed(*arguments):
        raise KeyboardInterrupt

    if before:  # it was another slide
        whole_slides.index_slide(run, "a", request, 12)
        os.utime(path, ns=(7, 7))
    with monkeypatch.context() as patch:
        patch.setattr(whole_slides, "write_part", killed)
        with pytest.raises(KeyboardInterrupt):
            whole_slides.index_slide(run, "a", request, 12)
    assert run.store.list("thumbnails")
    path.write_bytes(b"no slide")
    source, units = whole_slides.index_slide(run, "a", request, 12)
    assert source.error
    assert not units
    assert run.store.list("thumbnails") == run.store.list("grids") == []


def test_the_report_is_that_of_the_whole_run(out, again, slides):
    before = json.loads((out / "report.json").read_text())
    again()
    after = json.loads((out / "report.json").read_text())
    assert after["this_invocation"]["tiles"] == 0
    own = {"this_invocation", "digest"}
    assert {k: v for k, v in after.items() if k not in own} == {
        k: v for k, v in before.items() if k not in own
    }
    assert set(after["by_slide"][0]["left_out"]) <= {"otsu", "gray"}
