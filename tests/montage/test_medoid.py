"""Means of cells, to the bit whatever the order of adding."""

import functools
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylatent.errors import MapError
from raylatent.montage.cells import partial_sums
from raylatent.montage.points import Points, Rule, coded
from raylatent.montage.tally import merge_sums, sums_by_cell
from tests.montage.some_cells import grid_of, whole

FLOATS = {
    "float16": st.floats(width=16, allow_nan=False, allow_infinity=False),
    "float32": st.floats(width=32, allow_nan=False, allow_infinity=False),
    "float64": st.floats(-1e300, 1e300),
}


@pytest.mark.parametrize("dtype", FLOATS)
@given(data=st.data())
def test_means_are_exact_and_do_not_depend_on_the_order_of_adding(dtype, data):
    """Against fractions, which lose nothing."""
    values = data.draw(st.lists(FLOATS[dtype], min_size=1, max_size=30))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    column = np.array(values, dtype)[:, None]
    cell = rng.integers(0, 3, len(column))

    def sums(rows):
        ids, code = coded(cell[rows])
        return sums_by_cell(ids, code, column, rows)

    all_rows = np.arange(len(column))
    once = sums(all_rows)
    parts = [sums(r) for r in np.array_split(rng.permutation(len(column)), 4)]
    for order in (parts, parts[::-1]):
        merged = functools.reduce(merge_sums, order)
        np.testing.assert_array_equal(merged.means(), once.means())
    for i, mean in enumerate(once.means()[:, 0]):
        own = [Fraction(float(v)) for v in column[cell == once.cell[i], 0]]
        expected = sum(own) / len(own)
        largest = float(max(map(abs, own)))
        lost = largest * (2.0**-32 if dtype == "float32" else 2.0**-50)
        assert abs(Fraction(float(mean)) - expected) <= Fraction(lost) + Fraction(
            1e-300
        )
        if dtype == "float16":  # whose every bit is kept
            assert mean == float(expected)


def test_many_rows_in_chunks(monkeypatch):
    from raylatent.montage import tally

    rng = np.random.default_rng(0)
    values = (rng.normal(size=(500, 4)) * 10.0 ** rng.integers(-9, 9, (500, 1))).astype(
        np.float32
    )
    ids, code = coded(rng.integers(0, 7, 500))
    once = sums_by_cell(ids, code, values, np.arange(500))
    monkeypatch.setattr(tally, "_CHUNK_VALUES", 44)
    chunked = sums_by_cell(ids, code, values, np.arange(500))
    np.testing.assert_array_equal(once.digits, chunked.digits)
    np.testing.assert_array_equal(once.lead, chunked.lead)


@pytest.mark.parametrize("huge", [1e25, 3e38])
def test_a_huge_value_changes_its_own_cell_alone(huge):
    rng = np.random.default_rng(0)
    n = 2000
    reference = pa.table({"slide": ["a"] * n, "tile_index": np.arange(n)})
    columns = {
        "features": rng.normal(size=(n, 8)).astype(np.float32) + 5,
        "predictions": rng.random((n, 2)).astype(np.float32),
        "knn_distance": rng.random(n).astype(np.float32),
    }
    xy = rng.random((n, 2))

    def cells():
        points = Points.of(xy, reference=reference, **columns)
        return whole(grid_of(points, 5), points, Rule(select="medoid")).to_pylist()

    before = cells()
    for values in columns.values():
        values.reshape(n, -1)[0, 0] = huge
    after = cells()
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 1
    # In its own cell the other column is as it was.
    (own,) = (i for i in range(len(before)) if before[i] != after[i])
    for field in ("n", "n_slides"):
        assert before[own][field] == after[own][field]
    assert before[own]["predictions_mean"][1] == after[own]["predictions_mean"][1]


def test_features_that_are_not_finite_are_refused():
    points = Points.of(np.zeros((2, 2)), features=np.array([[1.0, 2.0], [1.0, np.nan]]))
    with pytest.raises(MapError, match="not finite"):
        partial_sums(points, grid_of(points))
