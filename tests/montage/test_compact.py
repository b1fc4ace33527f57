"""Islands of cells that are moved together: their shape, their order, what is saved."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from raylatent.montage import compact
from raylatent.montage.compact import compacted, islands

SIDE = 14
masks = st.lists(
    st.integers(0, SIDE * SIDE - 1), min_size=1, max_size=70, unique=True
).map(sorted)


def cells_of(ids):
    return np.divmod(np.array(ids, np.int64), SIDE)


def middles(at, island):
    """Twice the middle of each island."""
    own = [at[island == i] for i in range(island.max() + 1)]
    return np.array([part.min() + part.max() for part in own])


@given(masks)
def test_islands_are_those_of_an_image(ids):
    rows, cols = cells_of(ids)
    image = np.zeros((SIDE, SIDE), bool)
    image[rows, cols] = True
    labels, n = ndimage.label(image, np.ones((3, 3)))
    found = islands(rows, cols)
    assert found.max() + 1 == n
    np.testing.assert_array_equal(found + 1, labels[rows, cols])


@given(masks)
def test_moved_together_islands_keep_shape_and_order(ids):
    rows, cols = cells_of(ids)
    island = islands(rows, cols)
    new_rows, new_cols = compacted(rows, cols)
    assert len(set(zip(new_rows, new_cols, strict=True))) == len(ids)
    assert (new_rows.min(), new_cols.min()) == (0, 0)
    assert (new_rows <= rows).all()
    assert (new_cols <= cols).all()
    for i in range(island.max() + 1):
        own = island == i
        assert len(set((new_rows - rows)[own])) == 1
        assert len(set((new_cols - cols)[own])) == 1
    for before, after in ((rows, new_rows), (cols, new_cols)):
        was, now = middles(before, island), middles(after, island)
        one, other = np.nonzero(was[:, None] < was[None])
        assert (now[one] <= now[other]).all()


@given(masks)
@settings(max_examples=50)
def test_islands_of_some_size_do_not_touch(ids):
    rows, cols = cells_of(ids)
    island = islands(rows, cols)
    seen = np.bincount(island)[island] >= compact._SEEN
    new_rows, new_cols = (own[seen] for own in compacted(rows, cols))
    for i, row, col in zip(island[seen], new_rows, new_cols, strict=True):
        near = (abs(new_rows - row) <= 1) & (abs(new_cols - col) <= 1)
        assert (island[seen][near] == i).all()


@given(masks)
@settings(max_examples=50)
def test_no_empty_row_or_column_stays_among_specks(ids):
    rows, cols = cells_of(ids)
    if np.bincount(islands(rows, cols)).max() >= compact._SEEN:
        return
    for axis in compacted(rows, cols):
        assert set(axis) == set(range(axis.max() + 1))


def discs(*given, side=60):
    y, x = np.mgrid[:side, :side]
    inside = [(x - cx) ** 2 + (y - cy) ** 2 < r * r for cx, cy, r in given]
    return np.nonzero(np.any(inside, axis=0))


def filled(rows, cols):
    return len(rows) / ((np.ptp(rows) + 1) * (np.ptp(cols) + 1))


def test_two_clusters_come_together():
    rows, cols = discs((15, 15, 14), (50, 45, 8))
    new_rows, new_cols = compacted(rows, cols)
    assert filled(rows, cols) < 0.35
    assert filled(new_rows, new_cols) > 0.55
    again = compacted(new_rows, new_cols)
    np.testing.assert_array_equal(np.stack(again), (new_rows, new_cols))


def test_an_island_inside_another_stays_inside():
    rows, cols = np.nonzero(np.pad(np.zeros((5, 5)), 1, constant_values=1))
    rows, cols = np.r_[rows, 3], np.r_[cols, 3]
    new_rows, new_cols = compacted(rows, cols)
    assert 0 < new_rows[-1] < 6
    assert 0 < new_cols[-1] < 6


def test_few_cells():
    assert [own.tolist() for own in compacted(np.array([7]), np.array([3]))] == [
        [0],
        [0],
    ]
    rows, cols = compacted(np.array([7, 9]), np.array([3, 0]))
    assert (rows.tolist(), cols.tolist()) == ([0, 1], [0, 0])  # level, not passed


def test_many_islands_take_little_time():
    ids = np.sort(np.random.default_rng(0).permutation(300 * 300)[:9_000])
    rows, cols = np.divmod(ids, 300)
    new_rows, new_cols = compacted(rows, cols)
    assert len(set(zip(new_rows.tolist(), new_cols.tolist(), strict=True))) == 9_000
