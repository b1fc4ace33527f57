"""The tiles of a map inside polygons, part by part, by slide, then tile index."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raylatent import schema
from raylatent.parts import read_part
from raylatent.storage import Store
from raylatent.stored.map_points import MAP_POINTS, StoredPoints
from raylatent.tiles.threads import in_order

REGION = "region"
MEMBERS = pa.schema([*MAP_POINTS, pa.field(REGION, pa.int32(), nullable=False)])
"""Points inside polygons: `MAP_POINTS`, and the number of what they lie in."""

Where = Callable[[NDArray[np.float64]], NDArray[np.int32]]
"""For places (n, 2) the number of what each lies in (n,), -1 for nothing."""

_THREADS = 8  # on an object store reading is mostly waiting


def members(stored: StoredPoints, where: Where) -> Iterator[pa.Table | None]:
    """The points that lie in something, as `MEMBERS`.

    A table is of one part, hence of one slide, and only a few parts are held. A part
    without any gives None, so that who waits can stop.

    Raises:
        MapError: Another map has taken the place of this one, before or meanwhile.
        StorageError: A part cannot be read.
    """
    store = stored.same()
    jobs = (
        partial(_members_of, store, slide, name, where)
        for slide, name in stored.part_names
    )
    with (
        ThreadPoolExecutor(_THREADS, "members") as pool,
        closing(in_order(jobs, pool, _THREADS + 1)) as found,
    ):
        yield from found
    stored.same()


def _members_of(store: Store, slide: str, name: str, where: Where) -> pa.Table | None:
    # Most parts have none inside: then only their places are read.
    places = schema.places(read_part(store, name, (schema.X, schema.Y)))
    if not (where(places) >= 0).any():
        return None
    table = read_part(store, name, schema.POINTS.names).replace_schema_metadata()
    regions = pa.array(where(schema.places(table)))
    slides = pa.repeat(pa.scalar(slide, pa.string()), table.num_rows)
    columns = [slides, *table.cast(schema.POINTS).columns, regions]
    rows = pa.table(columns, schema=MEMBERS)
    inside = rows.filter(pc.greater_equal(rows[REGION], 0))
    return inside.sort_by(schema.TILE_INDEX)
