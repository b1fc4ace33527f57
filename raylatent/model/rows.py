"""One unit of tiles to activation rows: the pure twin of the engine's actors."""

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylatent import schema
from raylatent.errors import ContentError
from raylatent.model.devices import Buffer, Lane
from raylatent.model.layer_checks import Constants, Spread
from raylatent.source.protocol import Unit
from raylatent.source.wsi.regions import SlideCache
from raylatent.tiles.decoders import Decoders, SharedPixels, decode_into
from raylatent.tiles.stream import Threads, unit_tiles
from raylatent.tiles.threads import Clock
from raylatent.tiles.tile import Side, Tile, reference_table, split_off_broken

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
        constants: Layers that are the same in all rows; none where there is no row.
    """

    rows: pa.Table
    quarantine: pa.Table
    counts: Counter[str] = field(default_factory=Counter)
    seconds: Mapping[str, float] = field(default_factory=dict)
    cpu: Mapping[str, float] = field(default_factory=dict)
    constants: Constants = field(default_factory=dict)


def unit_rows(
    unit: Unit,
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
    if threads.decoders is not None and unit.encoded:
        filled = _filled_apart(unit, side, lane, threads.decoders, tiles, clock)
    else:
        decoded = unit_tiles(unit, side, threads, slides or SlideCache(), clock)
        filled = _filled(decoded, lane, tiles)
    gathered = _Gathered(len(unit), lane.features.sizes, options)
    n_passed = 0
    with closing(lane.passes(filled, clock, with_preds=options.with_preds)) as passes:
        for found, preds in passes:
            passed = tiles[n_passed : n_passed + lane.features.batch_size]
            n_passed += len(passed)
            gathered.add(passed, found, preds)
    counts = Counter(
        resized=sum(tile.resized for tile in tiles),
        other_slide=sum(tile.other_slide for tile in tiles),
    )
    tiles.sort(key=lambda tile: tile.position)
    rows, quarantine = _tables(unit, tiles, gathered, options.dtype)
    return UnitRows(
        rows=rows,
        quarantine=quarantine,
        counts=counts,
        seconds=clock.seconds,
        cpu={stage: clock.cpu[stage] for stage in ("read", "decode")},
        constants=gathered.constants,
    )


class _Gathered:
    """The one copy of a unit's rows: each pass's are put where their tiles belong.

    Args:
        n: Tiles of the unit.
        sizes: Features of each layer.
        options: What is stored.

    Attributes:
        columns: In tile order, (n, features) each.
        finite: Whether all numbers of a tile are, (n,).
    """

    def __init__(self, n: int, sizes: Mapping[str, int], options: RowOptions) -> None:
        """See the class."""
        dtype = _DTYPES[options.dtype]
        self.columns: dict[str, NDArray[np.floating]] = {
            name: np.empty((n, size), dtype) for name, size in sizes.items()
        }
        self.finite = np.ones(n, bool)
        self._spreads = {name: Spread() for name in sizes}

    def add(
        self,
        tiles: Sequence[Tile],
        found: Mapping[str, NDArray[np.float32]],
        predictions: NDArray[np.float32] | None,
    ) -> None:
        """One pass: rows of its tiles, in their order, then those of padding."""
        places = np.array([tile.position for tile in tiles], np.int64)
        for name, column in self.columns.items():
            if name != schema.PREDICTIONS:
                self._put(column, places, found[name])
        if predictions is not None:
            if schema.PREDICTIONS not in self.columns:
                shape = (len(self.finite), predictions.shape[1])
                self.columns[schema.PREDICTIONS] = np.empty(shape, np.float32)
            self._put(self.columns[schema.PREDICTIONS], places, predictions)
        good = self.finite[places] & [tile.error is None for tile in tiles]
        for name, spread in self._spreads.items():
            spread.add(found[name][: len(places)][good])

    def _put(
        self,
        column: NDArray[np.floating],
        places: NDArray[np.int64],
        values: NDArray[np.float32],
    ) -> None:
        with np.errstate(over="ignore"):  # what float16 cannot hold is quarantined
            stored = values[: len(places)].astype(column.dtype, copy=False)
        self.finite[places] &= np.isfinite(stored).all(axis=1)
        column[places] = stored

    @property
    def constants(self) -> Constants:
        """Layers that are the same in all rows."""
        found = {name: spread.constant for name, spread in self._spreads.items()}
        return {name: value for name, value in found.items() if value is not None}


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


def _tables(
    unit: Unit,
    tiles: list[Tile],
    gathered: _Gathered,
    dtype: str,
) -> tuple[pa.Table, pa.Table]:
    """Rows of the good tiles, quarantine rows of the bad."""
    columns, finite = gathered.columns, gathered.finite
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
            _vectors(
                values if good.all() else values[good], rows_schema.field(name).type
            )
            for name, values in columns.items()
        ),
    ]
    return pa.Table.from_arrays(arrays, schema=rows_schema), quarantine


def _vectors(values: NDArray[np.floating], kind: pa.DataType) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, type=kind)
