"""The explorer of a run: every tile is in it, where the map has it, as Parquet has it."""

import io
import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raylatent import schema
from raylatent.config import ExploreConfig
from raylatent.engine import explore
from raylatent.errors import ConfigError
from raylatent.explorer.pyramid import SIDE
from raylatent.map_job import run_explore
from raylatent.seal import json_holds
from raylatent.stored.mosaic_inputs import source_places
from raylatent.tiles.fetch import stored_tiles
from tests.explorer.test_scripts import read_block

pytestmark = pytest.mark.ray

CELL_PX = 32


@pytest.fixture(scope="module")
def made(small_map, small_project, tmp_path_factory):
    """Where the page is, what explorer.json says, and the run."""
    out = tmp_path_factory.mktemp("explorer") / "page"
    config = ExploreConfig(
        run=small_map.run.uri,
        out=str(out),
        explorer_cell_px=CELL_PX,
        annotations=str(small_project / "annotations.csv"),
        label="subtype",
    )
    page, facts = run_explore(config)
    assert page == f"{out}/index.html"
    return out, facts, small_map


def meta_of(out):
    text = (out / "data/meta.js").read_text()
    return json.loads(text.removeprefix("raylatent.meta(").removesuffix(");\n"))


def cells_of(out, level=None):
    table = pq.read_table(out / "cells.parquet")
    return [r for r in table.to_pylist() if level is None or r["level"] == level]


def test_each_level_has_every_tile_once(made):
    out, facts, sm = made
    table = pq.read_table(out / "cells.parquet")
    assert table.schema.names == schema.EXPLORER_CELLS.names
    told = json.loads((out / "explorer.json").read_text())
    assert json_holds(told)
    assert told["maps"][0]["digest"] == sm._stored.info["digest"]
    square, points = told["maps"][0], sm.data
    for level in facts["levels"]:
        rows = cells_of(out, level["level"])
        assert sum(row["n"] for row in rows) == len(points)
        assert len(rows) == level["cells"]
        side = level["side"]
        steps = (points[["x", "y"]].to_numpy(np.float64) - square["lower"]) / square[
            "side"
        ]
        cols, ups = np.minimum(np.floor(steps * side), side - 1).astype(int).T
        counted = {}
        for row, col in zip(ups, cols, strict=True):
            counted[row, col] = counted.get((row, col), 0) + 1
        assert counted == {(row["row"], row["col"]): row["n"] for row in rows}
        known = {
            (one.slide, one.tile_index): (one.x, one.y, one.loc_x, one.loc_y)
            for one in points.itertuples()
        }
        for row in rows:
            place = known[row["slide"], row["tile_index"]]
            assert place == (row["x"], row["y"], row["loc_x"], row["loc_y"])
    assert facts["levels"][-1]["cells"] > 0.85 * len(points)
    assert facts["points"] == "all"


def test_what_the_page_reads_is_what_parquet_has(made):
    out, _, sm = made
    meta = meta_of(out)
    assert meta["maps"] == []  # beside this folder there is no other map's page
    slides = [slide["name"] for slide in meta["slides"]]
    assert slides == sorted(set(sm.data["slide"]))
    assert (out / f"data/similar/{meta['similar']}.js").is_file()
    for level in meta["levels"]:
        found = {}
        for block in range(len(level["blocks"])):
            name = f"cells/{level['level']}/{block}"
            told, columns = read_block((out / f"data/{name}.js").read_bytes())
            assert told == name
            rows = zip(*(columns[c].tolist() for c in ("row", "col")), strict=True)
            found |= {
                key: {c: values[i] for c, values in columns.items()}
                for i, key in enumerate(rows)
            }
        rows = cells_of(out, level["level"])
        assert len(found) == len(rows)
        for row in rows:
            own = found[row["row"], row["col"]]
            assert slides[own["slide"]] == row["slide"]
            assert (own["tile"], own["n"]) == (row["tile_index"], row["n"])
            assert own["slides"] == row["n_slides"]
            counts = dict(row["label_counts"])
            names = meta["labels"]["names"]
            assert {
                name: own[f"count_{i}"]
                for i, name in enumerate(names)
                if own[f"count_{i}"]
            } == counts
    points = {}
    for block in range(len(meta["points"]["blocks"])):
        _, columns = read_block((out / f"data/points/{block}.js").read_bytes())
        points |= {
            (slides[s], t): (x, y)
            for s, t, x, y in zip(
                *(columns[c].tolist() for c in ("slide", "tile", "x", "y")), strict=True
            )
        }
    assert points == {
        (one.slide, one.tile_index): (one.x, one.y) for one in sm.data.itertuples()
    }


