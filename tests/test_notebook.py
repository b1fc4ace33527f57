"""What handles show of themselves in a notebook, and the page of a map."""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from raylatent import notebook
from raylatent.dataset_features import DatasetFeatures
from raylatent.errors import MapError
from raylatent.explorer.named_regions import put_regions
from raylatent.explorer.polygon import read_polygons
from raylatent.mosaic import Mosaic
from raylatent.slide_map import SlideMap
from raylatent.slide_map_page import Page
from raylatent.source.wsi import WSI
from raylatent.stored.map_points import StoredPoints
from tests.explorer.selected_runs import SLIDES, mapped_run, regions_file


@pytest.fixture
def run(tmp_path):
    return mapped_run(tmp_path / "run")[0]


@pytest.fixture
def slide_map(run):
    return SlideMap.load(f"{run.uri}/maps/default")


def picture_of(text):
    """The picture in some HTML, which is all markup but the text it is to have."""
    found = re.findall(
        r'<img alt="" src="data:image/(?:png|jpeg);base64,([^"]*)">', text
    )
    return Image.open(io.BytesIO(base64.b64decode(found[0]))) if found else None


def test_features_tell_slides_tiles_and_layers(run):
    text = DatasetFeatures.open(run.uri)._repr_html_()
    assert "a&#x27;b&lt;script&gt;&quot;&amp;=%20 ü" in text
    assert "<script" not in text
    assert f"<th>tiles</th><td>{sum(SLIDES.values())}</td>" in text
    assert picture_of(text) is None


def test_a_map_shows_itself_and_is_not_read_for_it(slide_map, run):
    Image.new("RGB", (3000, 1000), "red").save(f"{run.uri}/maps/default/umap.png")
    text = slide_map._repr_html_()
    assert not slide_map._is_read()
    assert picture_of(text).size == (notebook.MOST_PX, round(notebook.MOST_PX / 3))
    assert "<script" not in text
    slide_map.label_by_slide()  # which that picture does not show
    assert picture_of(slide_map._repr_html_()).width != notebook.MOST_PX


def test_a_large_map_without_a_picture_is_a_table(slide_map, monkeypatch):
    monkeypatch.setattr("raylatent.slide_map_page.MAX_DOTS", 99)
    text = slide_map._repr_html_()
    assert "<th>tiles</th><td>100</td>" in text
    assert picture_of(text) is None
    assert not slide_map._is_read()


def test_a_mosaic_shows_itself_and_counts():
    images = [np.full((8, 8, 3), 9 * i, np.uint8) for i in range(20)]
    xy = np.random.default_rng(0).normal(size=(20, 2))
    made = Mosaic(images, xy, labels=["<b>", "c"] * 10)
    text = made._repr_html_()
    assert made.summary() in text
    assert "another" in text  # what frames say
    assert 0 < max(picture_of(text).size) <= notebook.MOST_PX
    assert repr(made) == f"Mosaic({made.summary()})"


def test_what_goes_wrong_is_told_and_not_raised(slide_map, monkeypatch):
    places = {slide: f"/nowhere/{i}.tfrecords" for i, slide in enumerate(SLIDES)}
    mosaic = slide_map.generate_mosaic(num_tiles_x=5, tfrecords=places)
    text = mosaic._repr_html_()
    assert "<th>not shown</th><td>none of the mosaic&#x27;s" in text
    monkeypatch.setattr("raylatent.mosaic._MOST_SHOWN", 1)
    assert "not shown" not in mosaic._repr_html_()
    slide_map._stored.store.delete("map.json")
    assert "not shown" in slide_map._repr_html_()


def test_texts_are_bounded_and_escaped():
    long = notebook.card("x", lambda: {"<i>": "y" * 10_000 + "\udcff"})
    assert len(long) < 1_000
    assert "<i>" not in long
    long.encode()


def test_a_slide_shows_its_tiles(large_slide):
    wsi = WSI(large_slide, tile_px=96, tile_um=96, mpp=1.0)
    text = wsi._repr_html_()
    assert "3,000 x 2,200 px, 1 µm a pixel" in text
    assert picture_of(text).size == (notebook.MOST_PX, 587)


