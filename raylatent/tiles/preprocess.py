"""From pixels to what a model takes."""

from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

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
    n, height, width, channels = batch.shape
    center = row_of(mean, width, batch.device)
    scale = row_of(std, width, batch.device)
    if batch.is_cuda:
        return scaled(batch, center, scale)
    if out is None:
        out = torch.empty(batch.shape, dtype=torch.float32)
    shape = (n, height, width * channels)
    # Tile by tile: one fits in the CPU's cache, a whole batch does not.
    for rows, pixels in zip(batch.view(shape), out.view(shape), strict=True):
        pixels.copy_(rows).sub_(center).div_(scale)
    return out.permute(0, 3, 1, 2)


def scaled(batch: Tensor, center: Tensor, scale: Tensor) -> Tensor:
    """`standardize` as one expression, which torch.compile makes one pass of.

    Args:
        batch: (n, h, w, 3) uint8.
        center: See `row_of`, of the mean.
        scale: Of the standard deviation.
    """
    n, height, width, channels = batch.shape
    rows = batch.view(n, height, width * channels).to(torch.float32)
    return ((rows - center) / scale).view(batch.shape).permute(0, 3, 1, 2)


class Standardizer:
    """`standardize` with one mean and standard deviation.

    Args:
        mean: Of each channel.
        std: Likewise.
    """

    def __init__(self, mean: Triple, std: Triple) -> None:
        """See the class."""
        self._mean, self._std = mean, std
        self._compiled: Callable[..., Tensor] | None = None

    def compile(self) -> None:
        """Compile it for a GPU."""
        self._compiled = torch.compile(scaled, dynamic=False)

    def __call__(self, pixels: Tensor, out: Tensor | None = None) -> Tensor:
        """See `standardize`."""
        if self._compiled is None:
            return standardize(pixels, self._mean, self._std, out=out)
        width, device = pixels.shape[2], pixels.device
        center = row_of(self._mean, width, device)
        return self._compiled(pixels, center, row_of(self._std, width, device))


@cache
def row_of(values: Triple, width: int, device: torch.device) -> Tensor:
    """Of 0..255, for each number of a row of pixels: (3 * width,) float32.

    Kept: on its way to a GPU the host would wait for all that the GPU is at.
    """
    return torch.tensor(values).mul(255).repeat(width).to(device)
