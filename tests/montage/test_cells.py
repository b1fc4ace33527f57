"""Which tile stands for a cell: rules, ties, and that partial results merge."""

import functools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylatent import schema
from raylatent.errors import MapError
from raylatent.montage.cells import merge_cells, partial_cells, slide_shares
from raylatent.montage.finish import finish_cells
from raylatent.montage.grid import Bounds, SquareGrid
from raylatent.montage.medoid import merge_sums, partial_sums
from raylatent.montage.points import Points, Rule
from raylatent.montage.reach import Reach
from raylatent.stable_hash import tile_hash

SELECTS = ["nearest", "medoid", "first"]


def some_points(seed, n=80, *, coarse=True, labels=True):
    """Points with many exact ties: places and features are on a coarse lattice."""
    rng = np.random.default_rng(seed)
    xy = rng.integers(0, 9, (n, 2)) / 2 if coarse else rng.random((n, 2)) * 4
    slides = rng.choice(["b", "a", "é", "10"], n).tolist()
    reference = pa.table(
        {
            "slide": slides,
            "tile_index": rng.permutation(n),
            "offset": np.arange(n) * 100,
        }
    )
    names = rng.choice(["x", "y", None], n).tolist() if labels else None
    return Points.of(
        xy,
        reference=reference,
        labels=None if names is None else pa.array(names, pa.string()),
        features=rng.integers(-3, 4, (n, 5)).astype(np.float32),
        predictions=rng.dirichlet(np.ones(3), n).astype(np.float32),
        knn_distance=np.where(rng.random(n) < 0.8, rng.random(n), np.nan),
    )


def grid_of(points, nx=4):
    return SquareGrid.fit(Bounds.of(points.xy), nx)


def chosen(grid, parts, rule):
    """Each pass over parts in their order, merged one after the other."""
    medoid = rule.select == "medoid"
    reach = functools.reduce(Reach.merge, [Reach.of(p, medoid=medoid) for p in parts])
    scales, sums = reach.scales(), None
    if medoid:
        passed = [partial_sums(part, grid, scales.feature) for part in parts]
        sums = functools.reduce(merge_sums, passed)
    found = [partial_cells(part, grid, rule, scales, sums) for part in parts]
    return functools.reduce(merge_cells, found)


def whole(grid, points, rule):
    return finish_cells(grid, chosen(grid, [points], rule))


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


@given(seed=st.integers(0, 999), select=st.sampled_from(SELECTS))
def test_a_cell_tells_what_is_in_it(seed, select):
    """Against a loop over the members of each cell."""
    points = some_points(seed)
    grid = grid_of(points)
    rows, cols = grid.bin(points.xy)
    slides = points.reference["slide"].to_numpy()
    for cell in whole(grid, points, Rule(select=select)).to_pylist():
        own = (rows == cell["row"]) & (cols == cell["col"])
        assert cell["n_slides"] == len(set(slides[own]))
        np.testing.assert_allclose(
            cell["predictions_mean"], points.predictions[own].mean(axis=0), rtol=1e-6
        )
        known = points.knn_distance[own & ~np.isnan(points.knn_distance)]
        if len(known):
            assert cell["knn_distance_mean"] == pytest.approx(known.mean(), rel=1e-12)
        else:
            assert cell["knn_distance_mean"] is None
        counts = np.array([n for _, n in cell["label_counts"]])
        if len(counts):
            shares = counts / counts.sum()
            bits = -(shares * np.log2(shares)).sum()
            assert cell["label_entropy"] == pytest.approx(bits, abs=1e-12)
        else:
            assert cell["label_entropy"] is None
        assert str(cell["n"]) in cell["why"] or cell["n"] == 1


def test_arrays_know_nothing_of_slides():
    points = Points.of(np.zeros((2, 2)))
    (cell,) = whole(grid_of(points), points, Rule(ties="row")).to_pylist()
    unknown = ("n_slides", "label_entropy", "predictions_mean", "knn_distance_mean")
    assert [cell[name] for name in unknown] == [None] * 4


def test_why_a_tile_was_chosen():
    # Cells of side 1: three at one place 0.1 below a center, one alone, two and two.
    xy = [[0, 0], [0.5, 0.4], [0.5, 0.4], [0.5, 0.4], [2, 1.5], [3, 0.5], [3, 0.6]]
    n = len(xy)
    reference = pa.table({"slide": ["a"] * n, "tile_index": np.arange(n)})
    features = np.array([[0], [9], [9], [9], [5], [1], [4]], np.float32)
    points = Points.of(np.array(xy), reference=reference, features=features)
    grid = grid_of(points, 3)

    def why(points=points, **rule):
        return whole(grid, points, Rule(**rule))["why"].to_pylist()

    assert why() == [
        "nearest to the cell's center, 0.10 cells away, of 4 tiles; 3 are as near, "
        "this is the smallest hash",
        "nearest to the cell's center, 0.50 cells away, of 2 tiles",
        "the only tile in the cell",
    ]
    assert why(select="medoid")[:2] == [
        "nearest to the cell's mean of activations, 2.25 away, of 4 tiles; 3 are as "
        "near, this is the smallest hash",
        "nearest to the cell's mean of activations, 1.5 away, of 2 tiles; 2 are as "
        "near, this is the smallest hash",
    ]
    assert why(select="first")[0] == "the first by slide and tile index, of 4 tiles"
    bare = Points.of(points.xy)
    assert why(bare, ties="row")[0].endswith(
        "; 3 are as near, this is the first of them"
    )
    assert why(bare, ties="row", select="first")[0] == (
        "the first by the order given, of 4 tiles"
    )


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
    sums = [partial_sums(points, grid, scale) for scale in (1.0, 2.0)]
    with pytest.raises(MapError, match="cannot be merged"):
        merge_sums(*sums)
    with pytest.raises(MapError, match="first pass"):
        partial_cells(points, grid, Rule(select="medoid"))
