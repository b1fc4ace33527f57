"""The page in a real browser, opened from a disk as by a double click.

Debian's chromium, by Playwright: `apt-get install chromium`. Without it the tests are
skipped with the reason; where CI is set they fail.
"""

import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from raylatent.explorer.polygon import Polygon
from tests.browser.conftest import LEVELS
from tests.browser.made_folder import (
    made_points,
    slide_names,
    tile_color,
    write_folder,
)

pytestmark = pytest.mark.slow


def cells_of(made: SimpleNamespace, level: int) -> npt.NDArray[np.int64]:
    """Row and column of each point at a level, (n, 2)."""
    (x0, y0), side = made.meta["map"]["lower"], made.meta["map"]["side"]
    grid = 8 * 2**level
    places = np.stack([made.points["y"], made.points["x"]], axis=1).astype(np.float64)
    shares = (places - [y0, x0]) / side
    return np.minimum(grid - 1, np.floor(shares * grid)).astype(np.int64)


def look_at(page: Any, level: int, row: int, col: int) -> None:
    """Brings a cell to the middle of the view, as large as its picture."""
    page.evaluate(
        """([level, row, col]) => {
          const { now, page, geometry } = raylatent;
          const grid = geometry.gridOf(level);
          now.view = { ...now.view, x: (col + 0.5) / grid, y: (row + 0.5) / grid,
            scale: 90 * grid };
          page.changed();
        }""",
        [level, row, col],
    )


def wait_for_color(page: Any, place: tuple[float, float], color: Any) -> None:
    """Waits until the map has a color beside a place, where no tip lies."""
    seen = None
    for _ in range(40):
        shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        seen = np.array(shot.getpixel((int(place[0]) - 15, int(place[1]) - 15)))
        if np.abs(seen - color).max() < 12:
            return
        page.wait_for_timeout(100)
    pytest.fail(f"{seen} is not {color}")


@pytest.mark.parametrize("level", range(LEVELS))
def test_a_click_opens_the_cell_whose_tile_is_shown(
    page: Any,
    made: SimpleNamespace,
    level: int,
) -> None:
    own = cells_of(made, level)
    rng = np.random.default_rng(level)
    names = slide_names(10)
    for point in rng.choice(len(own), 8, replace=False):
        row, col = own[point].tolist()
        members = np.flatnonzero((own == own[point]).all(axis=1))
        first = members[0]
        slide, tile = (int(made.points[name][first]) for name in ("slide", "tile"))
        page.keyboard.press("Escape")
        look_at(page, level, row, col)
        box = page.locator("#map").bounding_box()
        middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        wait_for_color(page, middle, tile_color(slide, tile))
        page.mouse.click(*middle)
        page.wait_for_selector(
            f'#panel[data-level="{level}"][data-row="{row}"][data-col="{col}"]'
        )
        panel = page.locator("#panel")
        assert panel.get_attribute("data-slide") == names[slide]
        assert panel.get_attribute("data-tile") == str(tile)
        assert panel.get_attribute("data-n") == str(len(members))


@pytest.mark.parametrize("level", range(LEVELS))
def test_any_cell_tells_what_parquet_would(
    page: Any, made: SimpleNamespace, level: int
) -> None:
    own = cells_of(made, level)
    rng = np.random.default_rng(level)
    chosen = own[rng.choice(len(own), 200)].tolist()
    told = page.evaluate(
        """async ([level, cells]) => {
          const told = [];
          for (const [row, col] of cells) {
            const { block, i } = await raylatent.cells.find({ level, row, col });
            told.push(["slide", "tile", "loc_x", "loc_y", "x", "y", "tiles", "slides",
              "count_0", "count_1", "novelty"].map((name) => block[name][i]));
          }
          return told;
        }""",
        [level, chosen],
    )
    for cell, values in zip(chosen, told, strict=True):
        members = np.flatnonzero((own == cell).all(axis=1))
        first = [
            made.points[k][members[0]] for k in ("slide", "tile", "loc_x", "loc_y")
        ]
        assert values[:4] == first
        assert values[4:6] == [float(made.points[k][members[0]]) for k in "xy"]
        slides = len(np.unique(made.points["slide"][members]))
        labels = np.bincount(made.points["label"][members], minlength=2)
        assert values[6:10] == [len(members), slides, *labels]
        assert values[10] == pytest.approx(made.points["novelty"][members].mean())


