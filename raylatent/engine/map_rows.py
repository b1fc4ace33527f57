"""Rows of a map by the cluster: the sample that it is fitted on, and every row placed.

To place them activation parts go in, and points parts come out.
"""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from math import ceil, prod

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from numpy.typing import NDArray

from raylatent import schema
from raylatent.claim import refuse_taken
from raylatent.engine.cluster import (
    READ_CPUS,
    STALL_TIMEOUT_S,
    alive_nodes,
    gather,
    pool,
)
from raylatent.engine.progress import Pace, Progress
from raylatent.engine.stream import Advice, stream
from raylatent.errors import MapError, RunError
from raylatent.mapping.fit import MAX_SAMPLE_BYTES
from raylatent.mapping.fitted_map import MODEL_NPZ, FittedMap
from raylatent.mapping.sample import KEY, SampleSketch, finish, merge, sketch
from raylatent.mapping.umap_learn import MapParameters
from raylatent.parts import part_name, read_part, write_part
from raylatent.run import MAPS, Part, RunDirectory
from raylatent.seal import FILES
from raylatent.stable_hash import tile_hash
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
_PARTS_TOGETHER = 64
_TASKS_EACH = 8  # for each core

logger = logging.getLogger(__name__)


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
        points, counts = place_part(table, self._fitted, self._layer, part.slide)
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
    table: pa.Table, fitted: FittedMap, layer: str, slide: str
) -> tuple[pa.Table, dict[str, int]]:
    """Points of a part's rows, and how many are outside the frame, or novel.

    The pure twin of `PlacementActor`.
    """
    tiles = table[schema.TILE_INDEX].to_numpy()
    keys = tile_hash(fitted.parameters.seed, slide, tiles)
    rows = schema.vectors(table, layer).astype(np.float32)
    xy, distance = fitted.place(rows, keys)
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


def sample_rows(
    run: RunDirectory,
    parts: Sequence[Part],
    layer: str,
    params: MapParameters,
    n_held: int = 0,
    stall_timeout_s: float = STALL_TIMEOUT_S,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint64]]:
    """Activations of the sample's rows, and of others, in the order of their keys.

    Args:
        run: The run directory.
        parts: Of which rows are taken.
        layer: Which activations.
        params: Seed and size of the sample.
        n_held: How many others, at most: those that a larger sample would have.
        stall_timeout_s: How long nothing may be finished.

    Returns:
        float32 (n, d) and (m, d), and the keys of the sample's rows, uint64 (n,).
    """
    size = _sample_size(run, layer, params)
    limit = size + n_held
    batches = _batches(parts)
    sketcher = ray.remote(num_cpus=READ_CPUS)(sketch_parts)
    sketches = [
        sketcher.remote(run.store, batch, params.seed, limit) for batch in batches
    ]
    whole: SampleSketch | None = None
    for found in gather(sketches, stall_timeout_s):
        whole = found if whole is None else merge(whole, found)
    if whole is None:
        message = f"{run.uri} has no rows to sample"
        raise RunError(message)
    chosen = finish(whole, limit)
    places = {
        (slide, index): i
        for i, (slide, index) in enumerate(
            zip(
                chosen[schema.SLIDE].to_pylist(),
                chosen[schema.TILE_INDEX].to_pylist(),
                strict=True,
            )
        )
    }
    features = _fetched(run, batches, layer, chosen, places, stall_timeout_s)
    sample = finish(whole, size)
    names = (schema.SLIDE, schema.TILE_INDEX)
    pairs = zip(*(sample[name].to_pylist() for name in names), strict=True)
    inside = np.zeros(len(chosen), bool)
    inside[[places[pair] for pair in pairs]] = True
    return features[inside], features[~inside], chosen[KEY].to_numpy()[inside]


def _fetched(
    run: RunDirectory,
    batches: Sequence[Sequence[Part]],
    layer: str,
    chosen: pa.Table,
    places: dict[tuple[str, int], int],
    stall_timeout_s: float,
) -> NDArray[np.float32]:
    """Activations (n, d) of all chosen rows, each at its place.

    Raises:
        RunError: Some are not there any more.
    """
    fetcher = ray.remote(num_cpus=READ_CPUS)(fetch_rows)
    table = ray.put(chosen)
    pending = [fetcher.remote(run.store, batch, layer, table) for batch in batches]
    features: NDArray[np.float32] | None = None
    filled = 0
    for answer in gather(pending, stall_timeout_s):
        for slide, indices, values in answer:
            if features is None:
                features = np.empty((len(chosen), values.shape[1]), np.float32)
            features[[places[slide, index] for index in indices]] = values
            filled += len(values)
    if features is None or filled != len(chosen):
        message = (
            f"{run.uri} gave {filled} of {len(chosen)} rows of the sample: it was "
            "changed meanwhile; run again"
        )
        raise RunError(message)
    return features


def _sample_size(run: RunDirectory, layer: str, params: MapParameters) -> int:
    """Rows to draw: fewer than asked for where they would not fit the memory.

    (Cut after they are drawn, the rows that stand for each slide would be lost.)
    """
    width = prod(run.layers()[layer])
    most = max(1, MAX_SAMPLE_BYTES // (4 * width))
    if params.sample > most:
        logger.warning(
            "rows of %d features: a sample is at most %d of them, not %d",
            *(width, most, params.sample),
        )
    return min(params.sample, most)


def _batches(parts: Sequence[Part]) -> list[Sequence[Part]]:
    """However many parts there are, what comes back is of a few tasks for each core."""
    cores = sum(node["Resources"].get("CPU", 0) for node in alive_nodes())
    size = max(_PARTS_TOGETHER, ceil(len(parts) / max(1, _TASKS_EACH * cores)))
    return [parts[i : i + size] for i in range(0, len(parts), size)]


def sketch_parts(
    store: Store, parts: Sequence[Part], seed: int, limit: int
) -> SampleSketch:
    """The sample's sketch of some parts: their tile indices are all that is read."""
    whole: list[SampleSketch] = []
    for start in range(0, len(parts), _PARTS_TOGETHER):
        found = (
            sketch(part.slide, _tiles_of(store, part), seed=seed, limit=limit)
            for part in parts[start : start + _PARTS_TOGETHER]
        )
        whole = [merge(*whole, *found)]
    return merge(*whole)


def _tiles_of(store: Store, part: Part) -> NDArray[np.int64]:
    tiles: NDArray[np.int64] = read_part(store, part.name, [schema.TILE_INDEX])[
        schema.TILE_INDEX
    ].to_numpy()
    return tiles


def fetch_rows(
    store: Store, parts: Sequence[Part], layer: str, chosen: pa.Table
) -> list[tuple[str, list[int], NDArray[np.float32]]]:
    """Activations of the chosen rows of some parts: slide, tile indices, (n, d)."""
    found = []
    for part in parts:
        here = chosen.filter(pc.equal(chosen[schema.SLIDE], part.slide))
        first = int(part.footer[schema.FOOTER_FIRST])
        last = int(part.footer[schema.FOOTER_LAST])
        wanted = here[schema.TILE_INDEX].to_numpy()
        wanted = wanted[(wanted >= first) & (wanted < last)]
        if len(wanted):
            table = read_part(store, part.name, [schema.TILE_INDEX, layer])
            keep = np.isin(table[schema.TILE_INDEX].to_numpy(), wanted)
            rows = table.filter(pa.array(keep))
            indices = rows[schema.TILE_INDEX].to_pylist()
            found.append(
                (part.slide, indices, schema.vectors(rows, layer).astype(np.float32))
            )
    return found
