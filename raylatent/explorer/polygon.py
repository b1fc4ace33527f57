"""Polygons on a map: their files, which anybody may have written, and what lies inside.

A polygon file is JSON, `{"map": <digest of map.json>, "rings": [[[x, y], ...], ...]}`;
`"polygon": [[x, y], ...]` is short for one ring. A regions file is a list of these, each
with a `name`.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raylatent.errors import MapError
from raylatent.storage import list_files, open_input, retry

MAX_BYTES = 8 << 20
"""Of a file."""
MAX_POINTS = 100_000
"""Of all rings of a file."""
MAX_REGIONS = 1_000
MAX_NAME = 200
"""Characters of a region's name."""
MAX_COORDINATE = 1e100
"""Of a point: no product of two differences is infinite."""

_MIN_RING = 3

Ring = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Polygon:
    """What rings enclose by the even-odd rule, in the units of a map.

    Attributes:
        rings: Each at least 3 points (x, y); a ring closes by itself.
        map: Digest of the map that it was drawn on.
        name: Of a region, else empty.
    """

    rings: tuple[Ring, ...]
    map: str
    name: str = ""

    @cached_property
    def _edges(self) -> NDArray[np.float64]:
        """Each edge x1, y1, x2, y2 (n, 4), from a point of a ring to the next one."""
        rings = [np.array(ring, np.float64) for ring in self.rings]
        edges = [np.hstack([ring, np.roll(ring, -1, axis=0)]) for ring in rings]
        return np.concatenate(edges)

    @cached_property
    def box(self) -> tuple[float, float, float, float]:
        """Least x and y, largest x and y of what can lie inside.

        Beyond all edges the number of crossings is even as well. What is computed of a
        crossing may be rounded beyond its edge, but not by more than there is room here.
        """
        left, lower = self._edges[:, :2].min(axis=0).tolist()
        right, upper = self._edges[:, :2].max(axis=0).tolist()
        slack = (right - left) + 1e-9 * max(abs(left), abs(right))
        return left - slack, lower, right + slack, upper

    def inside(self, xy: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Which places (n, 2) lie inside, bool (n,).

        A place is inside if a ray to the right crosses the edges an odd number of times;
        an edge is crossed if `(y1 > y) != (y2 > y)` and
        `x < (x2 - x1) * (y - y1) / (y2 - y1) + x1`, in float64 in this order.

        >>> square = Polygon((((0, 0), (2, 0), (2, 2), (0, 2)),), "")
        >>> square.inside(np.array([[1, 1], [3, 1], [0, 0], [2, 2]])).tolist()
        [True, False, True, False]
        """
        # numpy would compare float32 with the bounds in float32.
        xy = np.asarray(xy, np.float64)
        odd = np.zeros(len(xy), np.bool_)
        low, high = np.reshape(self.box, (2, 2))
        near = np.flatnonzero(((xy >= low) & (xy <= high)).all(axis=1))
        near = near[np.argsort(xy[near, 1], kind="stable")]
        x, y = xy[near].T
        ends = np.sort(self._edges[:, [1, 3]], axis=1)
        # (y1 > y) != (y2 > y) is the lower end <= y < the upper one: a run of sorted y.
        runs = np.searchsorted(y, ends)
        with np.errstate(over="ignore", invalid="ignore"):
            for (x1, y1, x2, y2), (start, stop) in zip(self._edges, runs, strict=True):
                if start < stop:
                    at = y[start:stop]
                    crossed = x[start:stop] < (x2 - x1) * (at - y1) / (y2 - y1) + x1
                    odd[near[start:stop]] ^= crossed
        return odd


def region_of(
    polygons: Sequence[Polygon], xy: NDArray[np.floating]
) -> NDArray[np.int32]:
    """The first polygon that each place (n, 2) lies in, int32 (n,); -1 for none."""
    found = np.full(len(xy), -1, np.int32)
    for number in reversed(range(len(polygons))):
        found[polygons[number].inside(xy)] = number
    return found


def parse_polygons(data: bytes, what: str) -> list[Polygon]:
    """The polygons of a file, of anybody; one without name, or regions with a name each.

    Raises:
        MapError: It (`what` in messages) is no such file, or larger than is read.

    >>> [one] = parse_polygons(b'{"map": "d", "polygon": [[0,0],[1,0],[0,1]]}', "p.json")
    >>> one.rings
    (((0.0, 0.0), (1.0, 0.0), (0.0, 1.0)),)
    """
    if len(data) > MAX_BYTES:
        raise _refused(what, f"it has more than {MAX_BYTES >> 20} MiB")
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _refused(what, "it is no JSON") from error
    of_regions = isinstance(values, list)
    given = values if of_regions else [values]
    if not isinstance(values, dict | list) or len(given) > MAX_REGIONS:
        raise _refused(what, f"it is no object, nor a list of at most {MAX_REGIONS}")
    polygons = [_polygon(one, what, named=of_regions) for one in given]
    for name, n in Counter(one.name for one in polygons).items():
        if n > 1:
            raise _refused(what, f"two regions are called {name!r}")
    if sum(len(ring) for one in polygons for ring in one.rings) > MAX_POINTS:
        raise _refused(what, f"it has more than {MAX_POINTS:,} points")
    return polygons


def read_polygons(path: str) -> list[Polygon]:
    """The polygons of a file, local or at a URI; see `parse_polygons`.

    Raises:
        MapError: It is not there, or no such file.
        StorageError: It cannot be read.
    """
    if not list_files(path):
        message = f"there is no polygon file {path}"
        raise MapError(message)
    with open_input(path) as file:  # one byte more tells that it is too large
        data = retry(lambda: file.read(MAX_BYTES + 1), f"read {path}")
    return parse_polygons(data, path)


def check_map(polygons: Sequence[Polygon], digest: str, what: str) -> None:
    """Refuse polygons that were drawn on another map: MapError."""
    for other in polygons:
        if other.map != digest:
            message = (
                f"{what} was drawn on another map (its digest is {other.map[:16]!r}, the "
                f"map's {digest[:16]!r}): draw it again, or choose --map"
            )
            raise MapError(message)


def named(
    polygons: Sequence[Polygon], names: Sequence[str], what: str
) -> list[Polygon]:
    """The polygons of these names, in the file's order; all where none is named.

    Raises:
        MapError: One is not there.
    """
    there = [one.name for one in polygons]
    for name in names:
        if name not in there:
            shown = ", ".join(map(repr, there[:5])) or "none"
            message = f"{what} has no region {name!r}: it has {shown}"
            raise MapError(message)
    return [one for one in polygons if not names or one.name in names]


def listed(polygons: Sequence[Polygon]) -> list[dict[str, Any]]:
    """Regions as a file has them."""
    return [{"name": one.name, "map": one.map, "rings": one.rings} for one in polygons]


def as_json(polygons: Sequence[Polygon]) -> bytes:
    """Regions as a file."""
    return f"{json.dumps(listed(polygons), indent=1, allow_nan=False)}\n".encode()


def _refused(what: str, why: str) -> MapError:
    return MapError(
        f"{what} is no polygon file, {why}: it is to be "
        '{"map": DIGEST, "rings": [[[x, y], ...], ...]}, or a list of these with "name"'
    )


def _polygon(values: Any, what: str, *, named: bool) -> Polygon:  # noqa: ANN401
    if not isinstance(values, dict):
        raise _refused(what, "a polygon is no object")
    digest, name = values.get("map"), values.get("name", "")
    if not isinstance(digest, str):
        raise _refused(what, '"map" is missing')
    is_text = isinstance(name, str) and name.isprintable()
    if (named or "name" in values) and not (is_text and 0 < len(name) <= MAX_NAME):
        raise _refused(what, f'"name" is {str(name)[:40]!r}, no text of one line')
    if ("rings" in values) == ("polygon" in values):
        raise _refused(what, 'there must be one of "rings" and "polygon"')
    rings = values["rings"] if "rings" in values else [values["polygon"]]
    if not isinstance(rings, list) or not rings:
        raise _refused(what, "there is no ring")
    return Polygon(tuple(_ring(ring, what) for ring in rings), digest, name)


def _ring(points: Any, what: str) -> Ring:  # noqa: ANN401
    if not isinstance(points, list) or len(points) < _MIN_RING:
        raise _refused(what, f"a ring has fewer than {_MIN_RING} points")
    for one in points:
        if not (isinstance(one, list) and len(one) == 2 and all(map(_is_place, one))):
            raise _refused(what, f"{str(one)[:40]} is no point [x, y] of numbers")
    return tuple((float(x), float(y)) for x, y in points)


def _is_place(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return -MAX_COORDINATE <= value <= MAX_COORDINATE
