"""What a mosaic is made of: arrays, numbers of TFRecord tiles, or points of a map.

The TFRecords and slides that hold its tiles are found by slide or by source id.
"""

import logging
import os
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from operator import index as as_index
from typing import Any, SupportsIndex

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from raylatent import schema
from raylatent.claim import new_token
from raylatent.errors import MapError, SourceError, StorageError
from raylatent.montage.points import (
    HeldParts,
    Label,
    Labels,
    Parts,
    Points,
    as_reference,
    as_xy,
    feature_array,
    knn_distances,
    label_array,
    labels_of_points,
    prediction_array,
)
from raylatent.run import RunDirectory
from raylatent.source.find import find_tfrecords, slide_name
from raylatent.source.index import TFRecordIndex, index_tfrecord
from raylatent.source.kinds import kind_of, look_again, moved_sources
from raylatent.source.names import (
    labels_given,
    match,
)
from raylatent.source.protocol import Place, Source, sources_from_table
from raylatent.source.record import SUFFIXES
from raylatent.source.tfrecords import TFRECORDS, Frame, frame_of, tfrecords_below
from raylatent.storage import absolute
from raylatent.stored.map_points import (
    StoredPoints,
    has_predictions,
    read_vectors,
)
from raylatent.tiles.fetch import check_array

logger = logging.getLogger(__name__)

_AT_ONCE = 8  # folders that are listed

MAX_FEATURE_BYTES = 4 << 30

Frames = Callable[[pa.Table], list[Place]]


@dataclass(frozen=True)
class Located:
    """A source of a run, and where it is now.

    Attributes:
        source: As planned.
        uri: Where it is.
        icc: Whether colors were converted by the slides' profiles.
    """

    source: Source
    uri: str
    icc: bool = False

    def place(self, row: Mapping[str, Any]) -> Place:
        """Where the pixels of a tile are; MapError if its reference does not tell."""
        return kind_of(self.source).place(self.source, self.uri, row, icc=self.icc)


TFRecords = Mapping[str, str] | Mapping[int, str | Located] | Iterable[str] | str


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


def tfrecord_uris(
    tfrecords: TFRecords, needed: Container[str] | None = None
) -> dict[str | int, str | Located]:
    """TFRecords by slide, or sources by id where that is how they were given.

    Args:
        tfrecords: As of `Mosaic`.
        needed: Slides that are looked for: what is wrong with others does not matter.
    """
    if isinstance(tfrecords, Mapping):
        return {
            key: uri if isinstance(uri, Located) else absolute(uri)
            for key, uri in tfrecords.items()
        }
    if isinstance(tfrecords, str | os.PathLike):
        tfrecords = [os.fspath(tfrecords)]
    paths = [os.fspath(path) for path in tfrecords]
    found = find_tfrecords(paths) if needed is None else tfrecords_below(paths, needed)
    return {slide: absolute(uri) for slide, uri in found.items()}


def unknown(key: object, known: Mapping[str | int, str | Located]) -> str:
    """Says that a slide or source is not among those known."""
    if not isinstance(key, str):
        return f"tfrecords hold no source {key}: they have {few(map(str, known))}"
    near = get_close_matches(key, [str(name) for name in known], n=3)
    hint = f"near it are {few(near)}" if near else f"there are {few(map(str, known))}"
    return f"no slide {key!r} among the tfrecords: {hint}"


def few(names: Iterable[str]) -> str:
    """The first of some names, and how many more there are."""
    shown = list(names)
    more = f" and {len(shown) - 5} more" if len(shown) > 5 else ""
    return (", ".join(shown[:5]) or "none") + more


def where(
    run: RunDirectory,
    given: Any,  # noqa: ANN401  (as of Mosaic)
    needed: Collection[str] | None = None,
) -> Any:  # noqa: ANN401
    """Where a mosaic's tiles are: as given, else as the run knows.

    Folders in which a run's sources are to be found are searched for them.
    """
    if given is None:
        return source_places(run)
    if isinstance(given, Mapping):
        return given
    if set(run.sources()[schema.KIND].to_pylist()) <= {TFRECORDS}:
        return given
    roots = [given] if isinstance(given, str | os.PathLike) else given
    return source_places(run, [os.fspath(root) for root in roots], needed)


def source_places(
    run: RunDirectory,
    roots: Sequence[str] | None = None,
    needed: Collection[str] | None = None,
) -> dict[int, str | Located]:
    """A run's sources by id.

    Args:
        run: The run directory.
        roots: Where they are now, if they were moved: files and folders. What is not
            found there is looked for where it was.
        needed: Slides that matter; None: all.

    Raises:
        SourceError: A root is not there, or none of the run's sources is.
    """
    sources = sources_from_table(run.sources())
    icc = bool((run.settings().get("fields", {}).get("slides") or {}).get("icc"))
    if needed is not None:
        sources = [source for source in sources if source.slide in needed]
    moved = {} if roots is None else _below(roots, sources)
    found = {
        source.source: Located(source, moved.get(source.slide, source.uri), icc)
        for source in sources
    }
    other = _changed(found.values())
    if other:
        logger.warning(
            "the tiles of %d slides have changed since the run: what is drawn may be "
            "others than those of its rows: %s",
            *(len(other), few(other)),
        )
    return {**found}


def _changed(found: Iterable[Located]) -> list[str]:
    """Slides whose tiles may be others than those of the rows."""
    look_again(new_token())
    places: dict[str, list[Located]] = {}
    for one in found:
        places.setdefault(one.uri, []).append(one)

    def of_place(some: list[Located]) -> list[str]:
        differs = (kind_of(one.source).differs(one.source, one.uri) for one in some)
        return [
            one.source.slide for one, other in zip(some, differs, strict=True) if other
        ]

    with ThreadPoolExecutor(_AT_ONCE, "sources") as pool:
        return [slide for some in pool.map(of_place, places.values()) for slide in some]


def _below(roots: Sequence[str], sources: Sequence[Source]) -> dict[str, str]:
    """Sources found again by slide, each kind among its own."""
    names = [source.slide for source in sources]
    moved = moved_sources(roots, sources)
    found = {slide: absolute(uri) for slide, uri in moved.items()}
    lost = sorted(set(names) - set(found))
    if lost and not found:
        message = f"{few(roots)} holds none of the run's sources: {few(lost)}"
        raise SourceError(message)
    if lost:
        logger.warning(
            "%d of %d sources are not below %s and are looked for where they were: %s",
            *(len(lost), len(names), few(roots), few(lost)),
        )
    return found
