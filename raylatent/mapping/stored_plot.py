"""The picture of a map in its folder, however many points it has."""

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylatent import schema
from raylatent.mapping import plot
from raylatent.mapping.density import Block, density
from raylatent.mapping.points import iter_places, points_parts, read_points
from raylatent.storage import Store

_BLOCK_ROWS = 1 << 16


def save_stored_map(
    store: Store, path: str, labels: Mapping[str, str] | None, *, n_points: int
) -> None:
    """Write a map's picture; with more points than dots can show, an image of counts.

    Then the points are read in blocks, and never all of them held.

    Args:
        store: The map's folder.
        path: The picture, as of `plot.save_map`.
        labels: By slide.
        n_points: Of the map.

    Raises:
        MapError: There are no points, or another ending.
        StorageError: They cannot be read, or it could not be written.
    """
    if n_points <= plot.MAX_DOTS:
        points = read_points(store)
        names = points[schema.SLIDE].to_pylist()
        own = None if labels is None else np.array(list(map(labels.get, names)), object)
        plot.save_map(path, _xy(points), own, plot.MapStyle())
        return
    parts = points_parts(store)

    def blocks() -> Iterator[Block]:
        for xy, runs in iter_places(store, parts, _BLOCK_ROWS):
            own = None
            if labels is not None:
                named = pa.array([labels.get(slide) for slide, _ in runs], pa.string())
                lengths = [n for _, n in runs]
                own = named.take(pa.array(np.repeat(np.arange(len(runs)), lengths)))
            yield xy, own

    plot.save_density(path, density(blocks), plot.MapStyle())


def _xy(points: pa.Table) -> NDArray[np.float64]:
    columns = [points[name].to_numpy() for name in (schema.X, schema.Y)]
    return np.stack(columns, axis=1).astype(np.float64)
