"""What a model gives for its sample tiles.

One tile in two batches shows whether a row is a function of one tile; numbers that are
kept of it show later, and in other processes, whether the model is still the same.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from raylatent.errors import ModelError

# How far a row may be from itself, in parts of its largest number. Rounding depends on
# the size of a batch and the place in it: below 1e-5 in float32, a few percent where a
# model computes in 16 bits by itself. Other neighbors or dropout change a tenth or more.
_TOLERANCE = 1e-3
_TOLERANCE_16_BITS = 0.05

_TRAINS = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd)

PREDICTIONS = "predictions"
"""Stands for them among the layers: no layer may be called so."""

Rows = Mapping[str, Tensor]

PROJECTIONS = 16
"""Numbers kept of a tile's activations, beside their norm."""
TOLERANCE = 1e-3
"""Difference to the norm that is still the same model on another CPU."""
_CHUNK = 1 << 16
_SEED = 13

Outputs = dict[str, list[list[float | None]]]
"""By layer, for each tile the norm, then the projections; None: not a finite number."""


def two_batches(tile_px: int) -> tuple[Tensor, Tensor]:
    """One tile in two batches: first of two, and second of three, the last black.

    The tile is of middling brightness, its neighbors are darker or brighter: means,
    extremes and spreads of the batches differ. They are uint8 (n, tile_px, tile_px, 3).
    """
    generator = torch.Generator().manual_seed(0)

    def tile(low: int, high: int) -> Tensor:
        shape = (tile_px, tile_px, 3)
        return torch.randint(low, high, shape, dtype=torch.uint8, generator=generator)

    one, bright, dark = tile(40, 216), tile(0, 256), tile(0, 128)
    return torch.stack([one, bright]), torch.stack([dark, one, torch.zeros_like(one)])


def refuse_other_rows(
    model: nn.Module, name: str, first: Rows, second: Rows, *, bits: int = 32
) -> None:
    """Refuse a model that gave one tile another row in the second of `two_batches`.

    The tile is row 0 of what the first batch gave by layer, and row 1 of the second's.
    The model computes with numbers of so many bits.

    Raises:
        ModelError: Some row differs by more than rounding does.
    """
    tolerance = _TOLERANCE if bits > 16 else _TOLERANCE_16_BITS
    for layer, rows in first.items():
        one, other = rows[0].float(), second[layer][1].float()
        if one.shape != other.shape:
            difference = f"shape {tuple(one.shape)} and {tuple(other.shape)}"
        else:
            off = _distance(one, other)
            if off <= tolerance:
                continue
            difference = f"by up to {100 * off:.2g} % of the largest number"
        predicted = layer == PREDICTIONS
        what = "predictions" if predicted else f"numbers in layer {layer!r}"
        advice = ", or leave predictions out (--no-preds)" if predicted else ""
        message = (
            f"{name} is no function of one tile: the same tile has other {what} when "
            f"other tiles are beside it in the batch (they differ {difference}); "
            f"{_reason(model)}{advice}"
        )
        raise ModelError(message)


def _distance(one: Tensor, other: Tensor) -> float:
    """The largest difference in parts of the largest number; infinite if only one is NaN."""
    if not torch.equal(one.isfinite(), other.isfinite()):
        return float("inf")
    one, other = one.nan_to_num(0, 0, 0), other.nan_to_num(0, 0, 0)
    scale = max(float(one.abs().max()), float(other.abs().max()), 1e-12)
    return float((one - other).abs().max()) / scale


def _reason(model: nn.Module) -> str:
    """What likely makes it so, and what to do."""
    before = {module: module.training for module in model.modules()}
    model.eval()
    still, statistics, ranges = [], [], []
    for layer, module in model.named_modules():
        kind = type(module).__name__
        named = f"{layer} ({kind})"
        normed = isinstance(module, nn.modules.batchnorm._NormBase)
        noisy = isinstance(module, _TRAINS) or "Norm" in kind or "Drop" in kind
        per_tile = isinstance(module, nn.modules.instancenorm._InstanceNorm)
        if module.training and noisy:
            still.append(named)
        if normed and not per_tile and module.running_mean is None:
            statistics.append(named)
        if "quantized.dynamic" in type(module).__module__:
            ranges.append(named)
    for module, training in before.items():
        module.training = training
    for found, why in (
        (
            still,
            "stays in training mode after eval(): see how the model's train() is written",
        ),
        (
            statistics,
            "has no running statistics and takes those of the batch: train it with "
            "track_running_stats=True",
        ),
        (
            ranges,
            "quantizes by the range of the whole batch: take static quantization or the "
            "model before it was quantized",
        ),
    ):
        if found:
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            return f"{found[0]}{more} {why}"
    return (
        "its forward may use dropout or other chance, or normalize over the batch: make "
        "it depend on each tile alone"
    )


