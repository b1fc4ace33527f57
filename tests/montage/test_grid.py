"""Grids against Slideflow's own numbers, a reference, and what must always hold."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from raylatent.errors import MapError
from raylatent.montage.cells import choose_cells, finish_cells
from raylatent.montage.grid import Bounds, SlideflowGrid, SquareGrid, make_grid
from raylatent.montage.points import HeldParts, Points, Rule

COORDS = hnp.arrays(
    np.float64,
    st.tuples(st.integers(1, 60), st.just(2)),
    elements=st.floats(-1e3, 1e3, width=32),
)


def slideflow_reference(x, y, nx, select):
    """Slideflow's block by its formulas (maps.md, section 5); loops, on purpose."""
    ts = (x.max() - x.min()) / nx
    ny = int((y.max() - y.min()) / ts)
    bx = np.arange(x.min(), x.max(), (x.max() - x.min()) / nx)[1:]
    by = np.arange(y.min(), y.max(), (y.max() - y.min()) / ny)[1:]
    gx, gy = np.digitize(x, bx), np.digitize(y, by)
    chosen = []
    for i, j in sorted(set(zip(gx.tolist(), gy.tolist(), strict=True))):
        rows = np.flatnonzero((gx == i) & (gy == j))
        if select == "first":
            chosen.append(rows[0])
        elif i < nx and j < ny:
            center = (np.array([i, j]) * ts) + np.array(
                [(ts / 2) + x.min(), (ts / 2) + y.min()]
            )
            points = np.stack([x[rows], y[rows]], axis=-1)
            chosen.append(
                rows[np.argmin(np.linalg.norm(points - center, ord=2, axis=1))]
            )
    return ts, ny, gx, gy, sorted(chosen)


def slideflow_chosen(xy, nx, select):
    points = HeldParts(Points.of(xy))
    chosen = choose_cells(points, "slideflow", nx, Rule(select=select, ties="row"))
    return chosen.grid, finish_cells(chosen.grid, chosen.cells)


@pytest.mark.parametrize("nx", [10, 50])
@pytest.mark.parametrize("select", ["first", "nearest"])
def test_slideflow_grid_is_slideflows(goldens, nx, select):
    golden = np.load(goldens / "mosaic_grids.npz")
    xy = np.stack([golden["x"], golden["y"]], axis=1)
    grid, cells = slideflow_chosen(xy, nx, select)
    rows, cols = grid.bin(xy)
    key = f"{nx}_{select}"
    np.testing.assert_array_equal(cols, golden[f"{key}/grid_x"])
    np.testing.assert_array_equal(rows, golden[f"{key}/grid_y"])
    assert grid.cell == golden[f"{key}/tile_size"]
    assert grid.n_rows == golden[f"{key}/num_tiles_y"]
    all_cols, all_rows = np.divmod(np.arange(grid.n_cols * grid.n_rows), grid.n_rows)
    centers = grid.center(all_rows, all_cols)
    np.testing.assert_array_equal(centers, golden[f"{key}/grid_coords"])
    np.testing.assert_array_equal(
        np.sort(cells["index"].to_numpy()), np.flatnonzero(golden[f"{key}/selected"])
    )


def test_slideflow_grid_repeats_a_known_case():
    rng = np.random.default_rng(42)
    x = rng.random(400) * 3 - 1
    y = rng.random(400) * 2 + 5
    xy = np.stack([x, y], axis=1)
    grid, first = slideflow_chosen(xy, 8, "first")
    assert (grid.n_rows, grid.cell) == (5, 0.3693799853643118)
    assert sorted(first["index"].to_pylist())[:12] == [
        *(0, 1, 2, 3, 4, 5, 7, 8, 10, 11, 14, 15)
    ]
    _, nearest = slideflow_chosen(xy, 8, "nearest")
    assert sorted(nearest["index"].to_pylist())[:12] == [
        *(11, 29, 40, 57, 66, 69, 70, 74, 76, 91, 92, 97)
    ]


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(2, 300),
    nx=st.integers(1, 60),
    aspect=st.floats(0.3, 1.8),
    select=st.sampled_from(["first", "nearest"]),
)
def test_slideflow_grid_equals_the_reference(seed, n, nx, aspect, select):
    rng = np.random.default_rng(seed)
    x = rng.random(n) * rng.uniform(0.1, 10) + rng.uniform(-5, 5)
    y = rng.random(n) * (x.max() - x.min()) * aspect
    width, height = x.max() - x.min(), y.max() - y.min()
    assume(int(height / (width / nx)) > 0)
    ts, ny, gx, gy, chosen = slideflow_reference(x, y, nx, select)
    xy = np.stack([x, y], axis=1)
    grid, cells = slideflow_chosen(xy, nx, select)
    rows, cols = grid.bin(xy)
    assert (grid.cell, grid.n_rows) == (ts, ny)
    np.testing.assert_array_equal(cols, gx)
    np.testing.assert_array_equal(rows, gy)
    assert sorted(cells["index"].to_pylist()) == chosen


