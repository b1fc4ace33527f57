"""Mouse and fingers on the map, and the slide that a server shows."""

import io
import json
import mimetypes
import re
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from raylatent.explorer.polygon import Polygon
from tests.browser.made_folder import slide_names

pytestmark = pytest.mark.slow

SERVED = "http://localhost:9/"
SLIDE_SIDE = 16_384
SLIDE_LEVELS = 15
SLIDE_TILE = 254


def middle_of(page: Any) -> tuple[float, float]:
    """The middle of the map on the screen."""
    box = page.locator("#map").bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def drag(page: Any, *corners: tuple[float, float], button: str = "left") -> None:
    """Drags from a corner over the others, given from the middle of the map."""
    x, y = middle_of(page)
    page.mouse.move(x + corners[0][0], y + corners[0][1])
    page.mouse.down(button=button)
    for dx, dy in corners[1:]:
        page.mouse.move(x + dx, y + dy, steps=12)
    page.mouse.up(button=button)


def n_inside(rings: Any, points: dict[str, Any]) -> int:
    """How many points are in rings, as `raylatent select` finds them."""
    own = Polygon(tuple(tuple(map(tuple, ring)) for ring in rings), "")
    return int(own.inside(np.stack([points["x"], points["y"]], axis=1)).sum())


def test_a_lasso_and_a_box_by_the_mouse_select_what_lies_in_them(
    page: Any, made: SimpleNamespace
) -> None:
    page.locator("#lasso").click()
    drag(page, (-200, -100), (0, -200), (150, 0), (0, 200), (-200, 100), button="right")
    assert page.evaluate("raylatent.now.rings") == []
    drag(page, (-200, -100), (0, -200), (150, 0), (0, 200), (-200, 100))
    page.wait_for_selector("#selected-n")
    rings = page.evaluate("raylatent.now.rings")
    assert len(rings) == 1
    assert len(rings[0]) > 30
    n = int(page.locator("#selected-n").get_attribute("data-n"))
    assert n == n_inside(rings, made.points) > 100
    assert page.evaluate("raylatent.now.mode") == "move"
    # A box with Shift is added; where both lie the tiles go out again.
    page.locator("#box").click()
    page.keyboard.down("Shift")
    drag(page, (-100, -50), (300, 50))
    page.keyboard.up("Shift")
    page.wait_for_selector(f'#selected-n:not([data-n="{n}"])')
    rings = page.evaluate("raylatent.now.rings")
    assert [len(ring) > 4 for ring in rings] == [True, False]
    both = int(page.locator("#selected-n").get_attribute("data-n"))
    assert both == n_inside(rings, made.points) != n
    # What a filter hides is counted too, and that is said.
    page.evaluate("raylatent.cells.filter({ labels: new Set([1]) })")
    page.evaluate("raylatent.select(raylatent.now.rings)")
    told = page.locator("#selected").inner_text()
    assert told.startswith(f"{both:,} tiles")
    assert "the filter hides are counted too" in told


def test_a_drag_moves_and_the_wheel_zooms_where_it_points(page: Any) -> None:
    at = "([x, y]) => raylatent.camera.toShare(raylatent.now.view, x, y)"
    before = page.evaluate("raylatent.now.view")
    place = page.evaluate(at, [200, 150])
    box = page.locator("#map").bounding_box()
    page.mouse.move(box["x"] + 200, box["y"] + 150)
    for _ in range(4):
        page.mouse.wheel(0, -150)
    page.wait_for_timeout(300)
    assert page.evaluate("raylatent.now.view.scale") > 3 * before["scale"]
    assert page.evaluate(at, [200, 150]) == pytest.approx(place, abs=0.002)
    place = page.evaluate(at, [400, 300])
    page.mouse.move(box["x"] + 400, box["y"] + 300)
    page.mouse.down()
    page.mouse.move(box["x"] + 430, box["y"] + 280, steps=5)
    page.mouse.up()
    assert page.evaluate(at, [430, 280]) == pytest.approx(place, abs=0.002)
    assert page.locator("#panel").is_hidden()
    page.locator("#whole").click()
    assert page.evaluate("raylatent.now.view.scale") == pytest.approx(before["scale"])


