"""The sample rows nearest to a row: exact, whatever rows are asked for together.

A matrix product in float32 rules out nearly all sample rows; by a bound on its error it
never rules out a near one, so that its bits, which depend on the rows beside, do not
matter. Whole groups of sample rows are passed over where the group's center is far
enough. Distances of the others are sums in a fixed order in float64, and ties go to the
lower index. So it is for the k nearest among the principal components, and for the
nearest in all features.

Importing this module imports numba.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raylatent.caches import kernel
from raylatent.mapping.sample_index import (
    LANE_SUMS,
    MOST_ROWS,
    SLACK,
    Projection,
    Sample,
    Screen,
    above,
    far_groups,
    flag,
    look_nearer,
    project,
    rests_of,
    screen_of,
    square_between,
)

_WORD = 8  # flags in 64 bits
_LANE = 8  # values of which the least is taken
TOGETHER_ROWS = 1_024  # that are looked for at once
_TOGETHER = 256  # of one matrix product
_TINY = 1e-30  # what underflow may cost, of lengths up to 1
_MAX_THREADS = 8
_SEARCHED_ROWS = 512  # of the sample, by a thread at a time
_HUGE = 1e15  # a row so many times longer than the sample's is compared to all
_FEWEST_ROWS = 16  # looked at together
_MOST_FOUND = 1 << 24  # candidates of theirs: where all rows are equal, all are


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

    With the rows' nearest groups comes whether those have been looked through; see
    `far_groups` for how far groups are. `who`, int64 (q,), is written over.
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


@kernel
def nearest(
    rows: NDArray[np.float32],
    own: NDArray[np.int64],
    projection: Projection,
    sample: Sample,
    screen: Screen,
    k: int,
) -> tuple[
    NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]
]:
    """The sample rows nearest to each normalized row.

    Args:
        rows: float32 (q, d), normalized.
        own: int64 (q,), the sample row to pass over, or -1.
        projection: To principal components.
        sample: The sample of n rows.
        screen: Of the sample.
        k: Neighbors, at most n, or n - 1 where one is passed over.

    Returns:
        The k nearest among the principal components by (distance, index): int64
        (q, k) and squared distances float64 (q, k). Then the squared distance in all
        features to the closest sample row, which need not be one of them, float64
        (q,), and the lowest index of an equal sample row, int64 (q,), or -1.
    """
    count = rows.shape[0]
    index = np.empty((count, k), dtype=np.int64)
    square = np.empty((count, k))
    whole = np.empty(count)
    equal = np.empty(count, dtype=np.int64)
    n = sample.rows.shape[0]
    together = max(_FEWEST_ROWS, min(TOGETHER_ROWS, _MOST_FOUND // n))
    found = np.empty((min(count, together), n), dtype=np.int32)
    bounds = np.empty(found.shape, dtype=np.float32)
    squares = np.empty(n)
    for start in range(0, count, together):
        stop = min(start + together, count)
        projected = Projected(rows[start:stop], *project(rows[start:stop], projection))
        some, whole[start:stop] = candidates(
            projected, own[start:stop], sample, screen, k, (found, bounds)
        )
        for i in range(stop - start):
            row = start + i
            near = found[i, : some[i]]
            _exact(projected.reduced[i], screen.reduced, near, squares)
            _smallest(squares, near, index[row], square[row])
            equal[row] = -1
            if square[row, 0] == 0.0:
                equal[row] = _equal(rows[row], sample.rows, near, squares)
            if equal[row] >= 0:
                whole[row] = 0.0
    return index, square, whole, equal


@kernel
def _exact(
    row: NDArray[np.float64],
    sample: NDArray[np.float64],
    found: NDArray[np.int32],
    squares: NDArray[np.float64],
) -> None:
    """Squared distances of a reduced row (m,) to some of the sample (n, m)."""
    even = found.shape[0] // 4 * 4
    for at in range(0, even, 4):  # side by side: each sum waits for itself only
        s0, s1 = sample[found[at]], sample[found[at + 1]]
        s2, s3 = sample[found[at + 2]], sample[found[at + 3]]
        t0 = t1 = t2 = t3 = 0.0
        for c in range(row.shape[0]):
            d0, d1, d2, d3 = (
                row[c] - s0[c],
                row[c] - s1[c],
                row[c] - s2[c],
                row[c] - s3[c],
            )
            t0 += d0 * d0
            t1 += d1 * d1
            t2 += d2 * d2
            t3 += d3 * d3
        squares[at], squares[at + 1] = t0, t1
        squares[at + 2], squares[at + 3] = t2, t3
    for at in range(even, found.shape[0]):
        other = sample[found[at]]
        total = 0.0
        for c in range(row.shape[0]):
            delta = row[c] - other[c]
            total += delta * delta
        squares[at] = total


@kernel
def _smallest(
    squares: NDArray[np.float64],
    found: NDArray[np.int32],
    index: NDArray[np.int64],
    square: NDArray[np.float64],
) -> None:
    """The smallest, ascending by (square, index), by insertion."""
    k = index.shape[0]
    count = 0
    for i in range(found.shape[0]):
        value = squares[i]
        if count == k and not _after(square[k - 1], index[k - 1], value, found[i]):
            continue
        at = count if count < k else k - 1
        while at > 0 and _after(square[at - 1], index[at - 1], value, found[i]):
            square[at] = square[at - 1]
            index[at] = index[at - 1]
            at -= 1
        square[at] = value
        index[at] = found[i]
        count = min(count + 1, k)


@kernel
def _after(square: float, index: int, other: float, other_index: int) -> bool:
    """Whether (square, index) comes after another pair."""
    return square > other or (square == other and index > other_index)


@kernel
def _equal(
    row: NDArray[np.float32],
    rows: NDArray[np.float32],
    found: NDArray[np.int32],
    squares: NDArray[np.float64],
) -> int:
    """The lowest sample row equal to `row`, or -1: only at square 0 can one be."""
    lowest = -1
    for at in range(found.shape[0]):
        lower = squares[at] == 0.0 and (lowest < 0 or found[at] < lowest)
        if lower and np.array_equal(rows[found[at]], row):
            lowest = found[at]
    return lowest


@kernel
def metric_distance(
    square: NDArray[np.float64],
    halved: bool,  # noqa: FBT001  (compiled functions take no keyword-only ones)
) -> NDArray[np.float64]:
    """The metric's distance of squared Euclidean distances."""
    return square / 2.0 if halved else np.sqrt(square)


