"""Points of a map as a scatter plot, or as an image of counts where there are too many."""

import io
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
    Labels,
    Means,
    density,
    means,
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
)
from raylatent.seal import content_digest
from raylatent.storage import Store, absolute

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PICTURES = (".png", ".pdf", ".svg")
_OTHER_PICTURES = frozenset(
    {".bmp", ".eps", ".gif", ".jpeg", ".jpg", ".tif", ".tiff", ".webp"}
)
MAX_DOTS = 200_000
_MAX_VECTOR_DOTS = 5_000  # above it dots are a picture inside a PDF or SVG


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


def save_figure(
    path: str,
    draw: Callable[["Figure"], None],
    dpi: int,
    inches: tuple[float, float] = (7.5, 6.0),
) -> str:
    """Write a figure as PNG, PDF or SVG, without touching pyplot; the file's digest.

    The path is a file or URI ending in one of `PICTURES`; `draw` fills the figure.
    """
    uri = absolute(path)
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
    data = buffer.getvalue()
    digest = content_digest(data)
    folder, name = uri.rsplit("/", 1)
    Store(folder or "/").write(name, data)
    return digest


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


def save_map(
    path: str,
    xy: NDArray[np.floating],
    labels: ArrayLike | None,
    style: MapStyle,
    *,
    dpi: int = 300,
) -> str:
    """Write the plot of points (n, 2) as PNG, PDF or SVG; the file's digest.

    Raises:
        MapError: The file or URI has another ending.
        StorageError: It could not be written.
    """
    return save_figure(
        path, lambda f: draw_map(f.add_subplot(), xy, labels, style), dpi
    )


def save_cells(
    path: str, cells: Density | Means, style: MapStyle, *, dpi: int = 300
) -> str:
    """Write a plot of cells, as `save_map` does of more than `MAX_DOTS` points."""

    def draw(figure: "Figure") -> None:
        ax = figure.add_subplot()
        _draw_cells(ax, cells, style)
        _frame(ax, cells.upper - cells.lower, style)

    return save_figure(path, draw, dpi)


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