def test_slideflow_grid_keeps_the_extra_bin_of_arange():
    # 49 steps over [0, 1] end one bin late: the last point is in column 49 of 0..48.
    xy = np.array([[0.0, 0.0], [1.0, 1.0], [0.999999, 0.5]])
    grid = SlideflowGrid.fit(Bounds.of(xy), 49)
    assert grid.bin(xy)[1].max() == 49
    assert SquareGrid.fit(Bounds.of(xy), 49).bin(xy)[1].max() == 48


def test_slideflow_grid_of_a_flat_map():
    with pytest.raises(MapError, match="grid='square'"):
        SlideflowGrid.fit(Bounds.of([(1.0, 0.0), (1.0, 2.0)]), 5)
    flat = SlideflowGrid.fit(Bounds.of([(0.0, 1.0), (2.0, 1.0)]), 5)
    assert flat.n_rows == 0
    rows, _ = flat.bin(np.array([[0.0, 1.0], [2.0, 1.0]]))
    assert rows.tolist() == [0, 0]


@given(xy=COORDS, nx=st.integers(1, 40))
def test_each_point_is_in_one_cell_that_holds_it(xy, nx):
    bounds = Bounds.of(xy)
    assume(bounds.width == 0 or bounds.height < 1000 * bounds.width)
    grid = SquareGrid.fit(bounds, nx)
    rows, cols = grid.bin(xy)
    assert ((rows >= 0) & (rows < grid.n_rows)).all()
    assert ((cols >= 0) & (cols < grid.n_cols)).all()
    away = np.abs(xy - grid.center(rows, cols))
    slack = 1e-9 * (np.abs(xy).max() + grid.cell)
    assert (away <= grid.cell / 2 + slack).all()


@given(xy=COORDS, nx=st.integers(1, 40), cut=st.integers(0, 60))
def test_bounds_of_parts_merge_to_those_of_the_whole(xy, nx, cut):
    merged = Bounds.of(xy[cut:]).merge(Bounds.of(xy[:cut]))
    assert merged == Bounds.of(xy)


def test_upper_edges_are_in_the_last_cell():
    xy = np.array([[0.0, 0.0], [10.0, 10.0], [10.0, 0.0], [0.0, 10.0]])
    grid = SquareGrid.fit(Bounds.of(xy), 7)
    assert (grid.n_cols, grid.n_rows) == (7, 7)
    rows, cols = grid.bin(xy)
    assert rows.tolist() == [0, 6, 0, 6]
    assert cols.tolist() == [0, 6, 6, 0]


def test_rounding_adds_no_row():
    # 3 / (3 / 47) is 47.00000000000001.
    xy = np.array([[0.0, 0.0], [3.0, 3.0]])
    assert 3 / (3 / 47) > 47
    assert SquareGrid.fit(Bounds.of(xy), 47).n_rows == 47


@pytest.mark.parametrize(
    ("xy", "shape"),
    [
        ([(2, 0), (2, 6), (2, 3)], (6, 1)),
        ([(0, 5), (6, 5)], (1, 6)),
        ([(4, 4)], (1, 1)),
        ([(4, 4), (4, 4)], (1, 1)),
    ],
)
def test_flat_maps_have_a_grid(xy, shape):
    points = np.array(xy, np.float64)
    grid = SquareGrid.fit(Bounds.of(points), 6)
    assert (grid.n_rows, grid.n_cols) == shape
    rows, cols = grid.bin(points)
    assert (rows >= 0).all()
    assert (cols >= 0).all()


def test_one_column_holds_all():
    xy = np.random.default_rng(0).random((50, 2)) * [1, 3]
    grid = SquareGrid.fit(Bounds.of(xy), 1)
    rows, cols = grid.bin(xy)
    assert set(cols.tolist()) == {0}
    assert rows.max() == grid.n_rows - 1


def test_points_that_are_not_finite_or_outside_are_in_no_cell():
    grid = SquareGrid.fit(Bounds.of([(0, 0), (4, 4)]), 4)
    bad = np.array([[math.nan, 1], [1, math.inf], [-1, 1], [1, 4.5], [2, 2]])
    rows, cols = grid.bin(bad)
    assert rows.tolist() == [-1, -1, -1, -1, 2]
    assert cols.tolist() == [-1, -1, -1, -1, 2]


@pytest.mark.parametrize(
    ("kind", "xy", "nx", "sentence"),
    [
        ("hex", [(0, 0)], 5, "unknown grid 'hex'"),
        ("square", [(0, 0)], 0, "num_tiles_x must be 1 or more, not 0"),
        ("square", np.empty((0, 2)), 5, "needs points, and there are none"),
        ("square", [(math.nan, 0)], 5, r"none \(1 are not finite\)"),
        ("square", [(0, 0), (1e-9, 1e9)], 50, "too narrow"),
        ("slideflow", [(0, 0), (1e-9, 1e9)], 50, "fewer columns"),
        ("square", [(-1e308, 0), (1e308, 0)], 50, "too far apart"),
    ],
)
def test_nonsense_is_refused(kind, xy, nx, sentence):
    with pytest.raises(MapError, match=sentence):
        make_grid(kind, Bounds.of(xy), nx)
