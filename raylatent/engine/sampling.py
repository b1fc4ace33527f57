"""The sample that a map is fitted on, drawn and read by the cluster."""

import logging
from collections.abc import Sequence
from math import ceil, prod

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from numpy.typing import NDArray

from raylatent import schema
from raylatent.engine.cluster import READ_CPUS, STALL_TIMEOUT_S, alive_nodes, gather
from raylatent.errors import RunError
from raylatent.mapping.fit import MAX_SAMPLE_BYTES
from raylatent.mapping.parameters import MapParameters
from raylatent.mapping.sample import SampleSketch, finish, merge, sketch
from raylatent.parts import read_part
from raylatent.run import Part, RunDirectory
from raylatent.storage import Store

logger = logging.getLogger(__name__)

_PARTS_TOGETHER = 64
_TASKS_EACH = 8  # for each core


def sample_rows(
    run: RunDirectory,
    parts: Sequence[Part],
    layer: str,
    params: MapParameters,
    n_held: int = 0,
    stall_timeout_s: float = STALL_TIMEOUT_S,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Activations of the sample's rows, and of others, in the order of their keys.

    Args:
        run: The run directory.
        parts: Of which rows are taken.
        layer: Which activations.
        params: Seed and size of the sample.
        n_held: How many others, at most: those that a larger sample would have.
        stall_timeout_s: How long nothing may be finished.

    Returns:
        float32 (n, d) and (m, d).
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
    return features[inside], features[~inside]


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
