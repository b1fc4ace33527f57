import numpy as np
import pytest

from raylatent.errors import MapError
from raylatent.mapping.fitted_map import fit_frame


def test_frame_is_slideflows(goldens):
    golden = np.load(goldens / "normalize_layout.npz")
    frame = fit_frame(golden["layout"])
    np.testing.assert_array_equal(np.stack([frame.lower, frame.upper]), golden["range"])
    np.testing.assert_array_equal(frame.apply(golden["layout"]), golden["normalized"])
    np.testing.assert_array_equal(frame.apply(golden["new"]), golden["new_normalized"])


def test_flat_axis_becomes_zero():
    layout = np.array([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]])
    scaled = fit_frame(layout).apply(layout)
    assert (scaled[:, 1] == 0).all()
    assert (np.diff(scaled[:, 0]) > 0).all()


def test_no_point_is_refused():
    with pytest.raises(MapError, match="has 0"):
        fit_frame(np.zeros((0, 2)))
