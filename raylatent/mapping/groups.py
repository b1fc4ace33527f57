"""Sample rows in groups of near ones, so that whole groups can be passed over.

What is found does not depend on the groups: they only say where to look first.
"""

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 6
_BLOCK_ROWS = 4_096
_MOST_CENTERS = 256  # larger groups are cut


def near_groups(
    rows: NDArray[np.float64], most: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Groups of rows by Lloyd's k-means, a few rounds of it.

    Args:
        rows: (n, m).
        most: Rows in a group.

    Returns:
        The rows' order int64 (n,), in which each group's are together, and where each
        begins, int64 (groups + 1,), the last one's end included.

    >>> order, start = near_groups(np.array([[0.0], [9.0], [0.1], [9.1]]), 4)
    >>> sorted(sorted(order[a:b].tolist()) for a, b in zip(start, start[1:], strict=False))
    [[0, 2], [1, 3]]
    """
    n = len(rows)
    wanted = min(_MOST_CENTERS, -(-n // max(1, most // 2)))
    along = np.argsort(rows[:, 0], kind="stable")
    centers = rows[along[(np.arange(wanted) * n + n // 2) // wanted]]
    group = _nearest_center(rows, centers)
    for _ in range(_ROUNDS):
        counts = np.bincount(group, minlength=wanted)
        sums = np.zeros_like(centers)
        np.add.at(sums, group, rows)
        filled = counts > 0
        centers[filled] = sums[filled] / counts[filled, None]
        group = _nearest_center(rows, centers)
    order = np.argsort(group, kind="stable").astype(np.int64)
    counts = np.bincount(group, minlength=wanted)
    start, first = [0], 0
    for count in counts[counts > 0]:
        pieces = -(-count // most)
        start += [first + count * (piece + 1) // pieces for piece in range(pieces)]
        first += count
    return order, np.array(start, np.int64)


def _nearest_center(
    rows: NDArray[np.float64], centers: NDArray[np.float64]
) -> NDArray[np.int64]:
    square = (centers * centers).sum(axis=1)
    return np.concatenate(
        [
            (square - 2.0 * rows[i : i + _BLOCK_ROWS] @ centers.T).argmin(axis=1)
            for i in range(0, len(rows), _BLOCK_ROWS)
        ]
    )
