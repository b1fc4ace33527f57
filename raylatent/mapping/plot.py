"""Pictures of a map's points: all of them, or those of each label by themselves.

All are a scatter plot, or an image of counts where they are too many; small multiples
are images of counts.
"""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from raylatent.caches import use_private_caches
from raylatent.errors import MapError
from raylatent.mapping.density import (
    Counts,
    Density,
    Extent,
    Labels,
    Means,
    coarser,
    density,
    extent_by,
    least_span,
    means,
    show_cells,
    show_counts,
    show_majority,
    show_means,
)
from raylatent.mapping.labels import (
    CMAP,
    NO_LABEL,
    NO_LABEL_COLOR,
    OKABE_ITO,
    OTHER_COLOR,
    Entries,
    colors_by_name,
    entries_of,
    in_order,
    make_legible,
    numbers_of,
    place_legend,
    scale_of,
    shown,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PICTURES = (".png", ".pdf", ".svg")
_OTHER_PICTURES = frozenset(
    {".bmp", ".eps", ".gif", ".jpeg", ".jpg", ".tif", ".tiff", ".webp"}
)
MAX_DOTS = 200_000
_MAX_VECTOR_DOTS = 5_000  # above it dots are a picture inside a PDF or SVG

FEW_DOTS = 5_000
MAX_PANELS = 24
"""Labels that have a panel: those of the most points."""

_PANEL_INCHES = 2.4  # the longer side
_LEAST_INCHES = 0.6
_ALL = "#DADADA"
_MAX_CHARS = 28


def is_picture(uri: str) -> bool:
    """Whether a name is that of a picture, not of a folder.

    Raises:
        MapError: It is that of a picture of another kind.

    >>> is_picture("/maps/umap.PNG"), is_picture("/maps/v1.2")
    (True, False)
    """
    suffix = PurePosixPath(uri).suffix.lower()
    if suffix in PICTURES:
        return True
    if suffix in _OTHER_PICTURES:
        message = f"cannot write {uri}: a map is saved as {', '.join(PICTURES)}"
        raise MapError(message)
    return False


def figure_file(
    uri: str,
    draw: Callable[["Figure"], None],
    dpi: int,
    inches: tuple[float, float] = (7.5, 6.0),
) -> bytes:
    """Draw a figure as PNG, PDF or SVG, without touching pyplot.

    Args:
        uri: What the file is to be called: its ending, one of `PICTURES`, decides.
        draw: Fills the figure.
        dpi: Pixels per inch of pictures.
        inches: Width and height.

    Raises:
        MapError: Another ending.
    """
    suffix = PurePosixPath(uri).suffix.lower()
    if suffix not in PICTURES:
        message = f"cannot draw into {uri}: the name ends in none of {PICTURES}"
        raise MapError(message)
    use_private_caches()
    from matplotlib import rc_context  # noqa: PLC0415  (slow)
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=inches, layout="constrained")
    FigureCanvasAgg(figure)
    draw(figure)
    make_legible(figure)
    buffer = io.BytesIO()
    # Text stays text in PDF and SVG, and the file does not depend on the day.
    with rc_context({"pdf.fonttype": 42, "svg.fonttype": "none"}):
        date = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}.get(suffix)
        figure.savefig(
            buffer, format=suffix[1:], dpi=dpi, metadata=date, bbox_inches="tight"
        )
    return buffer.getvalue()


@dataclass(frozen=True, kw_only=True)
class MapStyle:
    """How a map is drawn; what is None is chosen to fit.

    Attributes:
        title: Above the map.
        xlabel: Below it.
        ylabel: Left of it.
        xlim: Limits of x.
        ylim: Limits of y.
        cmap: Label to color, or the name of a colormap.
        categorical: Whether labels are categories; `auto` takes numbers for a scale as
            `labels.scale_of` says.
        legend: Title of the legend or color bar.
        loc: Place of the legend, outside on the right by default.
        ncol: Columns of the legend.
        legend_kwargs: For matplotlib's `Axes.legend`.
        max_dots: With more points an image of counts, of majority labels, or of mean
            values is drawn instead of dots.
        scatter: For matplotlib's `Axes.scatter`.
    """

    title: str | None = None
    xlabel: str | None = None
    ylabel: str | None = None
    xlim: tuple[float, float] | None = None
    ylim: tuple[float, float] | None = None
    cmap: Mapping[Any, Any] | str | None = None
    categorical: str | bool = "auto"
    legend: str | None = None
    loc: str | None = None
    ncol: int = 1
    legend_kwargs: Mapping[str, Any] = field(default_factory=dict)
    max_dots: int = MAX_DOTS
    scatter: Mapping[str, Any] = field(default_factory=dict)


