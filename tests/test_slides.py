"""Whole slides through the front doors: command line, project, public names."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import raylatent as sf
from raylatent import cli
from raylatent.errors import ConfigError, IncompleteError, MissingMPPError

pytestmark = pytest.mark.ray

CMU, TCGA = "CMU-1-Small-Region", "TCGA-CR-7395-01A-01-TS1"
DAPI, DICOM = "stritt-test3-DAPI-2-387", "dicom-camelyon-lowres-jpeg"


@pytest.fixture(scope="session")
def slides(test_data):
    return test_data / "data" / "slides"


@pytest.fixture(scope="module")
def atlas(ray_session, small_model, slides, test_data, tmp_path_factory):
    """The whole job on real slides, the broken ones among them: exit code and folder."""
    out = tmp_path_factory.mktemp("atlas") / "run"
    folders = [slides, test_data / "data" / "broken"]
    argv = ["atlas", "--slides", *folders, "--model", small_model]
    argv += ["--tile-px", 224, "--tile-um", 112, "--mpp", 0.5]
    argv += ["--n-neighbors", 10, "--num-tiles-x", 10, "--out", out]
    return cli.main([str(part) for part in argv]), out


def size_of(picture):
    with Image.open(picture) as image:
        return image.size


def test_what_can_be_done_is_mapped_and_drawn(atlas):
    code, out = atlas
    assert code == 1  # some slides fail
    rows = sf.read(out).to_table(columns=["slide"])["slide"].value_counts().to_pylist()
    assert {row["values"]: row["counts"] for row in rows} == {
        CMU: 45,
        TCGA: 192,
        DAPI: 72,
    }
    for picture in ("maps/default/umap.png", "mosaics/default/mosaic.png"):
        assert min(size_of(out / picture)) > 100
    cells = pq.read_table(out / "mosaics/default/cells.parquet")
    assert cells["n"].to_numpy().sum() == 309
    assert cells["offset"].null_count == len(cells)


def test_what_cannot_be_done_is_named_with_its_reason(atlas):
    report = json.loads((atlas[1] / "report.json").read_text())
    failed = report["failed"]
    assert set(failed) == {DICOM, "histolab-broken", "openslide-unreadable"}
    assert "--allow-upsampling" in failed[DICOM]
    assert "28.97" in failed[DICOM]
    assert "cannot be opened" in failed["histolab-broken"]
    assert "cannot be read" in failed["openslide-unreadable"]
    page = (atlas[1] / "slides.html").read_text()
    assert all(name in page for name in (CMU, TCGA, DAPI, *failed))


def test_what_was_left_out_is_counted(atlas):
    report = json.loads((atlas[1] / "report.json").read_text())
    by_slide = {slide["slide"]: slide for slide in report["by_slide"]}
    grid = pq.ParquetFile(atlas[1] / f"grids/slide={CMU}/000000.parquet").read()
    assert len(grid) == 13 * 9
    assert sum(by_slide[CMU]["left_out"].values()) == 13 * 9 - 45
    assert by_slide[CMU]["left_out"]["otsu"] > 0
    odd = {name: row["remarks"] for name, row in by_slide.items() if "remarks" in row}
    assert set(odd) == {DAPI}
    assert any("looks like fluorescence" in remark for remark in odd[DAPI])
    assert max(size_of(atlas[1] / f"thumbnails/slide={CMU}/grid.jpg")) == 1024


def test_the_plan_says_how_large_tiles_are(atlas):
    plan = pq.read_table(atlas[1] / "sources.parquet").to_pylist()
    found = {row["slide"]: row for row in plan}
    assert found[CMU]["window_px"] == 224
    assert found[CMU]["mpp"] == 0.499
    assert found[CMU]["tile_um"] == pytest.approx(224 * 0.499)
    assert found[TCGA]["mpp"] == 0.5
    assert found[DICOM]["n_indexed"] == 0
    assert DICOM in found[DICOM]["error"]


def test_a_slide_without_mpp_says_what_to_do(slides):
    with pytest.raises(MissingMPPError, match=r"--mpp.*annotations"):
        sf.WSI(slides / f"{TCGA}.svs", 224, 112)


def test_slides_need_a_size(small_model, slides, tmp_path, capsys):
    argv = ["atlas", "--slides", slides, "--model", small_model, "--out", tmp_path]
    assert cli.main([str(part) for part in argv]) == 2
    assert "--tile-um" in capsys.readouterr().err


@pytest.fixture
def project(slides, tmp_path):
    """A project with two slides and no TFRecord."""
    folder = tmp_path / "project"
    (folder / "slides").mkdir(parents=True)
    for name in (CMU, TCGA):
        (folder / "slides" / f"{name}.svs").symlink_to(slides / f"{name}.svs")
    (folder / "annotations.csv").write_text(f"slide,site,mpp\n{CMU},a,\n{TCGA},b,0.5\n")
    return sf.Project(folder)


def test_a_project_of_slides(ray_session, project, small_model):
    dataset = project.dataset(tile_px=96, tile_um=192)
    assert dataset.slides() == [CMU, TCGA]
    assert dataset.tfrecords() == []
    assert len(dataset.slide_paths()) == 2
    features = project.generate_features(small_model, dataset)
    wsi = sf.WSI(dataset.slide_paths()[1], 96, 192, mpp=0.5)
    wsi.qc("otsu")
    wsi.filter()
    np.testing.assert_array_equal(features.locations[TCGA], wsi.locations)
    filtered = dataset.filter({"site": "a"})
    assert filtered.slide_paths() == dataset.slide_paths()[:1]


def test_a_project_extracts_its_slides(ray_session, project, small_model):
    cut = project.dataset(tile_px=96, tile_um=192)
    straight = project.generate_features(small_model, cut)
    extracted = project.extract_tiles(96, 192, img_format="png")
    assert len(extracted.tfrecords()) == 2
    again = project.generate_features(small_model, project.dataset(96, 192))
    for slide in (CMU, TCGA):
        np.testing.assert_allclose(
            again.activations[slide], straight.activations[slide], atol=1e-4
        )
        np.testing.assert_array_equal(again.locations[slide], straight.locations[slide])


def test_a_project_says_which_slide_fails(ray_session, project):
    with pytest.raises(IncompleteError, match=TCGA):
        project.extract_tiles(96, 192, annotations="")
    with pytest.raises(ConfigError, match="--img-format"):
        project.extract_tiles(96, 192, img_format="gif")
