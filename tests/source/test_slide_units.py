"""Units of a whole slide: whole rows of its grid, each as near to U as it comes."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from raylatent.source.protocol import Source
from raylatent.source.whole_slides import slide_unit_plans
from raylatent.storage import FileStat

STAT = FileStat(size=1, mtime_ns=1)


def plans_of(sizes, unit_tiles):
    """Units over rows of the grid with these numbers of tiles, some of them none."""
    rows = np.repeat(np.arange(len(sizes)), sizes)
    source = Source(
        source=3,
        slide="s",
        kind="slides",
        uri="/s.svs",
        stat=STAT,
        n_indexed=len(rows),
    )
    return slide_unit_plans(source, rows, unit_tiles)


def sizes_of(plans):
    return [plan.count for plan in plans]


ROWS = st.lists(st.integers(0, 30), max_size=25)


@given(ROWS, st.integers(1, 90))
def test_every_tile_is_in_one_unit_of_whole_rows(sizes, unit_tiles):
    plans = plans_of(sizes, unit_tiles)
    assert [plan.unit for plan in plans] == list(range(len(plans)))
    ends = [0, *(plan.last for plan in plans)]
    assert [plan.first for plan in plans] == ends[:-1]
    assert ends[-1] == sum(sizes)
    assert all(plan.count > 0 for plan in plans)
    assert set(ends) <= {0, *np.cumsum(sizes).tolist()}
    assert {plan.source.source for plan in plans} <= {3}


@given(ROWS, st.integers(1, 90))
def test_no_unit_comes_nearer_by_taking_or_leaving_a_row(sizes, unit_tiles):
    present = [n for n in sizes if n]
    ends = np.cumsum(present).tolist()
    for plan in plans_of(sizes, unit_tiles):
        off = abs(plan.count - unit_tiles)
        first_row, last_row = (
            next(i for i, end in enumerate(ends) if end >= tile)
            for tile in (plan.first + 1, plan.last)
        )
        if last_row > first_row:  # with its last row it is strictly nearer
            assert off < abs(plan.count - present[last_row] - unit_tiles)
        if last_row + 1 < len(present):
            assert off <= abs(plan.count + present[last_row + 1] - unit_tiles)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=25), st.data())
def test_rows_with_more_tiles_than_a_unit_stand_alone(sizes, data):
    unit_tiles = data.draw(st.integers(1, min(sizes)))
    assert sizes_of(plans_of(sizes, unit_tiles)) == sizes


def test_examples():
    assert sizes_of(plans_of([10] * 6, 20)) == [20, 20, 20]
    assert sizes_of(plans_of([10] * 6, 24)) == [20, 20, 20]
    assert sizes_of(plans_of([10] * 6, 26)) == [30, 30]
    assert sizes_of(plans_of([10] * 6, 25)) == [
        20,
        20,
        20,
    ]  # of two as near the smaller
    assert sizes_of(plans_of([3, 50, 3, 3], 10)) == [3, 50, 6]
    assert sizes_of(plans_of([5, 0, 0, 5], 2048)) == [10]
    assert sizes_of(plans_of([0, 0], 4)) == []
    assert plans_of([], 4) == []


def test_the_plan_does_not_depend_on_what_comes_after():
    """So that units keep their tiles where only later rows change."""
    before, after = (plans_of([7, 9, 4, 8, *more], 12) for more in ([6, 2], [9, 9, 1]))
    assert sizes_of(before)[:2] == sizes_of(after)[:2]
