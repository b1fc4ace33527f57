"""Where on their slides tiles lie: the squares, the sheet, the verb and the handle."""

import io
import json

import numpy as np
import pyarrow.compute as pc
import pytest
from PIL import Image

from raylatent import cli, schema, slide_map_page
from raylatent.errors import MapError
from raylatent.explorer import on_slides
from raylatent.explorer.on_slides import CARD_PX, Card, Sheet, SlidePicture, drawn
from raylatent.mapping.labels import OKABE_ITO, category_colors
from raylatent.parts import write_part
from raylatent.slide_map import SlideMap
from tests.explorer.explored_runs import explored, run_of_slides
from tests.explorer.selected_runs import (
    SLIDES,
    SQUARE,
    inside_of,
    mapped_run,
    polygon_file,
    regions_file,
)

BLUE = OKABE_ITO[0]


def jpeg(width, height):
    data = io.BytesIO()
    Image.new("RGB", (width, height), "white").save(data, "JPEG")
    return data.getvalue()


def opened(data):
    return Image.open(io.BytesIO(data))


def is_blue(picture):
    """Where a picture has the color of tiles: red goes first on a white ground."""
    pixels = np.asarray(picture).astype(int)
    return pixels[..., 2] - pixels[..., 0] > 25


def test_a_tile_is_a_square_around_its_place():
    slide = SlidePicture(size=(2400, 1200), jpeg=jpeg(240, 120))
    found = is_blue(drawn(slide, np.array([[1000, 300]]), 200, [BLUE]))
    rows, cols = np.nonzero(found)
    # The slide is in the middle of the card: 60 pixels of the card are above it.
    assert (cols.min(), cols.max() + 1) == (90, 110)
    assert (rows.min(), rows.max() + 1) == (60 + 20, 60 + 40)
    assert found.sum() == 20 * 20


def test_a_small_tile_is_still_seen():
    slide = SlidePicture(size=(240_000, 240_000), jpeg=jpeg(10, 10))
    found = is_blue(drawn(slide, np.array([[120_000, 120_000]]), 200, [BLUE]))
    assert found.sum() == 9
    assert found[119:122, 118:122].any()


def test_without_a_picture_the_tiles_fill_the_card():
    places = np.array([[5000, 9000], [5900, 9000], [5000, 9400]])
    rows, cols = np.nonzero(is_blue(drawn(None, places, 100, [BLUE] * 3)))
    assert cols.max() - cols.min() > 0.8 * CARD_PX
    assert 0.3 * CARD_PX < rows.max() - rows.min() < 0.6 * CARD_PX


