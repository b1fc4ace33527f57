"""A real question: what have the slides of one group that others have not, and where?

Slides are made in which one tissue is at known places, of patients of one group alone. The
page's contrast finds the cells, the selection of these the tiles, the tiles the places.
"""

import csv
import json

import numpy as np
import pytest
from PIL import Image, ImageDraw

import raylatent as sf
from raylatent import cli
from tests.browser.conftest import chromium  # noqa: F401  (a fixture)
from tests.small_data import painted
from tests.source import synthetic_slides as slides

pytestmark = [pytest.mark.ray, pytest.mark.slow]

TILE_PX, MPP = 96, 0.5
ROWS, COLS = 4, 5
N_PATIENTS, N_PLANTED = 12, 8
LEVEL = 1


def lymphocytes(seed):
    """A tile of small dark nuclei, side by side."""
    random = np.random.default_rng(seed)
    picture = Image.new("RGB", (TILE_PX, TILE_PX), (215, 190, 225))
    draw = ImageDraw.Draw(picture)
    for x in range(4, TILE_PX, 8):
        for y in range(4, TILE_PX, 8):
            dx, dy = random.integers(-1, 2, 2)
            box = (x + dx - 3, y + dy - 3, x + dx + 3, y + dy + 3)
            draw.ellipse(box, fill=(60, 30, 110))
    return np.asarray(picture)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A folder of slides and annotations, and the places: {(slide, x, y)}."""
    folder, places = tmp_path_factory.mktemp("question"), set()
    (folder / "slides").mkdir()
    lines = ["slide,patient,response"]
    for i in range(N_PATIENTS):
        slide, responded = f"S{i:02}", i % 2 == 0
        lines.append(f"{slide},P{i:02},{'yes' if responded else 'no'}")
        random = np.random.default_rng(i)
        n = ROWS * COLS
        at = set(random.choice(n, N_PLANTED if responded else 0, replace=False))
        tiles = [
            lymphocytes((i, k)) if k in at else painted((i, k), TILE_PX, TILE_PX)
            for k in range(n)
        ]
        rows = [np.hstack(tiles[r * COLS : (r + 1) * COLS]) for r in range(ROWS)]
        levels = slides.pyramid(np.vstack(rows), 2)
        slides.write_slide(folder / "slides" / f"{slide}.tif", levels, mpp=MPP)
        half = TILE_PX // 2
        places |= {
            (slide, int(k % COLS) * TILE_PX + half, int(k // COLS) * TILE_PX + half)
            for k in at
        }
    (folder / "annotations.csv").write_text("\n".join(lines), "utf-8")
    return folder, places


@pytest.fixture(scope="module")
def made(ray_session, planted, small_model):
    folder, _ = planted
    return sf.atlas(
        slides=folder / "slides",
        tile_um=TILE_PX * MPP,
        qc="none",
        model=small_model,
        annotations=folder / "annotations.csv",
        label="response",
        n_neighbors=15,
        out=folder / "run",
    )


@pytest.fixture(scope="module")
def outlined(chromium, made):  # noqa: F811
    """What the page says of the contrast, and selects: (text, members, polygon file)."""
    page = chromium.new_page(viewport={"width": 1300, "height": 900})
    page.goto(f"file://{made.page}")
    page.wait_for_selector('body[data-ready="1"]')
    page.get_by_text("Contrast of two groups").click()
    page.select_option("#contrast-column", label="response")
    page.select_option("#contrast-a", label="yes")
    page.select_option("#contrast-b", label="no")
    page.select_option("#contrast-level", str(LEVEL))
    page.click("#contrast-go")
    page.wait_for_selector("#contrast-told table")
    text = page.locator("#contrast-told p").first.text_content()
    members = page.evaluate(
        """() => {
          const { contrast, frame } = raylatent.now;
          const grid = raylatent.geometry.gridOf(contrast.level);
          const sure = contrast.cells.filter((c) => c.q < 0.05 && c.difference > 0);
          // The last cells have the points on the map's upper edges, on no ring's inside.
          const edge = (v) => (v === grid ? v + 0.1 : v) / grid * frame.side;
          const rings = sure.map(({ cell }) => [[0, 0], [1, 0], [1, 1], [0, 1]].map(([i, j]) =>
            [frame.x0 + edge((cell % grid) + i),
             frame.y0 + edge(Math.floor(cell / grid) + j)]));
          return raylatent.select(rings);
        }"""
    )
    polygon = page.evaluate(
        "() => raylatent.save.polygonOf(raylatent.now.meta, raylatent.now.rings)"
    )
    page.close()
    return text, members, polygon


@pytest.fixture
def polygon(outlined, tmp_path):
    path = tmp_path / "polygon.json"
    path.write_text(json.dumps(outlined[2]), "utf-8")
    return str(path)


def test_the_contrast_finds_what_was_planted(outlined, planted):
    text, members, _ = outlined
    assert "tested by patients: 6 yes, 6 no" in text
    assert members["n"] == len(planted[1]) == N_PATIENTS // 2 * N_PLANTED
    assert members["slides"] == N_PATIENTS // 2


def test_the_tiles_are_at_the_places(made, polygon, planted, tmp_path):
    out = tmp_path / "tiles.csv"
    given = ["select", made.run, polygon, "--to", "csv", "--out", str(out)]
    assert cli.main(given) == 0
    with out.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = {(row["slide"], int(row["loc_x"]), int(row["loc_y"])) for row in rows}
    assert found == planted[1]


def test_qupath_is_given_the_squares_of_the_tiles(made, polygon, planted, tmp_path):
    shapely = pytest.importorskip("shapely")
    out = tmp_path / "geojson"
    given = ["select", made.run, polygon, "--to", "geojson", "--out", str(out)]
    assert cli.main(given) == 0
    found = set()
    for file in out.iterdir():
        collection = shapely.from_geojson(file.read_text("utf-8"))
        for square in collection.geoms:
            assert square.area == TILE_PX**2
            found.add((file.stem, int(square.centroid.x), int(square.centroid.y)))
    assert found == planted[1]
