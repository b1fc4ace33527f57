"""Maps of samples in which there is little to tell apart, and rows far from all."""

import numpy as np
import pytest

from raylatent.mapping.fit import fit_map
from raylatent.mapping.parameters import MapParameters


@pytest.mark.parametrize("metric", ["cosine", "correlation"])
def test_rows_of_one_direction_are_no_cloud(metric):
    rows = np.outer(np.arange(1, 61), [1.0, 2.0, 4.0]).astype(np.float32)
    rows = rows * 2.0 ** np.arange(60)[:, None] / np.arange(1, 61)[:, None]
    fitted = fit_map(rows, MapParameters(metric=metric, n_neighbors=5))
    assert fitted.info["layout"] == "pca"
    assert np.ptp(fitted.embedding, axis=0).max() == 0.0


def test_few_distinct_rows_keep_their_metric(caplog):
    rows = np.eye(4, dtype=np.float32)
    fitted = fit_map(rows, MapParameters(metric="cosine", placement="umap-learn"))
    assert fitted.info["placement"]["metric"] == "cosine"
    assert "distinct" in caplog.text


def test_the_farthest_distance_is_finite():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 8)).astype(np.float32)
    fitted = fit_map(rows, MapParameters(metric="euclidean", n_neighbors=5))
    far = np.full((1, 8), 3e38, np.float32)
    assert fitted.place(far)[1][0] == np.finfo(np.float32).max
