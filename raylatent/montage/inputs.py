"""What a mosaic is made of: arrays, numbers of TFRecord tiles, or points of a map."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import index as as_index
from typing import Any, SupportsIndex

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from raylatent import schema
from raylatent.annotations import tidy
from raylatent.errors import MapError, StorageError
from raylatent.mapping.labels import MOST_LABELS
from raylatent.mapping.point_files import read_vectors
from raylatent.montage.points import (
    HeldParts,
    Label,
    Parts,
    Points,
    StoredPoints,
    as_reference,
    has_predictions,
    knn_distances,
)
from raylatent.montage.sources import (
    Located,
    TFRecords,
    tfrecord_uris,
    unknown,
    where,
)
from raylatent.run import RunDirectory
from raylatent.source.find import slide_name
from raylatent.source.index import TFRecordIndex, index_tfrecord
from raylatent.source.names import (
    SlideLabels,
    is_table,
    labels_given,
    labels_of_slides,
    match,
)
from raylatent.source.protocol import Place
from raylatent.source.record import SUFFIXES
from raylatent.source.tfrecords import Frame, frame_of
from raylatent.storage import absolute
from raylatent.tiles.fetch import check_array

logger = logging.getLogger(__name__)

MAX_FEATURE_BYTES = 4 << 30

Labels = SlideLabels | Sequence[object]
Frames = Callable[[pa.Table], list[Place]]


def as_xy(coords: ArrayLike) -> NDArray[np.float64]:
    """Coordinates as an array of shape (n, 2), float64."""
    try:
        xy = np.asarray(coords, np.float64)
    except (TypeError, ValueError) as error:
        message = "coords are not numbers: give an (x, y) for each image"
        raise MapError(message) from error
    if xy.size == 0:
        return xy.reshape(0, 2)
    if xy.ndim != 2 or xy.shape[1] != 2:
        message = f"coords have shape {xy.shape}: give (n, 2), an (x, y) for each image"
        raise MapError(message)
    return xy


def feature_array(features: ArrayLike, n: int) -> NDArray[np.floating[Any]]:
    """Features as an array of shape (n, d)."""
    array: NDArray[Any] = np.asarray(features)
    if array.ndim != 2 or len(array) != n or array.dtype.kind not in "fiu":
        message = (
            f"features have shape {array.shape} and dtype {array.dtype}: give numbers, "
            f"({n}, n_features), a row for each point"
        )
        raise MapError(message)
    return array


def label_array(
    labels: Labels, slides: pa.ChunkedArray | None, n: int
) -> pa.StringArray:
    """A label for each of n points, null where it has none.

    Args:
        labels: By slide, as of `source.names.labels_given`, or one for each point. A
            Series whose index has no name twice and names slides is by slide.
        slides: Of the points; None for arrays.
        n: Number of points.
    """
    names = None if slides is None else pc.unique(slides).to_pylist()
    if are_by_slide(labels, names):
        if slides is None or names is None:
            message = "labels by slide need slides: give a label for each image"
            raise MapError(message)
        return labels_of(labels_of_slides(labels, names), slides)
    if len(labels) != n:
        message = f"there are {n} points and {len(labels)} labels: give as many"
        raise MapError(message)
    if isinstance(labels, pa.Array | pa.ChunkedArray):
        labels = labels.to_pylist()
    return pa.array([_label(value) for value in labels], pa.string())


def are_by_slide(labels: Labels, slides: list[str] | None) -> bool:
    """Whether labels are by slide; a Series only if its index names slides, each once."""
    if isinstance(labels, pd.Series):
        index = labels.index
        once = slides is not None and index.is_unique and index.dtype.kind not in "iuf"
        return once and bool(match(((str(i), True) for i in index), slides or ()))
    return isinstance(labels, Mapping) or is_table(labels)


def labels_of(
    by_slide: Mapping[str, object], slides: pa.ChunkedArray
) -> pa.StringArray:
    """The label of each point, null where it has none.

    Args:
        by_slide: By the slides' own names.
        slides: Of the points.
    """
    encoded = slides.combine_chunks().dictionary_encode()
    values = [_label(by_slide.get(name)) for name in encoded.dictionary.to_pylist()]
    return pa.array(values, pa.string()).take(encoded.indices)


def labels_of_points(
    by_slide: Mapping[str, object], points: pa.Table
) -> pa.StringArray:
    """The same of a block of points."""
    return labels_of(by_slide, points[schema.SLIDE])


def _label(value: object) -> str | None:
    missing = pd.api.types.is_scalar(value) and pd.isna(value)
    return None if missing else tidy(str(value)) or None


def prediction_array(table: pa.Table) -> NDArray[np.floating[Any]] | None:
    """The column `predictions` of lists of as many numbers (n, classes), if any.

    Raises:
        MapError: Lists are lacking, or differ in length.
    """
    if schema.PREDICTIONS not in table.column_names:
        return None
    column = table[schema.PREDICTIONS].combine_chunks()
    lists = column.cast(pa.list_(pa.float32()))
    lengths = set(lists.value_lengths().to_pylist())
    if len(lengths) > 1 or None in lengths:
        message = "predictions of points must be lists of as many numbers, none null"
        raise MapError(message)
    values = lists.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(lists), -1) if len(lists) else None


@dataclass(frozen=True, kw_only=True, eq=False)
class Inputs:
    """A mosaic's points, and the way to their pixels.

    Attributes:
        xy: Places, shape (n, 2).
        reference: Columns of `points.REFERENCE`, n rows; None for arrays.
        arrays: The pictures themselves, or None.
        frames: For a table of cells, where their tiles are; None if unknown.
        measures: `predictions` and `knn_distance` of the points, or None.
        stored: Where the points lie instead, and are read from part by part.
    """

    xy: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 2)))
    reference: pa.Table | None = None
    arrays: list[NDArray[np.uint8]] | None = None
    frames: Frames | None = None
    measures: Mapping[str, Any] = field(default_factory=dict)
    stored: StoredPoints | None = None

    def parts(self, labels: Labels | Label | None, features: ArrayLike | None) -> Parts:
        """The points with labels and features (n, d), in parts."""
        if self.stored is not None:
            if features is not None:
                message = "stored points take labels by slide, and no features"
                raise MapError(message)
            if labels is None or callable(labels):
                return self.stored.labeled(labels)
            # Which slides have none was said by whoever read the labels.
            by_slide = match(labels_given(labels).items(), self.stored.slides)
            return self.stored.labeled(partial(labels_of_points, by_slide))
        if callable(labels):
            message = "labels are a function: give them by slide, or one for each image"
            raise MapError(message)
        n = len(self.xy)
        slides = None if self.reference is None else self.reference[schema.SLIDE]
        points = Points.of(
            self.xy,
            reference=self.reference,
            labels=None if labels is None else label_array(labels, slides, n),
            features=None if features is None else feature_array(features, n),
            **self.measures,
        )
        return HeldParts(points)


def from_any(
    images: Any,  # noqa: ANN401
    coords: ArrayLike | None,
    tfrecords: TFRecords | None,
) -> Inputs:
    """By what `images` is: a SlideMap or table, tuples, or arrays."""
    if isinstance(images, StoredPoints):
        _refuse_coords(coords)
        given = where(images.run, tfrecords, images.slides)
        return Inputs(stored=images, frames=_frames(given))
    points = getattr(images, "points", images)
    if not hasattr(points, "__arrow_c_stream__"):
        return from_images(points, coords, tfrecords)
    _refuse_coords(coords)
    if tfrecords is None:
        tfrecords = getattr(images, "tfrecords", None)
    table, run = pa.table(points), getattr(images, "run", None)
    if run is not None:
        table = _with_predictions(run, table)
    return from_table(table, tfrecords)


def _refuse_coords(coords: ArrayLike | None) -> None:
    if coords is not None:
        message = "the points of a map have their coordinates: leave out coords"
        raise MapError(message)


def from_images(
    images: Sequence[object], coords: ArrayLike | None, tfrecords: TFRecords | None
) -> Inputs:
    """Of arrays, or of (TFRecord or slide, index) tuples, with coordinates.

    Raises:
        MapError: They do not fit together, or a tuple names what is not there.
    """
    if coords is None:
        message = "a mosaic of images needs coords, an (x, y) for each image"
        raise MapError(message)
    xy = as_xy(coords)
    if len(xy) != len(images):
        message = f"there are {len(images)} images and {len(xy)} coords: give as many"
        raise MapError(message)
    if len(images) and _as_pair(images[0]) is not None:
        return _from_tuples(images, xy, tfrecords)
    arrays = [check_array(image, i) for i, image in enumerate(images)]
    return Inputs(xy=xy, arrays=arrays)


def from_table(points: pa.Table, tfrecords: TFRecords | None) -> Inputs:
    """Of points of a map, with `slide` and the columns of `schema.POINTS`.

    Without `offset` and `length` a record is found by its file's index.

    Raises:
        MapError: A column is missing.
    """
    needed = (schema.SLIDE, schema.TILE_INDEX, schema.X, schema.Y)
    missing = [name for name in needed if name not in points.column_names]
    if missing:
        message = (
            f"points lack the column {missing[0]!r}: a mosaic needs slide, tile_index, "
            "x and y"
        )
        raise MapError(message)
    return Inputs(
        xy=schema.places(points),
        reference=as_reference(points),
        frames=None if tfrecords is None else _frames(tfrecords),
        measures={
            "predictions": prediction_array(points),
            "knn_distance": knn_distances(points),
        },
    )


def _frames(tfrecords: TFRecords) -> Frames:
    """Where the tiles of a table of cells are."""
    if not isinstance(tfrecords, Mapping | str | os.PathLike):
        tfrecords = list(tfrecords)

    def frames(cells: pa.Table) -> list[Place]:
        uris = tfrecord_uris(tfrecords, set(cells[schema.SLIDE].to_pylist()))
        by_source = bool(uris) and isinstance(next(iter(uris)), int)
        keys = cells[schema.SOURCE if by_source else schema.SLIDE].to_pylist()
        if not by_source and not set(keys) <= set(uris):
            named = ((str(slide), uri) for slide, uri in uris.items())
            uris |= match(named, dict.fromkeys(keys)).items()
        for key in dict.fromkeys(keys):
            if key not in uris:
                raise MapError(unknown(key, uris))
        return [
            _place(uris[key], row)
            for key, row in zip(keys, cells.to_pylist(), strict=True)
        ]

    return frames


def _place(source: str | Located, row: Mapping[str, Any]) -> Place:
    """Where a chosen tile's pixels are; `row` is its cell."""
    if isinstance(source, Located):
        return source.place(row)
    return Frame(
        uri=source,
        tile_index=row[schema.TILE_INDEX],
        offset=row[schema.OFFSET],
        length=row[schema.LENGTH],
    )


