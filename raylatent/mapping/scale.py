"""Labels that are numbers: a scale of colors instead of a color for each."""

import math
import numbers
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from raylatent.errors import MapError

CMAP = "viridis"

_MOST_CLASSES = 12
_LAST_CODE = 30  # of classes that are called by whole numbers


@dataclass(frozen=True)
class Scale:
    """What numbers the colors stand for, from the least label to the largest.

    Attributes:
        low: The least label.
        high: The largest.
    """

    low: float
    high: float

    def color(self, value: float) -> str:
        """The color of a number, as #RRGGBB."""
        from matplotlib.colors import to_hex  # noqa: PLC0415  (slow)

        share = (value - self.low) / ((self.high - self.low) or 1.0)
        return to_hex(self._colors(share)).upper()

    @cached_property
    def _colors(self) -> Any:  # noqa: ANN401  (a colormap)
        from matplotlib import colormaps  # noqa: PLC0415  (slow)

        return colormaps[CMAP]

    def ticks(self) -> list[float]:
        """Some round numbers on the scale, ascending, as on a color bar."""
        from matplotlib.ticker import MaxNLocator  # noqa: PLC0415  (slow)

        ticks = map(float, MaxNLocator(7).tick_values(self.low, self.high))
        return [tick for tick in ticks if self.low <= tick <= self.high]


def scale_of(labels: Iterable[object]) -> Scale | None:
    """The scale of labels that are numbers; None where they are classes.

    Numbers, or words that are numbers, are a scale if there are more than 12 of them,
    unless all are whole and from 0 to 30, as the numbers of classes and clusters.

    >>> scale_of(["0.5", *range(40, 60)]), scale_of(range(20)), scale_of(["1", "G2"])
    (Scale(low=0.5, high=59.0), None, None)
    """
    found: set[float] = set()
    for label in set(labels):
        value = number(label)
        if value is None:
            return None
        found.add(value)
    if len(found) <= _MOST_CLASSES:
        return None
    low, high = min(found), max(found)
    codes = low >= 0 and high <= _LAST_CODE and all(v.is_integer() for v in found)
    return None if codes else Scale(low, high)


def number(label: object) -> float | None:
    """A label as a finite number, None where it is none.

    >>> number("62"), number("1_0"), number("nan"), number(True)
    (62.0, None, None, None)
    """
    if isinstance(label, bool) or not isinstance(label, numbers.Real | str):
        return None
    if isinstance(label, str) and "_" in label:
        return None
    try:
        value = float(label)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def numbers_of(labels: Iterable[object]) -> list[float]:
    """Labels as numbers.

    Raises:
        MapError: One is none.
    """
    found = []
    for label in labels:
        value = number(label)
        if value is None:
            message = (
                f"the label {label!r} is no number: draw labels with categorical=True"
            )
            raise MapError(message)
        found.append(value)
    return found
