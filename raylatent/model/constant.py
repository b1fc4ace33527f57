"""Layers that tell no tile from another: a dead model, or pixels of another scale."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_TOLERANCE = 1e-5  # of the largest number: a GPU's last digits
_MIN_TILES = 10  # of fewer it says nothing

Constants = Mapping[str, tuple[float, float]]
"""Of each layer that is the same in all rows: mean and largest number of a row."""


class Spread:
    """Whether rows of one layer differ, told from its rows block by block."""

    def __init__(self) -> None:
        """Of no rows yet."""
        self._low: NDArray[np.float32] | None = None
        self._high: NDArray[np.float32] | None = None
        self._varies = False

    def add(self, values: NDArray[np.floating]) -> None:
        """Rows (n, features), all finite. Those that differ are looked at no more."""
        if self._varies or not values.size:
            return
        low, high = values.min(axis=0), values.max(axis=0)
        if self._low is not None and self._high is not None:
            low, high = np.minimum(low, self._low), np.maximum(high, self._high)
        apart = float((high.astype(np.float64) - low).max())
        self._varies = apart > _TOLERANCE * _largest(low, high)
        self._low, self._high = low.astype(np.float32), high.astype(np.float32)

    @property
    def constant(self) -> tuple[float, float] | None:
        """See Constants; None where rows differ, or there are none."""
        if self._varies or self._low is None or self._high is None:
            return None
        mean = float(self._low.mean(dtype=np.float64))
        return mean, _largest(self._low, self._high)


def _largest(low: NDArray[np.floating], high: NDArray[np.floating]) -> float:
    return max(float(-low.min()), float(high.max()), 0.0)


def constants_of_both(one: Constants, other: Constants) -> Constants:
    """Layers that are the same in all rows of two sets of rows, none of them empty.

    >>> dict(constants_of_both({"a": (0.5, 1.0), "b": (2.0, 2.0)}, {"a": (0.5, 1.0)}))
    {'a': (0.5, 1.0)}
    """
    both = {}
    for layer in one.keys() & other.keys():
        (mean, scale), (mean_too, scale_too) = one[layer], other[layer]
        largest = max(scale, scale_too)
        if abs(mean - mean_too) <= _TOLERANCE * largest:
            both[layer] = (mean, largest)
    return both


@dataclass(frozen=True)
class ConstantLayer:
    """A layer that is the same in all tiles of an invocation.

    Attributes:
        layer: Its name.
        tiles: How many.
        zero: Whether it is zero.
    """

    layer: str
    tiles: int
    zero: bool

    def __str__(self) -> str:
        """For people."""
        what = "zero" if self.zero else "the same"
        return (
            f"layer {self.layer!r} is {what} in all {self.tiles:,} tiles computed now: "
            "it tells no tile from another (are the weights loaded, mean and std those "
            "of the model, the tiles different pictures?)"
        )


def constant_layers(
    layers: Sequence[str], constants: Constants, tiles: int
) -> list[ConstantLayer]:
    """What is to be said of the layers of an invocation; of a few tiles nothing."""
    if tiles < _MIN_TILES:
        return []
    return [
        ConstantLayer(layer=layer, tiles=tiles, zero=constants[layer][1] == 0)
        for layer in layers
        if layer in constants
    ]
