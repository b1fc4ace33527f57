"""Fifty polygons: select, the server, the page and DuckDB give the same tiles."""

import json
import shutil
import subprocess
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest

from raylatent import cli
from raylatent.config import ServeConfig
from raylatent.explorer.polygon import Polygon
from raylatent.explorer.server import Explorer
from tests.explorer.selected_runs import digest_of, mapped_run
from tests.explorer.test_server import about_page

QUERY = """
with edges as (select unnest(?) e),
points as (select slide, tile_index, x::double x, y::double y
           from read_parquet(?, hive_partitioning=true, hive_types={'slide': varchar}))
select slide, tile_index from points, edges
where (e[2] > y) != (e[4] > y)
  and x < (e[3] - e[1]) * (y - e[2]) / (e[4] - e[2]) + e[1]
group by slide, tile_index having count(*) % 2 = 1 order by slide, tile_index
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("same")
    run, _ = mapped_run(folder / "run", {"007": 150, "b c": 200, "ü": 100})
    page = folder / "run" / "explorer" / "default"
    page.mkdir(parents=True)
    (page / "explorer.json").write_text(json.dumps(about_page(run)))
    return run


def rings_of(rng):
    """Self-crossing rings, some of whose corners are places of tiles."""
    rings = []
    for _ in range(rng.integers(1, 4)):
        ring = rng.normal(0, 1.2, (rng.integers(3, 12), 2))
        coarse = rng.random(len(ring)) < 0.4
        ring[coarse] = np.round(ring[coarse] * 4) / 4  # as places are
        rings.append(ring.tolist())
    return rings


def by_duckdb(run, rings):
    edges = [
        [*ring[i], *ring[(i + 1) % len(ring)]]
        for ring in rings
        for i in range(len(ring))
    ]
    parts = f"{run.uri}/maps/default/points/*/*.parquet"
    return duckdb.execute(QUERY, [edges, parts]).fetchall()


def test_the_same_members(run, tmp_path):
    explorers = Explorer(ServeConfig(run=run.uri))
    rng = np.random.default_rng(5)
    n = 0
    for number in range(50):
        rings = rings_of(rng)
        polygon = json.dumps({"map": digest_of(run), "rings": rings})
        expected = by_duckdb(run, rings)
        n += len(expected)
        answer = explorers.answer("/members", polygon.encode())
        served = json.loads(answer.body)
        assert [tuple(row[:2]) for row in served["rows"]] == expected
        if number % 5:
            continue
        file, table = tmp_path / f"{number}.json", tmp_path / f"{number}.parquet"
        file.write_text(polygon)
        argv = ["select", run.uri, file, "--to", "parquet", "--out", table]
        assert cli.main([str(word) for word in argv]) == 0
        columns = pq.read_table(table, columns=["slide", "tile_index"]).to_pydict()
        assert list(zip(*columns.values(), strict=True)) == expected
    assert n > 1000


IN_NODE = """
const { geometry } = require(process.argv[1]).load("geometry.js");
const { places, polygons } = JSON.parse(require("node:fs").readFileSync(0, "utf8"));
const found = polygons.map((rings) => {
  const edges = geometry.edgesOf(geometry.ringsOf(rings));
  return places.map(([x, y]) => geometry.inside(edges, x, y));
});
process.stdout.write(JSON.stringify(found));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")
def test_the_page_finds_the_same_places_inside():
    rng = np.random.default_rng(6)
    xy = np.round(rng.normal(size=(400, 2)) * 16) / 16
    xy[::2] = rng.normal(size=(200, 2))
    xy = xy.astype(np.float32)
    polygons = [rings_of(rng) for _ in range(50)]
    load = Path(__file__).parents[1] / "browser" / "load.js"
    asked = {"places": xy.tolist(), "polygons": polygons}
    answer = subprocess.run(  # noqa: S603
        [shutil.which("node"), "-e", IN_NODE, str(load)],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=True,
    )
    for rings, found in zip(polygons, json.loads(answer.stdout), strict=True):
        assert Polygon(tuple(rings), "").inside(xy).tolist() == found
