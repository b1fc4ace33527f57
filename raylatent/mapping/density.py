"""Points counted in square cells, and pictures of the counts.

Counts of parts add up to those of the whole.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.image import AxesImage

MAX_LABELS = 64
"""Labels that are counted each by itself, and told apart in a picture of counts."""

_GRID = 512
_STEPS = 4096  # of float64 in a cell at least: matplotlib loses some bits of places

Extent = tuple[float, float, float, float]
"""Left, right, bottom, top."""
Counts = NDArray[np.float64]
"""Of cells (x, y)."""


def extent_of(lower: NDArray[np.floating], upper: NDArray[np.floating]) -> Extent:
    """What square cells over points span, at most 512 of them a side.

    From the least x and y of the points to the largest.
    """
    (left, bottom), (right, top) = lower, upper
    cell = max(right - left, top - bottom, least_span(lower, upper)) / _GRID
    nx, ny = (max(1, math.ceil(s / cell)) for s in (right - left, top - bottom))
    ends = left, left + nx * cell, bottom, bottom + ny * cell
    return float(ends[0]), float(ends[1]), float(ends[2]), float(ends[3])


def least_span(lower: NDArray[np.floating], upper: NDArray[np.floating]) -> float:
    """What cells span where all points are at one place: numbers far out are coarse.

    >>> far = np.array([1e9, 0.0])
    >>> 1e9 + least_span(far, far) / 512 > 1e9
    True
    """
    furthest = max(float(np.abs(lower).max()), float(np.abs(upper).max()))
    return max(1e-6, _GRID * _STEPS * float(np.spacing(furthest)))


def binned(
    xy: NDArray[np.floating],
    weights: NDArray[np.float64] | None = None,
    extent: Extent | None = None,
) -> tuple[Counts, Extent]:
    """Counts, or sums of weights, in square cells (x, y), and what they span."""
    if extent is None:
        extent = extent_of(xy.min(axis=0), xy.max(axis=0))
    left, right, bottom, top = extent
    cell = max(right - left, top - bottom) / _GRID
    shape = (max(1, round((right - left) / cell)), max(1, round((top - bottom) / cell)))
    cells = cells_of(xy, extent, shape)
    sums = np.bincount(cells, weights, minlength=shape[0] * shape[1])
    return sums.reshape(shape).astype(np.float64), extent


def cells_of(
    xy: NDArray[np.floating], extent: Extent, shape: tuple[int, ...]
) -> NDArray[np.int64]:
    """In which cell each point (n, 2) is, numbered column by column."""
    left, right, bottom, top = extent
    cell = max(right - left, top - bottom) / _GRID
    column = np.clip(((xy[:, 0] - left) / cell).astype(np.int64), 0, shape[0] - 1)
    row = np.clip(((xy[:, 1] - bottom) / cell).astype(np.int64), 0, shape[1] - 1)
    cells: NDArray[np.int64] = column * shape[1] + row
    return cells


@dataclass(frozen=True, kw_only=True, eq=False)
class Labels:
    """Labels of some points.

    Attributes:
        codes: Which of the names each point has, shape (n,).
        names: None: no label. A name may be there more than once.
    """

    codes: NDArray[np.int64]
    names: Sequence[Any]

    @classmethod
    def of(cls, labels: Iterable[Any]) -> "Labels":
        """Of a label for each point.

        >>> Labels.of(["b", None, "b"]).counts()
        {'b': 2}
        """
        given = list(labels)
        code_of = {name: code for code, name in enumerate(dict.fromkeys(given))}
        codes = np.array([code_of[name] for name in given], np.int64)
        return cls(codes=codes, names=list(code_of))

    def counts(self) -> dict[Any, int]:
        """Points of each label that has any."""
        found: Counter[Any] = Counter()
        numbers = np.bincount(self.codes, minlength=len(self.names)).tolist()
        for name, n in zip(self.names, numbers, strict=True):
            if name is not None and n:
                found[name] += n
        return dict(found)

    def add_to(
        self,
        shares: NDArray[np.float64],
        cells: NDArray[np.int64],
        n_cells: int,
        code_of: Mapping[Any, int],
    ) -> None:
        """Add points to the shares of their labels, by the cells in which they are.

        One label's cells follow another's, in the order of their codes; the last are
        those of all labels without a code.
        """
        last = len(shares) // n_cells - 1
        own = [-1 if n is None else code_of.get(n, last) for n in self.names]
        codes = np.array(own, np.int64)[self.codes]
        known = codes >= 0
        np.add.at(shares, codes[known] * n_cells + cells[known], 1.0)


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Points counted in cells.

    Attributes:
        extent: What the cells span.
        counts: Of all points.
        lower: Least x and y of the points.
        upper: Largest.
    """

    extent: Extent
    counts: Counts
    lower: NDArray[np.floating]
    upper: NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class Density(Cells):
    """Points in cells, all of them and by label.

    Attributes:
        by_label: Of those with one of the labels of most points, by name; None where
            no point was to have one.
        others: Of those with another label; None where there is no other.
        n_others: How many others there are.
        names: All labels, the others too.
    """

    by_label: dict[Any, Counts] | None
    others: Counts | None
    n_others: int
    names: Sequence[Any]


@dataclass(frozen=True, kw_only=True)
class Means(Cells):
    """Numbers of points in cells.

    Attributes:
        labeled: Counts of those that have a number.
        total: Sum of the numbers.
        ends: The least number of a point, and the largest.
    """

    labeled: Counts
    total: Counts
    ends: tuple[float, float]


