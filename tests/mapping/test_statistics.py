"""How far a map can be trusted."""

import warnings

import numpy as np
import pytest

from raylatent.errors import MapError
from raylatent.mapping.statistics import cluster, in_words, measured, quality


def test_a_faithful_map_scores_1_and_a_random_one_about_a_half():
    rng = np.random.default_rng(0)
    sample, rows = rng.normal(size=(300, 2)), rng.normal(size=(200, 2))
    assert quality(rows, rows * 5 + 1, sample, sample * 5 + 1).trustworthiness == 1.0
    noise = quality(rows, rng.normal(size=(200, 2)), sample, sample).trustworthiness
    assert 0.4 < noise < 0.7


def test_the_worst_map_scores_0():
    line = np.arange(9.0)[:, None] * [1.0, 0.0]
    row, far = np.array([[-1.0, 0.0]]), np.array([[9.0, 0.0]])
    assert quality(
        row, far, line, line, n_neighbors=4
    ).trustworthiness == pytest.approx(0.0)


def test_nonsense_is_refused():
    points = np.zeros((4, 2))
    with pytest.raises(MapError, match="2 neighbors among 4"):
        quality(points, points, points, points, n_neighbors=2)


@pytest.mark.parametrize("own", [False, True])
def test_quality_is_that_of_scikit_learn(own):
    """Of rows of the sample itself; for others, of a plain loop."""
    from sklearn.manifold import trustworthiness as of_sklearn

    rng = np.random.default_rng(3)
    features = rng.normal(size=(90, 6))
    xy = features[:, :2] + rng.normal(size=(90, 2))
    if own:
        found = quality(features, xy, features, xy, 5, np.arange(90))
        expected = of_sklearn(features, xy, n_neighbors=5)
        assert found.trustworthiness == pytest.approx(expected)
        return
    rows, sample = slice(0, 20), slice(20, 90)
    found = quality(features[rows], xy[rows], features[sample], xy[sample], 5)
    hits, penalty = 0, 0
    for i in range(20):
        truly = np.argsort(np.linalg.norm(features[sample] - features[i], axis=1))
        seen = np.argsort(np.linalg.norm(xy[sample] - xy[i], axis=1))[:5]
        ranks = [list(truly).index(j) + 1 for j in seen]
        hits += sum(rank <= 5 for rank in ranks)
        penalty += sum(max(rank - 5, 0) for rank in ranks)
    assert found.knn_recall == hits / 100
    worst = 20 * 5 * (2 * 70 - 3 * 5 + 1) / 2
    assert found.trustworthiness == pytest.approx(1 - penalty / worst)


def test_a_map_tells_its_quality(fitted, fit_rows, new_rows):
    held = measured(fitted, fit_rows[0], new_rows[0])
    assert held["held_out"] == held["rows"] == len(new_rows[0])
    assert held["trustworthiness"] > 0.9
    alone = measured(fitted, fit_rows[0], new_rows[0][:0])
    assert alone["held_out"] == 0 < alone["rows"]
    assert alone["trustworthiness"] > 0.9
    points = {"rows": 1000, "outside": 20, "novel": 3}
    info = {**fitted.info, "quality": held, "points": points}
    fit_line, quality_line, rows_line = in_words(info)
    assert "on 400 rows, seed 42, umap-learn 0." in fit_line
    assert "held-out" in quality_line
    assert "20 (2.0%) outside the frame, 3 (0.3%) unlike" in rows_line
    assert in_words({}) == []


def test_a_map_of_few_rows_has_no_quality():
    from raylatent.mapping.fit import fit_map
    from raylatent.mapping.umap_learn import MapParameters

    rows = np.eye(3, dtype=np.float32)
    fitted = fit_map(rows, MapParameters())
    assert measured(fitted, rows, rows[:0])["trustworthiness"] is None


def test_a_handful_of_held_rows_is_not_measured(fitted, fit_rows, new_rows):
    few = measured(fitted, fit_rows[0], new_rows[0][:10])
    assert few["held_out"] == 0
    assert few["rows"] > 200


def test_only_that_rows_are_equal_is_not_said(monkeypatch, recwarn):
    from sklearn.cluster import KMeans

    assert set(cluster(np.zeros((9, 2), np.float32), 3)) == {0}
    assert not recwarn.list
    fit = KMeans.fit

    def warns(self, rows):
        warnings.warn("broken", RuntimeWarning, stacklevel=1)
        return fit(self, rows)

    monkeypatch.setattr(KMeans, "fit", warns)
    with pytest.warns(RuntimeWarning, match="broken"):
        cluster(np.eye(3, dtype=np.float32), 2)