def test_every_tile_is_reached_by_a_cell_and_its_list(
    page: Any, made: SimpleNamespace
) -> None:
    own = cells_of(made, LEVELS - 1)
    names = slide_names(10)
    rng = np.random.default_rng(5)
    for point in rng.choice(len(own), 40, replace=False):
        row, col = own[point].tolist()
        page.evaluate(
            "([level, row, col]) => raylatent.page.open({ level, row, col })",
            [LEVELS - 1, row, col],
        )
        page.wait_for_selector(f'#panel[data-row="{row}"][data-col="{col}"]')
        page.get_by_role("button", name="List the tiles of this cell").click()
        page.wait_for_selector("ol.tiles li")
        listed = page.locator("ol.tiles button").evaluate_all(
            "all => all.map((b) => [b.dataset.slide, Number(b.dataset.tile)])"
        )
        slide, tile = (int(made.points[name][point]) for name in ("slide", "tile"))
        assert [names[slide], tile] in listed


def even_odd(rings: list[Any], points: dict[str, Any]) -> npt.NDArray[np.bool_]:
    """Which points are inside, (n,), by the formula of the contract."""
    x, y = points["x"].astype(np.float64), points["y"].astype(np.float64)
    odd = np.zeros(len(x), bool)
    for ring in rings:
        for (x1, y1), (x2, y2) in zip(ring, [*ring[1:], ring[0]], strict=True):
            crosses = (y1 > y) != (y2 > y)
            with np.errstate(divide="ignore", invalid="ignore"):
                odd ^= crosses & (x < (x2 - x1) * (y - y1) / (y2 - y1) + x1)
    return odd


def test_polygons_have_the_members_that_numpy_finds(
    page: Any,
    made: SimpleNamespace,
) -> None:
    rng = np.random.default_rng(11)
    names = slide_names(10)
    for _ in range(50):
        n_rings = int(rng.integers(1, 4))
        rings = [
            rng.normal(0, 4, (int(rng.integers(3, 12)), 2)).tolist()
            for _ in range(n_rings)
        ]
        told = page.evaluate("rings => raylatent.select(rings)", rings)
        inside = np.flatnonzero(even_odd(rings, made.points))
        own = Polygon(tuple(tuple(map(tuple, ring)) for ring in rings), "")
        xy = np.stack([made.points["x"], made.points["y"]], axis=1)
        assert np.array_equal(inside, np.flatnonzero(own.inside(xy)))
        expected = [
            [names[made.points["slide"][i]], int(made.points["tile"][i])]
            for i in inside
        ]
        assert told["n"] == len(expected)
        assert told["exact"] is True
        assert told["rows"] == sorted(expected)


def test_what_is_outside_of_all_rings_turns_grey(page: Any) -> None:
    # Two squares in the upper left, where no tile is, and places in and beside them.
    page.evaluate(
        """async () => {
          const { camera, now } = raylatent;
          const at = (px, py) => {
            const [x, y] = camera.toShare(now.view, px, py);
            const { x0, y0, side } = now.frame;
            return [x0 + x * side, y0 + y * side];
          };
          const square = (px) => [[0, 0], [60, 0], [60, 60], [0, 60]].map(
            ([dx, dy]) => at(px + dx, 10 + dy));
          await raylatent.select([square(10), square(110)]);
        }"""
    )
    page.wait_for_timeout(400)
    box = page.locator("#map").bounding_box()
    shot = Image.open(io.BytesIO(page.screenshot())).convert("L")
    seen = [
        shot.getpixel((int(box["x"]) + x, int(box["y"]) + y))
        for x, y in (
            *((20, 20), (60, 60), (60, 20), (20, 60), (120, 20), (160, 60)),
            *((90, 40), (40, 90)),
        )
    ]
    assert seen[:6] == [255] * 6
    assert max(seen[6:]) < 240


def test_a_selection_is_saved_as_csv(page: Any) -> None:
    told = page.evaluate("raylatent.select([[-9, -9], [0, -9], [0, 9], [-9, 9]])")
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV", exact=True).click()
    lines = Path(download.value.path()).read_text().strip().splitlines()
    assert len(lines) == told["n"] + 1
    assert lines[0].startswith("slide,tile_index,loc_x,loc_y,x,y")


