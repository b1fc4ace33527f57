"""Points of a map as a scatter plot, or as an image where there are too many."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from raylatent.errors import MapError
from raylatent.mapping.colors import OKABE_ITO
from raylatent.mapping.density import (
    Counts,
    Density,
    Extent,
    binned,
    most_frequent,
)
from raylatent.mapping.density_plot import show_counts, show_majority
from raylatent.mapping.figure import save_figure
from raylatent.mapping.fonts import make_legible
from raylatent.mapping.legend import draw_legend, label_colors

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_DOTS = 200_000
_MAX_VECTOR_DOTS = 5_000  # above it dots are a picture inside a PDF or SVG
_MAX_WHOLE_CATEGORIES = 30  # distinct whole numbers that are taken for categories


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
        categorical: Whether labels are categories; `auto` decides by their type.
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
    values = None if labels is None else pd.Series(np.asarray(labels))
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
        _draw_values(ax, xy, values.to_numpy(dtype=np.float64), style)
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


def save_map(
    path: str,
    xy: NDArray[np.floating],
    labels: ArrayLike | None,
    style: MapStyle,
    *,
    dpi: int = 300,
) -> None:
    """Write the plot as PNG, PDF or SVG, without touching pyplot.

    Args:
        path: A file or URI ending in one of `PICTURES`.
        xy: Points (n, 2).
        labels: Of each point.
        style: How to draw.
        dpi: Pixels per inch of pictures.

    Raises:
        MapError: Another ending.
        StorageError: It could not be written.
    """
    save_figure(path, lambda f: draw_map(f.add_subplot(), xy, labels, style), dpi)


def save_density(
    path: str, counted: Density, style: MapStyle, *, dpi: int = 300
) -> None:
    """Write a plot of counts, as `save_map` does of more than `MAX_DOTS` points."""

    def draw(figure: "Figure") -> None:
        ax = figure.add_subplot()
        if counted.by_label is None:
            _show_counts(ax, counted.counts, counted.extent, style)
        else:
            _draw_majority(ax, counted, counted.by_label, style)
        _frame(ax, counted.upper - counted.lower, style)

    save_figure(path, draw, dpi)


def _is_categorical(values: "pd.Series[Any]", style: MapStyle) -> bool:
    if isinstance(style.categorical, bool):
        return style.categorical
    kind = str(values.dtype.kind) if isinstance(values.dtype, np.dtype) else "O"
    if kind == "f":
        return False
    if kind in "iu":
        return int(values.nunique()) <= _MAX_WHOLE_CATEGORIES
    numbers = pd.to_numeric(values, errors="coerce")
    return kind == "b" or bool(numbers.isna().any())


def _draw_plain(ax: "Axes", xy: NDArray[np.floating], style: MapStyle) -> None:
    if len(xy) <= style.max_dots:
        color = {} if {"c", "color"} & set(style.scatter) else {"color": OKABE_ITO[0]}
        _scatter(ax, xy, style, color)
        return
    _show_counts(ax, *binned(xy), style)


def _show_counts(ax: "Axes", counts: Counts, extent: Extent, style: MapStyle) -> None:
    cmap = style.cmap if isinstance(style.cmap, str) else "viridis"
    show_counts(ax, counts, extent, cmap=cmap, legend=style.legend or "tiles")


def _draw_values(
    ax: "Axes", xy: NDArray[np.floating], values: NDArray[np.float64], style: MapStyle
) -> None:
    cmap = style.cmap if isinstance(style.cmap, str) else "viridis"
    if len(xy) <= style.max_dots:
        drawn = _scatter(ax, xy, style, {"c": values, "cmap": cmap})
    else:
        known = np.isfinite(values)
        count, extent = binned(xy[known])
        total, _ = binned(xy[known], values[known], extent)
        mean = np.ma.masked_array(total / np.maximum(count, 1), count == 0)
        drawn = ax.imshow(
            mean.T, origin="lower", extent=extent, cmap=cmap, interpolation="nearest"
        )
    bar = ax.figure.colorbar(drawn, ax=ax, label=style.legend or "")
    make_legible(bar.ax)


def _draw_categories(
    ax: "Axes", xy: NDArray[np.floating], values: "pd.Series[Any]", style: MapStyle
) -> None:
    codes, names = pd.factorize(values, sort=True, use_na_sentinel=True)
    n_of = np.bincount(codes[codes >= 0], minlength=len(names))
    if len(xy) > style.max_dots:
        counts, extent = binned(xy)
        kept = most_frequent(dict(zip(names, n_of.tolist(), strict=True)))
        shares = {
            name: binned(xy[codes == names.get_loc(name)], None, extent)[0]
            for name in kept
        }
        other = (codes >= 0) & ~np.isin(codes, names.get_indexer(kept))
        counted = Density(
            extent=extent,
            counts=counts,
            by_label=shares,
            others=binned(xy[other], None, extent)[0] if other.any() else None,
            n_others=len(names) - len(kept),
            names=list(names),
        )
        _draw_majority(ax, counted, shares, style)
        return
    colors, table = label_colors(list(names), style, list(names))
    _scatter(ax, xy, style, {"c": table[codes]})
    draw_legend(ax, list(names), colors, n_of, style, lacking=bool((codes < 0).any()))


def _draw_majority(
    ax: "Axes", counted: Density, shares: Mapping[Any, Counts], style: MapStyle
) -> None:
    """Cells by their most frequent label; points without label count as one, too."""
    names = list(shares)
    colors, table = label_colors(names, style, counted.names)
    ranked = [(i, shares[name]) for i, name in enumerate(names)]
    if counted.others is not None:
        ranked.append((len(names), counted.others))
    lacking = counted.counts - sum(share for _, share in ranked)
    show_majority(ax, counted.counts, counted.extent, [(-1, lacking), *ranked], table)
    draw_legend(
        ax,
        names,
        colors,
        np.array([shares[name].sum() for name in names]),
        style,
        lacking=bool(lacking.any()),
        n_others=counted.n_others,
    )


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
