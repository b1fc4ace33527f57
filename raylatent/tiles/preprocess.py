"""From pixels to what a model takes: size, standardization."""

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor


def resize(image: NDArray[np.uint8], tile_px: int) -> NDArray[np.uint8]:
    """A picture (h, w, 3) at (tile_px, tile_px, 3); the same array if it has that size.

    Antialiased bicubic, once.
    """
    if image.shape[:2] == (tile_px, tile_px):
        return image
    resized = Image.fromarray(image).resize(
        (tile_px, tile_px), Image.Resampling.BICUBIC
    )
    return np.asarray(resized)


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
    center = torch.tensor(mean, device=batch.device).mul(255).repeat(width)
    scale = torch.tensor(std, device=batch.device).mul(255).repeat(width)
    shape = (n, height, width * channels)
    rows, pixels = batch.view(shape), out.view(shape)
    # On a CPU tile by tile: one fits in its cache, a whole batch does not.
    for part in [slice(None)] if batch.is_cuda else range(n):
        pixels[part].copy_(rows[part]).sub_(center).div_(scale)
    return out.permute(0, 3, 1, 2)
