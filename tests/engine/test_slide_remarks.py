"""What is odd about whole slides is said before the work, and stays in the report."""

import logging
from dataclasses import replace

import pytest

from raylatent.engine.report import say_remarks, slide_remarks
from raylatent.run import RunDirectory
from raylatent.source.tissue import TissueOptions
from raylatent.source.whole_slides import SlideRequest, index_slide
from raylatent.source.wsi import TileOptions
from tests.engine import slide_files


@pytest.fixture
def run(tmp_path):
    return RunDirectory(str(tmp_path / "run"), writer="me")


def request_of(path, *, qc="otsu", **tiles):
    return SlideRequest(
        uri=str(path),
        tiles=TileOptions(tile_px=96, tile_um=48, **tiles),
        tissue=TissueOptions(qc=qc),
    )


@pytest.fixture
def slides(tmp_path):
    """Stained tissue, and one channel of fluorescence."""
    bright = slide_files.write_slide(tmp_path / "bright.tif")
    pixels = slide_files.fluorescence(0)
    dark = slide_files.write_slide(tmp_path / "dark.tif", pixels=pixels)
    return {"bright": request_of(bright), "dark": request_of(dark)}


def index(run, slides):
    return {slide: index_slide(run, slide, one, 20)[0] for slide, one in slides.items()}


def test_fluorescence_is_said_again_and_again_unless_all_tiles_are_wanted(run, slides):
    sources = index(run, slides)
    assert not any(source.error for source in sources.values())
    found = slide_remarks(run, slides)
    assert list(found) == ["dark"]
    (said,) = found["dark"]
    assert said.startswith("slide 'dark' looks like fluorescence")
    assert "--qc otsu tells tissue on bright glass only" in said
    index(run, slides)  # its grid is there already
    assert slide_remarks(run, slides) == found
    whole = {
        name: replace(s, tissue=TissueOptions(qc="none")) for name, s in slides.items()
    }
    assert index(run, whole)["dark"].n_indexed == 12 * 15
    assert not slide_remarks(run, whole)


def test_lines_of_very_many_slides_are_cut_short(run, slides, caplog, monkeypatch):
    index(run, slides)
    odd = replace(slides["bright"], tiles=replace(slides["bright"].tiles, mpp=0.25))
    requests = {"bright": odd, "missing": slides["bright"]}
    with caplog.at_level(logging.WARNING):
        found = say_remarks(run, requests)
    assert list(found) == ["bright"]
    assert [record.getMessage() for record in caplog.records] == found["bright"]
    assert "not --mpp 0.25" in found["bright"][0]
    monkeypatch.setattr("raylatent.engine.report._SHOWN", 0)
    assert say_remarks(run, requests) == found
    assert caplog.messages[-1] == "and 1 more such lines, see report.json"
