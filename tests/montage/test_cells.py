"""Which tile stands for a cell: rules, ties, and that partial results merge."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylatent import schema
from raylatent.errors import MapError
from raylatent.montage.cells import (
    finish_cells,
    merge_cells,
    partial_cells,
    partial_sums,
    slide_shares,
)
from raylatent.montage.points import Points, Rule
from raylatent.montage.tally import merge_sums
from raylatent.stable_hash import tile_hash
from tests.montage.some_cells import SELECTS, chosen, grid_of, some_points, whole


@given(
    seed=st.integers(0, 999),
    select=st.sampled_from(SELECTS),
    cuts=st.lists(st.integers(0, 80), max_size=4),
    order=st.randoms(use_true_random=False),
)
def test_parts_in_any_order_make_the_whole(seed, select, cuts, order):
    points = some_points(seed)
    grid, rule = grid_of(points), Rule(select=select, seed=seed)
    rows = np.random.default_rng(seed + 1).permutation(len(points.xy))
    parts = [points.take(chunk) for chunk in np.split(rows, sorted(cuts))]
    order.shuffle(parts)
    partial = chosen(grid, parts, rule)
    assert finish_cells(grid, partial) == whole(grid, points, rule)
    assert partial.n_points == len(points.xy)


@given(seed=st.integers(0, 999), select=st.sampled_from(SELECTS))
def test_the_order_of_rows_shows_nowhere(seed, select):
    points = some_points(seed)
    grid, rule = grid_of(points), Rule(select=select)
    rows = np.random.default_rng(seed + 1).permutation(len(points.xy))
    shuffled = Points.of(
        points.xy[rows],
        reference=points.reference.take(rows),
        labels=points.labels.take(pa.array(rows)),
        features=points.features[rows],
        predictions=points.predictions[rows],
        knn_distance=points.knn_distance[rows],
    )
    given_order, other = whole(grid, points, rule), whole(grid, shuffled, rule)
    assert other.drop_columns("index") == given_order.drop_columns("index")
    np.testing.assert_array_equal(rows[other["index"]], given_order["index"])


@given(
    seed=st.integers(0, 999),
    select=st.sampled_from(SELECTS),
    ties=st.sampled_from(["hash", "row"]),
)
def test_cells_count_every_point_and_choose_a_member(seed, select, ties):
    points = some_points(seed, coarse=False)
    grid = grid_of(points)
    cells = whole(grid, points, Rule(select=select, ties=ties))
    assert cells.schema == schema.CELLS
    rows, cols = grid.bin(points.xy)
    places = list(zip(rows.tolist(), cols.tolist(), strict=True))
    assert sum(cells["n"].to_pylist()) == len(points.xy)
    assert len(cells) == len(set(places))
    for cell in cells.to_pylist():
        assert places[cell["index"]] == (cell["row"], cell["col"])
        assert places.count((cell["row"], cell["col"])) == cell["n"]
        at = cell["index"]
        assert cell["tile_index"] == points.reference["tile_index"][at].as_py()
        assert cell["slide"] == points.reference["slide"][at].as_py()


@given(seed=st.integers(0, 999), select=st.sampled_from(["nearest", "medoid"]))
def test_the_pick_is_the_nearest_with_the_lowest_hash(seed, select):
    """Against a loop over the members of each cell."""
    points = some_points(seed)
    grid = grid_of(points)
    cells = whole(grid, points, Rule(select=select, seed=7))
    rows, cols = grid.bin(points.xy)
    for cell in cells.to_pylist():
        members = np.flatnonzero((rows == cell["row"]) & (cols == cell["col"]))
        if select == "nearest":
            away = points.xy[members] - (cell["x"], cell["y"])
        else:
            features = points.features[members].astype(np.float64)
            away = features - features.mean(axis=0)
        distance = np.sqrt((away**2).sum(axis=1))
        if select == "medoid":
            distance = distance.astype(np.float32)
        nearest = members[np.isclose(distance, distance.min(), rtol=0, atol=1e-12)]
        hashes = {
            int(tile_hash(7, ref["slide"], ref["tile_index"])): i
            for i, ref in zip(
                nearest.tolist(),
                points.reference.take(nearest).to_pylist(),
                strict=True,
            )
        }
        assert cell["index"] == hashes[min(hashes)]
        assert cell["distance"] == pytest.approx(distance.min(), abs=1e-12)


def test_first_is_the_smallest_slide_and_tile():
    points = some_points(3)
    grid = grid_of(points, 2)
    rows, cols = grid.bin(points.xy)
    for cell in whole(grid, points, Rule(select="first")).to_pylist():
        members = np.flatnonzero((rows == cell["row"]) & (cols == cell["col"]))
        references = points.reference.take(members).to_pylist()
        smallest = min((ref["slide"], ref["tile_index"]) for ref in references)
        assert (cell["slide"], cell["tile_index"]) == smallest
        assert cell["distance"] is None


def test_ties_do_not_favor_the_first_slide():
    n = 400
    xy = np.repeat(np.arange(100.0), 4)[:, None] * [1, 0]
    reference = pa.table({"slide": ["a", "b", "c", "d"] * 100, "tile_index": [0] * n})
    reference = reference.set_column(1, "tile_index", pa.array(np.arange(n) // 4))
    points = Points.of(xy, reference=reference)
    cells = whole(grid_of(points, 100), points, Rule(select="nearest"))
    counts = cells["slide"].value_counts().to_pylist()
    assert sorted(count["values"] for count in counts) == ["a", "b", "c", "d"]
    assert all(count["counts"] > 10 for count in counts)


def test_two_points_are_as_far_from_their_mean():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(2000, 33)).astype(np.float32)
    xy = np.repeat(np.arange(1000.0), 2)[:, None] * [1, 0]
    reference = pa.table({"slide": ["a"] * 2000, "tile_index": np.arange(2000)})
    points = Points.of(xy, reference=reference, features=features)
    cells = whole(grid_of(points, 1000), points, Rule(select="medoid"))
    hashes = tile_hash(0, "a", np.arange(2000)).reshape(1000, 2)
    lowest = 2 * np.arange(1000) + hashes.argmin(axis=1)
    np.testing.assert_array_equal(cells["index"], lowest)


def test_the_seed_decides_ties():
    points = some_points(1)
    grid = grid_of(points, 2)
    one, two = (whole(grid, points, Rule(seed=seed)) for seed in (0, 1))
    assert one["distance"] == two["distance"]
    assert one["index"] != two["index"]


def test_without_references_ties_go_to_the_lowest_index():
    points = Points.of(np.zeros((5, 2)))
    cells = whole(grid_of(points), points, Rule(ties="row"))
    assert cells["index"].to_pylist() == [0]
    assert cells["slide"].to_pylist() == [None]


def test_points_without_a_place_are_dropped_and_counted():
    xy = np.array([[0, 0], [np.nan, 1], [1, 1], [1, np.inf]])
    points = Points.of(xy)
    grid = grid_of(points, 2)
    partial = chosen(grid, [points], Rule(ties="row"))
    assert (partial.n_points, partial.n_dropped) == (4, 2)
    assert finish_cells(grid, partial)["index"].to_pylist() == [0, 2]


def test_labels_are_counted_by_cell():
    xy = np.array([[0, 0], [0, 0.1], [0.1, 0], [1, 1.0]])
    labels = pa.array(["b", "a", "b", None], pa.string())
    points = Points.of(xy, labels=labels)
    cells = whole(grid_of(points, 2), points, Rule(ties="row"))
    assert cells["label_counts"].to_pylist() == [[("a", 1), ("b", 2)], []]
    bare = Points.of(xy)
    assert whole(grid_of(bare, 2), bare, Rule(ties="row"))[
        "label_counts"
    ].to_pylist() == [None, None]


def test_max_dist_leaves_cells_empty():
    # Two cells of side 2: a point 0.5 from its center, another at a corner.
    points = Points.of(
        np.array([[0, 0], [0.5, 1], [4, 2], [4, 0]], np.float64),
        labels=pa.array(["far", "near", "far", "far"], pa.string()),
    )
    grid = grid_of(points, 2)
    partial = chosen(grid, [points], Rule(ties="row", max_dist=0.5))
    cells = finish_cells(grid, partial)
    assert cells["index"].to_pylist() == [1]
    assert cells["n"].to_pylist() == [2]
    assert cells["label_counts"].to_pylist() == [[("far", 1), ("near", 1)]]
    assert len(partial.best) == 2


def test_the_share_of_a_slide():
    points = some_points(5)
    grid = grid_of(points)
    cells = whole(grid, points, Rule())
    rows, cols = grid.bin(points.xy)
    own = points.reference["slide"].to_numpy() == "b"
    expected = [
        own[(rows == cell["row"]) & (cols == cell["col"])].mean()
        for cell in cells.to_pylist()
    ]
    shares = slide_shares(grid, [points], cells, "b")
    np.testing.assert_allclose(shares, expected, rtol=1e-15)
    with pytest.raises(MapError, match="no point is of the slide 'zz'"):
        slide_shares(grid, [points], cells, "zz")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"select": "best"}, "unknown select 'best'"),
        ({"ties": "coin"}, "unknown ties 'coin'"),
        ({"max_dist": 0}, "max_dist must be above 0"),
    ],
)
def test_unknown_words_are_refused(options, sentence):
    with pytest.raises(MapError, match=sentence):
        Rule(**options)


def test_what_cannot_be_merged_is_refused():
    points = some_points(0)
    grid = grid_of(points)
    one, two = (chosen(grid, [points], Rule(seed=seed)) for seed in (0, 1))
    with pytest.raises(MapError, match="cannot be merged"):
        merge_cells(one, two)
    doubles = replace(points, features=points.features.astype(np.float64))
    sums = [partial_sums(some, grid) for some in (points, doubles)]
    with pytest.raises(MapError, match="cannot be merged"):
        merge_sums(*sums)
    with pytest.raises(MapError, match="first pass"):
        partial_cells(points, grid, Rule(select="medoid"))