def summary(found: Mapping[str, Tensor], output: Tensor | None) -> Outputs:
    """Norms and random projections of activations (n, ...) by layer, and of the output.

    A projection adds all features, each with a sign drawn once for all: a change of any
    feature changes it by as much.

    >>> found = summary({"a": torch.ones(1, 3)}, None)
    >>> round(found["layer 'a'"][0][0], 4), len(found["layer 'a'"][0])
    (1.7321, 17)
    """
    named = {f"layer {name!r}": value for name, value in found.items()}
    if output is not None:
        named["output"] = output
    return {name: _numbers(value) for name, value in named.items()}


def _numbers(value: Tensor) -> list[list[float | None]]:
    flat = value.detach().reshape(len(value), -1).cpu()
    norms = flat.double().norm(dim=1, keepdim=True)
    total = torch.zeros(len(flat), PROJECTIONS, dtype=torch.float64)
    generator = torch.Generator().manual_seed(_SEED)
    for first in range(0, flat.shape[1], _CHUNK):
        part = flat[:, first : first + _CHUNK].double()
        shape = (part.shape[1], PROJECTIONS)
        signs = torch.randint(0, 2, shape, generator=generator, dtype=torch.int8)
        total += part @ (signs.double() * 2 - 1)
    rows: list[list[float]] = torch.cat([norms, total], 1).tolist()
    return [[_rounded(number) for number in row] for row in rows]


def _rounded(number: float) -> float | None:
    return float(f"{number:.9g}") if math.isfinite(number) else None


def differing_outputs(before: Mapping[str, Any], now: Outputs) -> list[str]:
    """What a model gives otherwise than it did, in words; empty if nothing.

    Both are of `summary`, perhaps of other processes on other CPUs.

    >>> was = summary({"a": torch.ones(1, 4)}, None)
    >>> len(differing_outputs(was, summary({"a": torch.ones(1, 4) * 1.25}, None)))
    1
    """
    found = []
    for name in sorted(before.keys() & now.keys()):
        pairs = zip(before[name], now[name], strict=False)
        most = max((_difference(*pair) for pair in pairs), default=0.0)
        if len(before[name]) != len(now[name]) or most > TOLERANCE:
            share = (
                f" by {100 * most:.2g} %" if most < math.inf else ": NaN or infinite"
            )
            found.append(f"{name}{share}")
    return found


def other_outputs(before: Mapping[str, Any] | None, now: Outputs) -> list[str]:
    """One sentence if a model gives other activations than it did, else nothing.

    Where nothing was kept of before, nothing is said.
    """
    found = differing_outputs(before or {}, now)
    if not found:
        return []
    return [
        f"the model gives other activations for the same two tiles ({found[0]}), although "
        "its weights, attributes and code are the same: something that raylatent does "
        "not see has changed, such as a compiled extension, an environment variable or "
        "a file that is read when the model runs, or the model is random"
    ]


def _difference(before: Sequence[Any], now: Sequence[Any]) -> float:
    """The root mean square of differences of projections, to the norm: 0.1 is 10 %."""
    if [x is None for x in before] != [x is None for x in now]:
        return math.inf
    pairs = [(a, b) for a, b in zip(before, now, strict=True) if a is not None]
    if not pairs:
        return 0.0
    square = sum((a - b) ** 2 for a, b in pairs[1:]) / max(1, len(pairs) - 1)
    norm = max(abs(pairs[0][0]), abs(pairs[0][1]))
    return math.sqrt(square) / norm if norm else 0.0
