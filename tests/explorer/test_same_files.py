"""The page and `raylatent select` write the same files of the same tiles."""

import csv
import io
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from raylatent import cli
from tests.explorer.selected_runs import (
    SQUARE,
    inside_of,
    mapped_run,
    polygon_file,
    regions_file,
)

SCRIPT = """
const { save } = require(process.argv[1]).load("geometry.js", "save.js");
const { meta, columns, name } = JSON.parse(require("node:fs").readFileSync(0, "utf8"));
const members = { n: columns.slide.length };
const kinds = { x: Float32Array, y: Float32Array, novelty: Float32Array };
for (const [key, values] of Object.entries(columns)) {
  members[key] = (kinds[key] ?? Int32Array).from(values);
}
const parts = save.bySlide(members);
const files = (all, ending) => parts.map(([id], i) =>
  [save.fileName(meta.slides[id].name) + ending, all[i].join("")]);
Promise.all(parts.map((part) => save.geojsonOf(meta, members, name, part))).then(
  (geojson) => process.stdout.write(JSON.stringify({
    csv: save.csvOf(meta, members, name).join(""),
    geojson: files(geojson, ".geojson"),
    roi: files(parts.map((part) => save.roiOf(meta, members, name, part)), ".csv"),
  })));
"""
LOAD = Path(__file__).parents[1] / "browser" / "load.js"


@pytest.fixture
def run_and_points(tmp_path):
    slides = {"007": 60, "=2+b": 50, "a'b<script>\"&=%20 ü": 60}
    return mapped_run(tmp_path / "run", slides, window_px=10, bounds_x=77, bounds_y=9)


def by_page(run, points, name):
    """What the page writes of the tiles in the square."""
    slides = sorted(points)
    found = inside_of(points)
    rows = [row for _, row in found]
    columns = {
        "slide": [slides.index(slide) for slide, _ in found],
        "tile": [row["tile_index"] for row in rows],
        "label": [255] * len(rows),
        "novelty": [row["knn_distance"] for row in rows],
        **{key: [row[key] for row in rows] for key in ("loc_x", "loc_y", "x", "y")},
    }
    facts = [{"name": slide, "window_px": 10, "bounds": [77, 9]} for slide in slides]
    meta = {"slides": facts, "labels": {"names": []}}
    meta["fingerprint"] = run.settings()["fingerprint"]
    asked = {"meta": meta, "columns": columns, "name": name}
    node = shutil.which("node")
    answer = subprocess.run(  # noqa: S603
        [node, "-e", SCRIPT, str(LOAD)],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(answer.stdout)


def by_select(run, file, tmp_path):
    written = {}
    for to in ("csv", "geojson", "roi"):
        out = tmp_path / to
        argv = ["select", run.uri, file, "--to", to, "--out", out]
        assert cli.main([str(word) for word in argv]) == 0
        files = [out] if out.is_file() else sorted(out.iterdir())
        written[to] = {one.name: one.read_bytes().decode() for one in files}
    return written


def table_of(text):
    return list(csv.DictReader(io.StringIO(text, newline="")))


@pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")
@pytest.mark.parametrize("name", ["", '=tumor, "b"'])
def test_the_same_files(run_and_points, tmp_path, name):
    run, points = run_and_points
    if name:
        file = regions_file(tmp_path / "r.json", run, **{name: [SQUARE]})
    else:
        file = polygon_file(tmp_path / "p.json", run)
    page, selected = by_page(run, points, name), by_select(run, file, tmp_path)
    own = table_of(selected["csv"]["csv"])
    of_page = table_of(page["csv"])
    assert len(own) > 20
    assert [{key: row[key] for key in of_page[0]} for row in own] == of_page
    assert dict(page["roi"]) == selected["roi"]
    features = {
        key: json.loads(text)["features"] for key, text in selected["geojson"].items()
    }
    assert features == {
        key: json.loads(text)["features"] for key, text in page["geojson"]
    }
