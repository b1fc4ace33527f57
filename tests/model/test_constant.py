"""Layers that tell no tile from another are found, whatever the units."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylatent.model.layer_checks import Spread, constant_layers, constants_of_both


def constants(rows, *, cuts=()):
    """Of one unit, its rows given block by block."""
    spread = Spread()
    for block in np.split(np.asarray(rows, np.float32), cuts):
        spread.add(block)
    return {} if spread.constant is None else {"x": spread.constant}


def of_units(units):
    found = [constants(unit) for unit in units]
    merged = found[0]
    for other in found[1:]:
        merged = constants_of_both(merged, other)
    return merged


SAME = np.tile(np.float32([0.5, -3.0, 0.0]), (12, 1))


@given(cuts=st.lists(st.integers(0, 12), max_size=3).map(sorted))
def test_blocks_do_not_matter(cuts):
    assert constants(SAME, cuts=cuts)["x"] == (pytest.approx(-2.5 / 3), 3.0)
    other = SAME.copy()
    other[-1, 2] = 0.01
    assert not constants(other, cuts=cuts)


@given(unit=st.integers(0, 3), row=st.integers(0, 2), col=st.integers(0, 2))
def test_one_row_that_differs_is_enough_in_whichever_unit(unit, row, col):
    rows = SAME.copy().reshape(4, 3, 3)
    assert of_units(rows)
    rows[unit, row, col] += 1
    assert not of_units(rows)


def test_units_that_are_constant_but_not_the_same():
    assert not of_units([SAME, 2 * SAME])
    assert not of_units([0 * SAME, SAME])
    assert of_units([SAME, SAME * np.float32(1 + 1e-7)])  # a GPU's last digit


def test_no_rows_say_nothing():
    assert not constants(np.empty((0, 3)))


def test_what_is_said():
    both = {"a": (0.0, 0.0), "b": (1.0, 2.0)}
    zero, same = constant_layers(["b", "c", "a"], both, 4000)[::-1]
    assert (zero.layer, zero.zero, same.layer, same.zero) == ("a", True, "b", False)
    assert "layer 'a' is zero in all 4,000 tiles" in str(zero)
    assert "layer 'b' is the same in all 4,000 tiles" in str(same)
    assert constant_layers(["a"], both, 9) == []  # of few tiles nothing
    assert constant_layers(["c"], both, 4000) == []
