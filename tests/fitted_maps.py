"""One small fitted map for all tests that want one: umap takes seconds to start.

conftest.py imports the fixtures, so that each is made once in a session.
"""

import numpy as np
import pytest

N_FIT = 400
N_CLASSES = 6


def make_blobs(n, seed=1):
    """Rows (n, 90) in 6 classes on a 10-dimensional plane plus noise, and classes."""
    shape = np.random.default_rng(0)
    centers = shape.normal(size=(N_CLASSES, 10)) * 3
    mixing = shape.normal(size=(10, 90))
    rng = np.random.default_rng(seed)
    kind = rng.integers(N_CLASSES, size=n)
    hidden = centers[kind] + rng.normal(size=(n, 10))
    rows = np.maximum(hidden @ mixing, 0) + 0.2 * rng.random((n, 90))
    return rows.astype(np.float32), kind


@pytest.fixture(scope="session")
def blobs():
    return make_blobs


@pytest.fixture(scope="session")
def fit_rows():
    return make_blobs(N_FIT)


@pytest.fixture(scope="session")
def new_rows():
    return make_blobs(999, seed=2)


@pytest.fixture(scope="session")
def fitted(fit_rows):
    from raylatent.mapping.fit import fit_map
    from raylatent.mapping.umap_learn import MapParameters

    return fit_map(fit_rows[0], MapParameters(n_neighbors=15))


@pytest.fixture(scope="session")
def manhattan(fit_rows):
    from raylatent.mapping.fit import fit_map
    from raylatent.mapping.umap_learn import MapParameters

    return fit_map(fit_rows[0], MapParameters(n_neighbors=15, metric="manhattan"))