def test_the_keyboard_alone_opens_and_selects(page: Any) -> None:
    page.locator("#map").focus()
    page.keyboard.press("b")
    page.keyboard.press(" ")
    for _ in range(4):
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowUp")
    page.keyboard.press(" ")
    page.wait_for_selector("#selected-n")
    assert int(page.locator("#selected-n").get_attribute("data-n")) > 0
    page.keyboard.press("Control+a")
    page.keyboard.press("0")
    for _ in range(3):
        page.keyboard.press("+")
    # Escape closes, and leaves the selection; Delete clears it.
    page.keyboard.press("Escape")
    page.wait_for_selector("#selected-n")
    page.keyboard.press("Delete")
    assert page.locator("#selected").inner_text() == "Nothing is selected."


def test_an_address_brings_the_view_back(
    page: Any,
    made: SimpleNamespace,
) -> None:
    page.evaluate("raylatent.select([[-4, -2], [0, -2], [0, 2], [-4, 2]])")
    page.locator("#by").select_option("slide")
    look_at(page, 2, 10, 9)
    page.wait_for_timeout(500)
    sent = page.url
    assert "by=slide" in sent
    page.goto("about:blank")
    page.goto(sent)
    page.wait_for_selector('body[data-ready="1"]')
    page.wait_for_selector("#selected-n")
    assert page.locator("#by").input_value() == "slide"
    view = page.evaluate("raylatent.now.view")
    assert view["x"] == pytest.approx(9.5 / 32)


def test_another_address_changes_the_view_and_keeps_what_was_named(page: Any) -> None:
    page.evaluate(
        """async () => {
          await raylatent.select([[-4, -2], [0, -2], [0, 2], [-4, 2]]);
          raylatent.selection.name([{ name: "mine", rings: raylatent.now.rings }]);
          location.hash = "#map=umap&at=0.25,0.5,4000&by=slide&show=points&labels=1";
        }"""
    )
    page.wait_for_selector("text=Nothing is selected.")
    page.wait_for_timeout(400)
    assert page.locator("#by").input_value() == "slide"
    assert not page.locator("#show-pictures").is_checked()
    assert page.locator("#show-points").is_checked()
    view = page.evaluate("raylatent.now.view")
    assert [view["x"], view["y"], view["scale"]] == [0.25, 0.5, 4000]
    assert page.evaluate("[...raylatent.now.labels]") == [1]
    assert page.get_by_role("button", name="mine").count() == 1


def test_the_policy_lets_nothing_out(chromium: Any, made: SimpleNamespace) -> None:
    page = chromium.new_page()
    page.goto((made.folder / "index.html").as_uri())
    page.wait_for_selector('body[data-ready="1"]')
    refused = page.evaluate(
        """async () => {
          const seen = [];
          document.addEventListener("securitypolicyviolation",
            (event) => seen.push(event.effectiveDirective));
          const image = new Image();
          image.src = "http://127.0.0.1:9/x.png";
          const fetched = await fetch("http://127.0.0.1:9/").then(() => "sent", () => "refused");
          await new Promise((done) => setTimeout(done, 300));
          return [fetched, ...seen.sort()];
        }"""
    )
    page.close()
    assert refused == ["refused", "connect-src", "img-src"]


def test_the_whole_map_fills_the_view_and_an_empty_place_shows_the_way_back(
    page: Any,
) -> None:
    box = page.evaluate("raylatent.camera.boxOf(raylatent.now.view)")
    left, bottom, right, top = page.evaluate("raylatent.now.view.box")
    assert box[0] <= left < right <= box[2]
    assert box[1] <= bottom < top <= box[3]
    shares = (right - left) / (box[2] - box[0]), (top - bottom) / (box[3] - box[1])
    assert max(shares) > 0.8
    assert page.locator("#overview").is_hidden()
    page.evaluate(
        """() => {
          const { now, page } = raylatent;
          const [left, , , top] = now.view.box;
          now.view = { ...now.view, x: left + 0.02, y: top - 0.02, scale: 40000 };
          page.changed();
        }"""
    )
    page.wait_for_selector("#overview:not([hidden])")
    page.get_by_role("button", name="show the whole map").click()
    page.wait_for_selector("#nearest", state="hidden")
    page.wait_for_timeout(300)
    assert page.evaluate("raylatent.draw.seen.cells") > 0
    page.locator("#closer").click(click_count=3)
    page.wait_for_selector("#overview:not([hidden])")
    at = page.locator("#overview").bounding_box()
    page.mouse.click(at["x"] + at["width"] / 4, at["y"] + at["height"] / 2)
    x = page.evaluate("raylatent.now.view.x")
    assert x == pytest.approx(0.25, abs=0.02)


