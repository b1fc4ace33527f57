"""Every Arrow schema, column name and footer key, written once.

A *reference* is what finds a tile's pixels again: `slide` (the Hive partition, hence
not a column inside a part), then the columns of `REFERENCE`.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylatent.errors import LayerError

SCHEMA_VERSION = 4

SLIDE = "slide"
TILE_INDEX = "tile_index"
LOC_X = "loc_x"
LOC_Y = "loc_y"
SOURCE = "source"
OFFSET = "offset"
LENGTH = "length"
NAME = "name"
LABEL = "label"
PREDICTIONS = "predictions"
X = "x"
Y = "y"
KNN_DISTANCE = "knn_distance"

REFERENCE = pa.schema(
    [
        pa.field(TILE_INDEX, pa.int64(), nullable=False),
        pa.field(LOC_X, pa.int32()),  # tile center, level-0 pixels
        pa.field(LOC_Y, pa.int32()),
        pa.field(SOURCE, pa.int32(), nullable=False),  # id in sources.parquet
        pa.field(OFFSET, pa.int64()),  # frame of the record; null but for TFRecords
        pa.field(LENGTH, pa.int32()),
        pa.field(NAME, pa.string()),  # a picture's path below its source's folder
        pa.field(LABEL, pa.string()),  # of the tile, where its source has one
    ]
)
"""Where a tile's pixels are, and what its source says of it.

`offset` and `length` frame a TFRecord's record.
"""

POINTS = pa.schema(
    [
        *REFERENCE,
        pa.field(X, pa.float32(), nullable=False),
        pa.field(Y, pa.float32(), nullable=False),
        pa.field(KNN_DISTANCE, pa.float32()),
    ]
)
"""A row placed on a map, in UMAP's own coordinates."""

CLUSTER = "cluster"
CLUSTERS = pa.schema(
    [
        pa.field(TILE_INDEX, pa.int64(), nullable=False),
        pa.field(CLUSTER, pa.int32(), nullable=False),  # from 1, the largest
    ]
)
"""The cluster of each row of a part."""

IMAGE_RAW = "image_raw"
TILES = pa.schema([*REFERENCE, pa.field(IMAGE_RAW, pa.large_binary(), nullable=False)])
"""An encoded tile on its way from a slide to a TFRecord."""

STAGE = "stage"
ERROR = "error"
QUARANTINE = pa.schema(
    [
        *REFERENCE,
        pa.field(STAGE, pa.string(), nullable=False),
        pa.field(ERROR, pa.string(), nullable=False),
    ]
)
"""A tile whose content is bad, and why."""

KIND = "kind"
URI = "uri"
PATTERN = "pattern"
SIZE = "size"
MTIME = "mtime"
ETAG = "etag"
N_INDEXED = "n_indexed"
TILE_PX = "tile_px"
TILE_UM = "tile_um"
MPP = "mpp"
WINDOW_PX = "window_px"
BOUNDS_X = "bounds_x"
BOUNDS_Y = "bounds_y"
SOURCES = pa.schema(
    [
        pa.field(SOURCE, pa.int32(), nullable=False),
        pa.field(SLIDE, pa.string(), nullable=False),
        pa.field(KIND, pa.string(), nullable=False),  # see raylatent.source.kinds
        pa.field(URI, pa.string(), nullable=False),
        pa.field(PATTERN, pa.string()),  # of a folder's files that are the slide's
        pa.field(SIZE, pa.int64(), nullable=False),  # bytes
        pa.field(MTIME, pa.timestamp("ns", tz="UTC")),
        pa.field(ETAG, pa.string()),
        pa.field(N_INDEXED, pa.int64(), nullable=False),  # tiles
        pa.field(TILE_PX, pa.int32()),
        pa.field(TILE_UM, pa.float64()),  # as it is: window_px * mpp for slides
        pa.field(MPP, pa.float64()),  # of level 0
        pa.field(WINDOW_PX, pa.int32()),  # side of a tile cut out of level 0
        pa.field(BOUNDS_X, pa.int64()),  # of what was scanned, level-0 pixels
        pa.field(BOUNDS_Y, pa.int64()),
        pa.field(ERROR, pa.string()),  # why the slide, or its rest, was given up
    ]
)
"""The plan: one row a source."""

