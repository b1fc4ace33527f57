"""Groups of near rows; and that neighbors found through them are those of all rows."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylatent.mapping import neighbors
from raylatent.mapping.fit import projected_sample
from raylatent.mapping.fitted_map import normalize
from raylatent.mapping.sample_index import (
    near_groups,
    project,
    screen_of,
)


@given(st.integers(1, 300), st.integers(1, 40), st.integers(0, 5))
def test_every_row_is_in_one_group(n, most, seed):
    rows = np.random.default_rng(seed).integers(0, 3, (n, 2)).astype(float)
    order, start = near_groups(rows, most)
    assert sorted(order.tolist()) == list(range(n))
    assert start[0] == 0
    assert start[-1] == n
    assert all(0 < last - first <= most for first, last in pairwise(start.tolist()))


def clustered(n, width, seed, noise):
    random = np.random.default_rng(seed)
    centers = random.normal(size=(9, width)) * 3
    rows = centers[random.integers(9, size=n)] + noise * random.normal(size=(n, width))
    return rows.astype(np.float32)


@pytest.mark.parametrize("width", [40, 300, 1_300])
@pytest.mark.parametrize("noise", [0.3, 6.0])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_neighbors_are_those_of_all_rows(width, noise, metric):
    rows = normalize(clustered(1_500, width, 0, noise), metric)
    plane, sample = projected_sample(rows)
    reduced = sample.reduced.T
    asked = clustered(70, width, 1, noise)
    asked[60:] += np.float32(1e4)  # far from all
    asked[:5] = clustered(1_500, width, 0, noise)[100:105]  # the sample's own
    asked = normalize(asked, metric)
    looked = screen_of(sample, plane)
    index, square, whole, equal = neighbors.nearest(
        asked, np.full(70, -1), plane, sample, looked, 15
    )
    points = project(asked, plane)[0]
    squares = ((points[:, None] - reduced[None]) ** 2).sum(axis=2)
    order = np.argsort(squares, axis=1, kind="stable")[:, :15]
    near = np.take_along_axis(squares, order, axis=1)
    np.testing.assert_allclose(square, near, rtol=1e-9, atol=1e-12)
    clear = np.diff(near, axis=1).min(axis=1) > 1e-9 * near[:, -1]
    assert clear.sum() > 40
    np.testing.assert_array_equal(index[clear], order[clear])
    full = np.array(
        [
            ((one.astype(float) - rows.astype(float)) ** 2).sum(axis=1).min()
            for one in asked
        ]
    )
    np.testing.assert_allclose(whole, full, rtol=1e-9)
    assert equal[:5].tolist() == list(range(100, 105))
    assert (equal[5:] == -1).all()
    for some in (slice(0, 1), slice(10, 17), slice(30, 70)):
        alone = neighbors.nearest(
            asked[some], np.full(70, -1)[some], plane, sample, looked, 15
        )
        for found, wanted in zip(alone, (index, square, whole, equal), strict=True):
            assert found.tobytes() == wanted[some].tobytes()
