"""The pictures of a map in its folder, however many points it has.

One shows all points; small multiples show those of each label by themselves.
"""

import logging
import math
from collections.abc import (
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylatent import schema
from raylatent.errors import MapError
from raylatent.mapping import plot
from raylatent.mapping.density import (
    Counts,
    Density,
    Extent,
    Labels,
    Parts,
    coarser,
    density,
    extent_by,
    least_span,
    means,
    show_cells,
)
from raylatent.mapping.labels import (
    MOST_LABELS,
    colors_by_name,
    numbers_of,
    say_too_many_labels,
    scale_of,
    shown,
)
from raylatent.mapping.plot import PICTURES, save_figure
from raylatent.mapping.point_files import (
    iter_places,
    iter_tile_labels,
    points_parts,
    read_points,
    tile_label_names,
)
from raylatent.run.manifest import relisted
from raylatent.storage import Store

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


logger = logging.getLogger(__name__)

PICTURE = "umap"  # of a map, beside map.json
BY_LABEL = "umap_by_label"
PICTURE_FILES = tuple(stem + end for stem in (PICTURE, BY_LABEL) for end in PICTURES)

_BLOCK_ROWS = 1 << 16

MAX_PANELS = 24
"""Labels that have a panel: those of the most points."""

_PANEL_INCHES = 2.4  # the longer side
_LEAST_INCHES = 0.6
_ALL = "#DADADA"
_MAX_CHARS = 28


@dataclass(frozen=True)
class TileLabels:
    """That a map is colored by the labels that its tiles have of their own.

    Attributes:
        names: All of them, sorted.
    """

    names: Sequence[str]

    @classmethod
    def of(cls, store: Store) -> "TileLabels | None":
        """Those of a map in its folder, None where no tile has one.

        Of too many there is none as well, which is said.
        """
        names = tile_label_names(store, points_parts(store), MOST_LABELS)
        if names is None:
            say_too_many_labels()
        return cls(names) if names else None


MapLabels = Mapping[str, str] | TileLabels
"""Labels by slide, or those of tiles."""


def labels_on_map(
    slides: Iterable[str], labels: Mapping[str, str] | None
) -> Mapping[str, str] | None:
    """The labels by slide, None where no slide with points has one; said in the log."""
    if labels is None or any(slide in labels for slide in slides):
        return labels
    logger.warning("no slide that has a label has tiles: the map is drawn without")
    return None


def save_pictures(
    store: Store,
    labels: MapLabels | None,
    *,
    n_points: int,
    kinds: Sequence[str] = ("png",),
) -> tuple[list[str], list[str]]:
    """Write a map's pictures beside it; URIs of those by label, and of the others.

    Pictures that are there of an earlier drawing, and are not drawn now, are deleted.
    Without labels of slides on the map, or of tiles, there are none by label.
    """
    if not isinstance(labels, TileLabels):
        slides = {slide for slide, _ in points_parts(store)}
        by_slide = labels_on_map(slides, labels) or {}
        labels = {s: label for s, label in by_slide.items() if s in slides} or None
    scaled = labels is not None and scale_of(_names_of(labels)) is not None
    if scaled:
        logger.info("labels are numbers: they are drawn on a scale, not each by itself")
    stems = (PICTURE,) if labels is None or scaled else (PICTURE, BY_LABEL)
    names = [f"{stem}.{kind}" for stem in stems for kind in kinds]
    uris = [f"{store.uri}/{name}" for name in names]
    paths, by_label = uris[: len(kinds)], uris[len(kinds) :]
    with relisted(store.uri) as digests:
        for name in PICTURE_FILES:
            if name not in names:
                store.delete(name)
        saved = save_stored_map(
            store, paths, labels, n_points=n_points, by_label=by_label
        )
        digests.update(zip(names, (saved[uri] for uri in uris), strict=True))
    return by_label, paths


def save_stored_map(
    store: Store,
    paths: Sequence[str],
    labels: MapLabels | None,
    *,
    n_points: int,
    by_label: Sequence[str] = (),
) -> dict[str, str]:
    """Write a map's pictures, and give their digests by path.

    Of more points than dots can show they are images of counts: then the points are
    read in blocks, and never all of them held. Pictures by label need labels.

    Raises:
        MapError: There are no points, or a path has another ending.
        StorageError: They cannot be read, or it could not be written.
    """
    style = plot.MapStyle()
    digests: dict[str, str] = {}
    if n_points <= plot.MAX_DOTS:
        points = read_points(store)
        own = None if labels is None else _labels_of(points, labels)
        for path in paths:
            digests[path] = plot.save_map(path, schema.places(points), own, style)
        if not by_label:
            return digests
        paths = ()
    if labels is not None and scale_of(_names_of(labels)) is not None:
        of_cells = means(_numbers(store, labels))
        for path in paths:
            digests[path] = plot.save_cells(path, of_cells, style)
        return digests
    counted = density(_blocks(store, labels))
    for path in paths:
        digests[path] = plot.save_cells(path, counted, style)
    for path in by_label:
        digests[path] = save_multiples(path, counted)
    return digests


def _names_of(labels: MapLabels) -> Collection[str]:
    return labels.names if isinstance(labels, TileLabels) else labels.values()


def _labels_of(points: pa.Table, labels: MapLabels) -> NDArray[np.object_]:
    """The label of each point (n,), None where it has none."""
    if isinstance(labels, TileLabels):
        return np.array(points[schema.LABEL].to_pylist(), object)
    return np.array(list(map(labels.get, points[schema.SLIDE].to_pylist())), object)


def _blocks(store: Store, labels: MapLabels | None) -> Parts:
    parts = points_parts(store)

    def blocks() -> Iterator[tuple[NDArray[np.float64], Labels | None]]:
        if isinstance(labels, TileLabels):
            for xy, names in iter_tile_labels(store, parts):
                yield xy, Labels.of(names)
            return
        for xy, slides in iter_places(store, parts, _BLOCK_ROWS):
            if labels is None:
                yield xy, None
                continue
            codes = np.repeat(np.arange(len(slides)), [n for _, n in slides])
            yield xy, Labels(codes=codes, names=[labels.get(s) for s, _ in slides])

    return blocks


def _numbers(
    store: Store, labels: MapLabels
) -> Callable[[], Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]]:
    parts = points_parts(store)
    names = _names_of(labels)
    keys = names if isinstance(labels, TileLabels) else list(labels)
    number_of = dict(zip(keys, numbers_of(names), strict=True))

    def blocks() -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        if isinstance(labels, TileLabels):
            for xy, told in iter_tile_labels(store, parts):
                yield (
                    xy,
                    np.array([number_of.get(name or "", math.nan) for name in told]),
                )
            return
        for xy, slides in iter_places(store, parts, _BLOCK_ROWS):
            own = [number_of.get(slide, math.nan) for slide, _ in slides]
            yield xy, np.repeat(own, [n for _, n in slides])

    return blocks


