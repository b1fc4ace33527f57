"""Points of a map as a scatter plot, or as an image where there are too many."""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from raylatent.errors import MapError
from raylatent.mapping.colors import OKABE_ITO, category_colors
from raylatent.mapping.density import binned
from raylatent.storage import Store, absolute

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURES = (".png", ".pdf", ".svg")

_NO_LABEL = "#BBBBBB"
_MAX_LEGEND = 24
_MAX_DOTS = 200_000
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
    max_dots: int = _MAX_DOTS
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
    if len(xy):
        low, high = sorted(np.ptp(xy, axis=0))  # a narrow box could not be read
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
    uri = absolute(path)
    suffix = PurePosixPath(uri).suffix.lower()
    if suffix not in PICTURES:
        message = f"cannot draw into {uri}: the name ends in none of {PICTURES}"
        raise MapError(message)
    from matplotlib import rc_context  # noqa: PLC0415  (slow)
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(7.5, 6.0), layout="constrained")
    FigureCanvasAgg(figure)
    draw_map(figure.add_subplot(), xy, labels, style)
    buffer = io.BytesIO()
    # Text stays text in PDF and SVG, and the file does not depend on the day.
    with rc_context({"pdf.fonttype": 42, "svg.fonttype": "none"}):
        date = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}.get(suffix)
        figure.savefig(
            buffer, format=suffix[1:], dpi=dpi, metadata=date, bbox_inches="tight"
        )
    folder, name = uri.rsplit("/", 1)
    Store(folder or "/").write(name, buffer.getvalue())


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
    count, extent = binned(xy)
    shown = np.ma.masked_equal(count, 0)
    from matplotlib.colors import LogNorm  # noqa: PLC0415  (slow)

    image = ax.imshow(
        shown.T,
        origin="lower",
        extent=extent,
        cmap=style.cmap if isinstance(style.cmap, str) else "viridis",
        norm=LogNorm(vmin=1, vmax=max(2, int(count.max()))),
        interpolation="nearest",
    )
    ax.figure.colorbar(image, ax=ax, label=style.legend or "tiles")


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
    ax.figure.colorbar(drawn, ax=ax, label=style.legend or "")


def _draw_categories(
    ax: "Axes", xy: NDArray[np.floating], values: "pd.Series[Any]", style: MapStyle
) -> None:
    codes, names = pd.factorize(values, sort=True, use_na_sentinel=True)
    colors = category_colors(len(names))
    if isinstance(style.cmap, Mapping):
        colors = [style.cmap.get(name, _NO_LABEL) for name in names]
    from matplotlib.colors import to_rgba_array  # noqa: PLC0415  (slow)

    table = to_rgba_array([*colors, _NO_LABEL])  # code -1 is the last: no label
    if len(xy) <= style.max_dots:
        _scatter(ax, xy, style, {"c": table[codes]})
    else:
        _draw_majority(ax, xy, codes, table)
    counts = np.bincount(codes[codes >= 0], minlength=len(names))
    entries = [
        (str(names[i]), colors[i])
        for i in sorted(np.argsort(-counts, kind="stable")[:_MAX_LEGEND])
    ]
    if (codes < 0).any():
        entries.append(("(no label)", _NO_LABEL))
    _legend(ax, entries, len(names) - _MAX_LEGEND, style)


def _draw_majority(
    ax: "Axes",
    xy: NDArray[np.floating],
    codes: NDArray[np.intp],
    table: NDArray[np.floating],
) -> None:
    """Each cell in the color of its most frequent label, paler where points are few."""
    count, extent = binned(xy)
    most = np.zeros(count.shape)
    winner = np.full(count.shape, -1, dtype=np.intp)
    for code in np.unique(codes):
        share, _ = binned(xy[codes == code], None, extent)
        ahead = share > most
        winner[ahead], most[ahead] = code, share[ahead]
    picture = table[winner]
    strength = np.log1p(count) / max(np.log1p(count.max()), 1e-9)
    picture[..., 3] = np.where(count > 0, 0.25 + 0.75 * strength, 0.0)
    ax.imshow(
        picture.transpose(1, 0, 2),
        origin="lower",
        extent=extent,
        interpolation="nearest",
    )


def _legend(
    ax: "Axes", entries: list[tuple[str, Any]], more: int, style: MapStyle
) -> None:
    from matplotlib.lines import Line2D  # noqa: PLC0415  (slow)

    handles = [
        Line2D([], [], linestyle="", marker="o", markersize=5, color=color, label=name)
        for name, color in entries
    ]
    if more > 0:
        handles.append(Line2D([], [], linestyle="", label=f"+{more} more"))
    if not handles:
        return
    outside = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0)}
    place = outside if style.loc is None else {"loc": style.loc}
    keywords = {
        **place,
        "ncol": style.ncol,
        "title": style.legend,
        "frameon": False,
        "fontsize": "small",
        **style.legend_kwargs,
    }
    ax.legend(handles=handles, **keywords)


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
