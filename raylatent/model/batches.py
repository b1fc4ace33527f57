"""Batches of tiles as users give them: arrays or tensors, bytes or floats."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from raylatent.errors import ModelError
from raylatent.tiles.preprocess import standardize

Triple = tuple[float, float, float]


def as_batch(batch: Any) -> Tensor:  # noqa: ANN401  (whatever numpy or torch takes)
    """A batch checked: uint8 (n, h, w, 3), or floats (n, 3, h, w).

    Args:
        batch: uint8 (n, h, w, 3) or (n, 3, h, w), or floats (n, 3, h, w); an array, a
            tensor, or what makes an array.

    Raises:
        ModelError: It has another shape or type.
    """
    tensor = batch if isinstance(batch, Tensor) else _from_array(batch)
    if tensor.ndim != 4 or 3 not in {tensor.shape[1], tensor.shape[-1]}:
        message = (
            f"a batch of shape {tuple(tensor.shape)} is not (n, h, w, 3) or "
            "(n, 3, h, w)"
        )
        raise ModelError(message)
    if tensor.dtype == torch.uint8:
        if tensor.shape[1] == 3:
            tensor = tensor.permute(0, 2, 3, 1)
        return tensor.contiguous()  # one layout in memory, so the same bits
    if not tensor.is_floating_point() or tensor.shape[1] != 3:
        message = (
            f"a {tensor.dtype} batch of shape {tuple(tensor.shape)} is neither uint8 "
            "nor standardized floats of shape (n, 3, h, w)"
        )
        raise ModelError(message)
    return tensor


def as_input(batch: Tensor, mean: Triple, std: Triple, device: torch.device) -> Tensor:
    """A checked batch as the model takes it: (n, 3, h, w) float32 on the device."""
    if batch.dtype == torch.uint8:
        return standardize(batch.to(device), mean, std)
    # In memory as `standardize` has them: one layout, so the same bits.
    floats = batch.to(device, torch.float32)
    return floats.contiguous(memory_format=torch.channels_last)


def _from_array(batch: object) -> Tensor:
    try:
        array = np.asarray(batch)
    except ValueError as error:
        message = "the tiles of a batch must all have one size"
        raise ModelError(message) from error
    if array.dtype.kind not in "uif":
        message = f"a batch of {array.dtype} is no batch of pictures"
        raise ModelError(message)
    return torch.from_numpy(np.array(array))
