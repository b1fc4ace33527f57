"""Which tiles of a slide show tissue: pure functions of low-resolution pictures.

The rules and numbers are Slideflow's (its `qc` and filters), so that a grid here is a
grid there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from raylatent.caches import kernel
from raylatent.config import QCS
from raylatent.config.options import one_of, share

KEPT, BLUR, OTSU, GRAY, WHITE, CUSTOM = range(6)
REASONS = ("kept", "blur", "otsu", "gray", "white", "qc")
"""Why a tile of the grid is left out, by the numbers above."""

_MEDIAN_PX = 7
_DARK, _DARK_SHARE = 64, 0.3
_GLASS, _STAIN, _BRIGHT_SHARE = 180, 20, 0.5
_LUMA = np.array([0.2125, 0.7154, 0.0721])

Mask = NDArray[np.bool_]
Pixels = NDArray[np.uint8]
Touching = Callable[[int, int, int, int], bool]


@dataclass(frozen=True, kw_only=True)
class TissueOptions:
    """How tiles without tissue are told.

    Attributes:
        qc: `otsu` (background), `blur` (out of focus), `both`, `none`. With `none` the
            filters below are off as well: every tile of the grid is kept.
        filter_threshold: A tile is left out if more of it than this is masked.
        grayspace_fraction: ... if more of its pixels than this are gray; 1: off.
        grayspace_threshold: Gray is a saturation (of HSV, 0 to 1) below this.
        whitespace_fraction: ... if more of its pixels than this are white; 1: off.
        whitespace_threshold: White is a mean of red, green and blue above this.
        blur_sigma: Of the Gaussian over the edges, in pixels four times a tile's.
        blur_threshold: Blurred is where that is not above this.
    """

    qc: str = "otsu"
    filter_threshold: float = 0.6
    grayspace_fraction: float = 0.6
    grayspace_threshold: float = 0.05
    whitespace_fraction: float = 1.0
    whitespace_threshold: float = 230.0
    blur_sigma: float = 3.0
    blur_threshold: float = 0.02

    def __post_init__(self) -> None:
        """Refuse nonsense."""
        one_of("qc", self.qc, QCS)
        for name in ("filter_threshold", "grayspace_fraction", "whitespace_fraction"):
            share(name, getattr(self, name))


def saturation(pixels: Pixels) -> NDArray[np.uint8]:
    """Saturation of HSV, 0 to 255, rounded: (max - min) / max, 0 for black.

    >>> saturation(np.array([[[200, 100, 100], [0, 0, 0]]], np.uint8))
    array([[128,   0]], dtype=uint8)
    """
    high = pixels.max(axis=2).astype(np.float32)
    low = pixels.min(axis=2).astype(np.float32)
    ratio = (high - low) * np.float32(255) / np.maximum(high, 1)
    rounded: NDArray[np.uint8] = np.floor(ratio + np.float32(0.5)).astype(np.uint8)
    return rounded


def otsu_threshold(values: NDArray[np.uint8]) -> int:
    """The threshold that best parts a histogram in two (Otsu 1979).

    Values up to it are the lower class; the first of equal thresholds.

    >>> otsu_threshold(np.array([1, 2, 2, 200, 201], np.uint8))
    2
    """
    counts = np.bincount(values.reshape(-1), minlength=256).astype(np.float64)
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * np.arange(256))
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = sums / below - (sums[-1] - sums) / above
        between = np.nan_to_num(below * above * apart**2)
    return int(np.argmax(between))


def otsu_mask(
    pixels: Pixels, removed: Mask | None = None, unknown: Mask | None = None
) -> Mask:
    """Background: where a median-filtered saturation is not above Otsu's threshold.

    Args:
        pixels: The slide at low resolution, (h, w, 3) uint8.
        removed: What other methods took away already, (h, w): it counts as black.
        unknown: What could not be read, (h, w): the threshold is that of the rest.

    Returns:
        (h, w) bool, True where there is no tissue.
    """
    values = saturation(pixels)
    if removed is not None:
        values[removed] = 0
    smooth = median_filter(values, _MEDIAN_PX)
    known = smooth if unknown is None else smooth[~unknown]
    mask: Mask = smooth <= otsu_threshold(known)
    return mask


def blur_mask(pixels: Pixels, options: TissueOptions) -> Mask:
    """Out of focus, or empty: where edges, smoothed by a Gaussian, are weak.

    Args:
        pixels: (h, w, 3) uint8, four times coarser than the tiles.
        options: Sigma and threshold.
    """
    from scipy import ndimage  # noqa: PLC0415  (slow)

    gray = pixels @ (_LUMA / 255)
    # The four neighbors less the pixel itself, edges mirrored.
    edges = np.abs(ndimage.laplace(gray, mode="reflect"))
    smooth = ndimage.gaussian_filter(edges, options.blur_sigma, mode="nearest")
    mask: Mask = smooth <= options.blur_threshold
    return mask


def is_dark_field(pixels: Pixels) -> bool:
    """Whether a slide looks like fluorescence: a dark background, lights on it.

    Dark tissue on glass does not, nor what is in a black frame but glass, or tissue that
    light shines through: it is stained, but all of its colors are there.

    Args:
        pixels: The slide at low resolution, (h, w, 3) uint8.
    """
    high, low = pixels.max(axis=2), pixels.min(axis=2)
    light = high >= _DARK
    if light.mean() >= 1 - _DARK_SHARE:
        return False
    glass = low >= _GLASS
    stained = (low >= _DARK) & (high - low > _STAIN)
    return bool((glass | stained)[light].sum() <= _BRIGHT_SHARE * light.sum())


def gray_mask(pixels: Pixels, threshold: float) -> Mask:
    """Pixels whose saturation (0 to 1) is below a threshold, (h, w)."""
    high = pixels.max(axis=2).astype(np.float32)
    low = pixels.min(axis=2).astype(np.float32)
    mask: Mask = (high - low) < np.float32(threshold) * np.maximum(high, 1)
    return mask


def white_mask(pixels: Pixels, threshold: float) -> Mask:
    """Pixels whose mean of red, green and blue is above a threshold, (h, w)."""
    mask: Mask = pixels.mean(axis=2, dtype=np.float32) > threshold
    return mask


def cell_spans(
    edges: NDArray[np.int64], window_px: int, scale: float, size: int
) -> NDArray[np.int64]:
    """First and last pixel + 1 of each tile's window in a picture of lower resolution.

    As Slideflow cuts its masks: the edge rounded down, the width to the nearest.

    Args:
        edges: Of the tiles, level-0 pixels, (n,).
        window_px: Their side.
        scale: Pixels of the picture for one of level 0.
        size: Of the picture along this axis.

    Returns:
        (n, 2), clipped to the picture.
    """
    first = (edges * scale).astype(np.int64)
    last = first + max(1, round(window_px * scale))
    return np.clip(np.stack([first, last], axis=1), 0, size)


class CellFractions:
    """What share of each tile of a grid a mask covers; the mask may come in blocks.

    Args:
        rows: Pixels [first, last) of each row of tiles, (n_rows, 2).
        cols: Likewise of each column.
    """

    def __init__(self, rows: NDArray[np.int64], cols: NDArray[np.int64]) -> None:
        """See the class."""
        self._rows, self._cols = rows, cols
        self._sums = np.zeros((len(rows), len(cols)), np.int64)

    def add(self, mask: Mask, top: int = 0, left: int = 0) -> None:
        """Count a block of the mask that begins at (top, left)."""
        height, width = mask.shape
        sums = np.zeros((height + 1, width + 1), np.int64)
        np.cumsum(np.cumsum(mask, axis=0, dtype=np.int64), axis=1, out=sums[1:, 1:])
        rows = np.flatnonzero(
            (self._rows[:, 1] > top) & (self._rows[:, 0] < top + height)
        )
        cols = np.flatnonzero(
            (self._cols[:, 1] > left) & (self._cols[:, 0] < left + width)
        )
        if not len(rows) or not len(cols):
            return
        y = np.clip(self._rows[rows] - top, 0, height)
        x = np.clip(self._cols[cols] - left, 0, width)
        low, high = sums[y[:, 0]], sums[y[:, 1]]
        found = (high - low)[:, x[:, 1]] - (high - low)[:, x[:, 0]]
        self._sums[np.ix_(rows, cols)] += found

    def touching(self, kept: Mask) -> "Touching":
        """Tells of a block (top, bottom, left, right) whether a kept tile touches it."""

        def touches(top: int, bottom: int, left: int, right: int) -> bool:
            rows = (self._rows[:, 1] > top) & (self._rows[:, 0] < bottom)
            cols = (self._cols[:, 1] > left) & (self._cols[:, 0] < right)
            return bool(kept[np.ix_(rows, cols)].any())

        return touches

    def fractions(self) -> NDArray[np.float64]:
        """(n_rows, n_cols), 0 to 1; 1 for a tile that has no pixel of the picture."""
        area = np.outer(np.diff(self._rows, axis=1), np.diff(self._cols, axis=1))
        return np.where(area > 0, self._sums / np.maximum(area, 1), 1.0)


def mask_fractions(
    mask: Mask,
    xs: NDArray[np.int64],
    ys: NDArray[np.int64],
    window_px: int,
    dimensions: Sequence[int],
) -> NDArray[np.float64]:
    """The share of each tile that a mask over the whole slide covers.

    Args:
        mask: (h, w), at any resolution.
        xs: Left edges of the columns, level-0 pixels.
        ys: Upper edges of the rows.
        window_px: Side of the tiles.
        dimensions: Width and height of the slide.

    Returns:
        (len(ys), len(xs)).
    """
    height, width = mask.shape
    cells = CellFractions(
        cell_spans(ys, window_px, height / dimensions[1], height),
        cell_spans(xs, window_px, width / dimensions[0], width),
    )
    cells.add(mask)
    return cells.fractions()


def median_filter(values: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The median of the square around each pixel; edges are repeated.

    A histogram slides along each row (Huang, Yang, Tang 1979): scipy's filter, which
    sorts each square anew, takes ten times as long.

    Args:
        values: (h, w) uint8.
        side: Of the square, odd.

    >>> median_filter(np.array([[9, 1, 1], [1, 1, 9]], np.uint8), 3)
    array([[1, 1, 1],
           [1, 1, 1]], dtype=uint8)
    """
    padded = np.pad(values, side // 2, mode="edge")
    out = np.empty(values.shape, np.uint8)
    _compiled_slide()(padded, side, out)
    return out


@cache
def _compiled_slide() -> Callable[..., None]:
    return kernel(_slide)


def _slide(padded: NDArray[np.uint8], side: int, out: NDArray[np.uint8]) -> None:
    """Fill `out`; `below` pixels of the square are below `median`."""
    half = side * side // 2
    counts = np.zeros(256, np.int64)
    for row in range(out.shape[0]):
        counts[:] = 0
        for y in range(row, row + side):
            for x in range(side):
                counts[padded[y, x]] += 1
        median, below = 0, 0
        for col in range(out.shape[1]):
            if col:
                for y in range(row, row + side):
                    gone, new = padded[y, col - 1], padded[y, col + side - 1]
                    counts[gone] -= 1
                    counts[new] += 1
                    below += (new < median) - (gone < median)
            while below > half:
                median -= 1
                below -= counts[median]
            while below + counts[median] <= half:
                below += counts[median]
                median += 1
            out[row, col] = median
