"""Counts of points as images, for maps of more points than dots can show."""

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from raylatent.mapping.density import Counts, Extent, Means

if TYPE_CHECKING:
    from collections.abc import Iterable

    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.image import AxesImage


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
    show_cells(ax, picture, extent)
    ax.figure.colorbar(colors, ax=ax, label=legend)


def show_means(ax: "Axes", means: Means, cmap: str, no_number: str) -> "ScalarMappable":
    """Each cell in the color of its points' mean number.

    Args:
        ax: Where.
        means: Of cells.
        cmap: Name of the colormap, from the least number of a point to the largest.
        no_number: The color of cells in which no point has a number.
    """
    from matplotlib.cm import ScalarMappable  # noqa: PLC0415  (slow)
    from matplotlib.colors import Normalize, to_rgba_array  # noqa: PLC0415

    colors = ScalarMappable(Normalize(*means.ends), cmap)
    known = means.labeled > 0
    mean = np.ma.masked_array(means.total / np.maximum(means.labeled, 1), ~known)
    picture = colors.to_rgba(mean, bytes=True)
    grey = np.rint(255 * to_rgba_array([no_number])[0]).astype(np.uint8)
    picture[(means.counts > 0) & ~known] = grey
    show_cells(ax, picture, means.extent)
    return colors


def show_cells(ax: "Axes", picture: NDArray[np.uint8], extent: Extent) -> None:
    """Colors by cell, RGBA of shape (x, y, 4)."""
    image = _cell_image()(ax, origin="lower", extent=extent, interpolation="nearest")
    image.set_data(picture.transpose(1, 0, 2))
    image.set_clip_path(ax.patch)
    ax.add_image(image)
    image.set_extent(extent)


@cache
def _cell_image() -> "type[AxesImage]":
    from matplotlib.image import AxesImage  # noqa: PLC0415  (slow)
    from matplotlib.transforms import (  # noqa: PLC0415
        Bbox,
        IdentityTransform,
        Transform,
    )

    class CellImage(AxesImage):
        """Cells of RGBA bytes, each pixel that of its middle.

        `AxesImage` resamples bytes as floats, in ten times the picture's memory.
        """

        def make_image(  # type: ignore[override]  # None where nothing is seen
            self,
            renderer: object,
            magnification: float = 1.0,
            unsampled: bool = False,  # noqa: FBT001, FBT002  (of AxesImage)
        ) -> tuple[NDArray[np.uint8] | None, float, float, Transform | None]:
            """As of `AxesImage`: pixels (height, width, 4), left, bottom, transform."""
            del renderer, unsampled
            left, right, bottom, top = self.get_extent()
            place = self.get_transform().transform_bbox(
                Bbox([[left, bottom], [right, top]])
            )
            seen = Bbox.intersection(place, self.axes.bbox)
            if seen is None:
                return None, 0, 0, None
            cells = np.asarray(self.get_array())
            x0, y0 = np.floor(seen.min)
            x1, y1 = np.ceil(seen.max)
            columns, rows = (
                _nearest(low, high, magnification, edge, span, n)
                for low, high, edge, span, n in zip(
                    (x0, y0),
                    (x1, y1),
                    place.p0,
                    place.size,
                    cells.shape[1::-1],
                    strict=True,
                )
            )
            pixels = cells.take(rows, axis=0).take(columns, axis=1)
            return pixels, x0, y0, IdentityTransform()

    return CellImage


def _nearest(
    low: float, high: float, magnification: float, edge: float, span: float, n: int
) -> NDArray[np.intp]:
    """The cell of each pixel between two places on one axis, of n from an edge on."""
    count = max(1, round((high - low) * magnification))
    middles = low + (np.arange(count) + 0.5) / magnification
    cells: NDArray[np.intp] = ((middles - edge) / span * n).astype(np.intp)
    return np.clip(cells, 0, n - 1)


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
    show_cells(ax, np.rint(picture * 255).astype(np.uint8), extent)