def test_two_fingers_zoom_around_their_middle(page: Any) -> None:
    box = page.locator("#map").bounding_box()
    x, y = box["x"] + 300, box["y"] + 300
    session = page.context.new_cdp_session(page)
    at = "([x, y]) => raylatent.camera.toShare(raylatent.now.view, x, y)"
    place, scale = (
        page.evaluate(at, [300, 300]),
        page.evaluate("raylatent.now.view.scale"),
    )

    def touch(kind: str, *apart: int) -> None:
        points = [{"x": x + d, "y": y, "id": i} for i, d in enumerate(apart)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", -50, 50)
    for d in range(60, 160, 10):
        touch("touchMove", -d, d)
    touch("touchEnd")
    page.wait_for_timeout(200)
    assert page.evaluate("raylatent.now.view.scale") == pytest.approx(
        3 * scale, rel=0.1
    )
    assert page.evaluate(at, [300, 300]) == pytest.approx(place, abs=0.01)
    assert page.locator("#panel").is_hidden()


def test_hovering_tells_the_slide_and_the_label(page: Any) -> None:
    x, y, told = page.evaluate(
        """async () => {
          const { camera, cells, draw, geometry, now } = raylatent;
          const level = draw.cellLevel();
          const block = await now.store.load(`cells/${level}/0`);
          const grid = geometry.gridOf(level);
          const at = camera.toScreen(now.view, (block.col[0] + 0.5) / grid,
            (block.row[0] + 0.5) / grid);
          return [...at, `${now.meta.slides[block.slide[0]].name}, ` +
            `${now.meta.labels.names[block.label[0]]}: ${block.tiles[0]} tile`];
        }"""
    )
    box = page.locator("#map").bounding_box()
    page.mouse.move(box["x"] + x, box["y"] + y)
    page.wait_for_selector("#tip:not([hidden])")
    assert page.locator("#tip").inner_text().startswith(told)
    page.mouse.move(box["x"] + box["width"] + 50, box["y"] + 50)
    page.wait_for_selector("#tip", state="hidden")


@pytest.fixture
def served(chromium: Any, made: SimpleNamespace) -> Iterator[Callable[[], Any]]:
    """Opens the page as `raylatent serve` shows it; `asked` has what it asked for."""
    context = chromium.new_context(viewport={"width": 1300, "height": 900})
    asked: list[str] = []

    def answer(route: Any) -> None:
        path = route.request.url.removeprefix(SERVED).split("?")[0]
        asked.append(path)
        facts = {"width": SLIDE_SIDE, "height": SLIDE_SIDE, "tile": SLIDE_TILE}
        if path == "server.js":
            route.fulfill(body='"use strict"; window.raylatentServer = {};')
        elif re.fullmatch(r"slide/\d+\.json", path):
            about = facts | {"levels": SLIDE_LEVELS, "overlap": 1}
            route.fulfill(body=json.dumps(about), content_type="application/json")
        elif path.startswith("slide/"):
            drawn = io.BytesIO()
            Image.new("RGB", (256, 256), (10, 160, 60)).save(drawn, "JPEG")
            route.fulfill(body=drawn.getvalue(), content_type="image/jpeg")
        elif (file := made.folder / path).is_file():
            kind = mimetypes.guess_type(file.name)[0]
            route.fulfill(body=file.read_bytes(), content_type=kind)
        else:
            route.fulfill(status=404, body="")

    def opened() -> Any:
        page = context.new_page()
        page.asked = asked
        page.route(f"{SERVED}**", answer)
        page.goto(f"{SERVED}index.html")
        page.wait_for_selector('body[data-ready="1"]')
        return page

    yield opened
    context.close()


def seen_on(page: Any) -> tuple[int, int, int]:
    """The color in the slide's canvas, beside the frame of the tile."""
    found = page.evaluate(
        """() => [...document.querySelector("#slide canvas").getContext("2d")
          .getImageData(20, 20, 1, 1).data].slice(0, 3)"""
    )
    return tuple(found)


def test_the_slide_opens_at_the_tile_moves_and_zooms(
    served: Callable[[], Any], made: SimpleNamespace
) -> None:
    page = served()
    page.evaluate("raylatent.select([[-99, -99], [99, -99], [99, 99], [-99, 99]])")
    page.evaluate("raylatent.page.open({ level: 1, row: 8, col: 8 })")
    page.get_by_role("button", name="Open the slide here").click()
    page.wait_for_selector("#slide[open] canvas")
    slide = page.locator("#panel").get_attribute("data-slide")
    assert page.locator("#slide h2").inner_text() == slide
    number = slide_names(10).index(slide)
    assert f"slide/{number}.json" in page.asked
    page.wait_for_timeout(500)
    assert np.abs(np.subtract(seen_on(page), (10, 160, 60))).max() < 8
    # At half of the size: the level below the finest, where the tile is.
    tile = int(page.locator("#panel").get_attribute("data-tile"))
    own = np.flatnonzero(
        (made.points["slide"] == number) & (made.points["tile"] == tile)
    )
    x, y = (int(made.points[name][own[0]]) for name in ("loc_x", "loc_y"))
    side = 2 * SLIDE_TILE
    half = f"slide/{number}/{SLIDE_LEVELS - 2}/{x // side}_{y // side}.jpg"
    assert half in page.asked
    finest = f"slide/{number}/{SLIDE_LEVELS - 1}/"
    assert not any(path.startswith(finest) for path in page.asked)
    # The wheel comes closer, to the finest level; a drag moves to its neighbors.
    box = page.locator("#slide canvas").bounding_box()
    page.mouse.move(box["x"] + 300, box["y"] + 300)
    for _ in range(3):
        page.mouse.wheel(0, -150)
    page.wait_for_timeout(300)
    assert any(path.startswith(finest) for path in page.asked)
    n = len(set(page.asked))
    for _ in range(3):
        page.mouse.move(box["x"] + 300, box["y"] + 300)
        page.mouse.down()
        page.mouse.move(box["x"] + 900, box["y"] + 300, steps=8)
        page.mouse.up()
    page.wait_for_timeout(300)
    assert len(set(page.asked)) > n
    # By keys, and out; then nothing of it is asked for any more.
    page.locator("#slide canvas").focus()
    for key in ("ArrowDown", "ArrowDown", "-", "+"):
        page.keyboard.press(key)
    page.keyboard.press("Escape")
    page.wait_for_selector("#slide", state="hidden")
    asked = [path for path in page.asked if path.startswith("slide/")]
    page.evaluate("raylatent.page.changed()")
    page.wait_for_timeout(200)
    assert [path for path in page.asked if path.startswith("slide/")] == asked