def _as_pair(image: object) -> tuple[str, object] | None:
    """A (TFRecord or slide, index) tuple; None for anything else."""
    if isinstance(image, tuple | list) and len(image) == 2:
        name, number = image
        if isinstance(name, str | os.PathLike):
            return os.fspath(name), number
    return None


def _from_tuples(
    images: Sequence[object], xy: NDArray[np.float64], tfrecords: TFRecords | None
) -> Inputs:
    known = {} if tfrecords is None else tfrecord_uris(tfrecords)
    uris: dict[str, str] = {}
    indexes: dict[str, TFRecordIndex] = {}
    found: list[Frame] = []
    for position, image in enumerate(images):
        name, number = _pair(image, position)
        if name not in uris:
            uris[name] = _uri_of(name, known, given=tfrecords is not None)
        uri = uris[name]
        if uri not in indexes:
            indexes[uri] = index_tfrecord(uri)
        found.append(frame_of(indexes[uri], uri, number))
    reference = pa.table(
        {
            schema.SLIDE: [slide_name(frame.uri) for frame in found],
            schema.TILE_INDEX: [frame.tile_index for frame in found],
            schema.OFFSET: [frame.offset for frame in found],
            schema.LENGTH: [frame.length for frame in found],
        }
    )

    def frames(cells: pa.Table) -> list[Place]:
        return [found[i] for i in cells[schema.INDEX].to_pylist()]

    return Inputs(xy=xy, reference=as_reference(reference), frames=frames)


