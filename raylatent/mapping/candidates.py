"""Which sample rows may be near a row: a matrix product in float32 rules out the rest.

By a bound on its error it never rules out a near one, so that its bits, which depend on
the rows beside, do not matter. Whole groups of sample rows are passed over where the
group's center is far enough.

Importing this module imports numba.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raylatent.kernel import kernel
from raylatent.mapping.collect import collect, first_limit
from raylatent.mapping.projection import Sample
from raylatent.mapping.screen import MOST_ROWS, Screen, far_groups
from raylatent.mapping.whole import (
    LANE_SUMS,
    SLACK,
    above,
    look_nearer,
    rests_of,
    square_between,
)

TOGETHER_ROWS = 1_024  # that are looked for at once
_TOGETHER = 256  # of one matrix product
_TINY = 1e-30  # what underflow may cost, of lengths up to 1
_HUGE = 1e15  # a row so many times longer than the sample's is compared to all


class Projected(NamedTuple):
    """Rows to look for.

    Attributes:
        rows: float32 (q, d), normalized.
        reduced: float64 (q, m), their principal components.
        residual: float64 (q,), length of what the projection leaves out.
        spread: float64 (q,), squared distance to the mean.
    """

    rows: NDArray[np.float32]
    reduced: NDArray[np.float64]
    residual: NDArray[np.float64]
    spread: NDArray[np.float64]


class _Search(NamedTuple):
    """What is known of rows (q,) while groups are looked through.

    Attributes:
        rows: They.
        own: int64 (q,), the sample row to pass over, or -1.
        left: float32 (q, m + 1), as the product takes them.
        base: float64 (q,), squared lengths, scaled.
        reach: float64 (q,), what the product leaves open.
        slack: float64 (q,), what rounding may do to squared distances.
        points: int8 (q, f), their rests, see Rest.
        errors: float64 (q,), of those.
        counts: int64 (q,), how many candidates are written down.
        best: float64 (q, k), the least upper bounds so far, ascending.
        nearest: float64 (q,), the least squared distance in all features so far.
    """

    rows: Projected
    own: NDArray[np.int64]
    left: NDArray[np.float32]
    base: NDArray[np.float64]
    reach: NDArray[np.float64]
    slack: NDArray[np.float64]
    points: NDArray[np.int8]
    errors: NDArray[np.float64]
    counts: NDArray[np.int64]
    best: NDArray[np.float64]
    nearest: NDArray[np.float64]


class _Room(NamedTuple):
    """Scratch.

    Attributes:
        found: int32 (q, n), sample rows that may be near.
        bounds: float32 (q, n), lower bounds of their distances.
        left: float32 (256, m + 1).
        lower: float32 (256 * 512,).
        near: bool (512,).
        lanes: float64 (32,).
    """

    found: NDArray[np.int32]
    bounds: NDArray[np.float32]
    left: NDArray[np.float32]
    lower: NDArray[np.float32]
    near: NDArray[np.bool_]
    lanes: NDArray[np.float64]


@kernel
def candidates(
    rows: Projected,
    own: NDArray[np.int64],
    sample: Sample,
    screen: Screen,
    k: int,
    into: tuple[NDArray[np.int32], NDArray[np.float32]],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Write down all that may be among the k nearest of some rows.

    First each row's nearest group is looked through, then those that may have nearer
    sample rows yet.

    Args:
        rows: Of q rows.
        own: int64 (q,), the sample row to pass over, or -1.
        sample: The sample of n rows.
        screen: Of the sample.
        k: Neighbors.
        into: int32 (q, n), sample rows, and float32 (q, n), is written over.

    Returns:
        How many are in each row of `into`, int64 (q,), and the squared distance to the
        nearest sample row in all features, float64 (q,).
    """
    left, base, reach = _scaled(rows.reduced, screen)
    count, size = left.shape
    points, errors = rests_of(rows.rows, rows.reduced, rows.spread, screen.rest)
    search = _Search(
        rows,
        own,
        left,
        base,
        reach,
        screen.rest.slack + SLACK * rows.spread,
        points,
        errors,
        np.zeros(count, dtype=np.int64),
        np.full((count, k), np.inf),
        np.full(count, np.inf),
    )
    room = _Room(
        into[0],
        into[1],
        np.empty((_TOGETHER, size), dtype=np.float32),
        np.empty(_TOGETHER * MOST_ROWS, dtype=np.float32),
        np.empty(MOST_ROWS, dtype=np.bool_),
        np.empty(LANE_SUMS),
    )
    far, home = far_groups(rows.reduced / screen.scale, base, screen)
    who = np.empty(count, dtype=np.int64)
    for turn in range(2):
        for group in range(screen.radius.shape[0]):
            n_who = _who(group, (home, turn == 1), far, search, screen, who)
            for begin in range(0, n_who, _TOGETHER):
                some = who[begin : min(begin + _TOGETHER, n_who)]
                _look_through(some, group, search, sample, screen, room)
    for row in range(count):
        limit = above(search.best[row, k - 1] + reach[row])
        kept = 0
        for at in range(search.counts[row]):
            if room.bounds[row, at] <= limit:
                room.found[row, kept] = room.found[row, at]
                kept += 1
        search.counts[row] = kept
    return search.counts, search.nearest


