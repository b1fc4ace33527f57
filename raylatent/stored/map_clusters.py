"""Clusters of a map's tiles in its folder: `clusters/slide=<name>/<unit>.parquet`.

Each file has the rows of the part of activations that is called alike. `clusters.json`,
written last, says of which map they are; a map that takes its place has none.
"""

import logging
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylatent import schema
from raylatent.errors import MapError
from raylatent.montage.points import slide_codes
from raylatent.parts import partition_folder, read_part
from raylatent.run.layout import CLUSTERS, CLUSTERS_JSON
from raylatent.seal import DIGEST, json_holds, parse_json
from raylatent.storage import Store
from raylatent.stored.maps import read_info

logger = logging.getLogger(__name__)

_SLIDES = 8  # whose clusters are held
_NO_TILE = np.iinfo(np.int64).max


@dataclass(frozen=True)
class ClusterLabels:
    """The label of a tile is the name of its cluster, of n in a map's folder."""

    store: Store
    n: int
    digest: str  # of clusters.json: it tells them from others that were there before
    column: ClassVar[str] = schema.CLUSTER

    @property
    def names(self) -> list[str]:
        """Of all clusters, the largest of the sample first."""
        return [f"{self.column} {number}" for number in range(1, self.n + 1)]

    def __call__(self, points: pa.Table) -> pa.StringArray:
        """Labels of points with `slide` and `tile_index`, row for row."""
        return pa.array(self.names, pa.string()).take(pa.array(self.of(points) - 1))

    def of(self, points: pa.Table) -> NDArray[np.int32]:
        """The cluster of each point (n,), from 1.

        Raises:
            MapError: A tile has none.
        """
        found = np.zeros(len(points), np.int32)
        tiles = points[schema.TILE_INDEX].to_numpy()
        codes, slides = slide_codes(pa.chunked_array(points[schema.SLIDE]))
        for code, slide in enumerate(slides):
            rows = np.flatnonzero(codes == code)
            known, clusters = _of_slide(self.store.uri, self.digest, slide)
            at = np.searchsorted(known, tiles[rows])
            if (known[at] != tiles[rows]).any():
                message = (
                    f"tiles of slide {slide!r} lack a cluster in {self.store.uri}: run "
                    "`raylatent cluster` again"
                )
                raise MapError(message)
            found[rows] = clusters[at]
        return found


@lru_cache(maxsize=_SLIDES)
def _of_slide(  # (of another digest they are read anew)
    uri: str, _digest: str, slide: str
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Tile indices of a slide, ascending, and the cluster of each; last one of none."""
    store = Store(uri)
    files = store.list(f"{CLUSTERS}/{partition_folder(slide)}")
    parts = [read_part(store, name, schema.CLUSTERS.names) for name in files]
    columns = ([part[name] for part in parts] for name in schema.CLUSTERS.names)
    tiles, clusters = (np.concatenate([*one, [_NO_TILE]]) for one in columns)
    order = np.argsort(tiles, kind="stable")
    return tiles[order], clusters[order].astype(np.int32)


def cluster_labels(store: Store) -> ClusterLabels | None:
    """The labels by the clusters of a map in its folder; None where it has none.

    Those of a map that was here before do not count, which is said.
    """
    if not store.exists(CLUSTERS_JSON):
        return None
    where = f"{store.uri}/{CLUSTERS_JSON}"
    told = parse_json(store.read(CLUSTERS_JSON))
    if told is None or not json_holds(told):
        message = f"{where} is broken: run `raylatent cluster` again"
        raise MapError(message)
    if told["map"] != read_info(store)[DIGEST]:
        logger.warning("%s is of a map that was here before: it labels nothing", where)
        return None
    return ClusterLabels(store, int(told["n"]), str(told[DIGEST]))