ROW = "row"
COL = "col"
REASON = "reason"
GRID = pa.schema(
    [
        pa.field(ROW, pa.int32(), nullable=False),
        pa.field(COL, pa.int32(), nullable=False),
        pa.field(LOC_X, pa.int32(), nullable=False),
        pa.field(LOC_Y, pa.int32(), nullable=False),
        pa.field(REASON, pa.string()),  # why it is left out; null: it is kept
    ]
)
"""Every tile of a slide's grid, row by row; kept ones are the slide's tiles, in order."""

UNIT = "unit"
ROWS = "rows"
QUARANTINED = "quarantined"
RESIZED = "resized"
OTHER_SLIDE = "other_slide"
SMALLER_BATCH = "smaller_batch"
CONSTANT = "constant"
READ_S = "read_s"
DECODE_S = "decode_s"
WAIT_S = "wait_s"
TRANSFER_S = "transfer_s"
FORWARD_S = "forward_s"
WRITE_S = "write_s"
READ_CPU_S = "read_cpu_s"
DECODE_CPU_S = "decode_cpu_s"
WRITE_CPU_S = "write_cpu_s"
MANIFEST = pa.schema(
    [
        pa.field(SLIDE, pa.string(), nullable=False),
        pa.field(UNIT, pa.int32(), nullable=False),
        pa.field(ROWS, pa.int64(), nullable=False),
        pa.field(QUARANTINED, pa.int64(), nullable=False),
        pa.field(RESIZED, pa.int64(), nullable=False),
        pa.field(OTHER_SLIDE, pa.int64(), nullable=False),
        pa.field(SMALLER_BATCH, pa.int64(), nullable=False),  # tiles, see FOOTER_BATCH
        pa.field(CONSTANT, pa.string()),  # JSON, see model.layer_checks; null: no row
        pa.field(READ_S, pa.float64(), nullable=False),  # seconds of threads
        pa.field(DECODE_S, pa.float64(), nullable=False),  # likewise
        pa.field(WAIT_S, pa.float64(), nullable=False),  # of the model, for pixels
        pa.field(TRANSFER_S, pa.float64(), nullable=False),
        pa.field(FORWARD_S, pa.float64(), nullable=False),
        pa.field(WRITE_S, pa.float64(), nullable=False),
        pa.field(READ_CPU_S, pa.float64(), nullable=False),  # of those threads
        pa.field(DECODE_CPU_S, pa.float64(), nullable=False),
        pa.field(WRITE_CPU_S, pa.float64(), nullable=False),
        pa.field(ERROR, pa.string()),  # why the unit is left undone
    ]
)
"""What an actor tells the driver of a unit; the part on disk is the truth."""

PATH = "path"
DIGEST = "digest"
LISTED_FILES = pa.schema(
    [
        pa.field(PATH, pa.string(), nullable=False),  # in the run directory
        pa.field(SIZE, pa.int64(), nullable=False),  # bytes
        pa.field(DIGEST, pa.string(), nullable=False),  # as the file's writer gave it
    ]
)
"""The files that a verb left in a run: a part of `manifest/`."""

