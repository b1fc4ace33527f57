"""Clusters of a map's tiles: k-means of the sample, every row to its nearest center."""

import json
import logging
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylatent import schema
from raylatent.engine.cluster import STALL_TIMEOUT_S, spread
from raylatent.engine.progress import Progress, still_working
from raylatent.mapping.fitted_map import normalize
from raylatent.mapping.statistics import cluster_centers, nearest_centers
from raylatent.parts import part_name, read_part, write_part
from raylatent.run import Part
from raylatent.run.layout import CLUSTERS, CLUSTERS_JSON
from raylatent.seal import DIGEST, sealed_json
from raylatent.storage import Store
from raylatent.stored.manifest import relisted
from raylatent.stored.map_points import StoredPoints
from raylatent.stored.maps import load_map

logger = logging.getLogger(__name__)

_TOGETHER = 16  # parts of a task


def build_clusters(
    stored: StoredPoints, n_clusters: int, stall_timeout_s: float = STALL_TIMEOUT_S
) -> list[int]:
    """Store the cluster of each tile beside the points of a map.

    Clusters are of activations, as the map's metric has them (cosine: of length 1), not
    of places on the map, and fitted on the map's sample. Of 0 those that are there are
    taken away.

    Returns:
        The tiles of each.

    Raises:
        MapError: It has no model, is of other rows than the run has now, or its sample
            has fewer rows.
        ClaimError: Another driver works on the run.
    """
    stored.check_rows()
    store, run = stored.same(), stored.run
    if n_clusters:
        fitted = load_map(store)
        with still_working("fitting clusters"):
            centers = cluster_centers(fitted.arrays["rows"], n_clusters)
        if len(centers) < n_clusters:
            logger.warning("the sample has no more than %d clusters", len(centers))
    with relisted(store.uri) as digests:
        store.delete(CLUSTERS_JSON)
        store.delete_folder(CLUSTERS)
        if not n_clusters:
            return []
        parts = [part for part in run.footers(run.slides()) if part.rows]
        how = (stored.layer, fitted.sample_metric, fitted.digest, centers)

        def assign(some: Sequence[Part]) -> tuple[dict[str, str], Counter[int]]:
            # The centers go to a worker with this function, once.
            return assign_parts(run.store, store, some, *how)

        starts = range(0, len(parts), _TOGETHER)
        calls = [(parts[i : i + _TOGETHER],) for i in starts]
        sizes: Counter[int] = Counter()
        with Progress("cluster", sum(part.rows for part in parts)) as progress:
            for found, counts in spread(assign, calls, stall_timeout_s):
                digests.update(found)
                sizes.update(counts)
                progress.add(counts.total())
        about = {
            "map": stored.info[DIGEST],
            "n": len(centers),
            "rows": sizes.total(),
            "sizes": [sizes[number + 1] for number in range(len(centers))],
            "layer": stored.layer,
            "metric": fitted.sample_metric,
        }
        stored.same()
        told = sealed_json(about)
        # Last, since it says that they are whole.
        store.write(CLUSTERS_JSON, f"{json.dumps(told, indent=1)}\n".encode())
        digests[CLUSTERS_JSON] = told[DIGEST]
    return list(told["sizes"])


def assign_parts(
    rows: Store,
    store: Store,
    parts: Sequence[Part],
    layer: str,
    metric: str,
    model: str,
    centers: NDArray[np.float64],
) -> tuple[dict[str, str], Counter[int]]:
    """Write the clusters of some parts of a run into a map's folder: a task's work.

    Rows of the layer are normalized by the metric; `model` is the digest of the map's
    arrays, for the footers; `centers` are float64 (k, d). Returned are digests of the
    files by name, and the tiles of each cluster.
    """
    digests, sizes = {}, Counter[int]()
    for part in parts:
        table = read_part(rows, part.name, [schema.TILE_INDEX, layer])
        features = schema.vectors(table, layer).astype(np.float32)
        own = 1 + nearest_centers(normalize(features, metric), centers)
        found = pa.table([table[schema.TILE_INDEX], own], schema.CLUSTERS.names)
        footer = {
            schema.FOOTER_SLIDE: part.slide,
            schema.FOOTER_UNIT: str(part.unit),
            schema.FOOTER_MAP: model,
            schema.FOOTER_ROWS: part.footer.get(schema.FOOTER_DIGEST, ""),
        }
        name = part_name(CLUSTERS, part.slide, part.unit)
        digests[name] = write_part(store, name, found.cast(schema.CLUSTERS), footer)
        sizes.update(own.tolist())
    return digests, sizes
