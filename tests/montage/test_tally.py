"""What the table of cells tells of a cell, and why its tile was chosen."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylatent.errors import MapError
from raylatent.montage.points import Points, Rule
from raylatent.montage.tally import Tally, slide_numbers
from raylatent.mosaic import Mosaic
from tests.montage.some_cells import SELECTS, grid_of, some_points, whole


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


def test_many_slides_in_many_cells():
    ids = np.arange(0, 5000, 2)
    parts = [
        Tally(slides={f"{i}-{k}": ids[k % 7 :] for k in range(100)}) for i in range(10)
    ]
    whole = parts[0]
    for part in [*parts[1:], parts[3]]:  # one of them twice: a slide counts once
        whole = whole.merge(part)
    numbers = slide_numbers(ids, whole.slides).to_pylist()
    assert numbers[7:] == [1000] * 2493
    assert numbers[0] == 10 * 15


def test_no_cell_has_no_numbers_of_slides():
    """As where `max_dist` leaves none."""
    reference = pa.table({"slide": ["a", "b"] * 30, "tile_index": np.arange(60)})
    points = Points.of(np.random.default_rng(0).random((60, 2)), reference=reference)
    grid = grid_of(points, 5)
    assert len(whole(grid, points, Rule(max_dist=1e-9))) == 0
    table = reference.append_column("x", pa.array(points.xy[:, 0]))
    table = table.append_column("y", pa.array(points.xy[:, 1]))
    with pytest.raises(MapError, match="raise max_dist"):
        Mosaic(table, num_tiles_x=5, max_dist=1e-9)