def _pair(image: object, position: int) -> tuple[str, int]:
    pair = _as_pair(image)
    if pair is None:
        message = (
            f"images[{position}] is no (TFRecord or slide, index) tuple as the first "
            "is: give only tuples or only arrays"
        )
        raise MapError(message)
    name, number = pair
    if not isinstance(number, SupportsIndex):
        message = f"images[{position}]: the index must be an integer, not {number!r}"
        raise MapError(message)
    return name, as_index(number)


def _uri_of(name: str, known: Mapping[str | int, str | Located], *, given: bool) -> str:
    """The file of a slide, or the file itself where `name` is a path."""
    found = known.get(name)
    if found is None:  # written otherwise
        own = match(
            [(name, True)], [slide for slide in known if isinstance(slide, str)]
        )
        found = known[next(iter(own))] if own else None
    if isinstance(found, str):
        return found
    if name.lower().endswith(SUFFIXES):
        return absolute(name)
    if not given:
        message = (
            f"{name!r} is no path of a TFRecord: to name slides, give tfrecords=, "
            "the files or folders that hold them"
        )
        raise MapError(message)
    raise MapError(unknown(name, known))


def _with_predictions(run: RunDirectory, points: pa.Table) -> pa.Table:
    """Points with their predictions as a column, where the run has any.

    They only tell of the cells: where they cannot be read, points stay without.
    """
    if not has_predictions(run) or not len(points):
        return points
    try:
        values = read_vectors(run, points, schema.PREDICTIONS)
    except (MapError, StorageError) as error:
        logger.warning("the mosaic is made without predictions: %s", error)
        return points
    flat = pa.array(values.ravel(), pa.float32())
    lists = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    return points.append_column(schema.PREDICTIONS, lists)


def label_words(values: "pd.Series[Any] | None") -> list[object] | None:
    """Labels as frames show them; None where there are none.

    Numbers that nearly each tile has of its own, as predictions, are no labels.
    """
    if values is None:
        return None
    if pd.api.types.is_float_dtype(values) and values.nunique() > MOST_LABELS:
        return None
    return list(values.astype(object).where(values.notna(), None))


def check_feature_bytes(run: RunDirectory, layer: str, n_tiles: int) -> None:
    """Refuse to read the activations of too many tiles at once.

    Raises:
        MapError: They are more than 4 GiB.
    """
    dtype = run.settings().get("fields", {}).get("dtype", "float32")
    width = int(np.prod(run.layers().get(layer, (0,))))
    n_bytes = n_tiles * width * np.dtype(dtype).itemsize
    if n_bytes > MAX_FEATURE_BYTES:
        message = (
            f"select='medoid' would read {n_bytes / 2**30:.1f} GiB of features "
            f"({n_tiles:,} tiles), more than {MAX_FEATURE_BYTES >> 30} GiB: "
            "'nearest' needs none, and `raylatent mosaic --select medoid` reads them "
            "part by part"
        )
        raise MapError(message)
