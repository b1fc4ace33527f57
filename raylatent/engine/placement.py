"""Rows placed on a fitted map by the cluster: activation parts in, points parts out."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import Any

import pyarrow as pa
import ray

from raylatent import schema
from raylatent.claim import refuse_taken
from raylatent.engine.cluster import STALL_TIMEOUT_S, pool
from raylatent.engine.progress import Progress
from raylatent.engine.sampling import vectors
from raylatent.engine.stream import stream
from raylatent.errors import MapError
from raylatent.mapping.fitted import FittedMap
from raylatent.mapping.points import POINTS_FOLDER
from raylatent.parts import part_name, read_part, write_part
from raylatent.run import MAPS, Part, RunDirectory
from raylatent.storage import Store

_DIGEST = "digest"  # of a part's rows
_PLACED = pa.schema(
    [
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("outside", pa.int64(), nullable=False),
        pa.field("novel", pa.int64(), nullable=False),
    ]
)
_PART = pa.struct(
    [
        pa.field(schema.SLIDE, pa.string(), nullable=False),
        pa.field(schema.UNIT, pa.int32(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field(_DIGEST, pa.string(), nullable=False),
    ]
)
_ITEM = pa.schema([pa.field("parts", pa.list_(_PART), nullable=False)])
_ITEM_ROWS = 16_384  # about a second of a core: an item costs Ray some milliseconds
_ITEM_PARTS = 64
_ITEMS_EACH = 4  # at least so many for each actor, where there are parts for them


def place_rows(
    run: RunDirectory,
    parts: Sequence[Part],
    fitted: FittedMap,
    *,
    layer: str,
    name: str,
    stall_timeout_s: float = STALL_TIMEOUT_S,
) -> dict[str, int]:
    """Place every row of the parts, a points part for each; counts of rows.

    Raises:
        MapError: Not every row was placed.
    """
    total = sum(part.rows for part in parts)
    counts = dict.fromkeys(_PLACED.names, 0)
    share = pool(None, 0)
    most_rows = min(_ITEM_ROWS, total // (_ITEMS_EACH * share.largest))
    reads = [partial(_item, some) for some in _together(parts, most_rows)]
    folder = f"{MAPS}/{name}/{POINTS_FOLDER}"
    arguments = (ray.put(fitted), run.store, layer, folder, share.threads)
    found = stream(
        "parts",
        reads,
        PlacementActor,
        arguments,
        share,
        stall_timeout_s=stall_timeout_s,
        again="The same command again places all rows anew",
    )
    with Progress("map", total) as progress, closing(found):
        for row in found:
            for key in counts:
                counts[key] += row[key]
            progress.add(row["rows"])
    if counts["rows"] != total:
        message = f"{counts['rows']} of {total} rows were placed: run again"
        raise MapError(message)
    return counts


def _together(parts: Sequence[Part], most_rows: int) -> Iterator[Sequence[Part]]:
    """Parts in groups of at most so many rows and `_ITEM_PARTS`, at least one each."""
    start, rows = 0, 0
    for i, part in enumerate(parts):
        full = rows + part.rows > most_rows or i - start == _ITEM_PARTS
        if full and i > start:
            yield parts[start:i]
            start, rows = i, 0
        rows += part.rows
    if start < len(parts):
        yield parts[start:]


def _item(parts: Sequence[Part]) -> pa.Table:
    rows = [
        {
            schema.SLIDE: part.slide,
            schema.UNIT: part.unit,
            "name": part.name,
            _DIGEST: part.footer.get(schema.FOOTER_DIGEST, ""),
        }
        for part in parts
    ]
    return pa.Table.from_pylist([{"parts": rows}], schema=_ITEM)


class PlacementActor:
    """Activation parts in, points parts on disk, counts out.

    Args:
        fitted: Reference to the fitted map, shared by all actors of a node.
        store: The run directory.
        layer: The layer that was mapped.
        folder: Where points go.
        threads: Parts that are placed at once.
    """

    def __init__(
        self,
        fitted: "ray.ObjectRef[FittedMap]",
        store: Store,
        layer: str,
        folder: str,
        threads: int,
    ) -> None:
        """Take the map."""
        self._fitted = ray.get(fitted)
        self._store = store
        self._layer = layer
        self._folder = folder
        self._pool = ThreadPoolExecutor(threads)

    def on_unit(self, slide: str, unit: int) -> None:
        """Told of each part before it is begun; who made the actor sets it."""

    def __call__(self, item: pa.Table) -> pa.Table:
        """Place the rows of some parts."""
        (row,) = item.to_pylist()
        counts = list(self._pool.map(self._place, row["parts"]))
        total = {key: sum(part[key] for part in counts) for key in _PLACED.names}
        return pa.Table.from_pylist([total], schema=_PLACED)

    def _place(self, part: dict[str, Any]) -> dict[str, int]:
        slide, unit = part[schema.SLIDE], part[schema.UNIT]
        self.on_unit(slide, unit)
        columns = [*schema.REFERENCE.names, self._layer]
        table = read_part(self._store, part["name"], columns)
        points, counts = place_part(table, self._fitted, self._layer)
        name = part_name(self._folder, slide, unit)
        refuse_taken(self._store)
        footer = {
            schema.FOOTER_SLIDE: slide,
            schema.FOOTER_UNIT: str(unit),
            schema.FOOTER_MAP: self._fitted.digest,
            schema.FOOTER_ROWS: part[_DIGEST],
        }
        write_part(self._store, name, points, footer)
        return counts


def place_part(
    table: pa.Table, fitted: FittedMap, layer: str
) -> tuple[pa.Table, dict[str, int]]:
    """Points of a part's rows, and how many are outside the frame, or novel.

    The pure twin of `PlacementActor`.
    """
    xy, distance = fitted.place(vectors(table, layer))
    points = pa.Table.from_arrays(
        [
            *(table[name].combine_chunks() for name in schema.REFERENCE.names),
            pa.array(xy[:, 0]),
            pa.array(xy[:, 1]),
            pa.array(distance),
        ],
        schema=schema.POINTS,
    )
    frame = fitted.frame
    outside = ((xy < frame.lower) | (xy > frame.upper)).any(axis=1)
    novel = distance > fitted.knn_threshold
    return points, {
        "rows": len(xy),
        "outside": int(outside.sum()),
        "novel": int(novel.sum()),
    }
