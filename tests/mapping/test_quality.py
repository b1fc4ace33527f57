import numpy as np
import pytest

from raylatent.errors import MapError
from raylatent.mapping.quality import trustworthiness


def test_a_faithful_map_scores_1_and_a_random_one_about_a_half():
    rng = np.random.default_rng(0)
    sample, rows = rng.normal(size=(300, 2)), rng.normal(size=(200, 2))
    assert trustworthiness(rows, rows * 5 + 1, sample, sample * 5 + 1) == 1.0
    noise = trustworthiness(rows, rng.normal(size=(200, 2)), sample, sample)
    assert 0.4 < noise < 0.7


def test_the_worst_map_scores_0():
    line = np.arange(9.0)[:, None] * [1.0, 0.0]
    row, far = np.array([[-1.0, 0.0]]), np.array([[9.0, 0.0]])
    assert trustworthiness(row, far, line, line, n_neighbors=4) == pytest.approx(0.0)


def test_nonsense_is_refused():
    points = np.zeros((4, 2))
    with pytest.raises(MapError, match="2 neighbors among 4"):
        trustworthiness(points, points, points, points, n_neighbors=2)
