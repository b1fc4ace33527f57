"""Tiles in one pass: as many as asked for, or fewer where a device has no room for them."""

from collections.abc import Callable

import torch
from torch import Tensor

from raylatent.errors import ModelError

Found = tuple[dict[str, Tensor], Tensor | None]


class MicroBatch:
    """Runs passes, in pieces once the device's memory did not suffice for a whole one.

    Pieces have one size, the last one padded. On a GPU that changes rows within the
    tolerance for GPUs; CPUs never raise what is answered here.

    Args:
        size: Tiles that are asked for in one pass.

    Attributes:
        size: Tiles in one pass now.

    >>> def run(batch):
    ...     if len(batch) > 2:
    ...         raise torch.OutOfMemoryError("CUDA out of memory")
    ...     return {"x": batch * 2}, None
    >>> passes = MicroBatch(8)
    >>> found, _ = passes(run, torch.arange(5))
    >>> found["x"].tolist(), passes.size
    ([0, 2, 4, 6, 8], 2)
    """

    def __init__(self, size: int) -> None:
        """See the class."""
        self.size = size

    def __call__(self, run: Callable[[Tensor], Found], batch: Tensor) -> Found:
        """What `run` gives of a batch.

        Args:
            run: One pass: (n, ...) to tensors of n rows by layer, and the output.
            batch: (n, ...).

        Raises:
            ModelError: There is no room for a single tile.
        """
        while True:
            try:
                if len(batch) <= self.size:
                    return run(batch)
                return self._in_pieces(run, batch)
            except torch.OutOfMemoryError as error:
                self._halve(min(self.size, len(batch)), error)

    def _halve(self, size: int, error: torch.OutOfMemoryError) -> None:
        if size == 1:
            message = (
                "the device's memory does not suffice for one tile: take a smaller "
                "model or tiles, or fewer actors for each GPU (--num-gpus)"
            )
            raise ModelError(message) from error
        self.size = size // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _in_pieces(self, run: Callable[[Tensor], Found], batch: Tensor) -> Found:
        layers: dict[str, list[Tensor]] = {}
        outputs: list[Tensor] = []
        for first in range(0, len(batch), self.size):
            piece = batch[first : first + self.size]
            n = len(piece)
            if n < self.size:
                piece = torch.cat(
                    [piece, piece.new_zeros(self.size - n, *piece.shape[1:])]
                )
            found, output = run(piece)
            # Off the device: where one pass had no room, all rows may have none.
            for name, value in found.items():
                layers.setdefault(name, []).append(value[:n].cpu())
            if output is not None:
                outputs.append(output[:n].cpu())
        joined = {name: torch.cat(values) for name, values in layers.items()}
        return joined, torch.cat(outputs) if outputs else None
