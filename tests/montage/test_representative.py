"""No slide takes more of a mosaic than the others, where none has reason to."""

import numpy as np
import pyarrow as pa
import pytest

from raylatent.montage.cells import choose_cells, finish_cells
from raylatent.montage.points import HeldParts, Points, Rule

N_SLIDES = 100
ROWS = 200
MOST = 0.04  # of the cells


def drawn(rng, n):
    """Activations of some classes (n, 16), and places that go with them (n, 2)."""
    classes = rng.integers(6, size=n)
    centers = np.random.default_rng(99).normal(size=(6, 16)) * 2
    features = centers[classes] + rng.normal(size=(n, 16))
    return features.astype(np.float32), features[:, :2] + features[:, 2:4]


def largest_share(features, xy, select, seed):
    """Of the cells that one slide has."""
    names = np.repeat([f"slide {i:03d}" for i in range(N_SLIDES)], ROWS)
    reference = pa.table(
        {"slide": names.tolist(), "tile_index": np.tile(np.arange(ROWS), N_SLIDES)}
    )
    points = HeldParts(Points.of(xy, reference=reference, features=features))
    chosen = choose_cells(points, "square", 50, Rule(select=select, seed=seed))
    cells = finish_cells(chosen.grid, chosen.cells)
    _, counts = np.unique(cells["slide"].to_numpy(), return_counts=True)
    assert len(counts) > N_SLIDES * 0.6
    return counts.max() / len(cells), cells


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("select", ["nearest", "medoid"])
def test_slides_of_one_distribution(select, seed):
    features, xy = drawn(np.random.default_rng(seed), N_SLIDES * ROWS)
    share, cells = largest_share(features, xy, select, seed)
    assert len(cells) > 800
    assert share <= MOST


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("select", ["nearest", "medoid"])
def test_copies_of_one_slide(select, seed):
    """Every tile is as near as its 99 copies, so that the hash alone decides."""
    features, xy = drawn(np.random.default_rng(seed), ROWS)
    copies = np.tile(features, (N_SLIDES, 1)), np.tile(xy, (N_SLIDES, 1))
    share, cells = largest_share(*copies, select, seed)
    assert "100 are as near" in cells["why"][0].as_py()
    assert share <= MOST
