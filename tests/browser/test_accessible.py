"""The page for those who see little, or use no mouse."""

import io
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import found
from tests.browser.made_folder import slide_names

pytestmark = pytest.mark.slow

AXE = "axe-core@4.14.1"


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of axe-core: of the file in RAYLATENT_AXE, or by npm."""
    given = os.environ.get("RAYLATENT_AXE")
    if given:
        return Path(given).read_text()
    folder = tmp_path_factory.mktemp("axe")
    got = subprocess.run(  # noqa: S603
        [found("npm"), "pack", "--silent", AXE],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if got.returncode != 0:
        missing = f"npm does not give {AXE}, and RAYLATENT_AXE is not set: {got.stderr}"
        assert not os.environ.get("CI"), missing
        pytest.skip(missing)
    data = next(folder.glob("*.tgz")).read_bytes()
    with tarfile.open(fileobj=io.BytesIO(data)) as packed:
        source = packed.extractfile("package/axe.min.js")
        assert source is not None
        return source.read().decode()


@pytest.mark.parametrize("width", [1300, 400])
def test_axe_finds_no_serious_fault(page: Any, axe: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.evaluate("raylatent.select([[-9, -9], [0, -9], [0, 9], [-9, 9]])")
    page.evaluate(
        """() => {
          raylatent.selection.name([{ name: "left", rings: raylatent.now.rings }]);
          for (const one of document.querySelectorAll("details")) one.open = true;
          raylatent.page.open({ level: 1, row: 6, col: 6 });
        }"""
    )
    page.wait_for_selector("#panel:not([hidden])")
    page.locator("#contrast-go").click()
    page.wait_for_selector("#contrast-told table")
    page.evaluate(axe)
    faults = page.evaluate(
        """async () => (await axe.run({ preload: false })).violations.map((one) =>
          [one.impact, one.id, ...one.nodes.map((node) => node.target.join(" "))])"""
    )
    serious = [one for one in faults if one[0] in ("serious", "critical")]
    assert not serious


def tab_to(page: Any, selector: str) -> None:
    """Presses Tab until an element has the focus."""
    for _ in range(120):
        page.keyboard.press("Tab")
        if page.evaluate("(s) => document.activeElement.matches(s)", selector):
            return
    pytest.fail(f"Tab does not come to {selector}")


def test_the_keyboard_alone_opens_a_cell_and_a_tile_of_its_list(page: Any) -> None:
    press = page.keyboard.press
    # To a cell with tiles, and into it.
    tab_to(page, "#map")
    for _ in range(3):
        press("+")
    for key in ("ArrowLeft", "ArrowLeft", "Shift+ArrowLeft", "Shift+ArrowDown"):
        press(key)
    assert page.evaluate("raylatent.now.view.scale") > 2_000
    press("0")
    press("Enter")
    page.wait_for_selector("#panel:not([hidden])")
    slide = page.locator("#panel").get_attribute("data-slide")
    assert slide in slide_names(10)
    # Its list, a tile of it, and out.
    tab_to(page, "#panel-body button:not(#similar)")
    press("Enter")
    page.wait_for_selector("ol.tiles li")
    page.locator("#panel-close").focus()
    tab_to(page, "ol.tiles button")
    press("Enter")
    page.wait_for_timeout(200)
    assert page.evaluate("raylatent.now.marked") is not None
    press("Escape")
    assert page.locator("#panel").is_hidden()
    assert page.evaluate("document.activeElement.id") == "map"


def test_the_keyboard_alone_selects_and_saves(page: Any) -> None:
    press = page.keyboard.press
    tab_to(page, "#map")
    # A lasso of three corners, and a box that is added.
    press("l")
    for key in ("ArrowLeft", "ArrowUp", "ArrowRight"):
        press(" ")
        for _ in range(3):
            press(key)
    press("Enter")
    page.wait_for_selector("#selected-n")
    press("b")
    press(" ")
    for _ in range(5):
        press("ArrowRight")
        press("ArrowDown")
    press("Shift+ ")
    page.wait_for_timeout(300)
    assert len(page.evaluate("raylatent.now.rings")) == 2
    # A file, a name.
    tab_to(page, "#save-csv")
    with page.expect_download() as download:
        press("Enter")
    text = Path(download.value.path()).read_text()
    n = int(page.locator("#selected-n").get_attribute("data-n"))
    assert len(text.splitlines()) == n + 1
    tab_to(page, "#name")
    page.keyboard.type("mine")
    tab_to(page, "#save-name")
    press("Enter")
    assert page.evaluate("raylatent.now.regions[0].name") == "mine"


def in_focus(page: Any, box: str) -> bool:
    """Whether the focus is in a box, and not lost."""
    return bool(
        page.evaluate(
            """(box) => document.querySelector(box).contains(document.activeElement)""",
            box,
        )
    )


def test_the_focus_stays_where_its_button_was_replaced(page: Any) -> None:
    press = page.keyboard.press
    # The button of a mode leads to the map, where its keys work.
    page.locator("#lasso").press("Enter")
    assert in_focus(page, "#map")
    press("Escape")
    page.get_by_text("Filter", exact=True).click()
    page.locator("#find-slide").fill("00")
    page.get_by_role("button", name="Only these 10").press("Enter")
    assert in_focus(page, "#filter-slides")
    page.locator("#find-slide").fill("003")
    page.get_by_role("button", name="Only these 1", exact=True).press("Enter")
    assert page.evaluate("[...raylatent.now.slides]") == [3]
    page.locator("#filter-none").press("Enter")
    # From cell to cell, and down the list of one.
    page.evaluate("raylatent.page.open({ level: 1, row: 8, col: 8 })")
    page.locator("#similar").press("Enter")
    page.locator("ol.similar button").first.press("Enter")
    page.wait_for_selector('#panel:not([data-row="8"][data-col="8"])')
    assert in_focus(page, "#panel-body")
    more = page.get_by_role("button", name="List the tiles of this cell")
    more.press("Enter")
    page.wait_for_selector("ol.tiles li")
    while page.get_by_role("button", name="more", exact=False).count():
        page.get_by_role("button", name="more", exact=False).press("Enter")
        page.wait_for_timeout(100)
    assert in_focus(page, "ol.tiles")
    # The table is written again with every view.
    page.locator("#table-box summary").click()
    button = page.locator("#table button").nth(2)
    said = button.inner_text()
    button.focus()
    page.evaluate("raylatent.page.changed()")
    page.wait_for_timeout(400)
    assert page.evaluate("document.activeElement.textContent") == said
    assert in_focus(page, "#table")


def test_the_keyboard_alone_colors_filters_and_compares(page: Any) -> None:
    press = page.keyboard.press
    tab_to(page, "#by")
    page.keyboard.type("novelty")
    assert page.evaluate("raylatent.now.by") == "novelty"
    tab_to(page, "summary")
    press("Enter")
    tab_to(page, "#filter-labels input")
    press(" ")
    assert page.evaluate("[...raylatent.now.labels]") == [1]
    tab_to(page, "#filter-none")
    press("Enter")
    assert page.evaluate("raylatent.now.labels") is None
    tab_to(page, "summary")
    press("Enter")
    tab_to(page, "#contrast-go")
    press("Enter")
    page.wait_for_selector("#contrast-told table")
    tab_to(page, "#contrast-told button")
    press("Enter")
    page.wait_for_selector("#panel:not([hidden])")
    assert page.evaluate("raylatent.now.contrast.cells.length") > 20
