"""What the page reads and holds: as little as what is in view needs."""

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.browser.made_folder import made_points, slide_names, write_folder

pytestmark = pytest.mark.slow

MOST_HEAP = 250 << 20
MOST_BLOCKS = 80
MOST_PICTURES = 160  # of a view of 980 x 830 pixels


def test_the_first_view_reads_no_points_and_few_files(
    page: Any, made: SimpleNamespace
) -> None:
    page.wait_for_timeout(500)
    blocks = [url for url in page.asked if "/data/" in url]
    assert not [url for url in blocks if "/data/points/" in url]
    deep = f"/data/cells/{len(made.meta['levels']) - 1}/"
    assert not [url for url in blocks if deep in url]
    assert len(page.asked) < 50
    assert len(page.asked) == len(set(page.asked))


def test_a_selection_reads_the_blocks_that_it_meets(
    page: Any, made: SimpleNamespace
) -> None:
    boxes = [block["bbox"] for block in made.meta["points"]["blocks"]]
    left, right = boxes[0][0], (boxes[0][0] + boxes[0][2]) / 2
    low, high = boxes[0][1], (boxes[0][1] + boxes[0][3]) / 2
    ring = [[left, low], [right, low], [right, high], [left, high]]
    page.evaluate("(ring) => raylatent.select(ring)", ring)
    read = {
        int(found[1])
        for url in page.asked
        if (found := re.search(r"/data/points/(\d+)\.js", url))
    }
    meets = {
        b
        for b, (x0, y0, x1, y1) in enumerate(boxes)
        if x0 <= right and left <= x1 and y0 <= high and low <= y1
    }
    assert 0 < len(meets) < len(boxes)
    assert read == meets


def test_a_larger_map_is_held_in_bounds(
    opened: Callable[[Path], Any], tmp_path: Path
) -> None:
    points = made_points(120_000)
    write_folder(tmp_path / "umap", points, levels=6, points_a_block=4_096)
    page = opened(tmp_path / "umap")
    page.locator("#show-points").check()
    told = page.evaluate(
        "raylatent.select([[-99, -99], [99, -99], [99, 99], [-99, 99]])"
    )
    assert told["n"] == 120_000
    # The whole deepest grid passes by, a row of views after another.
    page.evaluate(
        """async () => {
          const { now, page } = raylatent;
          for (let i = 0; i < 64; i += 1) {
            const [x, y] = [((i % 8) + 0.5) / 8, ((i >> 3) + 0.5) / 8];
            now.view = { ...now.view, scale: 50 * 256, x, y };
            page.changed();
            await new Promise((done) => setTimeout(done, 60));
          }
        }"""
    )
    blocks, pictures, most, heap = page.evaluate(
        """() => {
          const { blocks, pictures } = raylatent.now.store;
          return [blocks.size, pictures.size, pictures.most,
            performance.memory.usedJSHeapSize];
        }"""
    )
    asked = [url for url in set(page.asked) if "/mosaic_files/" in url]
    read = [url for url in set(page.asked) if re.search(r"/data/(cells|points)/", url)]
    assert blocks <= MOST_BLOCKS < len(read)
    assert pictures <= most < len(asked)
    assert most < MOST_PICTURES
    assert heap < MOST_HEAP


def test_a_hundred_slides_with_hostile_names_stay_text(
    opened: Callable[[Path], Any], tmp_path: Path
) -> None:
    points = made_points(2_000, slides=100)
    write_folder(tmp_path / "umap", points, levels=2, slides=100)
    for path in (tmp_path / "umap" / "data").rglob("*.js"):
        assert not re.search(r"https?://", path.read_text())
    page = opened(tmp_path / "umap")
    page.locator("#by").select_option("slide")
    page.get_by_text("Filter", exact=True).click()
    shown = page.locator("#filter-slides label").all_inner_texts()
    assert shown == slide_names(100)
    # Not a hundred files: that is said, and so is what to do instead.
    page.evaluate("raylatent.select([[-99, -99], [99, -99], [99, 99], [-99, 99]])")
    page.get_by_role("button", name="GeoJSON").click()
    page.wait_for_selector("#status:has-text('100 slides, and each has its own file')")
    page.evaluate("raylatent.page.open({ level: 1, row: 8, col: 8 })")
    page.wait_for_selector("#panel:not([hidden])")
    assert page.locator("script:not([src])").count() == 0
