"""What is to be said of layers: those the same for all tiles, those of many numbers a tile."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from raylatent.config import UNIT_TILES
from raylatent.errors import ConfigError

_TOLERANCE = 1e-5  # of the largest number: a GPU's last digits
_MIN_TILES = 10  # of fewer it says nothing

Constants = Mapping[str, tuple[float, float]]
"""Of each layer that is the same in all rows: mean and largest number of a row."""

MANY = 8192
"""Beyond so many numbers a tile a layer is stored unpooled only if that was asked for."""

UNIT_BYTES = 256 << 20
"""Rows of a unit, which a worker holds whole, are not to be larger."""

_LARGE_UNIT = 4  # times UNIT_BYTES: from here on it is said
_BYTES = {"float32": 4, "float16": 2}

Shape = tuple[int, ...]


class Spread:
    """Whether rows of one layer differ, told from its rows block by block."""

    def __init__(self) -> None:
        """See the class."""
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
    """A layer that is the same, perhaps zero, in all tiles of an invocation."""

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
        ConstantLayer(layer, tiles, zero=constants[layer][1] == 0)
        for layer in layers
        if layer in constants
    ]


def wide_layers(shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """Layers that are stored with more than `MANY` numbers a tile, by their shapes.

    >>> wide_layers({"conv1": (64, 112, 112), "tokens": (10, 768), "postconv": (512,)})
    {'conv1': (64, 112, 112)}
    """
    return {layer: shape for layer, shape in shapes.items() if prod(shape) > MANY}


def refuse_unasked(shapes: Mapping[str, Shape], dtype: str) -> None:
    """Ask for `--pooling` where a layer is wide that it would make small.

    Raises:
        ConfigError: The message has each answer.
    """
    asked = {name: s for name, s in wide_layers(shapes).items() if len(s) in {2, 3}}
    if not asked:
        return
    layer, shape = next(iter(asked.items()))
    n_pooled = shape[0] if len(shape) == 3 else shape[-1]
    kind = "maps" if len(shape) == 3 else "tokens"
    more = f" (and {len(asked) - 1} more layers likewise)" if len(asked) > 1 else ""
    message = (
        f"layer {layer!r} gives {kind}, {_told(shape, 1000, dtype)} for each 1,000 tiles"
        f"{more}: say how to store them, --pooling avg for their means ({n_pooled:,} "
        "numbers a tile), or --pooling none for all numbers"
    )
    raise ConfigError(message)


def cost_in_words(shapes: Mapping[str, Shape], n_tiles: int, dtype: str) -> str | None:
    """What the wide layers of a run take, None where there is none.

    >>> cost_in_words({"conv1": (64, 112, 112)}, 400, "float32")
    "layer 'conv1' is stored whole: 64 x 112 x 112 = 802,816 numbers a tile, 1.3 GB \
for the 400 tiles of this run (before compression)"
    """
    wide = wide_layers(shapes)
    if not wide:
        return None
    total = prod(next(iter(wide.values())))
    if len(wide) == 1:
        ((layer, shape),) = wide.items()
        what = f"layer {layer!r} is stored whole: {_told(shape, n_tiles, dtype)}"
    else:
        total = sum(map(prod, wide.values()))
        named = ", ".join(map(repr, wide))
        size = _gigabytes(total, n_tiles, dtype)
        what = f"layers {named} are stored whole: {total:,} numbers a tile, {size}"
    return f"{what} for the {n_tiles:,} tiles of this run (before compression)"


def tiles_of_unit(n_numbers: int, batch_size: int) -> int:
    """Tiles of a unit, where the user does not say: as many as `UNIT_BYTES` hold.

    Whole micro-batches, one at least, of tiles of so many numbers in all layers.

    >>> tiles_of_unit(1280, 32), tiles_of_unit(64 * 112 * 112, 32)
    (2048, 64)
    """
    fitting = UNIT_BYTES // max(1, 4 * n_numbers)  # float32 until it is written
    if fitting >= UNIT_TILES:
        return UNIT_TILES
    return max(batch_size, fitting - fitting % batch_size)


def unit_in_words(unit_tiles: int, n_numbers: int, batch_size: int) -> str | None:
    """What is to be said of a unit's size, None where nothing is; see `tiles_of_unit`."""
    fitting = tiles_of_unit(n_numbers, batch_size)
    size = f"{unit_tiles * 4 * n_numbers / 1e9:.2g} GB"
    if unit_tiles > fitting and 4 * n_numbers * unit_tiles > _LARGE_UNIT * UNIT_BYTES:
        return (
            f"--unit-tiles {unit_tiles}: each actor holds the rows of a unit, {size}, and "
            f"as much again while it writes them; --unit-tiles {fitting} takes less memory"
        )
    if unit_tiles == fitting < UNIT_TILES:
        return (
            f"units have {unit_tiles} tiles, not {UNIT_TILES:,}: their rows are {size}"
        )
    return None


def if_short_of_memory(unit_tiles: int, n_numbers: int, batch_size: int) -> str:
    """What helps when workers die for want of memory, what helps most first."""
    n_bytes = unit_tiles * 4 * n_numbers
    if n_bytes > UNIT_BYTES // 4 and unit_tiles > batch_size:
        return (
            f"a smaller --unit-tiles (a unit's rows are {n_bytes / 1e9:.2g} GB), "
            "--pooling avg if layers are stored whole, or fewer --actors"
        )
    return "fewer --actors or a smaller --batch-size"


def _told(shape: Shape, n_tiles: int, dtype: str) -> str:
    sides = " x ".join(map(str, shape))
    n = prod(shape)
    equals = f"{sides} = {n:,}" if len(shape) > 1 else f"{n:,}"
    return f"{equals} numbers a tile, {_gigabytes(n, n_tiles, dtype)}"


def _gigabytes(n_numbers: int, n_tiles: int, dtype: str) -> str:
    size = n_numbers * n_tiles * _BYTES[dtype] / 1e9
    return f"{size:,.1f} GB" if size >= 1 else f"{size:.2g} GB"
