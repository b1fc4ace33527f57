"""A hash of (seed, slide, tile index) that is the same everywhere, for ever.

Samples and ties are decided by it, so that no choice depends on the order of rows.
"""

import hashlib

import numpy as np
from numpy.typing import ArrayLike, NDArray

_MASK = (1 << 64) - 1


def slide_hash(slide: str) -> int:
    """64 bits of BLAKE2b over the slide's name in UTF-8.

    >>> slide_hash("a") == slide_hash("a"), slide_hash("a") == slide_hash("b")
    (True, False)
    """
    digest = hashlib.blake2b(slide.encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest(), "little")


def tile_hash(seed: int, slide: str, tile_index: ArrayLike) -> NDArray[np.uint64]:
    """A 64-bit hash for each tile of one slide, shape as `tile_index`.

    SplitMix64 (Steele, Lea and Flood 2014, doi:10.1145/2660193.2660195) over the
    tile index, keyed by seed and slide.

    >>> tile_hash(0, "a", [0, 1]).dtype
    dtype('uint64')
    """
    key = _mix(np.uint64((slide_hash(slide) ^ (seed * 0x9E3779B97F4A7C15)) & _MASK))
    return _mix(np.asarray(tile_index).astype(np.uint64) ^ key)


def _mix(z: NDArray[np.uint64] | np.uint64) -> NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        z = np.asarray(z, np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))
