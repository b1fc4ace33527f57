from types import SimpleNamespace

import pytest

from raylatent.engine import map_rows
from raylatent.mapping.umap_learn import MapParameters


@pytest.mark.parametrize(
    ("shape", "size"), [((64,), 20_000), ((7, 7, 2048), 2_674), ((1 << 30,), 1)]
)
def test_a_sample_is_drawn_no_larger_than_it_may_be(shape, size):
    """Cut after it is drawn, it would lose the half that stands for each slide."""
    run = SimpleNamespace(layers=lambda: {"layer": shape})
    params = MapParameters(sample=20_000)
    assert map_rows._sample_size(run, "layer", params) == size
