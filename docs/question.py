"""Make the slides of explorer.md, whose answer is known, and its pictures.

    python docs/question.py slides TILES FOLDER
    python docs/question.py pictures PAGE

TILES is a folder of tissue tiles by class, 224 px at 0.5 µm a pixel, as those of Kather,
Halama, Marx (2018), zenodo 1214456. FOLDER gets slides/, annotations.csv and planted.csv: in
the slides of patients who responded, and in no others, some tiles are of lymphocytes. The
pictures need chromium and the package playwright.
"""

import csv
import io
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

FOLDER = Path(__file__).with_name("pictures")
TILE_PX, MPP = 224, 0.5
ROWS, COLS = 6, 8
COMMON = ("MUS", "NORM", "STR", "TUM")
PLANTED, N_PLANTED = "LYM", 10
N_PATIENTS = 12


def write_slides(tiles: Path, folder: Path) -> None:
    """Write slides of 8 x 6 tiles, what is said of them, and what is where."""
    rng = np.random.default_rng(7)
    pictures = {
        kind: [np.asarray(Image.open(file).convert("RGB")) for file in sorted(one)]
        for kind in (*COMMON, PLANTED)
        if (one := (tiles / kind).iterdir())
    }
    (folder / "slides").mkdir(parents=True)
    told, planted = [["slide", "patient", "response"]], [["slide", "loc_x", "loc_y"]]
    for i in range(N_PATIENTS):
        slide, responded = f"S{i + 1:02}", i % 2 == 0
        told.append([slide, f"P{i + 1:02}", "yes" if responded else "no"])
        kinds = rng.choice(COMMON, ROWS * COLS)
        at = rng.choice(ROWS * COLS, N_PLANTED if responded else 0, replace=False)
        kinds[at] = PLANTED
        slide_px = [_varied(pictures[kind], rng) for kind in kinds]
        rows = [np.hstack(slide_px[r * COLS : (r + 1) * COLS]) for r in range(ROWS)]
        _write_pyramid(folder / "slides" / f"{slide}.tif", np.vstack(rows))
        places = [(2 * n + 1) * TILE_PX // 2 for n in range(max(ROWS, COLS))]
        planted += [[slide, places[n % COLS], places[n // COLS]] for n in sorted(at)]
    for name, lines in (("annotations", told), ("planted", planted)):
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(lines)
        (folder / f"{name}.csv").write_text(text.getvalue(), encoding="utf-8")


def _varied(
    pictures: list[NDArray[np.uint8]], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Some part of one of some tiles, turned, mirrored, lighter or darker."""
    one = pictures[int(rng.integers(len(pictures)))]
    side = int(rng.integers(TILE_PX * 2 // 3, TILE_PX + 1))
    x, y = rng.integers(0, TILE_PX - side + 1, 2)
    part = Image.fromarray(one[y : y + side, x : x + side])
    one = np.asarray(part.resize((TILE_PX, TILE_PX), Image.Resampling.BICUBIC))
    one = np.rot90(one, int(rng.integers(4)))[:, :: int(rng.choice((-1, 1)))]
    stained = (one - 255.0) * rng.uniform(0.85, 1.15) + 255
    return stained.clip(0, 255).round().astype(np.uint8)


def _write_pyramid(path: Path, pixels: NDArray[np.uint8]) -> None:
    with tifffile.TiffWriter(path) as file:
        for shrink in (1, 2, 4):
            dots = 10_000 / (MPP * shrink)
            file.write(
                np.asarray(Image.fromarray(pixels).reduce(shrink)),
                tile=(TILE_PX, TILE_PX),
                photometric="rgb",
                compression="jpeg",
                compressionargs={"level": 90, "outcolorspace": "rgb"},
                subfiletype=int(shrink > 1),
                resolution=(dots, dots),
                resolutionunit="CENTIMETER",
                metadata=None,
            )


def take_pictures(page_path: Path) -> None:
    """Write explorer-map.png, -contrast.png and -cell.png of the run's page."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        page = chromium.new_page(viewport={"width": 1200, "height": 900})
        page.goto(page_path.absolute().as_uri())
        page.wait_for_selector('body[data-ready="1"]')
        _picture(page, "map")
        page.get_by_text("Contrast of two groups").click()
        page.select_option("#contrast-column", label="response")
        page.select_option("#contrast-a", label="yes")
        page.select_option("#contrast-b", label="no")
        page.select_option("#contrast-level", "1")
        page.click("#contrast-go")
        page.wait_for_selector("#contrast-told table")
        _picture(page, "contrast")
        page.evaluate(_OUTLINED)
        page.locator("#contrast-told button").first.click()
        page.get_by_text("Contrast of two groups").click()
        _picture(page, "cell")
        polygon = page.evaluate(
            "() => JSON.stringify(raylatent.save.polygonOf(raylatent.now.meta,"
            " raylatent.now.rings))"
        )
        Path("polygon.json").write_text(polygon, encoding="utf-8")
        chromium.close()


# As a person draws around the outlined cells.
_OUTLINED = """() => {
  const { contrast, frame } = raylatent.now;
  const grid = raylatent.geometry.gridOf(contrast.level);
  const sure = contrast.cells.filter((c) => c.q < 0.05 && c.difference > 0);
  const edge = (v) => (v === grid ? v + 0.1 : v) / grid * frame.side;
  return raylatent.select(sure.map(({ cell }) => [[0, 0], [1, 0], [1, 1], [0, 1]].map(([i, j]) =>
    [frame.x0 + edge((cell % grid) + i), frame.y0 + edge(Math.floor(cell / grid) + j)])));
}"""


def _picture(page: Any, name: str) -> None:  # noqa: ANN401
    page.wait_for_timeout(1_500)
    shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    shot.quantize(256).save(FOLDER / f"explorer-{name}.png", optimize=True)


if __name__ == "__main__":
    if sys.argv[1] == "slides":
        write_slides(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        take_pictures(Path(sys.argv[2]))
