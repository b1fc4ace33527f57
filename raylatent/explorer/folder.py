"""The folder of an explorer: what the page and machines are told, and the page itself."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
import pyarrow as pa

from raylatent import schema
from raylatent.explorer.blocks import Names, Script
from raylatent.explorer.pyramid import CELL, COUNT, LABEL, SIDE, Square, split_ids
from raylatent.explorer.scripts import block_script
from raylatent.mapping.labels import (
    MOST_ENTRIES,
    OTHER_COLOR,
    category_colors,
    colors_by_name,
    in_order,
)

VERSION = 1
CELLS = "cells.parquet"
INDEX = "index.html"
SERVER = "server.js"
OTHERS = "(other labels)"
CONTRAST_LEVEL = 4
"""The deepest level whose tiles are counted by cell and slide for contrasts."""

_PAGE = "page"


def page_files() -> Iterator[Script]:
    """The page: its files by name, as they lie in the package."""
    for file in sorted(
        files("raylatent.explorer").joinpath(_PAGE).iterdir(), key=_name
    ):
        if file.is_file():
            yield file.name, file.read_bytes()
    yield SERVER, b'"use strict";\n'


def _name(file: Any) -> str:  # noqa: ANN401  (of importlib.resources)
    return str(file.name)


def names_of(slides: Sequence[str], points: Mapping[str, int], n_classes: int) -> Names:
    """What numbers in blocks stand for: the labels of most points have a color.

    Args:
        slides: Of the map, sorted.
        points: How many points have each label.
        n_classes: Of the predictions.
    """
    order = in_order(points)
    most = set(sorted(order, key=lambda name: -points[name])[:MOST_ENTRIES])
    shown = [str(name) for name in order if name in most]
    others = len(order) > len(shown)
    return Names(
        slides={name: number for number, name in enumerate(slides)},
        labels=[*shown, OTHERS] if others else shown,
        others=others,
        n_classes=n_classes,
    )


def label_facts(names: Names, points: Mapping[str, int], column: str, of: str) -> Any:  # noqa: ANN401
    """What the page is told of labels."""
    colors = colors_by_name(points)
    own = [name for name in names.labels if name in points]
    counts = [points[name] for name in own]
    rest = sum(points.values()) - sum(counts)
    return {
        "column": column,
        "of": of,
        "names": list(names.labels),
        "colors": [colors.get(name, OTHER_COLOR) for name in names.labels],
        "counts": [*counts, rest] if names.others else counts,
    }


def slide_facts(
    sources: pa.Table,
    names: Names,
    tiles: Mapping[str, int],
    thumbnails: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """What the page is told of each slide of the map, in the order of their numbers.

    Args:
        sources: sources.parquet.
        names: What numbers stand for.
        tiles: Of each slide.
        thumbnails: Of slides that have one, the slide's width and height in pixels.
    """
    rows = {row[schema.SLIDE]: row for row in sources.to_pylist()}
    found = []
    for name in names.slides:
        row, size = rows.get(name, {}), thumbnails.get(name)
        bounds = [row.get(schema.BOUNDS_X), row.get(schema.BOUNDS_Y)]
        found.append(
            {
                "name": name,
                "tiles": tiles.get(name, 0),
                "thumbnail": size is not None,
                "width": None if size is None else size[0],
                "height": None if size is None else size[1],
                "bounds": None if None in bounds else bounds,
                "window_px": row.get(schema.WINDOW_PX),
                "mpp": row.get(schema.MPP),
                "tile_um": row.get(schema.TILE_UM),
                "url": None,
            }
        )
    return found


def annotation_facts(
    rows: Mapping[str, Mapping[str, str]],
    names: Names,
    numbers: Any,  # noqa: ANN401
) -> list[dict[str, Any]]:
    """Columns of annotations by slide, as words or numbers.

    Args:
        rows: By slide.
        names: What numbers stand for.
        numbers: Gives the numbers of a column's values, or None if they are words.
    """
    columns = dict.fromkeys(key for row in rows.values() for key in row)
    found = []
    for column in columns:
        values = [rows.get(slide, {}).get(column) or None for slide in names.slides]
        as_numbers = numbers([value for value in values if value is not None])
        if as_numbers is not None:
            told = iter(as_numbers)
            own = [None if value is None else next(told) for value in values]
            found.append({"name": column, "kind": "number", "values": own, "names": []})
            continue
        words = in_order({value for value in values if value is not None})
        at = {word: i for i, word in enumerate(words)}
        own = [None if value is None else at[value] for value in values]
        found.append(
            {"name": column, "kind": "category", "values": own, "names": words}
        )
    return found


def level_facts(
    level: int, table: pa.Table, blocks: Sequence[Mapping[str, int]], *, own: bool
) -> dict[str, Any]:
    """What the page is told of a level.

    Args:
        level: Which.
        table: Its cells.
        blocks: Of its scripts, see `blocks.cell_blocks`.
        own: Whether its tiles are stored at their own size.
    """
    rows, cols = (table[name].to_numpy() for name in (schema.ROW, schema.COL))
    side = 1 << level
    at = np.unique((side - 1 - rows // SIDE) * side + cols // SIDE)
    bitmap = np.zeros(-(-side * side // 8), np.uint8)
    np.bitwise_or.at(bitmap, at >> 3, (1 << (at & 7)).astype(np.uint8))
    return {
        "level": level,
        "cells": len(table),
        "most": int(table[schema.N].to_numpy().max()),
        "blocks": [dict(block) for block in blocks],
        "tiles_stored": own,
        "pictures": _base64(bitmap.tobytes()),
    }


def _base64(data: bytes) -> str:
    import base64  # noqa: PLC0415

    return base64.b64encode(data).decode()


def slides_script(level: int, slides: pa.Table, names: Names) -> Script:
    """How many tiles of each slide each cell of a level has."""
    ordered = slides.sort_by([(CELL, "ascending"), (LABEL, "ascending")])
    rows, cols = split_ids(ordered[CELL].to_numpy())
    name = f"slides/{level}"
    columns = {
        "cell": ("u4", rows * (SIDE << level) + cols),
        "slide": ("u4", names.slide_numbers(ordered[LABEL])),
        "n": ("u4", ordered[COUNT].to_numpy()),
    }
    return f"data/{name}.js", block_script(name, columns)


@dataclass(frozen=True, kw_only=True)
class MapFacts:
    """What is told of a map.

    Attributes:
        name: Of its folder below `maps/`.
        digest: Of map.json.
        layer: That was mapped.
        trustworthiness: Of rows that it was not fitted on, None where unknown.
    """

    name: str
    digest: str
    layer: str
    trustworthiness: float | None = None

    def as_json(self, square: Square) -> dict[str, Any]:
        """With its place in the square."""
        return {
            "name": self.name,
            "digest": self.digest,
            "layer": self.layer,
            "trustworthiness": self.trustworthiness,
            "lower": [square.x, square.y],
            "side": square.side,
        }


def slide_colors(n: int) -> list[str]:
    """A color for each slide."""
    return category_colors(n)