def test_a_tile_is_drawn_at_its_own_size_where_it_is_large_enough(
    opened: Callable[[Path], Any], tmp_path: Path
) -> None:
    points = made_points(400)
    write_folder(tmp_path / "umap", points, levels=1)
    page = opened(tmp_path / "umap")
    stored = "/tiles/0/0.jpg"
    assert not any(url.endswith(stored) for url in page.asked)
    page.evaluate(
        """async () => {
          const { now, page } = raylatent;
          const block = await now.store.load("cells/0/0");
          now.view = { ...now.view, x: (block.col[0] + 0.5) / 8,
            y: (block.row[0] + 0.5) / 8, scale: 8 * 300 };
          page.changed();
        }"""
    )
    page.wait_for_timeout(500)
    assert any(url.endswith(stored) for url in page.asked)
    slide, tile = page.evaluate(
        """async () => {
          const block = await raylatent.now.store.load("cells/0/0");
          return [block.slide[0], block.tile[0]];
        }"""
    )
    box = page.locator("#map").bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    wait_for_color(page, middle, tile_color(slide, tile))


def test_similar_cells_are_ringed_and_listed(page: Any, made: SimpleNamespace) -> None:
    level, pairs = made.meta["similar"], made.meta["made_similar"]
    cell, others = next(iter(pairs.items()))
    grid = 8 * 2**level
    page.evaluate(
        "([level, row, col]) => raylatent.page.open({ level, row, col })",
        [level, *divmod(cell, grid)],
    )
    page.get_by_role("button", name="Find similar cells").click()
    page.wait_for_selector("ol.similar li")
    listed = page.locator("ol.similar button").evaluate_all(
        "all => all.map((b) => [Number(b.dataset.row), Number(b.dataset.col)])"
    )
    assert listed == [list(divmod(other, grid)) for other in others]
    page.locator("ol.similar button").first.click()
    row, col = divmod(others[0], grid)
    page.wait_for_selector(f'#panel[data-row="{row}"][data-col="{col}"]')


def test_labels_of_tiles_and_named_selections_are_compared_by_slide(page: Any) -> None:
    page.evaluate(
        """() => {
          raylatent.now.meta.labels.of = "tile";
          raylatent.selection.name([
            { name: "left <i>", rings: [[[-99, -99], [0, -99], [0, 99], [-99, 99]]] }]);
        }"""
    )
    page.get_by_text("Contrast of two groups").click()
    page.locator("#contrast-column").select_option("region")
    page.locator("#contrast-b").select_option("-1")
    page.locator("#contrast-level").select_option("0")
    assert "all others" in page.locator("#contrast-b").inner_text()
    page.locator("#contrast-go").click()
    page.wait_for_selector("#contrast-told table")
    told = page.locator("#contrast-told p").inner_text()
    assert "tested by slides: 10 left <i>, 10 all others, 10 in both" in told
    found = page.evaluate(
        """() => {
          const { cells, level } = raylatent.now.contrast;
          const grid = raylatent.geometry.gridOf(level);
          const { x0, side } = raylatent.now.frame;
          const middle = grid * (0 - x0) / side;
          return cells.map(({ cell, difference, q }) =>
            [Math.sign(difference), cell % grid - middle, q]);
        }"""
    )
    assert all(sign > 0 for sign, away, _ in found if away < -1)
    assert all(sign < 0 for sign, away, _ in found if away > 1)
    assert sum(q < 0.05 for _, _, q in found) > 10
    # The labels are those of slides: no slide has both, and they are tested as slides.
    page.locator("#contrast-column").select_option("label")
    page.locator("#contrast-go").click()
    page.wait_for_selector("text=tested by slides: 5 LUAD, 5 LUSC <b>&.")
