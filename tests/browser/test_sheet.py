"""The sheet of slides: which slides the tiles of a selection or a cell lie on, and where."""

import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.browser.made_folder import slide_names
from tests.browser.test_in_chromium import cells_of

pytestmark = pytest.mark.slow

HALF = [[-99, -99], [0, -99], [0, 99], [-99, 99]]


def shown(page: Any) -> dict[str, int]:
    """Tiles by slide, as the open sheet has them."""
    page.wait_for_selector("#sheet[open]")
    cards = page.locator("#sheet-slides li")
    return {
        cards.nth(i).get_attribute("data-slide"): int(
            cards.nth(i).get_attribute("data-n")
        )
        for i in range(cards.count())
    }


def counted(made: SimpleNamespace, inside: Any) -> dict[str, int]:
    """Tiles by slide among the points of a mask."""
    names = slide_names(10)
    slides, counts = np.unique(made.points["slide"][inside], return_counts=True)
    return {names[s]: n for s, n in zip(slides, counts.tolist(), strict=True)}


def test_a_selection_lies_on_its_slides(page: Any, made: SimpleNamespace) -> None:
    page.evaluate("rings => raylatent.select(rings)", HALF)
    page.get_by_role("button", name="Where on the slides").click()
    expected = counted(made, made.points["x"] < 0)
    found = shown(page)
    assert found == expected
    assert list(found.values()) == sorted(found.values(), reverse=True)
    n = sum(expected.values())
    told = page.locator("#sheet-told").text_content()
    assert told.startswith(f"Selected: {n:,} tiles of {len(expected)} slides")
    page.keyboard.press("Escape")
    assert page.locator("#sheet[open]").count() == 0


def test_a_tile_is_drawn_at_its_place(page: Any, made: SimpleNamespace) -> None:
    """One tile is selected: the others' places on its slide keep the slide's color."""
    points = made.points
    x, y = (float(points[name][0]) for name in ("x", "y"))
    near = 1e-4
    ring = [[x - near, y - near], [x + near, y - near], [x + near, y + near]]
    ring.append([x - near, y + near])
    told = page.evaluate("ring => raylatent.select(ring)", ring)
    assert told["n"] == 1
    page.get_by_role("button", name="Where on the slides").click()
    page.wait_for_selector("#sheet[open]")
    shot = page.locator("#sheet-slides canvas").screenshot()
    pixels = np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(int)
    inner = pixels[1:-1, 1:-1]  # the element may end within a pixel
    rows, cols = np.nonzero(np.abs(inner - inner[80, 110]).max(axis=2) > 24)
    middle = np.array([cols.mean(), rows.mean()]) + 1
    scale = pixels.shape[1] / 20_000
    own = np.array([points["loc_x"][0], points["loc_y"][0]]) * scale
    assert np.abs(middle - own).max() < 2


def test_without_selection_the_filter_chooses(page: Any, made: SimpleNamespace) -> None:
    page.get_by_role("button", name="Where on the slides").click()
    assert shown(page) == counted(made, slice(None))
    page.keyboard.press("Escape")
    page.evaluate("raylatent.cells.filter(new Set([0]), null)")
    page.get_by_role("button", name="Where on the slides").click()
    page.locator("#sheet-told", has_text="What the filter leaves").wait_for()
    assert shown(page) == counted(made, made.points["label"] == 0)


def test_a_cell_lies_on_its_slides(page: Any, made: SimpleNamespace) -> None:
    own = cells_of(made, 1)
    row, col = own[0].tolist()
    page.evaluate(f"raylatent.page.open({{ level: 1, row: {row}, col: {col} }})")
    page.locator("#panel").get_by_role("button", name="Where on the slides").click()
    assert shown(page) == counted(made, (own == own[0]).all(axis=1))
