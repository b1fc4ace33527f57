"""The tiles of a map inside polygons, part by part, by slide, then tile index."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylatent import schema
from raylatent.montage.grid import SquareGrid
from raylatent.parts import read_part
from raylatent.stored.map_points import MAP_POINTS, StoredPoints
from raylatent.tiles.threads import in_order

REGION = "region"
FIRST = (
    *(schema.SLIDE, schema.TILE_INDEX, schema.LOC_X, schema.LOC_Y),
    *(schema.X, schema.Y, schema.KNN_DISTANCE, schema.LABEL, REGION, schema.NAME),
)
"""The columns of a table of tiles for people."""
_WHOLE = pa.schema([*MAP_POINTS, pa.field(REGION, pa.string())])
MEMBERS = pa.schema(
    [*map(_WHOLE.field, FIRST), *(one for one in _WHOLE if one.name not in FIRST)]
)
"""Points inside polygons: `MAP_POINTS`, and the name of the polygon, if it has one."""

Where = Callable[[NDArray[np.float64]], NDArray[np.int32]]
"""For places (n, 2) the number of what each lies in (n,), -1 for nothing."""

Only = Callable[[pa.Table], NDArray[np.bool_]]
"""Which of some points, with their slide, are meant (n,)."""

Box = tuple[float, float, float, float]
"""Least x and y, largest x and y."""

_ANYWHERE = (-math.inf, -math.inf, math.inf, math.inf)
_ROWS = 1 << 16
_THREADS = 8  # on an object store reading is mostly waiting


def of_cells(grid: SquareGrid, row: int, col: int, side: int = 1) -> tuple[Where, Box]:
    """What lies in a square of cells, and a box that holds all of it.

    Row and column count such squares, of so many cells a side.
    """

    def where(xy: NDArray[np.float64]) -> NDArray[np.int32]:
        rows, cols = grid.bin(xy)
        inside = (rows // side == row) & (cols // side == col)
        return np.where(inside, 0, -1).astype(np.int32)

    step = grid.cell * side  # which is also the margin: places are rounded
    x, y = grid.xmin + col * step, grid.ymin + row * step
    return where, (x - step, y - step, x + 2 * step, y + 2 * step)


def members(
    stored: StoredPoints,
    where: Where,
    names: Sequence[str] = ("",),
    only: Only | None = None,
    within: Box = _ANYWHERE,
    boxes: dict[str, Box] | None = None,
) -> Iterator[pa.Table | None]:
    """The points that lie in something, as `MEMBERS`; only a few parts are held.

    A table is of one slide and has at most 65,536 rows. A part of the map without any
    gives None, so that who waits can stop.

    Args:
        stored: The map's points.
        where: In what places lie.
        names: Of these; an empty one is null.
        only: Which of the points inside count; None: all.
        within: A box that holds all that is inside.
        boxes: Of parts that were read before, by name; others are added. A part whose
            box is apart from `within` is not read.

    Raises:
        MapError: Another map has taken the place of this one, before or meanwhile.
        StorageError: A part cannot be read.
    """
    store, boxes = stored.same(), {} if boxes is None else boxes

    def of_part(slide: str, name: str) -> pa.Table | None:
        if name in boxes and _apart(boxes[name], within):
            return None
        # Most parts have none inside: then only their places are read.
        places = schema.places(read_part(store, name, (schema.X, schema.Y)))
        if len(places):
            boxes[name] = (*places.min(axis=0).tolist(), *places.max(axis=0).tolist())
        if not (where(places) >= 0).any():
            return None
        table = read_part(store, name, schema.POINTS.names).replace_schema_metadata()
        numbers = where(schema.places(table))
        slides = pa.repeat(pa.scalar(slide, pa.string()), table.num_rows)
        if only is not None:
            own = only(table.append_column(schema.SLIDE, slides))
            numbers = np.where(own, numbers, -1)
        told = pa.array([name or None for name in names], pa.string())
        regions = told.take(pa.array(np.maximum(numbers, 0)))
        columns = [slides, *table.cast(schema.POINTS).columns, regions]
        inside = pa.table(columns, schema=_WHOLE).filter(pa.array(numbers >= 0))
        return inside.select(MEMBERS.names).sort_by(schema.TILE_INDEX)

    jobs = (partial(of_part, *part) for part in stored.part_names)
    with (
        ThreadPoolExecutor(_THREADS, "members") as pool,
        closing(in_order(jobs, pool, _THREADS + 1)) as found,
    ):
        for table in found:
            if table is None:
                yield None
            else:
                starts = range(0, table.num_rows, _ROWS)
                yield from (table.slice(start, _ROWS) for start in starts)
    stored.same()


def _apart(a: Box, b: Box) -> bool:
    """Whether boxes share no place; those with NaN, which nobody knows, may."""
    return a[2] < b[0] or b[2] < a[0] or a[3] < b[1] or b[3] < a[1]


def found_in_time(
    found: Iterable[pa.Table | None], most_s: float
) -> Iterator[pa.Table]:
    """The tables among members; TimeoutError once they took so many seconds."""
    end = time.monotonic() + most_s
    for table in found:
        if time.monotonic() > end:
            raise TimeoutError
        if table is not None:
            yield table
