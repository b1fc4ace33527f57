"""The pictures of a map in its folder, however many points it has."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from raylatent import schema
from raylatent.mapping import plot
from raylatent.mapping.density import Labels, Parts, density, means
from raylatent.mapping.legend import numbers_of, scale_of
from raylatent.mapping.multiples import save_multiples
from raylatent.mapping.plot import PICTURES
from raylatent.mapping.points import iter_places, points_parts, read_points
from raylatent.run.manifest import relisted
from raylatent.storage import Store

logger = logging.getLogger(__name__)

PICTURE = "umap"  # of a map, beside map.json
BY_LABEL = "umap_by_label"
PICTURE_FILES = tuple(stem + end for stem in (PICTURE, BY_LABEL) for end in PICTURES)

_BLOCK_ROWS = 1 << 16


def labels_on_map(
    slides: Iterable[str], labels: Mapping[str, str] | None
) -> Mapping[str, str] | None:
    """The labels, None where no slide on the map has one; said in the log.

    Args:
        slides: That have points.
        labels: By slide.
    """
    if labels is None or any(slide in labels for slide in slides):
        return labels
    logger.warning("no slide that has a label has tiles: the map is drawn without")
    return None


def save_pictures(
    store: Store,
    labels: Mapping[str, str] | None,
    *,
    n_points: int,
    kinds: Sequence[str] = ("png",),
) -> tuple[list[str], list[str]]:
    """Write a map's pictures beside it; URIs of those by label, and of the others.

    Pictures that are there of an earlier drawing, and are not drawn now, are deleted.

    Args:
        store: The map's folder.
        labels: By slide; None, or of no slide on the map: no pictures by label.
        n_points: Of the map.
        kinds: `png`, `pdf`, `svg`.
    """
    slides = {slide for slide, _ in points_parts(store)}
    labels = labels_on_map(slides, labels)
    if labels is not None:
        labels = {slide: label for slide, label in labels.items() if slide in slides}
    scaled = labels is not None and scale_of(labels.values()) is not None
    if scaled:
        logger.info("labels are numbers: they are drawn on a scale, not each by itself")
    stems = (PICTURE,) if labels is None or scaled else (PICTURE, BY_LABEL)
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


def save_stored_map(
    store: Store,
    paths: Sequence[str],
    labels: Mapping[str, str] | None,
    *,
    n_points: int,
    by_label: Sequence[str] = (),
) -> dict[str, str]:
    """Write a map's pictures and give their digests by path; with more points than dots can show, images of counts.

    Then the points are read in blocks, and never all of them held.

    Args:
        store: The map's folder.
        paths: Pictures of all points, as of `plot.save_map`.
        labels: By slide.
        n_points: Of the map.
        by_label: Pictures of each label by itself, as of `multiples.save_multiples`;
            there must be labels.

    Raises:
        MapError: There are no points, or another ending.
        StorageError: They cannot be read, or it could not be written.
    """
    style = plot.MapStyle()
    digests: dict[str, str] = {}
    if n_points <= plot.MAX_DOTS:
        points = read_points(store)
        names = points[schema.SLIDE].to_pylist()
        own = None if labels is None else np.array(list(map(labels.get, names)), object)
        for path in paths:
            digests[path] = plot.save_map(path, schema.places(points), own, style)
        if not by_label:
            return digests
        paths = ()
    if labels is not None and scale_of(labels.values()) is not None:
        by_name = dict(zip(labels.values(), numbers_of(labels.values()), strict=True))
        of_cells = means(_blocks(store, labels), by_name)
        for path in paths:
            digests[path] = plot.save_means(path, of_cells, style)
        return digests
    counted = density(_blocks(store, labels))
    for path in paths:
        digests[path] = plot.save_density(path, counted, style)
    for path in by_label:
        digests[path] = save_multiples(path, counted)
    return digests


def _blocks(store: Store, labels: Mapping[str, str] | None) -> Parts:
    parts = points_parts(store)

    def blocks() -> Iterator[tuple[NDArray[np.float64], Labels | None]]:
        for xy, slides in iter_places(store, parts, _BLOCK_ROWS):
            if labels is None:
                yield xy, None
                continue
            codes = np.repeat(np.arange(len(slides)), [n for _, n in slides])
            yield xy, Labels(codes=codes, names=[labels.get(s) for s, _ in slides])

    return blocks
