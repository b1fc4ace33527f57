"""Hashes that are the same everywhere, for ever."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from raylatent.stable_hash import slide_hash, tile_hash

MASK = (1 << 64) - 1


def splitmix64(state):
    """One output of SplitMix64 in whole numbers, as the paper has it."""
    z = (state + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def test_the_paper_s_first_outputs():
    """Of the state 1234567, as other implementations print them."""
    step = 0x9E3779B97F4A7C15
    outputs = [splitmix64((1234567 + i * step) & MASK) for i in range(3)]
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@given(st.integers(0, 2**32 - 1), st.text(max_size=5), st.integers(0, 2**40))
def test_it_is_that_formula(seed, slide, tile):
    key = splitmix64((slide_hash(slide) ^ (seed * 0x9E3779B97F4A7C15)) & MASK)
    assert int(tile_hash(seed, slide, tile)) == splitmix64(tile ^ key)


def test_values_that_stored_maps_rely_on():
    assert slide_hash("slide_1") == 5054480473526692983
    assert tile_hash(42, "slide_1", [0, 1, 2]).tolist() == [
        17709226644487685064,
        9640819878876704231,
        4118445529026950619,
    ]


def test_any_part_of_the_tiles_has_its_hashes():
    whole = tile_hash(7, "a", np.arange(1000))
    assert np.array_equal(tile_hash(7, "a", np.arange(500, 600)), whole[500:600])
    assert np.array_equal(tile_hash(7, "a", np.arange(9, dtype=np.int32)), whole[:9])
    assert len(np.unique(whole)) == 1000
    assert not np.array_equal(tile_hash(8, "a", np.arange(1000)), whole)
    assert not np.array_equal(tile_hash(7, "b", np.arange(1000)), whole)
    bits = np.unpackbits(whole.view(np.uint8))
    assert abs(bits.mean() - 0.5) < 0.01
