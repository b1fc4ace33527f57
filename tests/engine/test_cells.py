"""Cells chosen by the cluster are those of the plain loop, to the last bit."""

from functools import partial

import numpy as np
import pytest

from raylatent import schema
from raylatent.engine import cells as on_cluster
from raylatent.engine.cells import ClusterParts, ClusterPoints, group
from raylatent.errors import BrokenPartError
from raylatent.montage.cells import choose_cells, finish_cells
from raylatent.montage.columns import labels_of_points
from raylatent.montage.points import HeldParts, Rule
from raylatent.slide_map import SlideMap
from raylatent.stored import map_points
from raylatent.stored.map_points import StoredPoints
from tests.stored_maps import write_map, write_run

pytestmark = [pytest.mark.ray]

SLIDES = {"a": 90, "b": 7, "é": 41, "c": 160, "d": 20}
LABELS = {"a": "x", "b": "y", "c": "y"}
NX = 5


@pytest.fixture(scope="module")
def run_and_points(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("cells") / "run", SLIDES)


@pytest.fixture(scope="module")
def folder(run_and_points):
    return write_map(*run_and_points)


@pytest.fixture(scope="module")
def other_folder(run_and_points):
    """The same points in other parts, in another order within each."""
    order = np.random.default_rng(1)
    return write_map(*run_and_points, "other", unit=33, order=order)


def cells_of(points, grid="square", select="nearest"):
    rule = Rule(select=select, ties="row" if grid == "slideflow" else "hash")
    parts = points.labeled(partial(labels_of_points, LABELS))
    chosen = choose_cells(parts, grid, NX, rule)
    return finish_cells(chosen.grid, chosen.cells)


@pytest.mark.parametrize("grid", ["square", "slideflow"])
@pytest.mark.parametrize("select", ["nearest", "medoid", "first"])
def test_cells_are_those_of_the_plain_loop(
    run_and_points, folder, other_folder, ray_session, monkeypatch, select, grid
):
    run, points = run_and_points
    monkeypatch.setattr(on_cluster, "_MOST_TOGETHER", 3)
    plain = cells_of(StoredPoints(folder, run), grid, select)
    assert plain["n"].to_numpy().sum() == sum(SLIDES.values())
    for name in (schema.N_SLIDES, schema.PREDICTIONS_MEAN, schema.KNN_DISTANCE_MEAN):
        assert plain[name].null_count == 0
    for where in (folder, other_folder):
        clustered = ClusterPoints(where, run, few_parts=0)
        assert isinstance(clustered.labeled(None), ClusterParts)
        assert cells_of(clustered, grid, select).equals(plain)
    monkeypatch.setattr(map_points, "_BLOCK_ROWS", 13)
    assert cells_of(StoredPoints(other_folder, run), grid, select).equals(plain)
    # The index says which of all points, in their order.
    whole = [(slide, i) for slide in sorted(points) for i in range(SLIDES[slide])]
    for cell in plain.to_pylist():
        assert whole[cell["index"]] == (cell["slide"], cell["tile_index"])


def test_a_map_that_is_opened_in_python_goes_through_the_cluster(
    run_and_points, ray_session
):
    run, points = run_and_points
    folder = write_map(run, points, "many", unit=4)
    files = {slide: f"{slide}.tfrecords" for slide in SLIDES}
    given = {"num_tiles_x": NX, "labels": LABELS, "tfrecords": files}
    mosaic = SlideMap.load(folder).generate_mosaic(**given)
    assert isinstance(mosaic._parts, ClusterParts)
    assert mosaic.cells.equals(cells_of(StoredPoints(folder, run)))


def test_few_tasks_are_under_way(run_and_points, folder, ray_session, monkeypatch):
    """None is begun before the first of those before it was taken."""
    waiting = []

    def gather(pending, stall_timeout_s):
        waiting.append(len(pending))
        return real(pending, stall_timeout_s)

    real = on_cluster.gather
    monkeypatch.setattr(on_cluster, "gather", gather)
    monkeypatch.setattr(on_cluster, "_WAVES", 2)
    run, _ = run_and_points
    parts = ClusterPoints(folder, run, few_parts=0).labeled(None)
    most = 2 * parts.share.largest + 1
    answers = parts._tasks(lambda i: i, [(i,) for i in range(20)])
    assert list(answers) == list(range(20))
    assert max(waiting) == most


def test_a_small_map_needs_no_cluster(run_and_points, folder, monkeypatch):
    def connect():
        raise AssertionError

    monkeypatch.setattr(on_cluster, "connect", connect)
    run, _ = run_and_points
    cells = cells_of(ClusterPoints(folder, run))
    assert cells.equals(cells_of(StoredPoints(folder, run)))


def test_a_broken_part_is_named(run_and_points, tmp_path, ray_session):
    run, points = write_run(tmp_path / "run", {"a": 30, "b": 30})
    folder = write_map(run, points)
    broken = tmp_path / "run/maps/default/points/slide=b/000000.parquet"
    data = bytearray(broken.read_bytes())
    data[10] ^= 0xFF
    broken.write_bytes(data)
    with pytest.raises(BrokenPartError, match="slide=b/000000"):
        cells_of(ClusterPoints(folder, run, few_parts=0))


def test_groups_are_all_parts_in_order():
    names = [("a", str(i)) for i in range(1000)]
    groups = group(names, 3)
    assert [name for some in groups for name in some] == names
    assert max(map(len, groups)) == 64
    assert [len(some) for some in group(names[:5], 8)] == [1] * 5


def test_held_points_are_one_part():
    held = HeldParts("all")
    assert held.fold(str.upper, max) == "ALL"
    assert list(held.read("features")) == ["all"]
