"""Colors for categories."""

import colorsys
from collections.abc import Iterable
from typing import Any

from raylatent.mapping.scale import number

# Okabe and Ito 2008, https://jfly.uni-koeln.de/color/: told apart by the color-blind.
OKABE_ITO = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#F0E442",
    "#000000",
)


def category_colors(n: int) -> list[str]:
    """Colors for n categories: Okabe and Ito's up to 8, else hues spread evenly.

    >>> category_colors(2)
    ['#0072B2', '#E69F00']
    """
    if n <= len(OKABE_ITO):
        return list(OKABE_ITO[:n])
    # Steps of the golden ratio never come close; shades alternate beside them.
    shades = ((0.85, 0.85), (0.5, 0.95), (0.95, 0.5))
    hues = ((i * 0.6180339887498949) % 1.0 for i in range(n))
    colors = (
        colorsys.hsv_to_rgb(hue, *shades[i % len(shades)]) for i, hue in enumerate(hues)
    )
    return ["#" + "".join(f"{round(255 * v):02X}" for v in rgb) for rgb in colors]


def in_order(names: Iterable[Any]) -> list[Any]:
    """Labels as they are listed: numbers by what they are, if all are, else words.

    >>> in_order(["10", "9", "1"]), in_order(["b", "a", 3])
    (['1', '9', '10'], [3, 'a', 'b'])
    """
    given = sorted(names, key=str)
    values = [number(name) for name in given]
    if None in values:
        return given
    order = sorted(range(len(given)), key=lambda i: values[i] or 0.0)
    return [given[i] for i in order]


def colors_by_name(names: Iterable[object]) -> dict[str, str]:
    """A color for each label, by all that there are: pictures of one map agree.

    Args:
        names: Of all labels, before any is left out of a picture; in any order.

    >>> colors_by_name(["b", "a", "b"])
    {'a': '#0072B2', 'b': '#E69F00'}
    """
    ordered = in_order({str(name) for name in names})
    return dict(zip(ordered, category_colors(len(ordered)), strict=True))
