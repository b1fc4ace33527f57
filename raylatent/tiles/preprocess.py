"""From pixels to what a model takes."""

from functools import cache

import torch
from torch import Tensor

Triple = tuple[float, float, float]


def standardize(
    batch: Tensor, mean: Triple, std: Triple, *, out: Tensor | None = None
) -> Tensor:
    """A uint8 batch (n, h, w, 3) as float32 (n, 3, h, w), on the batch's device.

    `(x / 255 - mean) / std` for each channel. In memory channels come last.

    Args:
        batch: Contiguous.
        mean: Of each channel.
        std: Likewise.
        out: Where to put it, (n, h, w, 3) float32: fresh memory costs as much as the
            arithmetic.

    >>> standardize(torch.full((1, 1, 1, 3), 255, dtype=torch.uint8), (.5,) * 3, (.5,) * 3)
    tensor([[[[1.]],
    <BLANKLINE>
             [[1.]],
    <BLANKLINE>
             [[1.]]]])
    """
    if out is None:
        out = torch.empty(batch.shape, dtype=torch.float32, device=batch.device)
    n, height, width, channels = batch.shape
    center = _row_of(mean, width, batch.device)
    scale = _row_of(std, width, batch.device)
    shape = (n, height, width * channels)
    rows, pixels = batch.view(shape), out.view(shape)
    # On a CPU tile by tile: one fits in its cache, a whole batch does not.
    for part in [slice(None)] if batch.is_cuda else range(n):
        pixels[part].copy_(rows[part]).sub_(center).div_(scale)
    return out.permute(0, 3, 1, 2)


@cache
def _row_of(values: Triple, width: int, device: torch.device) -> Tensor:
    """Of 0..255 for each number of a row of pixels.

    Kept: on its way to a GPU the host would wait for all that the GPU is at.
    """
    with torch.inference_mode(mode=False):
        return torch.tensor(values).mul(255).repeat(width).to(device)
