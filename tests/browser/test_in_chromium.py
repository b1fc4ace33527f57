"""The page in a real browser, opened from a disk as by a double click.

Debian's chromium, by Playwright: `apt-get install chromium`, `pip install playwright`.
Without them the tests are skipped with the reason; where CI is set they fail.
"""

import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from tests.browser.made_folder import made_points, slide_names, tile_color, write_folder

pytestmark = pytest.mark.slow

WITHOUT_GPU = ["--disable-webgl", "--disable-3d-apis"]
LEVELS = 4
LOCAL = ("file:", "data:", "blob:")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A folder with known tiles, and its points."""
    folder = tmp_path_factory.mktemp("explorer") / "umap"
    points = made_points()
    meta = write_folder(folder, points, levels=LEVELS)
    return SimpleNamespace(folder=folder, points=points, meta=meta)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Debian's chromium without WebGL, closed at the end."""
    where = shutil.which("chromium")
    required = bool(os.environ.get("CI"))
    if where is None and not required:
        pytest.skip("chromium is not installed")
    assert where is not None, "chromium is not installed"
    if not required:
        pytest.importorskip("playwright.sync_api")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=where, args=WITHOUT_GPU)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Any, made: SimpleNamespace) -> Iterator[Any]:
    """The page when it is ready; nothing but files may be asked for, nothing be said."""
    context = chromium.new_context(viewport={"width": 1300, "height": 900})
    page = context.new_page()
    asked: list[str] = []
    said: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto((made.folder / "index.html").as_uri())
    # Under the page's policy `wait_for_function` would be refused now and then.
    page.wait_for_selector('body[data-ready="1"]')
    yield page
    context.close()
    assert not [url for url in asked if not url.startswith(LOCAL)]
    assert not said


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
    raise AssertionError(f"{seen} is not {color}")


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
        expected = [
            [names[made.points["slide"][i]], int(made.points["tile"][i])]
            for i in inside
        ]
        assert told["n"] == len(expected)
        assert told["exact"] is True
        assert told["rows"] == sorted(expected)


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
    page.keyboard.press("Escape")
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