N = "n"
INDEX = "index"
DISTANCE = "distance"
LABEL_COUNTS = "label_counts"
N_SLIDES = "n_slides"
LABEL_ENTROPY = "label_entropy"
PREDICTIONS_MEAN = "predictions_mean"
KNN_DISTANCE_MEAN = "knn_distance_mean"
WHY = "why"
_PLACES = (TILE_INDEX, LOC_X, LOC_Y)
PICTURE_ROW = "picture_row"
PICTURE_COL = "picture_col"
CELLS = pa.schema(
    [
        pa.field(ROW, pa.int32(), nullable=False),  # 0 is lowest y: rows go upwards
        pa.field(COL, pa.int32(), nullable=False),
        pa.field(X, pa.float64(), nullable=False),  # the cell's center on the map
        pa.field(Y, pa.float64(), nullable=False),
        pa.field(N, pa.int64(), nullable=False),  # points in the cell
        pa.field(INDEX, pa.int64(), nullable=False),  # the chosen point
        pa.field(DISTANCE, pa.float64()),  # by the rule of selection
        pa.field(SLIDE, pa.string()),  # the chosen tile's reference
        *(pa.field(field.name, field.type) for field in REFERENCE),
        pa.field(LABEL_COUNTS, pa.map_(pa.string(), pa.int64())),
        pa.field(N_SLIDES, pa.int64()),  # of the cell's points; null for arrays
        pa.field(LABEL_ENTROPY, pa.float64()),  # of label_counts, in bits
        pa.field(PREDICTIONS_MEAN, pa.list_(pa.float32())),  # of the cell's points
        pa.field(KNN_DISTANCE_MEAN, pa.float64()),  # of those that have one
        pa.field(WHY, pa.string(), nullable=False),  # this tile was chosen
    ]
)
"""A mosaic's occupied cells, the tile chosen for each, and what is in them.

Where cells are moved together, `picture_row` and `picture_col` (int32) follow.
"""

LEVEL = "level"
SINCE = "since"
SINCE_N = "since_n"
TIED = "tied"
TOP_SLIDE = "top_slide"
TOP_SLIDE_N = "top_slide_n"
PICTURE = "picture"
SLOT = "slot"
EXPLORER_CELLS = pa.schema(
    [
        pa.field(LEVEL, pa.int32(), nullable=False),
        pa.field(ROW, pa.int32(), nullable=False),  # 0: the lowest
        pa.field(COL, pa.int32(), nullable=False),
        pa.field(N, pa.int64(), nullable=False),  # tiles in the cell
        pa.field(N_SLIDES, pa.int64(), nullable=False),
        pa.field(SLIDE, pa.string(), nullable=False),  # of the tile that is shown
        *(pa.field(f.name, f.type) for f in REFERENCE if f.name in _PLACES),
        pa.field(X, pa.float32(), nullable=False),  # of that tile, on the map
        pa.field(Y, pa.float32(), nullable=False),
        pa.field(WHY, pa.string(), nullable=False),
        *(pa.field(f.name, f.type) for f in REFERENCE if f.name not in _PLACES),
        pa.field(SINCE, pa.int32(), nullable=False),  # the first level that shows it
        pa.field(SINCE_N, pa.int64(), nullable=False),  # tiles of its cell there
        pa.field(DISTANCE, pa.float64(), nullable=False),
        pa.field(TIED, pa.int64(), nullable=False),  # tiles that are as near
        *(CELLS.field(name) for name in (LABEL_COUNTS, PREDICTIONS_MEAN)),
        CELLS.field(KNN_DISTANCE_MEAN),
        pa.field(TOP_SLIDE, pa.string(), nullable=False),  # with the most tiles
        pa.field(TOP_SLIDE_N, pa.int64(), nullable=False),
        pa.field(PICTURE, pa.int32()),  # that has the tile at its own size
        pa.field(SLOT, pa.int32()),  # in that picture
    ]
)
"""The cells of all levels of an explorer, by level, row and column."""