def neighbor_graph(
    projection: Projection, sample: Sample, k: int, *, halved: bool
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float64]]:
    """Each sample row's k neighbors, itself first, and its nearest other in full.

    Returns:
        Indices int32 (n, k), the metric's distances float32 (n, k), and the distances
        in all features to the closest other sample row, float64 (n,).
    """
    from threadpoolctl import threadpool_limits  # noqa: PLC0415  (with umap-learn)

    n = len(sample.rows)
    index = np.zeros((n, k), dtype=np.int32)
    distance = np.zeros((n, k), dtype=np.float32)
    whole = np.zeros(n)
    index[:, 0] = np.arange(n)
    if n == 1:
        return index, distance, whole
    screen = screen_of(sample, projection)

    def fill(start: int) -> None:
        rows = slice(start, start + _SEARCHED_ROWS)
        own = np.arange(n)[rows]
        near, square, full, _ = nearest(
            sample.rows[rows], own, projection, sample, screen, max(1, k - 1)
        )
        index[rows, 1:] = near[:, : k - 1]
        distance[rows, 1:] = metric_distance(square[:, : k - 1], halved)
        whole[rows] = metric_distance(full, halved)

    threads = min(_MAX_THREADS, os.cpu_count() or 1)
    with threadpool_limits(1), ThreadPoolExecutor(threads) as pool:
        list(pool.map(fill, range(0, n, _SEARCHED_ROWS)))
    return index, distance, whole
