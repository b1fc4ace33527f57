"""Counts of points as images, for maps of more points than dots can show."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from raylatent.mapping.density import Counts, Extent

if TYPE_CHECKING:
    from collections.abc import Iterable

    from matplotlib.axes import Axes


def show_counts(
    ax: "Axes", counts: Counts, extent: Extent, *, cmap: str, legend: str
) -> None:
    """Points in each cell, by a logarithmic scale."""
    from matplotlib.cm import ScalarMappable  # noqa: PLC0415  (slow)
    from matplotlib.colors import LogNorm  # noqa: PLC0415

    norm = LogNorm(vmin=1, vmax=max(2, int(counts.max())))
    colors = ScalarMappable(norm, cmap)
    # Colored here, in bytes: matplotlib would enlarge counts as floats.
    picture = colors.to_rgba(np.ma.masked_equal(counts, 0), bytes=True)
    _show(ax, picture, extent)
    ax.figure.colorbar(colors, ax=ax, label=legend)


def _show(ax: "Axes", picture: NDArray[np.uint8], extent: Extent) -> None:
    """RGBA by cell (x, y)."""
    ax.imshow(
        picture.transpose(1, 0, 2),
        origin="lower",
        extent=extent,
        interpolation="nearest",
    )


def show_majority(
    ax: "Axes",
    counts: Counts,
    extent: Extent,
    shares: "Iterable[tuple[int, Counts]]",
    table: NDArray[np.floating],
) -> None:
    """Each cell in the color of its most frequent label, paler where points are few.

    Args:
        ax: Where.
        counts: Of all points.
        extent: What the cells span.
        shares: A label's row of `table`, and its counts; of equals the first counts.
        table: Colors, RGBA; the last is that of points without label.
    """
    most = np.zeros(counts.shape)
    winner = np.full(counts.shape, -1, dtype=np.intp)
    for code, share in shares:
        ahead = share > most
        winner[ahead], most[ahead] = code, share[ahead]
    picture: NDArray[Any] = table[winner]
    strength = np.log1p(counts) / max(np.log1p(counts.max()), 1e-9)
    picture[..., 3] = np.where(counts > 0, 0.25 + 0.75 * strength, 0.0)
    _show(ax, np.rint(picture * 255).astype(np.uint8), extent)
