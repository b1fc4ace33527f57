"""The tiles of a map inside polygons, part by part, by slide, then tile index."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylatent import schema
from raylatent.parts import read_part
from raylatent.storage import Store
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

_ROWS = 1 << 16
_THREADS = 8  # on an object store reading is mostly waiting


def members(
    stored: StoredPoints,
    where: Where,
    names: Sequence[str] = ("",),
    only: Only | None = None,
) -> Iterator[pa.Table | None]:
    """The points that lie in something, as `MEMBERS`; only a few parts are held.

    A table is of one slide and has at most 65,536 rows. A part of the map without any
    gives None, so that who waits can stop.

    Args:
        stored: The map's points.
        where: In what places lie.
        names: Of these; an empty one is null.
        only: Which of the points inside count; None: all.

    Raises:
        MapError: Another map has taken the place of this one, before or meanwhile.
        StorageError: A part cannot be read.
    """
    store = stored.same()
    jobs = (
        partial(_members_of, store, slide, name, where, names, only)
        for slide, name in stored.part_names
    )
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


def _members_of(
    store: Store,
    slide: str,
    name: str,
    where: Where,
    names: Sequence[str],
    only: Only | None,
) -> pa.Table | None:
    # Most parts have none inside: then only their places are read.
    places = schema.places(read_part(store, name, (schema.X, schema.Y)))
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
