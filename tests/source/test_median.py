"""The median filter against scipy's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from raylatent.source.tissue import median_filter

PICTURES = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=24))


@settings(deadline=None)
@given(PICTURES, st.sampled_from([1, 3, 7]))
def test_it_is_scipys_with_repeated_edges(values, side):
    expected = ndimage.median_filter(values, size=side, mode="nearest")
    np.testing.assert_array_equal(median_filter(values, side), expected)


@pytest.mark.parametrize("value", [0, 255])
def test_an_even_picture_stays_as_it_is(value):
    even = np.full((9, 11), value, np.uint8)
    np.testing.assert_array_equal(median_filter(even, 7), even)
