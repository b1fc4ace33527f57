"""One unit of tiles to activation rows: the pure twin of the engine's actors."""

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylatent import schema
from raylatent.errors import ContentError
from raylatent.model.lanes import Buffer, Lane
from raylatent.source.grids import SlideUnit
from raylatent.source.units import Unit
from raylatent.source.wsi.cache import SlideCache
from raylatent.tiles.clock import Clock
from raylatent.tiles.decoders import Decoders, decode_into
from raylatent.tiles.reference import reference_table, split_off_broken
from raylatent.tiles.shared import SharedPixels
from raylatent.tiles.stream import Threads, unit_tiles
from raylatent.tiles.tile import Side, Tile

_DTYPES = {"float32": np.float32, "float16": np.float16}

STAGES = ("read", "decode", "wait", "transfer", "forward")
"""Seconds of the threads that read and decode; of waiting for them; of the device."""


@dataclass(frozen=True, kw_only=True)
class RowOptions:
    """What of a unit's activations is stored.

    Attributes:
        dtype: `float32` or `float16`, of the stored activations.
        with_preds: Store predictions.
        resize: Tiles of another side than the model's are resized, else quarantined.
    """

    dtype: str = "float32"
    with_preds: bool = False
    resize: bool = True


@dataclass(kw_only=True)
class UnitRows:
    """What became of a unit's tiles.

    Attributes:
        rows: Activations, as schema.activations_schema.
        quarantine: Bad tiles, as schema.QUARANTINE.
        counts: `resized` and `other_slide` tiles.
        seconds: See STAGES.
        cpu: CPU seconds of the threads, or processes, that read and decode.
    """

    rows: pa.Table
    quarantine: pa.Table
    counts: Counter[str] = field(default_factory=Counter)
    seconds: Mapping[str, float] = field(default_factory=dict)
    cpu: Mapping[str, float] = field(default_factory=dict)


def unit_rows(
    unit: Unit | SlideUnit,
    lane: Lane,
    options: RowOptions,
    threads: Threads,
    slides: SlideCache | None = None,
) -> UnitRows:
    """Activations of one unit's tiles, in tile order, whatever order they are read in.

    Tiles go through the model in micro-batches of one shape, a bad tile's place left
    black, so that no row depends on the others or on how many threads there are.

    Args:
        unit: Which tiles.
        lane: The model, its layers, and their device.
        options: What to store.
        threads: That read and decode while the model runs.
        slides: What this worker holds open.

    Raises:
        StorageError: The file cannot be read, after retries.
    """
    clock = Clock(*STAGES)
    tiles: list[Tile] = []
    side = Side(lane.features.tile_px, resize=options.resize)
    if threads.decoders is not None and isinstance(unit, Unit):
        filled = _filled_apart(unit, side, lane, threads.decoders, tiles, clock)
    else:
        decoded = unit_tiles(unit, side, threads, slides or SlideCache(), clock)
        filled = _filled(decoded, lane, tiles)
    blocks: dict[str, list[NDArray[np.float32]]] = {n: [] for n in lane.features.sizes}
    predictions: list[NDArray[np.float32]] = []
    with closing(lane.passes(filled, clock, with_preds=options.with_preds)) as passes:
        for found, preds in passes:
            for name, values in found.items():
                blocks[name].append(values)
            if preds is not None:
                predictions.append(preds)
    counts = Counter(
        resized=sum(tile.resized for tile in tiles),
        other_slide=sum(tile.other_slide for tile in tiles),
    )
    order, tiles = _in_order(tiles)
    columns = {
        name: _stored(np.concatenate(values)[order], options.dtype)
        for name, values in blocks.items()
    }
    if options.with_preds:
        columns[schema.PREDICTIONS] = np.concatenate(predictions)[order]
    rows, quarantine = _tables(unit, tiles, columns, options.dtype)
    return UnitRows(
        rows=rows,
        quarantine=quarantine,
        counts=counts,
        seconds=clock.seconds,
        cpu={stage: clock.cpu[stage] for stage in ("read", "decode")},
    )


def _filled(decoded: Iterator[Tile], lane: Lane, tiles: list[Tile]) -> Iterator[Buffer]:
    """Buffers with decoded tiles; of each, what the rows need goes to `tiles`."""
    while chunk := list(islice(decoded, lane.features.batch_size)):
        tiles.extend(replace(tile, pixels=None) for tile in chunk)
        yield lane.fill([tile.pixels for tile in chunk])


def _filled_apart(
    unit: Unit,
    side: Side,
    lane: Lane,
    decoders: Decoders,
    tiles: list[Tile],
    clock: Clock,
) -> Iterator[Buffer]:
    """As `_filled`, the pixels put there by other processes."""
    taken: deque[Buffer] = deque()

    def memories() -> Iterator[SharedPixels]:
        while True:
            taken.append(lane.take())
            if taken[-1].shared is None:
                message = "a lane whose buffers are not shared"
                raise TypeError(message)
            yield taken[-1].shared

    batches = decode_into(unit, side, decoders, memories(), clock)
    try:
        with closing(batches):
            for batch in batches:
                tiles.extend(batch)
                yield taken.popleft()
    finally:
        while taken:  # of what was left early
            lane.give_back(taken.pop())


def _in_order(tiles: list[Tile]) -> tuple[Any, list[Tile]]:
    """What puts rows into tile order, without those of padding, and the tiles in it."""
    positions = np.array([tile.position for tile in tiles], np.int64)
    if (np.diff(positions) > 0).all():
        return slice(len(tiles)), tiles
    order = np.argsort(positions)
    return order, [tiles[i] for i in order]


def _stored(values: NDArray[np.float32], dtype: str) -> NDArray[np.floating]:
    with np.errstate(over="ignore"):  # what float16 cannot hold is quarantined
        return values.astype(_DTYPES[dtype], copy=False)


def _tables(
    unit: Unit | SlideUnit,
    tiles: list[Tile],
    columns: dict[str, NDArray[np.floating]],
    dtype: str,
) -> tuple[pa.Table, pa.Table]:
    """Rows of the good tiles, quarantine rows of the bad."""
    finite = np.ones(len(tiles), bool)
    for values in columns.values():
        finite &= np.isfinite(values).all(axis=1)
    errors = [
        tile.error
        if tile.error is not None or finite[i]
        else ContentError(f"activations are not finite in {dtype}", stage="forward")
        for i, tile in enumerate(tiles)
    ]
    good = np.array([error is None for error in errors], bool)
    reference, quarantine = split_off_broken(reference_table(unit, tiles), errors)
    sizes = {name: values.shape[1] for name, values in columns.items()}
    n_classes = sizes.pop(schema.PREDICTIONS, None)
    rows_schema = schema.activations_schema(sizes, dtype=dtype, n_classes=n_classes)
    arrays = [
        *reference.columns,
        *(
            _vectors(values[good], rows_schema.field(name).type)
            for name, values in columns.items()
        ),
    ]
    return pa.Table.from_arrays(arrays, schema=rows_schema), quarantine


def _vectors(values: NDArray[np.floating], kind: pa.DataType) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, type=kind)
