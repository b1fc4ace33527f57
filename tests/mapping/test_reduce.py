import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from raylatent.errors import MapError
from raylatent.mapping.fit import principal_components
from raylatent.mapping.fitted_map import normalize

ROWS = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 20), st.integers(1, 12)),
    elements=st.floats(-1e6, 1e6, width=32),
)


@given(ROWS, st.sampled_from(["euclidean", "cosine", "correlation"]))
def test_a_row_is_normalized_by_itself(rows, metric):
    together = normalize(rows, metric)
    alone = np.concatenate([normalize(row[None], metric) for row in rows])
    assert together.tobytes() == alone.tobytes()
    assert np.isfinite(together).all()
    length = np.linalg.norm(together.astype(np.float64), axis=1)
    if metric != "euclidean":
        assert (np.isclose(length, 1, atol=1e-6) | (length == 0)).all()


def test_half_the_square_is_the_metric():
    from scipy.spatial.distance import pdist

    rows = np.random.default_rng(0).normal(size=(30, 17)) + 3
    for metric in ("cosine", "correlation"):
        squares = pdist(normalize(rows, metric).astype(np.float64), "sqeuclidean")
        np.testing.assert_allclose(squares / 2, pdist(rows, metric), atol=1e-6)


def test_constant_and_zero_rows_stay_finite():
    rows = np.array([[0.0, 0, 0], [7, 7, 7], [0.1, 0.1, 0.1]], np.float32)
    assert not normalize(rows, "correlation").any()
    assert not normalize(rows, "cosine")[0].any()
    huge = np.array([[3e38, 3e38]], np.float32)
    np.testing.assert_allclose(normalize(huge, "cosine"), [[0.70710678] * 2], rtol=1e-6)


@pytest.mark.parametrize(("n", "d"), [(300, 40), (30, 200), (90, 90)])
def test_components_are_those_of_scikit_learn(n, d):
    from sklearn.decomposition import PCA

    scale = np.linspace(5, 0.5, d)
    rows = (np.random.default_rng(n).normal(size=(n, d)) * scale + 9).astype(np.float32)
    found = principal_components(rows)
    k = min(64, d, n - 1)
    expected = PCA(k, svd_solver="full").fit(rows.astype(np.float64))
    assert found.components.shape == (d, k)
    cosine = np.abs((found.components * expected.components_.T).sum(axis=0))
    np.testing.assert_allclose(cosine, 1, atol=1e-6)
    np.testing.assert_allclose(found.variance, expected.explained_variance_, rtol=1e-6)
    np.testing.assert_allclose(
        found.components.T @ found.components, np.eye(k), atol=1e-9
    )
    largest = np.abs(found.components).argmax(axis=0)
    assert (found.components[largest, np.arange(k)] > 0).all()


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_few_equal_and_constant_rows_work(n):
    rng = np.random.default_rng(0)
    assert principal_components(np.full((n, 4), 3, np.float32)).components.shape[1] == 1
    rows = np.repeat(rng.normal(size=(1, 6)), n, axis=0).astype(np.float32)
    assert principal_components(rows).components.shape == (6, 1)
    rows = rng.normal(size=(n, 6)).astype(np.float32)
    found = principal_components(rows)
    assert found.components.shape == (6, max(1, n - 1))
    assert np.isfinite(found.components).all()


@pytest.mark.parametrize(
    ("rows", "metric", "words"),
    [
        (np.zeros(3), "cosine", r"shape \(3,\)"),
        (np.zeros((3, 0)), "cosine", r"shape \(3, 0\)"),
        (np.array([[0.0], [np.nan]]), "cosine", "row 1 are not finite"),
        (np.zeros((2, 2)), "manhattan", "'manhattan' has no row-wise form"),
    ],
)
def test_nonsense_is_refused(rows, metric, words):
    with pytest.raises(MapError, match=words):
        normalize(rows, metric)
