"""Slides that cannot be opened, lack mpp, are torn or coarse: named, the others done."""

import json

import numpy as np
import pytest

from raylatent import cli, schema
from raylatent.errors import IncompleteError
from raylatent.model.features import Features
from raylatent.run import RunDirectory
from tests.engine import slide_files
from tests.source.scanner_slides import break_svs, write_dicom, write_svs

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("in_process")]

TILE = ["--tile-um", "48", "--unit-tiles", "20"]


@pytest.fixture(scope="module")
def plain(small_model):
    """plain(path, source): rows and quarantine by the plain loop."""
    features = Features(small_model, include_preds=True, device="cpu")

    def rows(path, source=0, **options):
        wsi = slide_files.plain_slide(path, **options)
        return slide_files.plain_rows(features, wsi, source)

    return rows


@pytest.fixture
def slides(tmp_path):
    """One that is well, and each way not to be."""
    folder = tmp_path / "slides"
    folder.mkdir()
    slide_files.write_slide(folder / "well.tif", 1)
    slide_files.write_slide(folder / "coarse.tif", 2, mpp=1, width=800, height=700)
    slide_files.write_slide(folder / "nobody.tif", 3, mpp=None, width=900, height=800)
    slide_files.write_slide(folder / "pale.tif", color=slide_files.PALE, grain=0)
    (folder / "no slide.svs").write_bytes(b"II*\0 no slide at all" * 50)
    return folder


@pytest.fixture
def run(small_model, slides, tmp_path, capfd):
    """The command on these slides: exit code, stdout, stderr, report.json."""

    def command(*more, verb="activations"):
        out = tmp_path / "run"
        model = ["--model", small_model]
        argv = [verb, *model, "--slides", slides, *TILE, "--out", out, *more]
        code = cli.main([str(part) for part in argv])
        said = capfd.readouterr()
        return code, said.out, said.err, json.loads((out / "report.json").read_text())

    return command


def source_of(out, slide):
    rows = RunDirectory.open(str(out)).sources().drop_columns(["mtime"]).to_pylist()
    (found,) = [row for row in rows if row["slide"] == slide]
    return found


def test_each_is_named_with_its_reason_and_the_others_are_done(
    tmp_path, slides, run, plain, assert_rows
):
    out = tmp_path / "run"
    code, printed, complaints, report = run()
    assert code == 1
    assert "Traceback" not in printed + complaints
    reasons = {
        "coarse": "its finest level has 1 µm a pixel, 2 times coarser than the 0.5",
        "no slide": "slide no slide cannot be opened",
        "nobody": "does not say how many µm a pixel is: give --mpp",
    }
    assert set(report["failed"]) == set(reasons)
    for slide, reason in reasons.items():
        assert reason in report["failed"][slide]
        assert any(
            f"slide {slide!r} failed" in line and reason in line
            for line in complaints.splitlines()
        )
        assert reason in source_of(out, slide)["error"]
    assert set(report["without_tiles"]) == {*reasons, "pale"}
    assert "no tiles  pale" in printed
    assert "no tiles  coarse" not in printed
    by_slide = {row["slide"]: row for row in report["by_slide"]}
    assert sum(by_slide["pale"]["left_out"].values()) == 12 * 15
    assert set(by_slide["pale"]["left_out"]) == {"otsu", "gray"}
    assert "left_out" not in by_slide["no slide"]

    number = source_of(out, "well")["source"]
    assert_rows(out, {"well": plain(slides / "well.tif", number)})


def test_mpp_of_all_mends_only_a_slide_that_does_not_say(
    tmp_path, slides, run, plain, assert_rows
):
    out = tmp_path / "run"
    n_before = run()[3]["rows"]
    code, _, complaints, report = run("--mpp", "0.4")
    assert code == 1  # for the others
    assert set(report["failed"]) == {"coarse", "no slide"}
    assert source_of(out, "well")["mpp"] == 0.5
    # Why it is not used there, with what would be.
    said = "slide 'well': its file says 0.5 µm a pixel, which is used, not --mpp 0.4"
    assert f"{said}, which is for slides that do not say: a column mpp" in complaints
    (well,) = [row for row in report["by_slide"] if row["slide"] == "well"]
    assert [remark.startswith(said) for remark in well["remarks"]] == [True]
    assert said in (out / "slides.html").read_text().replace("&#x27;", "'")
    nobody = source_of(out, "nobody")
    assert (nobody["mpp"], nobody["window_px"]) == (0.4, 120)
    assert nobody["tile_um"] == pytest.approx(48)
    n_new = report["rows"] - n_before
    assert report["this_invocation"]["tiles"] == n_new == nobody["n_indexed"] > 0
    number = {name: source_of(out, name)["source"] for name in ("nobody", "well")}
    assert_rows(
        out,
        {
            "nobody": plain(slides / "nobody.tif", number["nobody"], mpp=0.4),
            "well": plain(slides / "well.tif", number["well"]),
        },
    )