def test_the_pictures_are_the_tiles(made):
    """In the block of each cell, and at its own size where that is stored."""
    out, facts, sm = made
    places = source_places(sm.run)
    block = SIDE * CELL_PX
    for level in facts["levels"]:
        rows = cells_of(out, level["level"])
        tiles = [places[row["source"]].place(row) for row in rows]
        pictures = dict(stored_tiles(tiles, CELL_PX))
        whole = dict(stored_tiles(tiles, 96, own_size=True))
        dzi = level["level"] + math.ceil(math.log2(block))
        for i, row in enumerate(rows):
            x = row["col"] * CELL_PX
            y = (level["side"] - 1 - row["row"]) * CELL_PX
            name = f"mosaic_files/{dzi}/{x // block}_{y // block}.jpg"
            drawn = Image.open(out / name).crop(
                (x % block, y % block, x % block + CELL_PX, y % block + CELL_PX)
            )
            away = np.asarray(drawn, float) - np.asarray(pictures[i], float)
            assert np.abs(away).mean() <= 8  # of colors a quarter is kept
            others = [np.asarray(one, float) for _, one in sorted(pictures.items())]
            apart = [np.abs(np.asarray(drawn, float) - one).mean() for one in others]
            assert np.argmin(apart) == i
            sheet = Image.open(
                out / f"tiles/{row['picture'] // 100}/{row['picture']}.jpg"
            )
            slot = sheet.width // 4
            left, top = row["slot"] % 4 * slot, row["slot"] // 4 * slot
            own = sheet.crop((left, top, left + whole[i].width, top + whole[i].height))
            away = np.asarray(own, float) - np.asarray(whole[i], float)
            assert np.abs(away).mean() <= 4


def test_the_same_bytes_whoever_draws_them(made, tmp_path, monkeypatch):
    out, _, sm = made
    monkeypatch.setattr(
        explore, "spread", lambda work, calls, **_: (work(*c) for c in calls)
    )
    config = ExploreConfig(
        run=sm.run.uri, out=str(tmp_path / "page"), explorer_cell_px=CELL_PX
    )
    run_explore(config)
    for folder in ("mosaic_files", "tiles"):
        files = sorted(p.relative_to(out) for p in (out / folder).rglob("*.jpg"))
        again = sorted(
            p.relative_to(tmp_path / "page")
            for p in (tmp_path / "page" / folder).rglob("*.jpg")
        )
        assert files == again
        for file in files:
            assert (out / file).read_bytes() == (tmp_path / "page" / file).read_bytes()


def test_less_is_written_where_less_may_be(made, tmp_path):
    _, facts, sm = made
    config = ExploreConfig(
        run=sm.run.uri,
        out=str(tmp_path / "page"),
        explorer_cell_px=CELL_PX,
        max_size="1.2MB",
    )
    _, fewer = run_explore(config)
    assert len(fewer["levels"]) < len(facts["levels"])
    total = sum(p.stat().st_size for p in (tmp_path / "page").rglob("*") if p.is_file())
    assert total <= 1.2e6


def test_a_page_is_not_written_to_a_store(small_map):
    config = ExploreConfig(run=small_map.run.uri, out="memory://bucket/page")
    with pytest.raises(ConfigError, match=r"give --out DIR.*raylatent serve.*--expl"):
        run_explore(config)


def test_a_picture_opens_as_what_it_is(made):
    out, _, _ = made
    data = next((out / "mosaic_files").rglob("*.jpg")).read_bytes()
    assert Image.open(io.BytesIO(data)).format == "JPEG"
