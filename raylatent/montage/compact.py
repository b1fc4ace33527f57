"""The cells of a mosaic moved together: empty rows and columns are closed up.

Cells that touch, also at a corner, are an island, which moves as a whole. Along an axis
islands move as far down as they can without overlap, and so that no middle passes
another: what was left of something stays left of it, or comes to stand level with it.
Islands of some size keep an empty cell between them, so that they are still seen.
"""

import numpy as np
from numpy.typing import NDArray

_SEEN = 9  # cells of an island from which on it keeps away from others
_MOST_ROUNDS = 8

Ints = NDArray[np.int64]


def islands(rows: Ints, cols: Ints) -> Ints:
    """The island of each cell (c,), numbered from 0 in the order of their first cells.

    >>> islands(np.array([0, 1, 5]), np.array([0, 1, 5])).tolist()
    [0, 0, 1]
    """
    from scipy.sparse.csgraph import connected_components  # noqa: PLC0415  (slow)
    from scipy.spatial import cKDTree  # noqa: PLC0415

    tree = cKDTree(np.stack([rows, cols], axis=1))
    touching = tree.sparse_distance_matrix(tree, 1, np.inf, "coo_matrix")
    found: Ints = connected_components(touching, directed=False)[1].astype(np.int64)
    return found


def compacted(rows: Ints, cols: Ints) -> tuple[Ints, Ints]:
    """Rows and columns of cells (c,) in a picture without waste, from 0.

    Columns are closed up first, or rows, whichever makes the smaller picture.
    """
    island = islands(rows, cols)
    places = np.stack([rows, cols]).astype(np.int64)
    found = [_closed(places.copy(), island, axes) for axes in ((1, 0), (0, 1))]
    best = min(found, key=lambda one: int((one.max(axis=1) + 1).prod()))
    return best[0], best[1]


def _closed(places: Ints, island: Ints, axes: tuple[int, int]) -> Ints:
    """Places (2, c) after both axes were closed up in turns until nothing moves."""
    seen = np.bincount(island)[island] >= _SEEN
    orders = [np.argsort(sum(_ends(at, island)), kind="stable") for at in places]
    for _ in range(_MOST_ROUNDS):
        before = places.copy()
        for axis in axes:
            at, across = places[axis], places[1 - axis]
            near = [_neighbors(at, across, island, 0)]
            near.append(_neighbors(at[seen], across[seen], island[seen], 1))
            shift = _shifts(at, island, orders[axis], np.concatenate(near, axis=1))
            places[axis] += shift[island]
        if np.array_equal(places, before):
            break
    return places


def _ends(at: Ints, island: Ints) -> tuple[Ints, Ints]:
    """The first and the last place of each island."""
    n = int(island.max()) + 1
    low, high = np.full(n, at.max()), np.full(n, at.min())
    np.minimum.at(low, island, at)
    np.maximum.at(high, island, at)
    return low, high


def _neighbors(at: Ints, across: Ints, island: Ints, away: int) -> Ints:
    """Which island follows which on some line, and by how much less it may be moved.

    Args:
        at: Of each cell along the axis.
        across: Of each cell across it.
        island: Of each cell.
        away: Empty cells that must be between them; lines are so much wider than one.
    """
    line = np.concatenate([across + i for i in range(away + 1)])
    place, own = np.tile(at, away + 1), np.tile(island, away + 1)
    order = np.lexsort((own, place, line))
    line, place, own = line[order], place[order], own[order]
    next_to = (line[1:] == line[:-1]) & (own[1:] != own[:-1])
    least = place[:-1] - place[1:] + 1 + away
    return np.stack([own[:-1], own[1:], least])[:, next_to]


def _shifts(at: Ints, island: Ints, order: Ints, near: Ints) -> Ints:
    """How far each island moves: the least places at which all that must hold holds.

    It holds where they are now, so there are such places, and no island moves up.
    """
    low, high = _ends(at, island)
    middle = (low + high)[order]  # twice
    first, second, least = near
    shift = -low
    while True:
        before = shift.copy()
        reached = np.maximum.accumulate(2 * shift[order] + middle)
        shift[order] = -((middle - reached) // 2)  # rounded up
        np.maximum.at(shift, second, shift[first] + least)
        if np.array_equal(shift, before):
            return shift
