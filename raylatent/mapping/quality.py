"""How far a map can be trusted: are neighbors on it neighbors in feature space?

Trustworthiness as of Venna and Kaski 2001 (doi:10.1007/3-540-44668-0_68).
"""

import numpy as np
from numpy.typing import NDArray

from raylatent.errors import MapError

_BLOCK_ROWS = 256


def trustworthiness(
    features: NDArray[np.floating],
    xy: NDArray[np.floating],
    sample_features: NDArray[np.floating],
    sample_xy: NDArray[np.floating],
    n_neighbors: int = 15,
) -> float:
    """Trustworthiness of placed rows among the sample: 1 is best, random about 0.5.

    For each row, its nearest sample rows on the map are penalized by how far they are
    beyond the nearest in feature space (Euclidean: give rows as `reduce.normalize` has
    them). The penalty is scaled by the largest possible one.

    Args:
        features: Placed rows (m, d).
        xy: Their places (m, 2).
        sample_features: Sample rows (n, d).
        sample_xy: Their places (n, 2).
        n_neighbors: At least 1 and less than n / 2.

    Raises:
        MapError: `n_neighbors` is out of range, or there is no row.

    >>> line = np.arange(10.0)[:, None] * [1.0, 1.0]
    >>> trustworthiness(line + 0.1, line + 0.1, line, line, n_neighbors=3)
    1.0
    """
    n, k = len(sample_features), n_neighbors
    if not 1 <= k < n / 2 or not len(features):
        message = (
            f"{len(features)} rows and {k} neighbors among {n} sample rows: give at "
            "least 1 row, and neighbors from 1 to less than half the sample"
        )
        raise MapError(message)
    penalty = 0.0
    for start in range(0, len(features), _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        order = np.argsort(_squares(features[rows], sample_features), axis=1)
        rank = np.empty_like(order)
        np.put_along_axis(rank, order, np.arange(1, n + 1)[None, :], axis=1)
        near = np.argsort(_squares(xy[rows], sample_xy), axis=1)[:, :k]
        beyond = np.take_along_axis(rank, near, axis=1) - k
        penalty += float(np.maximum(beyond, 0).sum())
    worst = len(features) * k * (2 * n - 3 * k + 1) / 2
    return 1.0 - penalty / worst


def _squares(
    left: NDArray[np.floating], right: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Squared distances (m, n)."""
    a, b = left.astype(np.float64), right.astype(np.float64)
    center = b.mean(axis=0)  # the expansion below cancels less around the center
    a, b = a - center, b - center
    squares: NDArray[np.float64] = (
        (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1) - 2.0 * (a @ b.T)
    )
    return squares
