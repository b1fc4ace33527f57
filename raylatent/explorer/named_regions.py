"""Named regions of a map: their names are labels of the tiles that lie in them.

`maps/<name>/regions.json` has them; a map that takes the place of theirs has none of their
names. So are the names of clusters; where a map has both, regions come first.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from raylatent import schema
from raylatent.errors import MapError
from raylatent.explorer import polygon
from raylatent.run.layout import REGIONS_JSON
from raylatent.seal import DIGEST, content_digest
from raylatent.storage import Store
from raylatent.stored.manifest import relisted
from raylatent.stored.map_clusters import ClusterLabels, cluster_labels
from raylatent.stored.map_points import StoredPoints
from raylatent.stored.maps import read_info

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RegionLabels:
    """The label of a place is the name of the first region that has it, in this order."""

    regions: tuple[polygon.Polygon, ...]

    column: ClassVar[str] = "region"

    @property
    def names(self) -> list[str]:
        """Of all regions, sorted."""
        return sorted(one.name for one in self.regions)

    def __call__(self, points: pa.Table) -> pa.StringArray:
        """Labels of points with `x` and `y`, row for row, null outside of all regions."""
        numbers = polygon.region_of(self.regions, schema.places(points))
        names = pa.array([one.name for one in self.regions], pa.string())
        return names.take(pa.array(numbers, mask=numbers < 0))


def put_regions(
    stored: StoredPoints, regions: Sequence[polygon.Polygon], what: str
) -> None:
    """Put regions of a file beside their map; none takes away those that are there.

    Raises:
        MapError: They were drawn on another map, or one has no name.
        ClaimError: Another driver works on the run.
    """
    polygon.check_map(regions, stored.info[DIGEST], what)
    if not all(one.name for one in regions):
        message = f'{what} has no "name": a label is to be given one'
        raise MapError(message)
    with relisted(stored.store.uri) as digests:
        if regions:
            data = polygon.as_json(regions)
            stored.store.write(REGIONS_JSON, data)
            digests[REGIONS_JSON] = content_digest(data)
        else:
            stored.store.delete(REGIONS_JSON)


def region_labels(store: Store) -> RegionLabels | None:
    """The labels by the regions of a map in its folder; None where it has none.

    Those of a map that was here before do not count, which is said.
    """
    if not store.exists(REGIONS_JSON):
        return None
    where = f"{store.uri}/{REGIONS_JSON}"
    regions = polygon.parse_polygons(store.read(REGIONS_JSON), where)
    if any(one.map != read_info(store)[DIGEST] for one in regions):
        logger.warning("%s is of a map that was here before: it labels nothing", where)
        return None
    return RegionLabels(tuple(regions)) if regions else None


def stored_labels(store: Store, which: str = "") -> RegionLabels | ClusterLabels | None:
    """The labels of tiles that were stored beside a map; None where it has none.

    Args:
        store: The map's folder.
        which: `region` or `cluster`; empty: regions, else clusters.

    Raises:
        MapError: It has none of these.
    """
    found: RegionLabels | ClusterLabels | None = None
    if which != ClusterLabels.column:
        found = region_labels(store)
    if found is None and which != RegionLabels.column:
        found = cluster_labels(store)
    if which and found is None:
        verb = "cluster" if which == ClusterLabels.column else "label"
        message = (
            f"{store.uri} has no labels by {which}: run `raylatent {verb}` first, or "
            "give --annotations with the column"
        )
        raise MapError(message)
    return found
