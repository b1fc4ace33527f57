"""Means of cells, to the bit whatever the order of adding."""

import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylatent.errors import MapError
from raylatent.montage.grid import Bounds, SquareGrid
from raylatent.montage.medoid import (
    feature_scale,
    largest_feature,
    merge_sums,
    partial_sums,
)
from raylatent.montage.points import Points, cell_ids


@given(
    largest=st.floats(0, 3e38),
    n=st.integers(1, 10**9),
)
def test_sums_of_scaled_features_fit_in_64_bits(largest, n):
    scale = feature_scale(largest, n)
    assert n * (largest * scale + 0.5) < 2.0**63


@given(seed=st.integers(0, 999))
def test_means_do_not_depend_on_the_order_of_adding(seed):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(60, 3)) * 10.0 ** rng.integers(-6, 6, (60, 1))
    points = Points.of(rng.random((60, 2)), features=features.astype(np.float32))
    grid = SquareGrid.fit(Bounds.of(points.xy), 2)
    scale = feature_scale(largest_feature(points.features), 60)
    parts = [
        partial_sums(points.take(rows), grid, scale)
        for rows in np.array_split(rng.permutation(60), 7)
    ]
    merged, other = (functools.reduce(merge_sums, p) for p in (parts, parts[::-1]))
    np.testing.assert_array_equal(merged.means(), other.means())
    whole_means = partial_sums(points, grid, scale).means()
    np.testing.assert_array_equal(merged.means(), whole_means)
    _, inside = cell_ids(grid, points.xy)
    assert len(inside) == 60
    np.testing.assert_allclose(
        (whole_means * merged.n[:, None]).sum(axis=0),
        points.features.sum(axis=0, dtype=np.float64),
        atol=1e-9 * np.abs(points.features).max(),
    )


def test_features_that_are_not_finite_are_refused():
    with pytest.raises(MapError, match="not finite"):
        largest_feature(np.array([[1.0, np.nan]]))
