"""A full rectangle of tiles: who is drawn, where they go, whether that can be trusted."""

import functools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raylatent.errors import MapError
from raylatent.montage import even
from raylatent.montage.cells import choose_cells, finish_cells
from raylatent.montage.even import (
    assigned,
    draw_lot,
    even_grid,
    merge_lots,
    rectangle,
    trustworthiness,
)
from raylatent.montage.grid import Bounds
from raylatent.montage.points import HeldParts, Parts, Points, Rule
from tests.montage.some_cells import some_points


class Cut(Parts):
    """Points in parts."""

    def __init__(self, points, rows):
        self._parts = [points.take(own) for own in rows]

    def read(self, *columns):
        return iter(self._parts)


def clumps(n, seed=0, k=8):
    rng = np.random.default_rng(seed)
    at = rng.choice(k, n, p=rng.dirichlet(np.ones(k)))
    return rng.random((k, 2))[at] * 9 + rng.normal(size=(n, 2)) * 0.4


@given(
    st.floats(0, 1e6, allow_subnormal=False),
    st.floats(0, 1e6, allow_subnormal=False),
    st.integers(1, 10_000),
    st.integers(1, 200),
)
def test_a_rectangle_has_no_more_cells_than_points(width, height, n, most):
    bounds = Bounds(xmin=0, xmax=width, ymin=0, ymax=height, n=n)
    n_rows, n_cols = rectangle(bounds, n, most)
    assert n_rows >= 1
    assert 1 <= n_cols <= most
    assert n_rows * n_cols <= n
    if n_cols < most and width and n_rows > 1:
        assert n_rows * n_cols > n - n_cols  # of too few points as many as can be


def test_a_rectangle_is_about_as_wide_and_high_as_the_map():
    bounds = Bounds.of([(0, 0), (4, 2)])
    assert rectangle(bounds, 10**9, 50) == (25, 50)
    assert rectangle(bounds, 800, 50) == (20, 40)
    assert rectangle(bounds, 3, 50) == (1, 2)
    narrow = Bounds.of([(0, 0), (0, 2)])
    assert rectangle(narrow, 100, 50) == (50, 1)
    assert rectangle(Bounds.of([(0, 0)]), 1, 50) == (1, 1)
    assert np.prod(rectangle(bounds, 10**9, 10**6)) <= even.MOST_CELLS


@given(st.integers(0, 10**6), st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_lots_of_parts_are_those_of_all_points(seed, n):
    points = some_points(seed, coarse=seed % 2 == 0)
    whole = draw_lot(points, n, 3)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(points.xy))
    cuts = np.sort(rng.integers(0, len(order), 3))
    parts = [draw_lot(points.take(own), n, 3) for own in np.split(order, cuts)]
    merged = functools.reduce(lambda a, b: merge_lots(a, b, n), parts)
    np.testing.assert_array_equal(merged.xy, whole.xy)
    np.testing.assert_array_equal(merged.hashes, whole.hashes)
    assert len(np.unique(whole.xy, axis=0)) == len(whole.xy)
    assert len(whole.xy) == min(n, len(np.unique(points.xy, axis=0)))


def test_lots_are_as_points_lie():
    n = 20_000
    xy = np.random.default_rng(0).normal(size=(n, 2))
    table = pa.table({"slide": ["a"] * n, "tile_index": np.arange(n)})
    drawn = draw_lot(Points.of(xy, reference=table), 2_000, 0).xy
    assert abs(drawn.mean(axis=0)).max() < 0.1
    assert abs(drawn.std(axis=0) - 1).max() < 0.06
    other = draw_lot(Points.of(xy, reference=table), 2_000, 1).xy
    assert len({*map(tuple, drawn)} & {*map(tuple, other)}) < 400