def test_mpp_of_one_slide_overrules_its_file_and_does_its_rows_again(
    tmp_path, slides, run, plain, assert_rows
):
    out = tmp_path / "run"
    run()
    csv = tmp_path / "annotations.csv"
    csv.write_text("slide,mpp,label\nnobody,0.4,x\nwell,0.25,y\npale,,z\n")
    code, _, complaints, report = run("--annotations", csv, "--mpp", "0.5")
    assert code == 1
    assert set(report["failed"]) == {"coarse", "no slide"}
    assert "colors nothing" not in complaints
    said = "slide 'well': its file says 0.5 µm a pixel, you say 0.25 of this slide"
    assert complaints.count(said) == 1
    assert "slide 'pale': its" not in complaints
    found = {name: source_of(out, name) for name in ("nobody", "well")}
    assert {name: (row["mpp"], row["window_px"]) for name, row in found.items()} == {
        "nobody": (0.4, 120),
        "well": (0.25, 192),
    }
    done = sum(row["n_indexed"] for row in found.values())
    assert report["this_invocation"]["tiles"] == done == report["rows"]
    assert_rows(
        out,
        {
            name: plain(slides / f"{name}.tif", row["source"], mpp=row["mpp"])
            for name, row in found.items()
        },
    )
    # The same again does nothing, and still reports it; without it the file's counts.
    report = run("--annotations", csv, "--mpp", "0.5")[3]
    assert report["this_invocation"]["tiles"] == 0
    assert sum("remarks" in row for row in report["by_slide"]) == 1
    report = run("--mpp", "0.4")[3]
    assert source_of(out, "well")["mpp"] == 0.5
    assert source_of(out, "well")["n_indexed"] == report["this_invocation"]["tiles"]


def test_sizes_that_cannot_be_fail_their_slide_until_they_are_overruled(
    tmp_path, slides, run
):
    for name in ("coarse.tif", "no slide.svs", "nobody.tif", "pale.tif"):
        (slides / name).unlink()
    out = tmp_path / "run"
    slide_files.write_slide(slides / "mm.tif", 4, mpp=0.0005, width=900, height=800)
    path = slide_files.write_slide(slides / "flat.tif", 5, width=900, height=800)
    dots = path.read_bytes().count((20_000).to_bytes(4, "little"))
    assert dots  # the resolution along x comes first
    first, rest = path.read_bytes().split((20_000).to_bytes(4, "little"), 1)
    path.write_bytes(first + (40_000).to_bytes(4, "little") + rest)
    code, _, _, report = run()
    assert code == 1
    assert set(report["failed"]) == {"mm", "flat"}
    mm, flat = report["failed"]["mm"], report["failed"]["flat"]
    assert "its file says 0.0005 µm a pixel, that cannot be, it looks like" in mm
    assert "0.0005 millimeters: 0.5 µm" in mm
    assert "pixels are not square, 0.25 µm along x and 0.5 along y" in flat
    assert all("a column mpp of --annotations" in said for said in (mm, flat))
    csv = tmp_path / "annotations.csv"
    csv.write_text("slide,mpp\nmm,0.5\nflat,0.5\n")
    code, _, complaints, report = run("--annotations", csv)
    assert code == 0
    assert "'mm': its file says 0.0005 µm a pixel, you say 0.5" in complaints
    assert "'flat': its file says 0.25 µm along x and 0.5 along y, you" in complaints
    assert {source_of(out, name)["mpp"] for name in ("mm", "flat")} == {0.5}


def test_a_coarse_slide_is_taken_on_demand(tmp_path, slides, run, plain, assert_rows):
    code, _, _, report = run("--allow-upsampling")
    assert code == 1
    assert "coarse" not in report["failed"]
    number = source_of(tmp_path / "run", "coarse")["source"]
    rows = plain(slides / "coarse.tif", number, allow_upsampling=True)
    assert_rows(tmp_path / "run", {"coarse": rows})


