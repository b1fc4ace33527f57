"""The explorer's cells: nested, complete, and the same bits however points are divided."""

from functools import reduce
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raylatent import schema
from raylatent.errors import MapError
from raylatent.explorer import pyramid
from raylatent.explorer.pyramid import (
    CONTRAST_LEVEL,
    DEEPEST,
    SIDE,
    Square,
    choose_nested,
    count_cells,
    level_table,
    merge_levels,
    merge_occupied,
    occupied,
    partial_levels,
)
from raylatent.montage.cells import partial_cells
from raylatent.montage.grid import Bounds
from raylatent.montage.points import Points, Rule, cell_ids, coded, split_ids

LEVELS = 7
places = st.lists(
    st.tuples(
        st.floats(-1e4, 1e4, width=32) | st.sampled_from([0.0, 1.0, 8.0]),
        st.floats(-1e4, 1e4, width=32) | st.sampled_from([0.0, 1.0, 8.0]),
    ),
    min_size=1,
    max_size=60,
)
few = settings(max_examples=40, deadline=None)


def points_of(places, n_slides=3):
    """Points of some slides, with labels and novelty."""
    xy = np.array(places, np.float32).astype(np.float64)
    n = len(xy)
    reference = pa.table(
        {
            schema.SLIDE: [f"s{i % n_slides}" for i in range(n)],
            schema.TILE_INDEX: np.arange(n) // n_slides,
            schema.SOURCE: np.arange(n, dtype=np.int32) % n_slides,
        }
    )
    return Points.of(
        xy,
        reference=reference,
        labels=pa.array([[None, "a", "b"][i % 3] for i in range(n)]),
        knn_distance=(np.arange(n, dtype=np.float32) / 8),
        predictions=np.eye(2, dtype=np.float32)[np.arange(n) % 2],
    )


def levels_of(points, square):
    return partial_levels(points, square, LEVELS, Rule())


def tables_of(points):
    """The square, and the table of each level."""
    square = Square.around(Bounds.of(points.xy))
    found = levels_of(points, square)
    chosen = choose_nested(square, found)
    tables = [
        level_table(i, *both) for i, both in enumerate(zip(chosen, found, strict=True))
    ]
    return square, tables


def cells_of(square, level, table):
    """Cells in which the tiles of a table lie."""
    xy = np.stack([table[n].to_numpy() for n in (schema.X, schema.Y)], axis=1)
    return cell_ids(square.grid(level), xy.astype(np.float64))[0]


def ids_of(table):
    rows, cols = (
        table[n].to_numpy().astype(np.int64) for n in (schema.ROW, schema.COL)
    )
    return (rows << 32) | cols


@few
@given(places)
def test_each_level_has_every_point_once_and_a_tile_in_each_cell(places):
    points = points_of(places)
    square, tables = tables_of(points)
    for level, table in enumerate(tables):
        cells, counts = np.unique(
            cell_ids(square.grid(level), points.xy)[0], return_counts=True
        )
        assert ids_of(table).tolist() == cells.tolist()
        assert table[schema.N].to_numpy().tolist() == counts.tolist()
        assert cells_of(square, level, table).tolist() == cells.tolist()
        in_labels = sum(
            n for one in table[schema.LABEL_COUNTS].to_pylist() for _, n in one
        )
        assert (
            in_labels == points.labels.is_valid().to_numpy(zero_copy_only=False).sum()
        )


@few
@given(places)
def test_what_is_shown_stays(places):
    _, tables = tables_of(points_of(places))
    for level, (above, below) in enumerate(pairwise(tables)):
        tiles = [
            set(
                zip(
                    t[schema.SLIDE].to_pylist(),
                    t[schema.TILE_INDEX].to_pylist(),
                    strict=True,
                )
            )
            for t in (above, below)
        ]
        assert tiles[0] <= tiles[1]
        rows, cols = split_ids(ids_of(below))
        larger = set((((rows >> 1) << 32) | (cols >> 1)).tolist())
        assert larger == set(ids_of(above).tolist())
        kept = below[schema.SINCE].to_numpy() <= level
        assert kept.sum() == len(above)
        words = below[schema.WHY].to_pylist()
        assert all(
            w.startswith("kept from") == k for w, k in zip(words, kept, strict=True)
        )


def in_turn(points, cuts):
    """The points by slide, in pieces."""
    order = np.argsort(points.reference[schema.SLIDE].to_pylist(), kind="stable")
    pieces = [points.take(some) for some in np.split(order, sorted(cuts))]
    return [piece for piece in pieces if len(piece.xy)]