@pytest.fixture
def written(monkeypatch):
    """What pages were asked to be; each is an index and explorer.json."""
    asked = []

    def build(run, folder, wanted):
        from raylatent.storage import Store

        asked.append((folder, wanted))
        points = StoredPoints(f"{run.uri}/maps/{wanted.map}", run)
        told = {
            "maps": [{"digest": points.info["digest"]}],
            "request": wanted.request(points.store),
            "failed": 0,
        }
        Store(folder).write("explorer.json", json.dumps(told).encode())
        for name in ("index.html", "data/meta.js"):
            Store(folder).write(name, b"")
        return told

    monkeypatch.setattr("raylatent.engine.explore.build_explorer", build)
    return asked


def test_a_page_is_written_once(slide_map, run, written):
    page = slide_map.explore(show=False)
    assert repr(page) == f"open file://{run.uri}/explorer/default/index.html"
    assert slide_map.explore(show=False).path == page.path
    assert len(slide_map.data) == 100  # which is no reason to write it again
    slide_map.explore(show=False)
    assert [folder for folder, _ in written] == [f"{run.uri}/explorer/default"]
    slide_map.explore(show=False, anew=True)
    assert [wanted.label for _, wanted in written] == [None, None]
    for _ in range(2):
        slide_map.explore(show=False, max_size="1GB")
    assert [wanted.max_bytes for _, wanted in written] == [2 * 10**9, 2 * 10**9, 10**9]


def test_a_page_has_the_labels_of_the_map(slide_map, run, written, tmp_path):
    labels = dict.fromkeys(SLIDES, "tumor")
    slide_map.label_by_slide(labels)
    slide_map.explore(show=False)
    label = written[0][1].label
    assert set(label(slide_map.points).to_pylist()) == {"tumor"}
    regions = regions_file(tmp_path / "r.json", run, left=[[[-9, -9], [0, -9], [0, 9]]])
    stored = StoredPoints(f"{run.uri}/maps/default", run)
    put_regions(stored, read_polygons(str(regions)), str(regions))
    named = SlideMap.load(f"{run.uri}/maps/default")
    named.explore(show=False, anew=True)
    assert written[1][1].label_column == "region"
    assert set(written[1][1].label(named.points).to_pylist()) == {"left", None}


def test_annotations_go_with_the_page(slide_map, written, tmp_path):
    table = tmp_path / "a.csv"
    table.write_text("slide,age,patient\n007,40,x\n=2+b,50,y\n", "utf-8")
    slide_map.explore(annotations=table, show=False)
    found = written[0][1].annotations
    assert found["=2+b"] == {"age": "50", "patient": "y"}


def test_what_has_no_page_is_refused(slide_map, written):
    with pytest.raises(MapError, match=r"SlideMap\.load"):
        SlideMap.from_xy([0.0], [0.0], ["a"]).explore()
    slide_map.data["label"] = np.arange(100)
    with pytest.raises(MapError, match="raylatent label"):
        slide_map.explore()
    slide_map.filter(["007"])
    with pytest.raises(MapError, match=r"SlideMap\.load"):
        slide_map.explore()
    assert written == []


def test_a_page_shows_its_coarsest_picture_and_where_it_is(tmp_path, monkeypatch):
    for level, names in ((9, ["0_0"]), (10, ["0_0"]), (11, ["0_0", "1_0"])):
        folder = tmp_path / "mosaic_files" / str(level)
        folder.mkdir(parents=True)
        for name in names:
            Image.new("RGB", (1 << level, 1 << level)).save(folder / f"{name}.jpg")
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    page = Page(str(tmp_path / "index.html")).show()
    assert not opened
    monkeypatch.setenv("DISPLAY", ":0")
    page.show()
    assert opened == [(tmp_path / "index.html").as_uri()]
    text = page._repr_html_()
    assert opened[0] in text
    assert picture_of(text).size == (notebook.MOST_PX, notebook.MOST_PX)