def save_multiples(path: str, counted: Density, *, dpi: int = 200) -> str:
    """Write a small picture of counts for each label as PNG, PDF or SVG.

    All share limits, axes and scale of colors; points of other labels are grey. A
    panel's edges have the color that its label has on the map. Returns the file's
    digest.

    Raises:
        MapError: No point has a label, or another ending.
        StorageError: It could not be written.
    """
    shares = counted.by_label
    if not shares:
        message = "no point has a label: pictures by label need labels"
        raise MapError(message)
    names = sorted(shares, key=lambda name: (-shares[name].sum(), name))[:MAX_PANELS]
    panels = [(name, shares[name]) for name in shares if name in names]
    factor = _factor(counted)
    small = [(name, coarser(share, factor)) for name, share in panels]
    whole = coarser(counted.counts, factor)
    extent = extent_by(counted.extent, counted.counts.shape, factor)
    width, height = counted.upper - counted.lower
    shape = _panel_inches(float(width), float(height))
    n_cols = _columns(len(small), shape)
    n_rows = -(-len(small) // n_cols)
    more = len(shares) - len(small) + counted.n_others
    inches = (n_cols * (shape[0] + 0.05) + 1.9, n_rows * (shape[1] + 0.4) + 0.5)
    colors = colors_by_name(counted.names)

    def draw(figure: "Figure") -> None:
        grid = figure.subplots(n_rows, n_cols, sharex=True, sharey=True, squeeze=False)
        _fill(figure, grid, small, whole, extent)
        _frame(grid, len(small), counted)
        for ax, (name, _) in zip(grid.flat, small, strict=False):
            ax.spines[:].set(color=colors[name], linewidth=1.2)
        if more:
            figure.supxlabel(f"+{more:,} labels of fewer tiles", size="small")

    return save_figure(path, draw, dpi, inches)


def _fill(
    figure: "Figure",
    grid: NDArray[Any],
    panels: list[tuple[str, Counts]],
    whole: Counts,
    extent: Extent,
) -> None:
    """A panel for each label, and one color bar for all."""
    from matplotlib.cm import ScalarMappable  # noqa: PLC0415  (slow)
    from matplotlib.colors import LogNorm, to_rgba_array  # noqa: PLC0415

    most = max(int(share.max()) for _, share in panels)
    colors = ScalarMappable(LogNorm(vmin=1, vmax=max(2, most)), "viridis")
    grey = np.rint(255 * to_rgba_array([_ALL])[0]).astype(np.uint8)
    n_all = whole.sum()
    for ax, (name, share) in zip(grid.flat, panels, strict=False):
        picture = colors.to_rgba(np.ma.masked_equal(share, 0), bytes=True)
        picture[(share == 0) & (whole > 0)] = grey
        show_cells(ax, picture, extent)
        _title(ax, name, share.sum(), n_all)
    for ax in grid.flat[len(panels) :]:
        ax.set_axis_off()
    bar = figure.colorbar(colors, ax=grid, shrink=0.6, pad=0.02, ticks=_ticks(most))
    bar.ax.yaxis.set_major_formatter("{x:,.0f}")
    bar.minorticks_off()
    bar.set_label("tiles of the label", size="small")
    bar.ax.tick_params(labelsize="x-small")


def _title(ax: "Axes", name: str, n: float, n_all: float) -> None:
    """The label, and how many tiles have it."""
    text = ax.set_title(
        f"{shown(name, _MAX_CHARS)}\n", fontsize="small", loc="left", pad=1
    )
    text.set_parse_math(False)  # a label with dollars is no formula
    ax.annotate(
        f"{int(n):,} tiles, {100 * n / n_all:.1f} %",
        (0, 1),
        (0, 3),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize="x-small",
        color="#666666",
    )


def _frame(grid: NDArray[Any], n: int, counted: Density) -> None:
    """The same limits for all of n panels, numbers only at the edges."""
    low, high = np.asarray(counted.lower, float), np.asarray(counted.upper, float)
    span = max(float((high - low).max()), least_span(low, high))
    pad = max(0.03, 1 / _side(counted)) * span
    for ax in grid.flat:
        ax.set_xlim(low[0] - pad, high[0] + pad)
        ax.set_ylim(low[1] - pad, high[1] + pad)
        ax.set_aspect("equal", adjustable="box")
        ax.tick_params(labelsize="x-small", length=2)
    for ax in grid.flat[max(0, n - grid.shape[1]) : n]:  # nothing is below these
        ax.set_xlabel("UMAP 1", fontsize="x-small")
        ax.tick_params(labelbottom=True)
    for ax in grid[:, 0]:
        ax.set_ylabel("UMAP 2", fontsize="x-small")


def _side(counted: Density) -> float:
    """Cells along the longer side: few points need larger ones to be seen."""
    return min(256.0, max(48.0, math.sqrt(counted.counts.sum()) / 2))


def _factor(counted: Density) -> int:
    """How many cells become one a side."""
    longer: int = max(counted.counts.shape)
    return max(1, round(longer / _side(counted)))


def _ticks(most: int) -> list[int]:
    """Of a logarithmic scale from 1.

    >>> _ticks(12)
    [1, 2, 5, 10]
    """
    steps = (1, 2, 5) if most < 1000 else (1,)
    found = [n * 10**k for k in range(len(str(most))) for n in steps]
    return [n for n in found if n <= max(2, most)]


def _panel_inches(width: float, height: float) -> tuple[float, float]:
    """Of a panel, as wide and high as the map, none too narrow."""
    longer = max(width, height, 1e-6)
    sides = (max(_LEAST_INCHES, _PANEL_INCHES * s / longer) for s in (width, height))
    return next(sides), next(sides)


def _columns(n: int, inches: tuple[float, float]) -> int:
    """Columns that make the figure about a half wider than high, with few gaps.

    >>> [_columns(n, (2.4, 1.6)) for n in (1, 4, 5, 8)]
    [1, 2, 3, 4]
    """
    ratio = (inches[1] + 0.4) / inches[0]
    most = min(n, math.ceil(math.sqrt(1.5 * n * ratio)))
    n_rows = math.ceil(n / most)
    return math.ceil(n / n_rows)