def most_frequent(counts: Mapping[Any, int]) -> list[Any]:
    """The labels of most points, at most 64, in the order given.

    Each takes an image of counts, and more colors could not be told apart.
    """
    order = {name: i for i, name in enumerate(counts)}
    ranked = sorted(counts, key=lambda name: (-counts[name], order[name]))
    return sorted(ranked[:MAX_LABELS], key=lambda name: order[name])


Parts = Callable[[], Iterable[tuple[NDArray[np.floating], Labels | None]]]
"""Gives points (n, 2) and their labels, from the first again each time."""


def means(
    parts: Callable[[], Iterable[tuple[NDArray[np.floating], NDArray[np.floating]]]],
) -> Means:
    """Numbers of points, counted part by part as `density` does.

    The parts, points (n, 2) and their numbers (n,), NaN where they have none, come from
    the first again each time.
    """
    lower, upper = _reach(xy for xy, _ in parts())
    extent = extent_of(lower, upper)
    empty = binned(np.zeros((0, 2)), None, extent)[0]
    counts, labeled, total = empty.copy(), empty.copy(), empty.copy()
    least, largest = np.inf, -np.inf
    for xy, values in parts():
        known = np.isfinite(values)
        counts += binned(xy, None, extent)[0]
        labeled += binned(xy[known], None, extent)[0]
        total += binned(xy[known], values[known], extent)[0]
        least = min(least, values[known].min(initial=np.inf))
        largest = max(largest, values[known].max(initial=-np.inf))
    return Means(
        extent=extent,
        counts=counts,
        labeled=labeled,
        total=total,
        lower=lower,
        upper=upper,
        ends=(float(least), float(largest)),
    )


def _reach(
    parts: Iterable[NDArray[np.floating]],
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Least x and y of points, and largest."""
    lower, upper = np.full(2, np.inf), np.full(2, -np.inf)
    for xy in parts:
        lower = np.minimum(lower, xy.min(axis=0))
        upper = np.maximum(upper, xy.max(axis=0))
    if not np.isfinite(lower).all():
        message = "there are no points to count"
        raise ValueError(message)
    return lower, upper


def density(
    parts: Parts, order: Callable[[Iterable[Any]], list[Any]] = sorted
) -> Density:
    """Points counted part by part, in two passes: how far they reach, then counts."""
    n_of: Counter[Any] = Counter()
    labeled = []

    def places() -> Iterator[NDArray[np.floating]]:
        for xy, labels in parts():
            labeled.append(labels is not None)
            n_of.update({} if labels is None else labels.counts())
            yield xy

    lower, upper = _reach(places())
    all_names = order(n_of)
    names = most_frequent({name: n_of[name] for name in all_names})
    extent = extent_of(lower, upper)
    empty = binned(np.zeros((0, 2)), None, extent)[0]
    # The last share is of all other labels.
    shares = np.zeros((len(names) + 1, *empty.shape))
    counts = np.zeros(empty.size)
    code_of = {name: code for code, name in enumerate(names)}
    for xy, labels in parts():
        cells = cells_of(xy, extent, empty.shape)
        counts += np.bincount(cells, minlength=empty.size)
        if labels is not None:
            labels.add_to(shares.reshape(-1), cells, empty.size, code_of)
    n_others = len(all_names) - len(names)
    return Density(
        extent=extent,
        counts=counts.reshape(empty.shape),
        by_label=dict(zip(names, shares, strict=False)) if any(labeled) else None,
        others=shares[-1] if n_others else None,
        n_others=n_others,
        names=all_names,
        lower=lower,
        upper=upper,
    )


def extent_by(extent: Extent, shape: tuple[int, ...], factor: int) -> Extent:
    """What cells of `factor` times the side span, see `coarser`."""
    left, right, bottom, top = extent
    cell = (right - left) / shape[0], (top - bottom) / shape[1]
    nx, ny = (-(-side // factor) * factor for side in shape)
    return left, left + nx * cell[0], bottom, bottom + ny * cell[1]


def coarser(counts: Counts, factor: int) -> Counts:
    """Counts in cells of `factor` times the side; the last ones may reach further.

    >>> coarser(np.ones((3, 2)), 2).tolist()
    [[4.0], [2.0]]
    """
    padded = np.pad(counts, [(0, -side % factor) for side in counts.shape])
    nx, ny = (side // factor for side in padded.shape)
    sums: Counts = padded.reshape(nx, factor, ny, factor).sum(axis=(1, 3))
    return sums


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
    """Each cell in the color of its points' mean number, or in that of no number.

    The colormap goes from the least number of a point to the largest.
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
    cells: Cells,
    shares: Iterable[tuple[int, Counts]],
    table: NDArray[np.floating],
) -> None:
    """Each cell in the color of its most frequent label, paler where points are few.

    Shares have a label's row of the table, and its counts; of equals the first counts.
    The table has colors, RGBA; the last is that of points without label.
    """
    counts = cells.counts
    most = np.zeros(counts.shape)
    winner = np.full(counts.shape, -1, dtype=np.intp)
    for code, share in shares:
        ahead = share > most
        winner[ahead], most[ahead] = code, share[ahead]
    picture: NDArray[Any] = table[winner]
    strength = np.log1p(counts) / max(np.log1p(counts.max()), 1e-9)
    picture[..., 3] = np.where(counts > 0, 0.25 + 0.75 * strength, 0.0)
    show_cells(ax, np.rint(picture * 255).astype(np.uint8), cells.extent)
