"""Layout to [0, 1], as Slideflow's `normalize_layout` has it.

The range is the 1st to the 99th percentile on each axis, widened by a tenth below,
then by a tenth of the already widened range above; what lies outside is clipped.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raylatent.errors import MapError

LOWER_PERCENTILE = 1.0
UPPER_PERCENTILE = 99.0
MARGIN = 0.1


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """A range on each axis.

    Attributes:
        lower: Per axis (2,), becomes 0.
        upper: Per axis (2,), becomes 1.
    """

    lower: NDArray[np.floating]
    upper: NDArray[np.floating]

    def apply(self, layout: NDArray[np.floating]) -> NDArray[np.floating]:
        """Clip points (n, 2) to the frame and scale it to [0, 1] on each axis.

        An axis without extent becomes 0.
        """
        clipped = np.clip(layout, self.lower, self.upper)
        extent = self.upper - self.lower
        scale = np.where(extent > 0, extent, np.ones_like(extent))
        scaled: NDArray[np.floating] = (clipped - self.lower) / scale
        return scaled


def fit_frame(layout: NDArray[np.floating]) -> Frame:
    """The frame of points (n, 2), in their dtype.

    Raises:
        MapError: There is no point.

    >>> frame = fit_frame(np.array([[0.0, 0.0], [1.0, 2.0]]))
    >>> frame.apply(np.array([[-9.0, 9.0]])).tolist()
    [[0.0, 1.0]]
    """
    if not len(layout):
        message = "a frame needs at least 1 point, and the layout has 0"
        raise MapError(message)
    ordered = np.sort(layout, axis=0)
    lower = _percentile(ordered, LOWER_PERCENTILE)
    upper = _percentile(ordered, UPPER_PERCENTILE)
    # The second margin is of the range that the first one widened: so in Slideflow.
    lower -= MARGIN * (upper - lower)
    upper += MARGIN * (upper - lower)
    return Frame(lower=lower, upper=upper)


def _percentile(ordered: NDArray[np.floating], percentile: float) -> NDArray[Any]:
    """A percentile of sorted points (n, 2), interpolated in their dtype throughout.

    So did the numpy that Slideflow runs on. Later ones find the position between two
    points in float64, which gives other last digits.
    """
    kind = ordered.dtype.type
    position = kind(len(ordered) - 1) * (kind(percentile) / kind(100))
    below = int(position)
    share = position - kind(below)
    low = ordered[below]
    high = ordered[min(below + 1, len(ordered) - 1)]
    step = high - low
    result = low + step * share if share < 0.5 else high - step * (kind(1) - share)
    return np.asarray(result)
