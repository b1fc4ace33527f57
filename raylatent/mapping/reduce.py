"""The metric's own normalization, and principal components of the sample.

After it, the Euclidean distance d says all: cosine and correlation distance are
d^2 / 2 between unit vectors.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raylatent.errors import MapError

MAX_COMPONENTS = 64
ROW_METRICS = frozenset({"euclidean", "cosine", "correlation"})
"""Metrics that become a Euclidean distance once each row is normalized by itself."""

_BLOCK_ROWS = 2048
# Directions with less than this share of the largest variance are rounding noise.
_NULL_SHARE = 1e-10


def normalize(features: NDArray[np.floating], metric: str) -> NDArray[np.float32]:
    """Normalize each row (n, d) by itself, as the metric does.

    `euclidean` leaves it, `cosine` scales it to length 1, `correlation` centers it
    first. A row without length stays zero. Sums run over the features in order, row by
    row alike, so a row's result never depends on the rows beside it.

    Raises:
        MapError: Not an (n, d) array with d > 0, values that are not finite, or
            another metric.

    >>> normalize(np.array([[3.0, 4.0]]), "cosine").tolist()
    [[0.6000000238418579, 0.800000011920929]]
    """
    rows = check_features(features)
    if metric not in ROW_METRICS:
        message = f"metric {metric!r} has no row-wise form: {sorted(ROW_METRICS)} have"
        raise MapError(message)
    if metric == "euclidean":
        return rows
    from raylatent.mapping.projection import unit_rows  # noqa: PLC0415  (numba)

    return unit_rows(rows, metric == "correlation")


def check_features(features: NDArray[np.floating]) -> NDArray[np.float32]:
    """Features as contiguous float32 (n, d).

    Raises:
        MapError: Not an (n, d) array with d > 0, or values that are not finite.
    """
    rows = np.ascontiguousarray(features, dtype=np.float32)
    if rows.ndim != 2 or rows.shape[1] == 0:
        message = f"features have shape {rows.shape}: give an array (rows, features)"
        raise MapError(message)
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        message = (
            f"features of row {int(np.argmin(finite))} are not finite, as are "
            f"{int((~finite).sum())} of {len(rows)} rows: leave them out"
        )
        raise MapError(message)
    return rows


@dataclass(frozen=True, kw_only=True, eq=False)
class PrincipalComponents:
    """A projection `z = (row - mean) @ components`.

    Attributes:
        mean: float64 (d,).
        components: float64 (d, m), orthonormal columns, largest variance first; in
            each the entry of largest magnitude is positive.
        variance: float64 (m,), of the sample along each.
    """

    mean: NDArray[np.float64]
    components: NDArray[np.float64]
    variance: NDArray[np.float64]


def principal_components(rows: NDArray[np.float32]) -> PrincipalComponents:
    """Principal components of rows (n, d): at most min(64, d, n - 1), at least 1.

    Directions without variance are left out; where none has any, the one component is
    the first axis. Computed in float64 by one thread, so that it repeats.

    >>> principal_components(np.zeros((3, 5), np.float32)).components.shape
    (5, 1)
    """
    from threadpoolctl import threadpool_limits  # noqa: PLC0415  (with umap-learn)

    n, d = rows.shape
    mean = rows.mean(axis=0, dtype=np.float64)
    limit = max(1, min(MAX_COMPONENTS, d, n - 1))
    with threadpool_limits(1):
        scatter = _scatter(rows, mean) if d <= n else _gram(rows, mean)
        value, vector = np.linalg.eigh(scatter)
        order = np.argsort(value, kind="stable")[::-1][:limit]
        order = order[value[order] > _NULL_SHARE * max(value.max(), 0.0)]
        value, vector = value[order], vector[:, order]
        components = vector if d <= n else _lift(rows, mean, vector)
    if not len(order):
        value, components = np.zeros(1), np.eye(d, 1)
    columns = np.arange(components.shape[1])
    sign = np.sign(components[np.abs(components).argmax(axis=0), columns])
    return PrincipalComponents(
        mean=mean,
        components=np.ascontiguousarray(components * sign),
        variance=value / max(n - 1, 1),
    )


def _scatter(
    rows: NDArray[np.float32], mean: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Centered scatter (d, d)."""
    total = np.zeros((rows.shape[1], rows.shape[1]))
    for start in range(0, len(rows), _BLOCK_ROWS):
        block = rows[start : start + _BLOCK_ROWS] - mean
        total += block.T @ block
    return total


def _gram(rows: NDArray[np.float32], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centered inner products (n, n): the smaller problem where d > n."""
    centered = rows - mean
    gram: NDArray[np.float64] = centered @ centered.T
    return gram


def _lift(
    rows: NDArray[np.float32], mean: NDArray[np.float64], vector: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Orthonormal directions (d, m) of the gram matrix's eigenvectors (n, m)."""
    lifted = (rows - mean).T @ vector
    orthonormal, _ = np.linalg.qr(lifted)
    return np.asarray(orthonormal, dtype=np.float64)
