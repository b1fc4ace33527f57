"""What a model gives for its two sample tiles, short enough to be kept and compared."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

PROJECTIONS = 16
"""Numbers kept of a tile's activations, beside their norm."""
TOLERANCE = 1e-3
"""Difference to the norm that is still the same model on another CPU."""
_CHUNK = 1 << 16
_SEED = 13

Outputs = dict[str, list[list[float | None]]]
"""By layer, for each tile the norm, then the projections; None: not a finite number."""


class HasOutputs(Protocol):
    """What ran the two sample tiles."""

    @property
    def sample_outputs(self) -> Outputs:
        """Of each layer."""


def summary(found: Mapping[str, Tensor], output: Tensor | None) -> Outputs:
    """Norms and random projections of activations.

    A projection adds all features, each with a sign drawn once for all: a change of any
    feature changes it by as much.

    Args:
        found: Activations by layer, (n, ...).
        output: The model's output, (n, ...), if there is one.

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
    """Sentences on what a model gives otherwise than it did, empty if nothing.

    Args:
        before: As `summary` gave it, perhaps in another process on another CPU.
        now: Likewise.

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


def other_outputs(before: Mapping[str, Any] | None, features: HasOutputs) -> list[str]:
    """One sentence if a model gives other activations than it did, else nothing.

    Args:
        before: What was kept, None where nothing was.
        features: The model as it is now.
    """
    found = differing_outputs(before or {}, features.sample_outputs)
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
