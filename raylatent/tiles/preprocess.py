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


def standardize(
    batch: Tensor, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> Tensor:
    """A uint8 batch (n, h, w, 3) as float32 (n, 3, h, w), on the batch's device.

    `(x / 255 - mean) / std` for each channel.

    >>> standardize(torch.full((1, 1, 1, 3), 255, dtype=torch.uint8), (.5,) * 3, (.5,) * 3)
    tensor([[[[1.]],
    <BLANKLINE>
             [[1.]],
    <BLANKLINE>
             [[1.]]]])
    """
    pixels = batch.permute(0, 3, 1, 2).to(torch.float32)
    shape = (1, 3, 1, 1)
    center = torch.tensor(mean, device=batch.device).mul(255).reshape(shape)
    scale = torch.tensor(std, device=batch.device).mul(255).reshape(shape)
    return pixels.sub_(center).div_(scale)