def test_a_run_whose_every_slide_fails_is_an_error(
    tmp_path, slides, compute_slides, small_model, capfd
):
    bad = [slides / "no slide.svs", slides / "nobody.tif"]
    with pytest.raises(
        IncompleteError,
        match=r"no tile .* cannot be opened.*; slide nobody does not say how many",
    ):
        compute_slides(tmp_path / "run", bad)
    assert not (tmp_path / "run/claim.json").exists()
    argv = ["--slides", *bad, *TILE, "--model", small_model, "--out", tmp_path / "run"]
    assert cli.main(["activations", *map(str, argv), "--unit-tiles", "20"]) == 1
    assert "no tile to work on" in capfd.readouterr().err
    with pytest.raises(IncompleteError, match="no slide has any"):
        compute_slides(tmp_path / "pale", [slides / "pale.tif"])


@pytest.mark.parametrize(
    ("how", "stage"),
    [
        ((True, 4, 7), "decode"),
        ((True, 4, 5), "read"),  # where it is looked at which reader may be used
        ((False, 4, 7), "read"),
    ],
)
def test_of_a_torn_slide_only_the_tiles_are_lost_that_touch_the_tear(
    tmp_path, plain, compute_slides, assert_rows, how, stage
):
    jpeg, row, col = how
    path = slide_files.write_slide(tmp_path / "torn.tif", 1, jpeg=jpeg)
    slide_files.harm(path, row=row, col=col)
    wsi = slide_files.plain_slide(path)
    assert wsi.handle.reader == ("jpeg-tiff" if stage == "decode" else "openslide")
    report = compute_slides(tmp_path / "run", [path])
    assert not report.failed  # up to ten are no failure
    rows, quarantine = plain(path)
    assert_rows(tmp_path / "run", {"torn": (rows, quarantine)})
    assert set(quarantine[schema.STAGE].to_pylist()) == {stage}
    (reason,) = report.slides[0].reasons
    assert "broken" in reason

    corners = wsi.coord[wsi.grid.reshape(-1)][:, :2]
    low, side = np.array([col, row]) * slide_files.SIDE, slide_files.SIDE
    touching = ((corners < low + side) & (corners + 96 > low)).all(axis=1)
    assert 4 <= touching.sum() <= 9
    assert (
        quarantine[schema.TILE_INDEX].to_pylist() == np.flatnonzero(touching).tolist()
    )
    assert report.n_rows == len(corners) - touching.sum()

    assert compute_slides(tmp_path / "run", [path]).counts["tiles"] == 0


def test_a_slide_that_changes_while_it_is_read_is_left_undone(
    tmp_path, slides, compute_slides, monkeypatch
):
    from raylatent.engine import activations

    out, make_plan = tmp_path / "run", activations.make_plan

    def plan_then_harm(*arguments):
        plan = make_plan(*arguments)
        slide_files.write_slide(slides / "well.tif", 5)
        return plan

    with monkeypatch.context() as patch:
        patch.setattr(activations, "make_plan", plan_then_harm)
        report = compute_slides(out, [slides / "well.tif"])
    assert report.n_rows == 0
    assert "has changed since it was indexed: run again" in report.failed[0].error
    again = compute_slides(out, [slides / "well.tif"])
    assert not again.failed
    assert again.n_rows == slide_files.plain_slide(slides / "well.tif").num_tiles


def test_scanners_slides_that_are_broken_or_lack_mpp_do_not_keep_the_others_from_being_done(
    tmp_path, compute_slides
):
    folder, pixels = tmp_path / "scanners", slide_files.tissue(1)
    folder.mkdir()
    write_svs(folder / "whole.svs", pixels)
    write_svs(folder / "nobody.svs", pixels, mpp=None, jpeg2000=True)
    write_dicom(folder / "coarse", pixels, mpp=28.97)
    break_svs(write_svs(folder / "broken.svs", pixels[:600, :600], shrinks=()))
    content = (folder / "whole.svs").read_bytes()
    (folder / "cut off.svs").write_bytes(content[:1000])
    report = compute_slides(tmp_path / "run", [folder])
    found = {slide.slide: slide for slide in report.slides}
    assert found["whole"].error is None
    assert found["whole"].rows == found["whole"].n_indexed > 20
    reasons = {
        "nobody": "does not say how many µm a pixel is",
        "coarse": "28.97 µm a pixel",
        "cut off": "cannot be opened",
        "broken": "cannot be read: broken region",
    }
    for slide, reason in reasons.items():
        assert reason in found[slide].error
    assert {slide.slide for slide in report.failed} == set(reasons)