def draw_map(
    ax: "Axes", xy: NDArray[np.floating], labels: ArrayLike | None, style: MapStyle
) -> None:
    """Draw points (n, 2) into axes, colored by their labels (n,), if any.

    Raises:
        MapError: Labels and points differ in number.
    """
    values = None
    if labels is not None:
        own = isinstance(labels, pd.api.extensions.ExtensionArray)  # 1 stays 1, not 1.0
        values = pd.Series(labels if own else np.asarray(labels))
    if values is not None and len(values) != len(xy):
        message = f"there are {len(values)} labels for {len(xy)} points: give as many"
        raise MapError(message)
    if {"c", "color"} & set(style.scatter):
        values = None
    if values is None:
        _draw_plain(ax, xy, style)
    elif _is_categorical(values, style):
        _draw_categories(ax, xy, values, style)
    else:
        known = values.notna().to_numpy()
        shown = np.full(len(xy), np.nan)
        shown[known] = numbers_of(values[known])
        _draw_values(ax, xy, shown, style)
    _frame(ax, np.ptp(xy, axis=0) if len(xy) else None, style)


def _frame(ax: "Axes", extent: NDArray[np.floating] | None, style: MapStyle) -> None:
    """Titles, limits and shape of axes that points of an extent (2,) are drawn in."""
    if extent is not None:
        low, high = sorted(extent)  # a narrow box could not be read
        ax.set_aspect("equal", adjustable="datalim" if 4 * low < high else "box")
    ax.set_title(style.title or "")
    ax.set_xlabel("UMAP 1" if style.xlabel is None else style.xlabel)
    ax.set_ylabel("UMAP 2" if style.ylabel is None else style.ylabel)
    if style.xlim:
        ax.set_xlim(*style.xlim)
    if style.ylim:
        ax.set_ylim(*style.ylim)


