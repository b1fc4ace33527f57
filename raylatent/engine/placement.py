"""Rows placed on a fitted map by the cluster: activation parts in, points parts out."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
import pyarrow as pa
import ray

from raylatent import schema
from raylatent.claim import refuse_taken
from raylatent.engine.cluster import STALL_TIMEOUT_S, pool
from raylatent.engine.progress import Pace, Progress
from raylatent.engine.stream import Advice, stream
from raylatent.errors import MapError
from raylatent.mapping.fitted_map import MODEL_NPZ, FittedMap
from raylatent.parts import part_name, read_part, write_part
from raylatent.run import MAPS, Part, RunDirectory
from raylatent.seal import FILES
from raylatent.storage import Store
from raylatent.stored.map_points import POINTS_FOLDER

_DIGEST = "digest"  # of a part's rows, and of a file
_COUNTS = ("rows", "outside", "novel")
_FILES = "files"  # points parts that were written
_FILE = pa.struct([pa.field("name", pa.string()), pa.field(_DIGEST, pa.string())])
_PLACED = pa.schema(
    [
        *(pa.field(name, pa.int64(), nullable=False) for name in _COUNTS),
        pa.field(_FILES, pa.list_(_FILE), nullable=False),
    ]
)
_MOST_ROWS = 1 << 15  # of an item: an item costs the driver 20 ms
_ITEMS_EACH = 4  # for each actor at least, so that none waits long for the last


def place_rows(
    run: RunDirectory,
    parts: Sequence[Part],
    fitted: FittedMap,
    *,
    layer: str,
    name: str,
    stall_timeout_s: float = STALL_TIMEOUT_S,
    pace: Pace | None = None,
) -> tuple[dict[str, int], dict[str, str]]:
    """Place every row of the parts, a points part for each.

    Args:
        run: The run directory.
        parts: Of its activations.
        fitted: The map.
        layer: The layer that was mapped.
        name: The map's folder below `maps/`.
        stall_timeout_s: How long nothing may be finished.
        pace: Counts the rows that are placed.

    Returns:
        Counts of rows, and the digest of each part by name.

    Raises:
        MapError: Not every row was placed.
    """
    total = sum(part.rows for part in parts)
    counts = dict.fromkeys(_COUNTS, 0)
    digests: dict[str, str] = {}
    share = pool(None, 0)
    items = together(parts, share.largest)
    folder = f"{MAPS}/{name}/{POINTS_FOLDER}"
    named = fitted.with_info(**{FILES: {MODEL_NPZ: fitted.digest}})  # worked out once
    arguments = (ray.put(named), run.store, layer, folder, share.threads)
    found = stream(
        "parts",
        items,
        PlacementActor,
        arguments,
        share,
        advice=Advice(again="The same command again places all rows anew"),
        stall_timeout_s=stall_timeout_s,
    )
    pace = pace or Pace()
    pace.begin(min(share.largest, len(items)))
    with Progress("map", total) as progress, closing(found):
        for row in found:
            for key in counts:
                counts[key] += row[key]
            digests |= {file["name"]: file[_DIGEST] for file in row[_FILES]}
            progress.add(row["rows"])
            pace.add(row["rows"])
    if counts["rows"] != total:
        message = f"{counts['rows']} of {total} rows were placed: run again"
        raise MapError(message)
    return counts, digests


def together(parts: Sequence[Part], n_actors: int) -> list[list[Part]]:
    """Parts in runs that one item each holds: of some rows, and some for each actor.

    >>> parts = [Part(slide="a", unit=i, name="", rows=10, footer={}) for i in range(9)]
    >>> [len(some) for some in together(parts, 1)]
    [2, 2, 2, 2, 1]
    """
    total = sum(part.rows for part in parts)
    most = min(_MOST_ROWS, total // (_ITEMS_EACH * n_actors))
    items: list[list[Part]] = []
    rows = 0
    for part in parts:
        if not items or rows + part.rows > most:
            items.append([])
            rows = 0
        items[-1].append(part)
        rows += part.rows
    return items


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

    def __call__(self, parts: Sequence[Part]) -> pa.Table:
        """Place the rows of some parts."""
        placed = list(self._pool.map(self._place, parts))
        total = {key: sum(counts[key] for counts, _ in placed) for key in _COUNTS}
        files = [file for _, file in placed]
        return pa.Table.from_pylist([{**total, _FILES: files}], schema=_PLACED)

    def _place(self, part: Part) -> tuple[dict[str, int], dict[str, str]]:
        """Counts of a part's rows; name and digest of its points."""
        self.on_unit(part.slide, part.unit)
        columns = [*schema.REFERENCE.names, self._layer]
        table = read_part(self._store, part.name, columns)
        points, counts = place_part(table, self._fitted, self._layer)
        name = part_name(self._folder, part.slide, part.unit)
        refuse_taken(self._store)
        footer = {
            schema.FOOTER_SLIDE: part.slide,
            schema.FOOTER_UNIT: str(part.unit),
            schema.FOOTER_MAP: self._fitted.digest,
            schema.FOOTER_ROWS: part.footer.get(schema.FOOTER_DIGEST, ""),
        }
        digest = write_part(self._store, name, points, footer)
        return counts, {"name": name, _DIGEST: digest}


def place_part(
    table: pa.Table, fitted: FittedMap, layer: str
) -> tuple[pa.Table, dict[str, int]]:
    """Points of a part's rows, and how many are outside the frame, or novel.

    The pure twin of `PlacementActor`.
    """
    xy, distance = fitted.place(schema.vectors(table, layer).astype(np.float32))
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