def test_a_sheet_says_which_slides_it_does_not_show(monkeypatch):
    sheet = Sheet()
    for number in range(250):
        color = (number, 0, 0)
        image = Image.new("RGB", (CARD_PX, CARD_PX), color)
        sheet.add(Card(slide=f"s{number}", n=number + 1, image=image))
    written = []
    real = on_slides.add_caption

    def spied(picture, *args, **about):
        written.append(about.get("title") or about["remark"])
        return real(picture, *args, **about)

    monkeypatch.setattr(on_slides, "add_caption", spied)
    picture = sheet.picture([])
    assert (sheet.n_tiles, sheet.n_slides) == (250 * 251 // 2, 250)
    assert written[0] == "s249: 250 tiles"
    assert written[99] == "s150: 151 tiles"
    assert (
        written[100] == "Tiles: 31,375, slides: 250; the 100 slides with most of them"
    )
    assert picture.getpixel((20, 60)) == (249, 0, 0)


def test_the_verb_and_the_handle_draw_the_members(tmp_path):
    run, points = run_of_slides(tmp_path, SLIDES)
    side = 50 + max(
        pc.max(table[name]).as_py()
        for table in points.values()
        for name in (schema.LOC_X, schema.LOC_Y)
    )
    for slide in SLIDES:
        made = {
            schema.FOOTER_GRID: json.dumps(
                {"geometry": {"width": side, "height": side}}
            )
        }
        write_part(run.store, run.grid_part(slide), schema.GRID.empty_table(), made)
    polygon = polygon_file(tmp_path / "p.json", run)
    argv = ["select", run.uri, str(polygon), "--to", "slides", "--out"]
    assert cli.main([*argv, str(tmp_path / "out")]) == 0
    expected = inside_of(points)
    assert {path.stem for path in (tmp_path / "out/slides").iterdir()} == {
        slide for slide, _ in expected
    }
    slide_map = SlideMap.load(f"{run.uri}/maps/default")
    inside = slide_map.inside(polygon)
    own = slide_map.data[inside]
    assert sorted(zip(own["slide"], own["tile_index"], strict=True)) == sorted(
        (slide, row["tile_index"]) for slide, row in expected
    )
    with Image.open(tmp_path / "out/sheet.png") as sheet:
        assert np.array_equal(sheet, slide_map.on_slides(inside))
        assert is_blue(sheet).any()
    by_rows = slide_map.on_slides(np.flatnonzero(inside))
    assert np.array_equal(by_rows, slide_map.on_slides(inside))


def test_regions_have_the_colors_of_their_names(tmp_path):
    run, _ = mapped_run(tmp_path / "run", window_px=20)
    left = [[-9, -9], [0, -9], [0, 9], [-9, 9]]
    right = [[0, -9], [9, -9], [9, 9], [0, 9]]
    regions = regions_file(tmp_path / "r.json", run, left=[left], right=[right])
    argv = ["select", run.uri, str(regions), "--to", "slides", "--out"]
    assert cli.main([*argv, str(tmp_path / "out")]) == 0
    sheet = np.asarray(Image.open(tmp_path / "out/sheet.png")).reshape(-1, 3)
    for color in category_colors(2):  # in the legend as they are
        assert (sheet == tuple(bytes.fromhex(color[1:]))).all(axis=1).any()


def test_labels_of_a_handle_are_its_colors_and_no_run_is_refused(tmp_path):
    run, points = mapped_run(tmp_path / "run", window_px=20)
    slide_map = SlideMap.load(f"{run.uri}/maps/default")
    numbers = np.arange(len(slide_map)) / 7
    for labels in (np.where(numbers > 5, "a", "b"), numbers):
        slide_map.data["label"] = labels
        assert slide_map.on_slides().width > CARD_PX
    slide = next(iter(SLIDES))
    own = points[slide]
    alone = SlideMap.from_xy(
        own["x"].to_numpy(),
        own["y"].to_numpy(),
        [slide] * len(own),
        own[schema.TILE_INDEX].to_numpy(),
    )
    with pytest.raises(MapError, match="no run"):
        alone.on_slides()
    assert alone.inside(polygon_file(tmp_path / "p.json", run, [SQUARE])).any()


def test_pages_have_small_pictures_of_slides_and_count_them(
    tmp_path, monkeypatch, caplog
):
    run, _ = run_of_slides(tmp_path, dict.fromkeys("abc", 9))
    rng, data = np.random.default_rng(0), io.BytesIO()
    noise = rng.integers(0, 255, (600, 1200, 3), np.uint8)
    Image.fromarray(noise).save(data, "JPEG", quality=90)
    for slide in "ab":
        run.store.write(run.thumbnail(slide), data.getvalue())
    run.store.write(run.thumbnail("c"), b"no picture")
    facts = explored(run, tmp_path / "page", monkeypatch, max_size="100KB")
    files = sorted((tmp_path / "page/slides").iterdir())
    assert [opened(file.read_bytes()).size for file in files] == [(512, 256)] * 2
    n_bytes = sum(file.stat().st_size for file in files)
    assert 1e6 + n_bytes < facts["bytes"]["forecast"] < 1.1e6 + n_bytes
    assert "picture of slide c cannot be read and is left out" in caplog.text
    assert "more than --max-size of 0.1 MB" in caplog.text
    assert f"which take {n_bytes / 1e6:.1f} MB" in caplog.text


def test_only_slides_of_the_sheet_are_drawn(tmp_path, monkeypatch):
    run, _ = mapped_run(tmp_path / "run", {"a": 9, "b": 30, "c": 20}, window_px=20)
    slide_map = SlideMap.load(f"{run.uri}/maps/default")
    whole = slide_map.on_slides()
    made, written = [], []
    for name, calls in (("card_of", made), ("Sheet", written)):
        real = getattr(slide_map_page, name)

        def spied(*args, real=real, calls=calls):
            calls.append(real(*args))
            return calls[-1]

        monkeypatch.setattr(slide_map_page, name, spied)
    assert np.array_equal(slide_map.on_slides(), whole)
    monkeypatch.setattr(slide_map_page, "MOST_CARDS", 2)
    made.clear()
    slide_map.on_slides()
    assert [(card.slide, card.n) for card in made] == [("b", 30), ("c", 20)]
    assert (written[-1].n_tiles, written[-1].n_slides) == (59, 3)
    slide_map.on_slides([])
    assert (written[-1].n_tiles, written[-1].n_slides) == (0, 0)
    with pytest.raises(IndexError):
        slide_map.on_slides([True, False])