def show_map(
    xy: NDArray[np.floating],
    labels: ArrayLike | None,
    style: MapStyle,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw into the given axes, or a new pyplot figure that `plt.show()` shows."""
    if ax is None:
        import matplotlib.pyplot as plt  # noqa: PLC0415  (slow)

        _, ax = plt.subplots(figsize=(7.5, 6.0), layout="constrained")
    draw_map(ax, xy, labels, style)
    make_legible(ax)
    return ax


def map_file(
    uri: str,
    xy: NDArray[np.floating],
    labels: ArrayLike | None,
    style: MapStyle,
    *,
    dpi: int = 300,
) -> bytes:
    """The plot of points (n, 2) as PNG, PDF or SVG.

    Raises:
        MapError: The file or URI has another ending.
    """
    return figure_file(uri, lambda f: draw_map(f.add_subplot(), xy, labels, style), dpi)


def cells_file(
    uri: str, cells: Density | Means, style: MapStyle, *, dpi: int = 300
) -> bytes:
    """The plot of cells, as `map_file` draws more than `MAX_DOTS` points."""

    def draw(figure: "Figure") -> None:
        ax = figure.add_subplot()
        _draw_cells(ax, cells, style)
        _frame(ax, cells.upper - cells.lower, style)

    return figure_file(uri, draw, dpi)


def _draw_cells(ax: "Axes", cells: Density | Means, style: MapStyle) -> None:
    cmap = style.cmap if isinstance(style.cmap, str) else CMAP
    if isinstance(cells, Means):
        drawn = show_means(ax, cells, cmap, NO_LABEL_COLOR)
        if (cells.labeled < cells.counts).any():
            _say_no_label(ax, style)
        _color_bar(ax, drawn, style)
    elif cells.by_label is None:
        legend = style.legend or "tiles"
        show_counts(ax, cells.counts, cells.extent, cmap=cmap, legend=legend)
    else:
        _draw_majority(ax, cells, cells.by_label, style)


def _is_categorical(values: "pd.Series[Any]", style: MapStyle) -> bool:
    if isinstance(style.categorical, bool):
        return style.categorical
    return scale_of(values.dropna().unique()) is None


def _draw_plain(ax: "Axes", xy: NDArray[np.floating], style: MapStyle) -> None:
    if len(xy) <= style.max_dots:
        color = {} if {"c", "color"} & set(style.scatter) else {"color": OKABE_ITO[0]}
        _scatter(ax, xy, style, color)
        return
    _draw_cells(ax, density(lambda: [(xy, None)]), style)


def _draw_values(
    ax: "Axes", xy: NDArray[np.floating], values: NDArray[np.float64], style: MapStyle
) -> None:
    known = np.isfinite(values)
    if len(xy) > style.max_dots:
        _draw_cells(ax, means(lambda: [(xy, values)]), style)
        return
    cmap = style.cmap if isinstance(style.cmap, str) else CMAP
    if not known.all():
        _scatter(ax, xy[~known], style, {"color": NO_LABEL_COLOR})
        _say_no_label(ax, style)
    # Numbers of each point among all: those without one are masked.
    drawn = _scatter(ax, xy, style, {"c": np.ma.masked_invalid(values), "cmap": cmap})
    _color_bar(ax, drawn, style)


def _say_no_label(ax: "Axes", style: MapStyle) -> None:
    """In the axes: beside them is the color bar."""
    own = {"frameon": True, **style.legend_kwargs}
    look = replace(style, legend=None, loc=style.loc or "upper left", legend_kwargs=own)
    _draw_legend(ax, [(NO_LABEL, NO_LABEL_COLOR)], look)


def _color_bar(ax: "Axes", drawn: Any, style: MapStyle) -> None:  # noqa: ANN401
    bar = ax.figure.colorbar(drawn, ax=ax, label=style.legend or "")
    make_legible(bar.ax)


def _draw_categories(
    ax: "Axes", xy: NDArray[np.floating], values: "pd.Series[Any]", style: MapStyle
) -> None:
    found = pd.factorize(values, use_na_sentinel=True)[1]
    names = pd.Index(in_order(found), dtype=object)
    codes = names.get_indexer(values.astype(object).where(values.notna(), None))
    if len(xy) > style.max_dots:
        last = np.where(codes < 0, len(names), codes)
        labels = Labels(codes=last, names=[*names, None])
        _draw_cells(ax, density(lambda: [(xy, labels)], in_order), style)
        return
    colors, table = _label_colors(list(names), style, list(names))
    _scatter(ax, xy, style, {"c": table[codes]})
    n_of = np.bincount(codes[codes >= 0], minlength=len(names))
    points = dict(zip(names, n_of.tolist(), strict=True))
    entries = entries_of(points, dict(zip(names, colors, strict=True)))
    if (codes < 0).any():
        entries.append((NO_LABEL, NO_LABEL_COLOR))
    _draw_legend(ax, entries, style)


def _draw_majority(
    ax: "Axes", counted: Density, shares: Mapping[Any, Counts], style: MapStyle
) -> None:
    """Cells by their most frequent label; points without label count as one, too."""
    names = list(shares)
    colors, table = _label_colors(names, style, counted.names)
    ranked = [(i, shares[name]) for i, name in enumerate(names)]
    if counted.others is not None:
        ranked.append((len(names), counted.others))
    lacking = counted.counts - sum(share for _, share in ranked)
    show_majority(ax, counted, [(-1, lacking), *ranked], table)
    points = {name: int(share.sum()) for name, share in shares.items()}
    by_name = dict(zip(names, colors, strict=True))
    entries = entries_of(points, by_name, n_others=counted.n_others)
    if lacking.any():
        entries.append((NO_LABEL, NO_LABEL_COLOR))
    _draw_legend(ax, entries, style)


def _scatter(
    ax: "Axes", xy: NDArray[np.floating], style: MapStyle, colors: Mapping[str, Any]
) -> Any:  # noqa: ANN401  (a matplotlib collection)
    """Dots, in an order that lets no slide or label cover the others."""
    order = np.random.default_rng(0).permutation(len(xy))
    keywords = {
        "s": min(20.0, max(0.5, 20_000 / max(len(xy), 1))),
        "linewidths": 0,
        "rasterized": len(xy) > _MAX_VECTOR_DOTS,
        **colors,
        **style.scatter,
    }
    if "linewidth" in keywords:  # matplotlib refuses the word beside its synonym
        keywords.pop("linewidths")
    for name, value in keywords.items():
        if not isinstance(value, str) and np.ndim(value) and len(value) == len(xy):
            keywords[name] = np.asarray(value)[order]
    return ax.scatter(xy[order, 0], xy[order, 1], **keywords)


def _label_colors(
    names: Sequence[Any], style: MapStyle, among: Sequence[Any]
) -> tuple[list[Any], NDArray[np.floating]]:
    """A color for each label, by all labels of the map, and all as RGBA.

    The last two are those of other labels, and of none.
    """
    by_name = colors_by_name(among)
    colors: list[Any] = [by_name[str(name)] for name in names]
    if isinstance(style.cmap, Mapping):
        colors = [style.cmap.get(name, NO_LABEL_COLOR) for name in names]
    from matplotlib.colors import to_rgba_array  # noqa: PLC0415  (slow)

    return colors, to_rgba_array([*colors, OTHER_COLOR, NO_LABEL_COLOR])


def _draw_legend(ax: "Axes", entries: Entries, style: MapStyle) -> None:
    """The legend of a map, outside on the right if the style does not say where."""
    from matplotlib.lines import Line2D  # noqa: PLC0415  (slow)

    if not entries:
        return
    handles = [
        Line2D([], [], linestyle="", marker="o", markersize=5, color=color, label=name)
        if color is not None
        else Line2D([], [], linestyle="", label=name)
        for name, color in entries
    ]
    keywords = {
        "ncol": style.ncol,
        "title": style.legend,
        "frameon": False,
        **({} if style.loc is None else {"loc": style.loc}),
        **style.legend_kwargs,
    }
    place_legend(ax, handles, **keywords)


def multiples_file(
    uri: str,
    counted: Density,
    *,
    dpi: int = 200,
    dots: tuple[NDArray[np.floating], Sequence[Any]] | None = None,
) -> bytes:
    """A small picture of counts for each label, together as PNG, PDF or SVG.

    All share limits, axes and scale of colors; points of other labels are grey. A
    panel's edges have the color that its label has on the map. Fewer than 5,000 points
    are drawn as dots of this color instead, if they are given (n, 2) with their labels.

    Raises:
        MapError: No point has a label, or another ending.
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
    few = dots if dots is not None and len(dots[0]) < FEW_DOTS else None
    beside = 0.6 if few else 1.9  # a scale of colors
    inches = (n_cols * (shape[0] + 0.05) + beside, n_rows * (shape[1] + 0.4) + 0.5)
    colors = colors_by_name(counted.names)

    def draw(figure: "Figure") -> None:
        grid = figure.subplots(n_rows, n_cols, sharex=True, sharey=True, squeeze=False)
        if few:
            _fill_dots(grid, [name for name, _ in small], colors, *few)
        else:
            _fill_panels(figure, grid, small, whole, extent)
        _frame_panels(grid, len(small), counted)
        for ax, (name, _) in zip(grid.flat, small, strict=False):
            ax.spines[:].set(color=colors[name], linewidth=1.2)
        for ax in grid.flat[len(small) :]:
            ax.set_axis_off()
        if more:
            figure.supxlabel(f"+{more:,} labels of fewer tiles", size="small")

    return figure_file(uri, draw, dpi, inches)


def _fill_panels(
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
        _panel_title(ax, name, share.sum(), n_all)
    bar = figure.colorbar(colors, ax=grid, shrink=0.6, pad=0.02, ticks=_ticks(most))
    bar.ax.yaxis.set_major_formatter("{x:,.0f}")
    bar.minorticks_off()
    bar.set_label("tiles of the label", size="small")
    bar.ax.tick_params(labelsize="x-small")


def _fill_dots(
    grid: NDArray[Any],
    names: Sequence[str],
    colors: Mapping[str, str],
    xy: NDArray[np.floating],
    labels: Sequence[Any],
) -> None:
    """A panel for each label: its points in its color above all others."""
    own = np.array([str(label) for label in labels], object)
    size = min(20.0, max(2.0, 4_000 / len(xy)))
    for ax, name in zip(grid.flat, names, strict=False):
        for rows, color in ((own != name, _ALL), (own == name, colors[name])):
            ax.scatter(*xy[rows].T, s=size, color=color, linewidths=0)
        _panel_title(ax, name, (own == name).sum(), len(xy))


def _panel_title(ax: "Axes", name: str, n: float, n_all: float) -> None:
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


def _frame_panels(grid: NDArray[Any], n: int, counted: Density) -> None:
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