@few
@given(places, st.lists(st.integers(0, 60), max_size=6), st.data())
def test_parts_however_merged_give_the_same_bits(places, cuts, data):
    points = points_of(places, n_slides=data.draw(st.integers(1, 7)))
    square, tables = tables_of(points)
    parts = [levels_of(part, square) for part in in_turn(points, cuts)]
    while len(parts) > 1:
        at = data.draw(st.integers(0, len(parts) - 2))
        parts[at : at + 2] = [merge_levels(*parts[at : at + 2])]
    for level, chosen in enumerate(choose_nested(square, parts[0])):
        assert level_table(level, chosen, parts[0][level]).equals(tables[level])


def test_of_deep_levels_only_two_slides_are_held():
    points = points_of([(i % 7, i // 7) for i in range(60)], n_slides=6)
    square = Square.around(Bounds.of(points.xy))
    parts = [
        partial_levels(part, square, CONTRAST_LEVEL + 3, Rule())
        for part in in_turn(points, range(0, 60, 5))
    ]
    whole = reduce(merge_levels, parts)
    held = [len(set(level.slides["label"].to_pylist())) for level in whole]
    assert held == [6] * (CONTRAST_LEVEL + 1) + [2] * 2
    with pytest.raises(MapError, match="s5 come before those of slide s0"):
        merge_levels(parts[-1], parts[0])


@few
@given(places)
def test_cells_that_keep_nothing_show_what_a_mosaic_would(places):
    points = points_of(places)
    square, tables = tables_of(points)
    for level, table in enumerate(tables):
        grid = square.grid(level)
        best = partial_cells(points, grid, Rule()).best
        new = pc.equal(table[schema.SINCE], level)
        own = table.filter(new)
        alone = best.filter(pc.is_in(best["cell"], pa.array(ids_of(own))))
        for name in (schema.SLIDE, schema.TILE_INDEX, schema.DISTANCE):
            assert own[name].to_pylist() == alone[name].to_pylist()


@few
@given(places)
def test_slides_are_counted(places):
    points = points_of(places)
    square, tables = tables_of(points)
    slides = np.array(points.reference[schema.SLIDE].to_pylist())
    for level, table in enumerate(tables):
        _, code = coded(cell_ids(square.grid(level), points.xy)[0])
        for i, row in enumerate(table.to_pylist()):
            names, counts = np.unique(slides[code == i], return_counts=True)
            assert row[schema.N_SLIDES] == len(names)
            assert row[schema.TOP_SLIDE_N] == counts.max()
            assert row[schema.TOP_SLIDE] == names[counts.argmax()]


@settings(max_examples=15, deadline=None)
@given(places, st.integers(1, 40))
def test_cells_are_counted_down_to_a_level_of_many(places, most):
    points = points_of(places)
    square = Square.around(Bounds.of(points.xy))
    thirds = [points.take(np.arange(i, len(places), 3)) for i in range(3)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pyramid, "MOST_CELLS", most)
        whole = occupied(points, square)
        found = reduce(merge_occupied, [occupied(part, square) for part in thirds])
    assert found[1].tolist() == whole[1].tolist()
    counts = [
        len(np.unique(cell_ids(square.grid(level), points.xy)[0]))
        for level in range(DEEPEST + 1)
    ]
    fitting = [n for level, n in enumerate(counts) if not level or n <= most]
    assert count_cells(found) == fitting


def test_points_on_the_upper_edges_are_in_the_last_cells():
    square = Square.around(Bounds.of([(0, 0), (2, 1), (1, 2)]))
    assert square == Square(x=0.0, y=0.0, side=2.0)
    rows, cols = square.grid(3).bin(np.array([[2.0, 0.0], [0.0, 2.0]]))
    assert (rows.tolist(), cols.tolist()) == ([0, 8 * SIDE - 1], [8 * SIDE - 1, 0])


def test_one_place_is_one_cell_at_every_level():
    points = points_of([(3.0, 4.0)] * 5)
    square, tables = tables_of(points)
    assert square.side == 1.0
    assert [len(table) for table in tables] == [1] * LEVELS
    assert all(table[schema.N].to_pylist() == [5] for table in tables)


def test_without_a_place_there_is_nothing_to_show():
    with pytest.raises(MapError, match="nothing to show"):
        Square.around(Bounds.of(np.full((2, 2), np.nan)))
    with pytest.raises(MapError, match="too far apart"):
        Square.around(Bounds.of([(-1e308, 0), (1e308, 0)]))