# Footer keys of a part: all values are UTF-8 strings, JSON where structured.
FOOTER_FINGERPRINT = "raylatent.fingerprint"
FOOTER_SLIDE = "raylatent.slide"
FOOTER_SOURCE = "raylatent.source"  # JSON: id, kind, stat, mpp, window_px
FOOTER_UNIT = "raylatent.unit"
FOOTER_FIRST = "raylatent.first"  # first tile index of the unit
FOOTER_LAST = "raylatent.last"  # one past its last tile index
FOOTER_QUARANTINED = "raylatent.quarantined"
FOOTER_LAYERS = "raylatent.layers"  # JSON: layer -> shape of one tile's activations
FOOTER_BATCH = "raylatent.batch_size"  # only where a GPU had no room for all of it
FOOTER_DIGEST = "raylatent.digest"  # of the column buffers
FOOTER_GRID = "raylatent.grid"  # JSON: what a grid was made with
FOOTER_REMARKS = "raylatent.remarks"  # JSON: sentences on the slide of a grid
FOOTER_THUMBNAIL = "raylatent.thumbnail"  # of a grid: digest of the slide's picture
FOOTER_MAP = "raylatent.map"  # of a points part: digest of the map's arrays
FOOTER_ROWS = "raylatent.rows"  # of a points part: digest of the rows it places
FOOTER_SEAL = "raylatent.seal"  # of the whole file, see raylatent.seal

RESERVED = frozenset({SLIDE, *REFERENCE.names, PREDICTIONS})
"""Names that a layer cannot have, whatever the case."""

_FLOATS = {"float32": pa.float32(), "float16": pa.float16()}


def check_layer_names(layers: list[str]) -> None:
    """Refuse layers whose column would collide, whatever the case.

    Engines compare column names without case, so `Conv` and `conv` are one column.

    Raises:
        LayerError: A layer repeats, or is called as another column.

    >>> check_layer_names(["layer2.1", "conv"])
    """
    seen: dict[str, str] = {name: name for name in RESERVED}
    for layer in layers:
        other = seen.get(layer.casefold())
        if other is not None:
            kind = "column" if other in RESERVED else "layer"
            message = (
                f"layer {layer!r} collides with the {kind} {other!r} (column names are "
                "compared without case): leave one out, or rename the module"
            )
            raise LayerError(message)
        seen[layer.casefold()] = layer


def activations_schema(
    layers: Mapping[str, int], *, dtype: str = "float32", n_classes: int | None = None
) -> pa.Schema:
    """The schema of an activations part.

    Args:
        layers: Number of features of each layer (flattened), in column order.
        dtype: `float32` or `float16`, of the stored activations.
        n_classes: Length of `predictions`, or None for no such column.

    >>> activations_schema({"postconv": 64}).field("postconv").type
    FixedSizeListType(fixed_size_list<item: float not null>[64])
    """
    check_layer_names(list(layers))
    columns = [
        pa.field(layer, vector_type(n, dtype), nullable=False)
        for layer, n in layers.items()
    ]
    if n_classes is not None:
        columns.append(
            pa.field(PREDICTIONS, vector_type(n_classes, "float32"), nullable=False)
        )
    return pa.schema([*REFERENCE, *columns])


def vector_type(n: int, dtype: str) -> pa.DataType:
    """A fixed-size list of `n` floats without nulls."""
    return pa.list_(pa.field("item", _FLOATS[dtype], nullable=False), n)


def vectors(table: pa.Table, column: str) -> NDArray[np.floating]:
    """A column of fixed-size lists as an array (n, width), in its own dtype.

    >>> rows = pa.table({"conv": pa.array([[1, 2], [3, 4]], vector_type(2, "float32"))})
    >>> vectors(rows, "conv").tolist()
    [[1.0, 2.0], [3.0, 4.0]]
    """
    lists = table[column].combine_chunks()
    flat: NDArray[np.floating] = lists.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(lists), lists.type.list_size)


def places(points: pa.Table) -> NDArray[np.float64]:
    """The columns `x` and `y` as an array (n, 2) of float64."""
    columns = [points[name].to_numpy() for name in (X, Y)]
    return np.stack(columns, axis=1).astype(np.float64)
