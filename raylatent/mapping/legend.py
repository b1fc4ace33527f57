"""Which color a label has, and the legend that says so."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from raylatent.mapping.colors import colors_by_name
from raylatent.mapping.fonts import short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.legend import Legend

    from raylatent.mapping.plot import MapStyle

_NO_LABEL = "#BBBBBB"
_OTHER = "#888888"
_MAX_LEGEND = 24
_MAX_CHARS = 64


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
        colors = [style.cmap.get(name, _NO_LABEL) for name in names]
    from matplotlib.colors import to_rgba_array  # noqa: PLC0415  (slow)

    return colors, to_rgba_array([*colors, _OTHER, _NO_LABEL])


def draw_legend(
    ax: "Axes",
    names: list[Any],
    colors: list[Any],
    n_of: NDArray[Any],
    style: "MapStyle",
    *,
    lacking: bool,
    n_others: int = 0,
) -> None:
    """The labels of most points, by name, and how many more there are.

    Args:
        ax: Where.
        names: Labels that have a color of their own.
        colors: Theirs.
        n_of: Points of each.
        style: Of the map.
        lacking: Some points have no label.
        n_others: Labels that share one color.
    """
    from matplotlib.lines import Line2D  # noqa: PLC0415  (slow)

    most = sorted(np.argsort(-n_of, kind="stable")[:_MAX_LEGEND])
    entries = [(shown(str(names[i])), colors[i]) for i in most]
    if n_others:
        entries.append((f"({n_others:,} others)", _OTHER))
    if lacking:
        entries.append(("(no label)", _NO_LABEL))
    more = len(names) - _MAX_LEGEND
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
    as_written(ax.legend(handles=handles, **keywords))


def as_written(legend: "Legend") -> None:
    """Let no text of a legend be taken for a formula, as a label with dollars."""
    for text in (*legend.get_texts(), legend.get_title()):
        text.set_parse_math(False)


def shown(name: str, max_chars: int = _MAX_CHARS) -> str:
    """A label in one line, however long it is and whatever is in it."""
    line = " ".join(name.split())
    line = "".join(char if char.isprintable() else "�" for char in line)
    return short(line, max_chars)
