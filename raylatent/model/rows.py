"""One unit of tiles to activation rows: the pure twin of the engine's actors."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylatent import schema
from raylatent.errors import ContentError
from raylatent.model.lanes import Lane, Pixels
from raylatent.source.grids import SlideUnit
from raylatent.source.units import Unit
from raylatent.source.wsi.cache import SlideCache
from raylatent.tiles.clock import Clock
from raylatent.tiles.reference import reference_table, split_off_broken
from raylatent.tiles.stream import Side, Threads, Tile, unit_tiles

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
    """

    rows: pa.Table
    quarantine: pa.Table
    counts: Counter[str] = field(default_factory=Counter)
    seconds: Mapping[str, float] = field(default_factory=dict)


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
    side = Side(lane.features.tile_px, resize=options.resize)
    decoded = unit_tiles(unit, side, threads, slides or SlideCache(), clock)
    tiles: list[Tile] = []

    def chunks() -> Iterator[list[Pixels]]:
        while chunk := list(islice(decoded, lane.features.batch_size)):
            # Once the pixels are handed on, only what the rows need is kept.
            tiles.extend(replace(tile, pixels=None) for tile in chunk)
            yield [tile.pixels for tile in chunk]

    blocks: dict[str, list[NDArray[np.float32]]] = {n: [] for n in lane.features.sizes}
    predictions: list[NDArray[np.float32]] = []
    passes = lane.passes(chunks(), clock, with_preds=options.with_preds)
    with closing(passes):
        for found, preds in passes:
            for name, values in found.items():
                blocks[name].append(values)
            if preds is not None:
                predictions.append(preds)
    counts = Counter(
        resized=sum(tile.resized for tile in tiles),
        other_slide=sum(tile.other_slide for tile in tiles),
    )
    order = np.argsort([tile.position for tile in tiles])
    tiles = [tiles[i] for i in order]
    columns = {
        name: _stored(np.concatenate(values)[order], options.dtype)
        for name, values in blocks.items()
    }
    if options.with_preds:
        columns[schema.PREDICTIONS] = np.concatenate(predictions)[order]
    rows, quarantine = _tables(unit, tiles, columns, options.dtype)
    return UnitRows(
        rows=rows, quarantine=quarantine, counts=counts, seconds=clock.seconds
    )


def _stored(values: NDArray[np.float32], dtype: str) -> NDArray[np.floating]:
    with np.errstate(over="ignore"):  # what float16 cannot hold is quarantined
        return values.astype(_DTYPES[dtype])


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