@kernel
def _who(
    group: int,
    at: tuple[NDArray[np.int64], bool],
    far: NDArray[np.float64],
    search: _Search,
    screen: Screen,
    who: NDArray[np.int64],
) -> int:
    """Write down the rows that a group is to be looked through for; how many they are.

    Args:
        group: The group.
        at: The rows' nearest groups, and whether those have been looked through.
        far: See `far_groups`.
        search: What is known of the rows.
        screen: Of the sample.
        who: int64 (q,), is written over.
    """
    home, again = at
    area = screen.scale * screen.scale
    count = 0
    for row in range(home.shape[0]):
        wanted = home[row] == group
        if again:
            kth = search.best[row, search.best.shape[1] - 1]
            kth += search.base[row] + search.reach[row]
            least = far[row, group] * area - search.slack[row]
            over = far[row, group] > kth and least > search.nearest[row]
            wanted = not wanted and not over
        if wanted:
            who[count] = row
            count += 1
    return count


@kernel
def _look_through(
    who: NDArray[np.int64],
    group: int,
    search: _Search,
    sample: Sample,
    screen: Screen,
    room: _Room,
) -> None:
    """Look for sample rows of one group that are near some of the rows."""
    first, last = screen.start[group], screen.start[group + 1]
    n, size = last - first, search.left.shape[1]
    count = who.shape[0]
    for at in range(count):
        room.left[at] = search.left[who[at]]
    lower = room.lower[: count * n].reshape((count, n))
    columns = screen.columns[first * size : last * size].reshape((size, n))
    np.dot(room.left[:count], columns, lower)
    area = screen.scale * screen.scale
    k = search.best.shape[1]
    for at in range(count):
        row, here = who[at], lower[at]
        own, reach = search.own[row], search.reach[row]
        limit = search.best[row, k - 1]
        if search.counts[row] == 0:
            limit = first_limit(here, k) + 4.0 * screen.slack
        search.counts[row] = collect(
            (here, room.near, above(limit + reach)),
            (first, own, reach, 4.0 * screen.slack),
            screen,
            search.best[row],
            (room.found[row], room.bounds[row], search.counts[row]),
        )
        values = search.rows.rows[row]
        nearest = search.nearest[row]
        if nearest == np.inf:
            likely = _least(here, screen.order[first:last], own)
            if likely >= 0:
                nearest = square_between(values, sample.rows[likely], room.lanes)
        search.nearest[row] = look_nearer(
            (here, room.near, first, own),
            screen.order,
            (values, search.points[row], search.errors[row], search.rows.residual[row]),
            (area, (search.base[row] - reach) * area - search.slack[row]),
            sample,
            screen.rest,
            (nearest, room.lanes),
        )


@kernel
def _scaled(
    reduced: NDArray[np.float64], screen: Screen
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]:
    """Rows as the product takes them, their squared lengths, and what it leaves open.

    Float32 (q, m + 1), of ones at the end, and float64 (q,) and (q,).
    """
    count, size = reduced.shape
    left = np.ones((count, size + 1), dtype=np.float32)
    lengths, reach = np.zeros(count), np.empty(count)
    for row in range(count):
        for c in range(size):
            value = reduced[row, c] / screen.scale
            left[row, c] = min(max(value, -_HUGE), _HUGE)
            lengths[row] += value * value
        reach[row] = 2.0 * screen.slack * lengths[row] + _TINY
        if lengths[row] >= _HUGE * _HUGE:
            reach[row] = np.inf
    return left, lengths, reach


@kernel
def _least(lower: NDArray[np.float32], order: NDArray[np.int64], own: int) -> int:
    """The sample row of the least, own passed over; -1 if there is none."""
    least = -1
    for j in range(lower.shape[0]):
        if order[j] != own and (least < 0 or lower[j] < lower[least]):
            least = j
    return order[least] if least >= 0 else -1
