"""The sample made ready to look for rows' neighbors in it.

Importing this module imports numba.
"""

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raylatent.kernel import kernel
from raylatent.mapping.groups import near_groups
from raylatent.mapping.projection import Projection, Sample
from raylatent.mapping.whole import Rest, rest_of

MOST_ROWS = 512  # of a group: they fit a core's cache
_FAR_ROUNDING = 1e-9  # of distances to groups, generously
_UNIT = 2.0**-24  # relative rounding of float32


class Screen(NamedTuple):
    """The sample as it is looked through; made from it, never stored.

    Attributes:
        order: int64 (n,), the sample rows group by group.
        start: int64 (groups + 1,), where each group begins.
        centers: float64 (m, groups), and their squared lengths below: (m + 1, groups);
            scaled to lengths up to 1.
        radius: float64 (groups,), of each group about its center, scaled.
        columns: float32 (n * (m + 1),), for each group its rows side by side, (m + 1,
            rows): -2 times the reduced rows, then their squared lengths less twice the
            slack; all scaled.
        square: float64 (n,), the squared lengths, scaled, group by group.
        reduced: float64 (n, m), the reduced rows, as in the sample.
        scale: Length of which 1 is made.
        slack: Bounds the product's error: it is at most the slack times the squared
            length of the row plus twice that of the sample row.
        rest: What the projection leaves out.
    """

    order: NDArray[np.int64]
    start: NDArray[np.int64]
    centers: NDArray[np.float64]
    radius: NDArray[np.float64]
    columns: NDArray[np.float32]
    square: NDArray[np.float64]
    reduced: NDArray[np.float64]
    scale: float
    slack: float
    rest: Rest


def screen_of(sample: Sample, projection: Projection) -> Screen:
    """What `nearest` needs beside the sample.

    The error of a sum of m products of rounded factors is at most (m + 2) units of the
    sum of their magnitudes (Higham, Accuracy and Stability, section 3.1), in whatever
    order they are summed; those are at most the lengths multiplied. Taken twice.
    """
    reduced = np.ascontiguousarray(sample.reduced.T)
    longest = math.sqrt(float((reduced * reduced).sum(axis=1).max(initial=0.0)))
    scale = 2.0 ** math.ceil(math.log2(longest)) if longest > 0.0 else 1.0
    order, start = near_groups(reduced, MOST_ROWS)
    scaled = reduced[order] / scale
    square = (scaled * scaled).sum(axis=1)
    slack = 2.0 * (reduced.shape[1] + 8) * _UNIT
    centers, radius, columns = [], [], []
    for first, last in pairwise(start):
        group = scaled[first:last]
        centers.append(group.mean(axis=0))
        radius.append(np.sqrt(((group - centers[-1]) ** 2).sum(axis=1)).max())
        lengths = square[first:last] * (1.0 - 2.0 * slack)
        columns.append(np.vstack([-2.0 * group.T, lengths]).astype(np.float32).ravel())
    middle = np.stack(centers, axis=1)
    return Screen(
        order=order,
        start=start,
        centers=np.vstack([middle, (middle * middle).sum(axis=0)]),
        radius=np.array(radius) * (1.0 + _FAR_ROUNDING),
        columns=np.concatenate(columns),
        square=square,
        reduced=reduced,
        scale=scale,
        slack=slack,
        rest=rest_of(sample, projection, order, start),
    )


@kernel
def far_groups(
    reduced: NDArray[np.float64], base: NDArray[np.float64], screen: Screen
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """How far groups are from scaled rows (q, m) at least, squared, and the nearest.

    float64 (q, groups) and int64 (q,).
    """
    count, size = reduced.shape
    groups = screen.radius.shape[0]
    far = np.dot(reduced, screen.centers[:size])
    home = np.zeros(count, dtype=np.int64)
    for row in range(count):
        least = np.inf
        for group in range(groups):
            lengths = base[row] + screen.centers[size, group]
            square = lengths - 2.0 * far[row, group]
            if square < least:
                least, home[row] = square, group
            # Cancellation may have left it too large.
            away = np.sqrt(max(square - _FAR_ROUNDING * lengths, 0.0))
            away = max(away - screen.radius[group], 0.0)
            far[row, group] = away * away * (1.0 - _FAR_ROUNDING)
    return far, home