@given(st.integers(1, 13), st.integers(1, 13), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_every_point_has_a_cell_of_its_own(n_rows, n_cols, seed):
    xy = np.random.default_rng(seed).integers(0, 6, (n_rows * n_cols, 2)) / 2.0
    found = assigned(xy, (n_rows, n_cols))
    assert sorted(found) == list(range(n_rows * n_cols))


@pytest.mark.parametrize("shape", [(7, 9), (20, 30)])
def test_points_on_a_lattice_keep_their_places(shape, monkeypatch):
    rows, cols = (axis.ravel() for axis in np.indices(shape))
    shuffled = np.random.default_rng(0).permutation(rows.size)
    xy = np.stack([cols, rows], axis=1)[shuffled] * 2.5
    exact = assigned(xy, shape)
    np.testing.assert_array_equal(shuffled[exact], np.arange(rows.size))
    monkeypatch.setattr(even, "_EXACT_CELLS", 0)
    np.testing.assert_array_equal(assigned(xy, shape), exact)


def cost_of(xy, shape, taken):
    rows, cols = (axis.ravel() for axis in np.indices(shape))
    low, extent = xy.min(axis=0), np.ptp(xy, axis=0)
    places = ((xy - low) / extent * shape[::-1])[taken]
    cells = np.stack([cols, rows], axis=1) + 0.5
    return np.square(places - cells).sum(axis=1).mean()


def test_halving_and_exchange_come_near_to_the_least_cost(monkeypatch):
    shape = (24, 26)
    xy = clumps(24 * 26)
    exact = assigned(xy, shape)
    monkeypatch.setattr(even, "_EXACT_CELLS", 0)
    near = assigned(xy, shape)
    assert cost_of(xy, shape, exact) <= cost_of(xy, shape, near)
    assert cost_of(xy, shape, near) < 1.1 * cost_of(xy, shape, exact)
    monkeypatch.setattr(even, "_SHIFTS", ())
    halved = assigned(xy, shape)
    assert cost_of(xy, shape, near) < cost_of(xy, shape, halved)


def test_neighbors_stay_neighbors():
    shape = (50, 50)
    xy = clumps(2_500, seed=1)
    cells = np.empty((2_500, 2))
    rows, cols = (axis.ravel() for axis in np.indices(shape))
    cells[assigned(xy, shape)] = np.stack([cols, rows], axis=1)
    assert trustworthiness(xy, cells) > 0.97
    by_x = np.empty((2_500, 2))  # what sorting alone does
    by_x[np.argsort(xy[:, 0])] = np.stack([cols, rows], axis=1)
    assert trustworthiness(xy, by_x) < trustworthiness(xy, cells)
    assert trustworthiness(xy[:3], cells[:3]) is None


@pytest.mark.parametrize("select", ["nearest", "medoid", "first"])
@pytest.mark.parametrize("coarse", [True, False])
def test_any_parts_in_any_order_give_the_same_cells(select, coarse):
    points = some_points(5, n=200, coarse=coarse)
    order = np.random.default_rng(1).permutation(200)
    rule = Rule(select=select, seed=7)
    found = []
    for rows in ([np.arange(200)], np.split(order, [9, 90, 91])):
        chosen = choose_cells(Cut(points, rows), "even", 6, rule)
        found.append(finish_cells(chosen.grid, chosen.cells))
    assert found[0].equals(found[1])
    n_rows, n_cols = (max(found[0][name].to_pylist()) + 1 for name in ("row", "col"))
    assert len(found[0]) == n_rows * n_cols  # no cell is empty
    assert sum(found[0]["n"].to_pylist()) == 200
    if select == "nearest":
        assert set(found[0]["distance"].to_pylist()) == {0.0}
        assert found[0]["why"][0].as_py().startswith("drawn by lot, for the ")


def test_places_that_are_not_finite_have_no_cell():
    xy = np.array([[0, 0], [1, 0], [np.nan, 1], [np.inf, 0], [2, 0]])
    points = Points.of(xy)
    grid = even_grid(HeldParts(points), Bounds.of(xy), 9, 0)
    rows, cols = grid.bin(xy)
    assert rows.tolist() == [0, 0, -1, -1, 0]
    assert cols.tolist() == [0, 1, -1, -1, 2]
    kept = [0, 1, 4]
    np.testing.assert_array_equal(grid.center(rows[kept], cols[kept]), xy[kept])
    with pytest.raises(MapError, match="there are none"):
        even_grid(HeldParts(points), Bounds(), 9, 0)


def test_points_at_one_place_are_one_cell():
    xy = np.full((7, 2), 3.0)
    grid = even_grid(HeldParts(Points.of(xy)), Bounds.of(xy), 9, 0)
    assert (grid.n_rows, grid.n_cols, grid.cell) == (1, 1, 1.0)
