"""The pictures of a map in its folder, however many points it has.

One shows all points; small multiples show those of each label by themselves.
"""

import logging
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylatent import schema
from raylatent.mapping import plot
from raylatent.mapping.density import Labels, Parts, density, means
from raylatent.mapping.labels import (
    MOST_ENTRIES,
    MOST_LABELS,
    numbers_of,
    say_too_many_labels,
    scale_of,
)
from raylatent.mapping.plot import PICTURES
from raylatent.montage.points import Label
from raylatent.seal import content_digest
from raylatent.storage import Store, absolute, write_file
from raylatent.stored.manifest import relisted
from raylatent.stored.map_points import (
    iter_places,
    iter_tile_labels,
    points_parts,
    read_points,
    tile_label_names,
    tile_labels,
)

logger = logging.getLogger(__name__)

PICTURE = "umap"  # of a map, beside map.json
BY_LABEL = "umap_by_label"
PICTURE_FILES = tuple(stem + end for stem in (PICTURE, BY_LABEL) for end in PICTURES)

_BLOCK_ROWS = 1 << 16


@dataclass(frozen=True)
class TileLabels:
    """That a map is colored by labels of its tiles; by default these are their own."""

    names: Sequence[str]
    label: Label = tile_labels

    @classmethod
    def of(cls, store: Store) -> "TileLabels | None":
        """Those that a map's tiles have of their own, None where no tile has one.

        Of too many there is none as well, which is said.
        """
        names = tile_label_names(store, points_parts(store), MOST_LABELS)
        if names is None:
            say_too_many_labels()
        return cls(names) if names else None

    @property
    def column(self) -> str:
        """Where they are from, for people."""
        return getattr(self.label, "column", schema.LABEL)


MapLabels = Mapping[str, str] | TileLabels
"""Labels by slide, or those of tiles."""


def labels_on_map(
    slides: Iterable[str], labels: Mapping[str, str] | None
) -> Mapping[str, str] | None:
    """The labels by slide, None where no slide with points has one; said in the log."""
    if labels is None or any(slide in labels for slide in slides):
        return labels
    logger.warning("no slide that has a label has tiles: the map is drawn without")
    return None


def save_pictures(
    store: Store,
    labels: MapLabels | None,
    *,
    n_points: int,
    kinds: Sequence[str] = ("png",),
) -> tuple[list[str], list[str]]:
    """Write a map's pictures beside it; URIs of those by label, and of the others.

    Pictures that are there of an earlier drawing, and are not drawn now, are deleted.
    Without labels of slides on the map, or of tiles, it is colored by slide if these are
    few, and there are none by label; nor of a single label.
    """
    slides = {slide for slide, _ in points_parts(store)}
    if not isinstance(labels, TileLabels):
        by_slide = labels_on_map(slides, labels) or {}
        labels = {s: label for s, label in by_slide.items() if s in slides} or None
    scaled = labels is not None and scale_of(_names_of(labels)) is not None
    if scaled:
        logger.info("labels are numbers: they are drawn on a scale, not each by itself")
    several = labels is not None and len(set(_names_of(labels))) > 1
    stems = (PICTURE, BY_LABEL) if several and not scaled else (PICTURE,)
    if labels is None and len(slides) <= MOST_ENTRIES and scale_of(slides) is None:
        labels = {slide: slide for slide in slides}
    names = [f"{stem}.{kind}" for stem in stems for kind in kinds]
    uris = [f"{store.uri}/{name}" for name in names]
    paths, by_label = uris[: len(kinds)], uris[len(kinds) :]
    with relisted(store.uri) as digests:
        for name in PICTURE_FILES:
            if name not in names:
                store.delete(name)
        saved = save_stored_map(
            store, paths, labels, n_points=n_points, by_label=by_label
        )
        digests.update(zip(names, (saved[uri] for uri in uris), strict=True))
    return by_label, paths


def save_picture(
    path: str, draw: Callable[..., bytes], *args: object, **keywords: object
) -> str:
    """Write a picture, and give the file's digest.

    Args:
        path: A file, local or a URI.
        draw: A function of `mapping.plot` that draws for a file's name.
        *args: What it draws.
        **keywords: Likewise.

    Raises:
        MapError: The file's name has another ending than a picture's.
        StorageError: It could not be written.
    """
    uri = absolute(path)
    data = draw(uri, *args, **keywords)
    write_file(uri, data)
    return content_digest(data)


def save_stored_map(
    store: Store,
    paths: Sequence[str],
    labels: MapLabels | None,
    *,
    n_points: int,
    by_label: Sequence[str] = (),
) -> dict[str, str]:
    """Write a map's pictures, and give their digests by path.

    Of more points than dots can show they are images of counts: then the points are
    read in blocks, and never all of them held. Pictures by label need labels.

    Raises:
        MapError: There are no points, or a path has another ending.
        StorageError: They cannot be read, or it could not be written.
    """
    style = plot.MapStyle()
    digests: dict[str, str] = {}
    dots = None
    if n_points <= plot.MAX_DOTS:
        points = read_points(store)
        own = None if labels is None else _labels_of(points, labels)
        xy = schema.places(points)
        dots = (xy, own)
        for path in paths:
            digests[path] = save_picture(path, plot.map_file, xy, own, style)
        if not by_label:
            return digests
        paths = ()
    if labels is not None and scale_of(_names_of(labels)) is not None:
        of_cells = means(_numbers(store, labels))
        for path in paths:
            digests[path] = save_picture(path, plot.cells_file, of_cells, style)
        return digests
    counted = density(_blocks(store, labels))
    for path in paths:
        digests[path] = save_picture(path, plot.cells_file, counted, style)
    for path in by_label:
        digests[path] = save_picture(path, plot.multiples_file, counted, dots=dots)
    return digests


def _names_of(labels: MapLabels) -> Collection[str]:
    return labels.names if isinstance(labels, TileLabels) else labels.values()


def _labels_of(points: pa.Table, labels: MapLabels) -> NDArray[np.object_]:
    """The label of each point (n,), None where it has none."""
    if isinstance(labels, TileLabels):
        return np.array(labels.label(points).to_pylist(), object)
    return np.array(list(map(labels.get, points[schema.SLIDE].to_pylist())), object)


def _blocks(store: Store, labels: MapLabels | None) -> Parts:
    parts = points_parts(store)

    def blocks() -> Iterator[tuple[NDArray[np.float64], Labels | None]]:
        if isinstance(labels, TileLabels):
            for xy, names in iter_tile_labels(store, parts, labels.label):
                yield xy, Labels.of(names)
            return
        for xy, slides in iter_places(store, parts, _BLOCK_ROWS):
            if labels is None:
                yield xy, None
                continue
            codes = np.repeat(np.arange(len(slides)), [n for _, n in slides])
            yield xy, Labels(codes=codes, names=[labels.get(s) for s, _ in slides])

    return blocks


def _numbers(
    store: Store, labels: MapLabels
) -> Callable[[], Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]]:
    names = _names_of(labels)
    number_of = dict(zip(names, numbers_of(names), strict=True))

    def blocks() -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        for xy, own in _blocks(store, labels)():
            if own is not None:
                numbers = [number_of.get(name, math.nan) for name in own.names]
                yield np.asarray(xy, np.float64), np.array(numbers)[own.codes]

    return blocks
