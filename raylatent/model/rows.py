"""One unit of tiles to activation rows: the pure twin of the engine's actors."""

import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylatent import schema
from raylatent.errors import ContentError
from raylatent.model.features import Features
from raylatent.source.tfrecord import iter_records, parse_example
from raylatent.source.units import Unit
from raylatent.tiles.decode import decode_image
from raylatent.tiles.preprocess import resize

_DECODED_TOGETHER = 8
_AHEAD_TILES = 96  # decoded before the forward pass asks for them
_INT32 = range(-(1 << 31), 1 << 31)
_DTYPES = {"float32": np.float32, "float16": np.float16}


@dataclass(frozen=True, kw_only=True)
class RowOptions:
    """What of a unit's activations is stored.

    Attributes:
        dtype: `float32` or `float16`, of the stored activations.
        with_preds: Store predictions.
    """

    dtype: str = "float32"
    with_preds: bool = False


@dataclass(kw_only=True)
class UnitRows:
    """What became of a unit's tiles.

    Attributes:
        rows: Activations, as schema.activations_schema.
        quarantine: Bad tiles, as schema.QUARANTINE.
        counts: `resized` and `other_slide` tiles.
        seconds: Spent waiting for pixels (`decode`) and in the model (`forward`).
    """

    rows: pa.Table
    quarantine: pa.Table
    counts: Counter[str] = field(default_factory=Counter)
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Tile:
    """One tile's pixels, or what is wrong with it."""

    loc_x: int | None = None
    loc_y: int | None = None
    pixels: NDArray[np.uint8] | None = None
    error: ContentError | None = None
    resized: bool = False
    other_slide: bool = False


def unit_rows(
    unit: Unit, features: Features, options: RowOptions, pool: ThreadPoolExecutor
) -> UnitRows:
    """Activations of one unit's tiles, in tile order.

    Tiles go through the model in micro-batches of one shape, a bad tile's place left
    black, so that no row depends on the others or on how many threads there are.

    Args:
        unit: Which tiles.
        features: The model and its layers.
        options: What to store.
        pool: Threads that decode while the model runs.

    Raises:
        StorageError: The file cannot be read, after retries.
    """
    counts: Counter[str] = Counter()
    seconds = {"decode": 0.0, "forward": 0.0}
    tiles: list[_Tile] = []
    blocks: dict[str, list[NDArray[np.float32]]] = {name: [] for name in features.sizes}
    predictions: list[NDArray[np.float32]] = []
    decoded = _decoded(unit, features.tile_px, pool)
    px = features.tile_px
    while True:
        started = time.perf_counter()
        chunk = list(islice(decoded, features.batch_size))
        ready = time.perf_counter()
        seconds["decode"] += ready - started
        if not chunk:
            break
        pixels = np.zeros((features.batch_size, px, px, 3), np.uint8)
        for i, tile in enumerate(chunk):
            if tile.pixels is not None:
                pixels[i] = tile.pixels
            counts["resized"] += tile.resized
            counts["other_slide"] += tile.other_slide
        found, preds = features.forward(pixels, with_preds=options.with_preds)
        seconds["forward"] += time.perf_counter() - ready
        for name, values in found.items():
            blocks[name].append(values[: len(chunk)])
        if preds is not None:
            predictions.append(preds[: len(chunk)])
        # The pixels are done with; only what the rows need is kept.
        tiles += [_Tile(t.loc_x, t.loc_y, error=t.error) for t in chunk]
    columns = {
        name: _stored(np.concatenate(values), options.dtype)
        for name, values in blocks.items()
    }
    if options.with_preds:
        columns[schema.PREDICTIONS] = np.concatenate(predictions)
    rows, quarantine = _tables(unit, tiles, columns, options.dtype)
    return UnitRows(rows=rows, quarantine=quarantine, counts=counts, seconds=seconds)


def _stored(values: NDArray[np.float32], dtype: str) -> NDArray[np.floating]:
    with np.errstate(over="ignore"):  # what float16 cannot hold is quarantined
        return values.astype(_DTYPES[dtype])


def _decoded(unit: Unit, tile_px: int, pool: ThreadPoolExecutor) -> Iterator[_Tile]:
    """The unit's tiles in order, decoded some way ahead."""
    payloads = iter_records(unit.source.uri, unit.offsets, unit.lengths)
    waiting: deque[Future[list[_Tile]]] = deque()
    while True:
        together = list(islice(payloads, _DECODED_TOGETHER))
        if together:
            waiting.append(pool.submit(_decode, together, unit.source.slide, tile_px))
        if waiting and (not together or len(waiting) * 8 >= _AHEAD_TILES):
            yield from waiting.popleft().result()
        elif not together:
            return


def _decode(
    payloads: list[memoryview | ContentError], slide: str, tile_px: int
) -> list[_Tile]:
    return [_decode_one(payload, slide, tile_px) for payload in payloads]


def _decode_one(payload: memoryview | ContentError, slide: str, tile_px: int) -> _Tile:
    if isinstance(payload, ContentError):
        return _Tile(error=payload)
    loc_x = loc_y = None
    try:
        record = parse_example(payload)
        loc_x, loc_y = _location(record.loc_x), _location(record.loc_y)
        image = decode_image(record.image_raw)
    except ContentError as error:
        return _Tile(loc_x, loc_y, error=error)
    pixels = resize(image, tile_px)
    return _Tile(
        loc_x,
        loc_y,
        pixels=pixels,
        resized=pixels is not image,
        other_slide=record.slide not in {None, slide},
    )


def _location(value: int | None) -> int | None:
    if value is None or value in _INT32:
        return value
    message = f"location {value} is no pixel of a slide"
    raise ContentError(message, stage="parse")


def _tables(
    unit: Unit, tiles: list[_Tile], columns: dict[str, NDArray[np.floating]], dtype: str
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
    reference = _reference(unit, tiles)
    sizes = {name: values.shape[1] for name, values in columns.items()}
    n_classes = sizes.pop(schema.PREDICTIONS, None)
    rows_schema = schema.activations_schema(sizes, dtype=dtype, n_classes=n_classes)
    arrays = [column.filter(pa.array(good)) for column in reference.columns]
    arrays += [
        _vectors(values[good], rows_schema.field(name).type)
        for name, values in columns.items()
    ]
    bad = [error for error in errors if error is not None]
    quarantined = [column.filter(pa.array(~good)) for column in reference.columns]
    quarantined += [
        pa.array([error.stage for error in bad], pa.string()),
        pa.array([str(error) for error in bad], pa.string()),
    ]
    return (
        pa.Table.from_arrays(arrays, schema=rows_schema),
        pa.Table.from_arrays(quarantined, schema=schema.QUARANTINE),
    )


def _reference(unit: Unit, tiles: list[_Tile]) -> pa.Table:
    n = len(unit)
    return pa.Table.from_arrays(
        [
            pa.array(np.arange(unit.first, unit.last)),
            pa.array([tile.loc_x for tile in tiles], pa.int32()),
            pa.array([tile.loc_y for tile in tiles], pa.int32()),
            pa.array(np.full(n, unit.source.source, np.int32)),
            pa.array(unit.offsets),
            pa.array(unit.lengths.astype(np.int32)),
        ],
        schema=schema.REFERENCE,
    )


def _vectors(values: NDArray[np.floating], kind: pa.DataType) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, type=kind)
