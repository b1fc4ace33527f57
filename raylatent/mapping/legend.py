"""Which color a label has, and the legend that says so."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from raylatent.mapping.colors import colors_by_name, in_order
from raylatent.mapping.fonts import short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.legend import Legend

    from raylatent.mapping.plot import MapStyle

NO_LABEL = "(no label)"
NO_LABEL_COLOR = "#BBBBBB"
SEVERAL = "(several labels)"  # of a mosaic's cell
MOST_ENTRIES = 24

_OTHER = "#888888"
_MAX_CHARS = 64
_OWN_WORDS = re.compile(r"\((no label|several labels|[\d,]+ further labels?)\)")

Entries = list[tuple[str, Any]]
"""Texts and colors of a legend; a text without color is only said."""


def entries_of(
    points: Mapping[Any, int], colors: Mapping[Any, Any], *, n_others: int = 0
) -> Entries:
    """The labels of most points in order, and how many more there are.

    So a map and its mosaics name the same labels.

    Args:
        points: Of each label.
        colors: Of each label.
        n_others: Labels that are not among these, and share one color.
    """
    order = in_order(points)
    most = sorted(order, key=lambda name: -points[name])[:MOST_ENTRIES]
    kept = set(most)
    entries = [(text_of(name), colors[name]) for name in order if name in kept]
    if further := len(order) - len(kept) + n_others:
        s = "s" if further > 1 else ""
        entries.append(
            (f"({further:,} further label{s})", _OTHER if n_others else None)
        )
    return entries


def text_of(label: object) -> str:
    """A label in a legend; in quotes where it would be taken for a word of ours.

    >>> text_of("mixed"), text_of("(no label)")
    ('mixed', '"(no label)"')
    """
    text = shown(str(label))
    return f'"{text}"' if _OWN_WORDS.fullmatch(text) else text


def label_colors(
    names: Sequence[Any], style: "MapStyle", among: Sequence[Any]
) -> tuple[list[Any], NDArray[np.floating]]:
    """A color for each label, and all as RGBA; last other labels, and none.

    Args:
        names: The labels.
        style: Of the map.
        among: All labels of the map.
    """
    by_name = colors_by_name(among)
    colors: list[Any] = [by_name[str(name)] for name in names]
    if isinstance(style.cmap, Mapping):
        colors = [style.cmap.get(name, NO_LABEL_COLOR) for name in names]
    from matplotlib.colors import to_rgba_array  # noqa: PLC0415  (slow)

    return colors, to_rgba_array([*colors, _OTHER, NO_LABEL_COLOR])


def draw_legend(ax: "Axes", entries: Entries, style: "MapStyle") -> None:
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


def place_legend(ax: "Axes", handles: list[Any], **keywords: Any) -> None:  # noqa: ANN401
    """A legend where it is seen: beside axes that can make room, else in them.

    Axes of a figure without a layout reach as far as they do: what is beside them would
    be cut off. In them the texts are made small enough to fit.

    Args:
        ax: Where.
        handles: Of the entries.
        **keywords: For matplotlib's `Axes.legend`.
    """
    figure = ax.get_figure(root=True)
    layout = None if figure is None else figure.get_layout_engine()
    keywords = {"fontsize": "small", **keywords}
    if "loc" in keywords or "bbox_to_anchor" in keywords:
        as_written(ax.legend(handles=handles, **keywords))
        return
    if layout is not None:
        beside = {**keywords, "loc": "upper left", "bbox_to_anchor": (1.01, 1.0)}
        as_written(ax.legend(handles=handles, **beside))
        return
    inside = {**keywords, "loc": "upper right", "frameon": True, "framealpha": 0.8}
    legend = ax.legend(handles=handles, **inside)
    as_written(legend)
    taken, there = legend.get_window_extent(), ax.get_window_extent()
    fits = min(there.width / taken.width, there.height / taken.height)
    if fits < 1:
        points = float(legend.get_texts()[0].get_fontsize())
        inside["fontsize"] = max(1.0, 0.95 * fits * points)
        as_written(ax.legend(handles=handles, **inside))


def as_written(legend: "Legend") -> None:
    """Let no text of a legend be taken for a formula, as a label with dollars."""
    for text in (*legend.get_texts(), legend.get_title()):
        text.set_parse_math(False)


def shown(name: str, max_chars: int = _MAX_CHARS) -> str:
    """A label in one line, however long it is and whatever is in it."""
    line = " ".join(name.split())
    line = "".join(char if char.isprintable() else "�" for char in line)
    return short(line, max_chars)
