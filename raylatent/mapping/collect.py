"""Those of one group of sample rows that may be among a row's k nearest.

Importing this module imports numba.
"""

import numpy as np
from numpy.typing import NDArray

from raylatent.kernel import kernel
from raylatent.mapping.screen import Screen
from raylatent.mapping.whole import above, flag

_WORD = 8  # flags in 64 bits
_LANE = 8  # values of which the least is taken


@kernel
def first_limit(lower: NDArray[np.float32], k: int) -> float:
    """A value that more than k are not above: so many stretches have one.

    (One more than k, since one may be passed over.)
    """
    n = lower.shape[0] // _LANE
    if n <= k:
        return float(np.inf)
    least = np.empty(n, dtype=np.float32)
    for lane in range(n):
        value = lower[lane * _LANE]
        for j in range(lane * _LANE + 1, (lane + 1) * _LANE):
            value = min(value, lower[j])
        least[lane] = value
    least.sort()
    return float(least[k])


@kernel
def collect(
    group: tuple[NDArray[np.float32], NDArray[np.bool_], np.float32],
    known: tuple[int, int, float, float],
    screen: Screen,
    best: NDArray[np.float64],
    into: tuple[NDArray[np.int32], NDArray[np.float32], int],
) -> int:
    """Add those of one group whose lower bound is within reach of the k-th upper one.

    Args:
        group: float32 (columns,), lower bounds less a constant of the row, room for as
            many flags, and the limit so far.
        known: Where the group begins, the sample row to pass over, what the constant
            leaves open, and how far an upper bound is above a lower one for a square
            of 1.
        screen: Of the sample.
        best: float64 (k,), the least upper bounds so far, ascending.
        into: Sample rows, their lower bounds, and how many there are.

    Returns:
        How many there are now.
    """
    lower, near, limit = group
    first, own, reach, width = known
    found, bounds, count = into
    k = best.shape[0]
    n = lower.shape[0]
    words = flag(lower, near, limit)
    for word in range(0, words.shape[0], 2):
        if words[word] | words[word + 1] == 0:
            continue
        for j in range(word * _WORD, min((word + 2) * _WORD, n)):
            value, other = lower[j], screen.order[first + j]
            if value > limit or other == own:
                continue
            found[count] = other
            bounds[count] = value
            count += 1
            upper = value + width * screen.square[first + j]
            if upper >= best[k - 1]:
                continue
            at = k - 1
            while at > 0 and best[at - 1] > upper:
                best[at] = best[at - 1]
                at -= 1
            best[at] = upper
            limit = min(limit, above(best[k - 1] + reach))
    return count
