"""Pixels in memory that other processes of this machine see as well."""

import itertools
import mmap
import os
import weakref
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_numbers = itertools.count()


@dataclass(frozen=True)
class SharedName:
    """Where another process finds them.

    Attributes:
        path: Of the memory, as long as the process lives that made it.
        number: Of the memory; paths are used again.
        shape: (n, tile_px, tile_px, 3).
    """

    path: str
    number: int
    shape: tuple[int, int, int, int]

    def open(self) -> NDArray[np.uint8]:
        """The pixels, uint8, as the other process sees them.

        >>> pixels = SharedPixels((2, 4, 4, 3))
        >>> pixels.name.open()[1, 0, 0, 2] = 7
        >>> int(pixels.array[1, 0, 0, 2])
        7
        """
        with open(self.path, "r+b") as file:  # noqa: PTH123  (a number is no path)
            return _mapped(file.fileno(), self.shape)


class SharedPixels:
    """Zeros at first.

    The memory belongs to no file: it is gone with the last process that has it open,
    however that ends.

    Args:
        shape: (n, tile_px, tile_px, 3).

    Attributes:
        array: The pixels, uint8.
        name: Where another process finds them.
    """

    def __init__(self, shape: tuple[int, int, int, int]) -> None:
        """See the class."""
        number = next(_numbers)
        descriptor = os.memfd_create(f"raylatent pixels {number}")
        weakref.finalize(self, os.close, descriptor)
        os.truncate(descriptor, int(np.prod(shape)))
        self.array = _mapped(descriptor, shape)
        self.name = SharedName(f"/proc/{os.getpid()}/fd/{descriptor}", number, shape)


def _mapped(descriptor: int, shape: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    memory = mmap.mmap(descriptor, int(np.prod(shape)))
    return np.frombuffer(memory, np.uint8).reshape(shape)
