"""Polygons on a map: files of anybody, and what lies inside, against a plain loop."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raylatent.errors import MapError
from raylatent.explorer.polygon import (
    MAX_BYTES,
    MAX_POINTS,
    MAX_REGIONS,
    Polygon,
    as_json,
    check_map,
    parse_polygons,
    region_of,
)

TRIANGLE = [[0, 0], [1, 0], [0, 1]]


def plain_loop(rings, x, y):
    """The formula of the contract, word for word."""
    inside = False
    for ring in rings:
        for (x1, y1), (x2, y2) in zip(ring, [*ring[1:], ring[0]], strict=True):
            if (y1 > y) != (y2 > y) and x < (x2 - x1) * (y - y1) / (y2 - y1) + x1:
                inside = not inside
    return inside


def by_loop(polygon, xy):
    return [plain_loop(polygon.rings, float(x), float(y)) for x, y in xy]


# Few values, so that places lie on corners, edges and lines through corners.
coarse = st.integers(-4, 4).map(float)
fine = st.floats(-1e3, 1e3, width=32)
wild = st.floats(-1e100, 1e100)


def rings_of(values):
    return st.lists(
        st.lists(st.tuples(values, values), min_size=3, max_size=9).map(tuple),
        min_size=1,
        max_size=3,
    ).map(tuple)


def places_of(values):
    return st.lists(st.tuples(values, values), max_size=40)


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        st.tuples(rings_of(coarse), places_of(coarse)),
        st.tuples(rings_of(fine), places_of(fine)),
        st.tuples(
            rings_of(wild), places_of(st.floats(-(2.0**120), 2.0**120, width=32))
        ),
    )
)
def test_inside_is_what_the_plain_loop_says(case):
    rings, places = case
    polygon = Polygon(rings, "")
    corners = [
        point for ring in rings for point in ring if max(map(abs, point)) < 2.0**120
    ]
    xy = np.array([*places, *corners], np.float32).reshape(-1, 2)
    assert polygon.inside(xy).tolist() == by_loop(polygon, xy)


def test_a_hundred_thousand_places_and_many_edges():
    rng = np.random.default_rng(0)
    angles = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    radii = rng.uniform(0.2, 1, 400)
    ring = tuple(zip(radii * np.cos(angles), radii * np.sin(angles), strict=True))
    hole = tuple((x / 3, y / 3) for x, y in ring)
    xy = rng.normal(size=(100_000, 2)).astype(np.float32)
    polygon = Polygon((ring, hole), "")
    found = polygon.inside(xy)
    some = rng.integers(0, len(xy), 300)
    assert found[some].tolist() == by_loop(polygon, xy[some])
    assert 0.05 < found.mean() < 0.5


@settings(max_examples=60, deadline=None)
@given(st.lists(rings_of(coarse), min_size=1, max_size=4), places_of(coarse))
def test_a_place_is_of_the_first_region_that_has_it(all_rings, places):
    regions = [Polygon(rings, "", str(i)) for i, rings in enumerate(all_rings)]
    xy = np.array(places, np.float32).reshape(-1, 2)
    expected = [
        next((i for i, one in enumerate(regions) if plain_loop(one.rings, x, y)), -1)
        for x, y in xy.tolist()
    ]
    assert region_of(regions, xy).tolist() == expected


def test_self_crossing_rings_and_rings_in_rings_are_even_odd():
    star = [(0, 3), (2, -3), (-3, 1), (3, 1), (-2, -3)]
    centre = np.array([[0, 0]])
    assert not Polygon((tuple(star),), "").inside(centre)[0]
    outer = ((-9, -9), (9, -9), (9, 9), (-9, 9))
    inner = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    assert not Polygon((outer, inner), "").inside(centre)[0]
    assert Polygon((outer, inner, inner), "").inside(centre)[0]


def test_files_have_rings_or_a_polygon_or_are_regions():
    for values in (
        {"map": "d", "rings": [TRIANGLE]},
        {"map": "d", "polygon": TRIANGLE, "drawn": "by hand"},
    ):
        [polygon] = parse_polygons(json.dumps(values).encode(), "p.json")
        assert polygon == Polygon((((0, 0), (1, 0), (0, 1)),), "d")
    regions = [
        {"name": name, "map": "d", "polygon": TRIANGLE} for name in ("ä <b>", "=1+1")
    ]
    read = parse_polygons(json.dumps(regions).encode(), "r.json")
    assert [one.name for one in read] == ["ä <b>", "=1+1"]
    assert parse_polygons(as_json(read), "again") == read
    assert parse_polygons(b"[]", "none") == []


def region(**changes):
    return {"name": "a", "map": "d", "polygon": TRIANGLE, **changes}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (3, "no object, nor a list"),
        ({"rings": [TRIANGLE]}, '"map" is missing'),
        ({"map": 3, "rings": [TRIANGLE]}, '"map" is missing'),
        ({"map": "d"}, 'one of "rings" and "polygon"'),
        ({"map": "d", "rings": [TRIANGLE], "polygon": TRIANGLE}, "one of"),
        ({"map": "d", "rings": []}, "there is no ring"),
        ({"map": "d", "rings": [[]]}, "fewer than 3 points"),
        ({"map": "d", "rings": {"0": TRIANGLE}}, "there is no ring"),
        ({"map": "d", "polygon": TRIANGLE[:2]}, "fewer than 3 points"),
        ({"map": "d", "polygon": [[0, 0], [1, 1], [2, "3"]]}, "no point [x, y]"),
        ({"map": "d", "polygon": [[0, 0], [1, 1], [2, 3, 4]]}, "no point [x, y]"),
        ({"map": "d", "polygon": [[0, 0], [1, 1], [2, True]]}, "no point [x, y]"),
        ({"map": "d", "polygon": [[0, 0], [1, 1], [2, None]]}, "no point [x, y]"),
        ({"map": "d", "polygon": [[0, 0], [1, 1], [2, 10**400]]}, "no point [x, y]"),
        ({"map": "d", "polygon": [[0, 0], [1, 1], 5]}, "no point [x, y]"),
        ([{"map": "d", "polygon": TRIANGLE}], '"name" is'),
        ([region(name="")], '"name" is'),
        ([region(name="a\nb")], '"name" is'),
        ([region(name="a" * 201)], '"name" is'),
        ([region(name=["a"])], '"name" is'),
        ([region(), region()], "two regions are called 'a'"),
        ([region(), 5], "a polygon is no object"),
        ([region(name=str(i)) for i in range(MAX_REGIONS + 1)], "a list of at most"),
        ({"map": "d", "polygon": [[0, 0]] * (MAX_POINTS + 1)}, "more than 100,000"),
        ({"map": "d", "rings": [[[0, 0]] * 3] * 33_334}, "more than 100,000"),
    ],
)
def test_other_files_are_refused(values, says):
    with pytest.raises(MapError) as refused:
        parse_polygons(json.dumps(values).encode(), "p.json")
    message = str(refused.value)
    assert message.startswith("p.json is no polygon file")
    assert says in message


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"[" * 200_000,
        b" " * (MAX_BYTES + 1),
        b'{"map": "d", "polygon": [[0,0],[1,1],[NaN,1]]}',
        b'{"map": "d", "polygon": [[0,0],[1,1],[Infinity,1]]}',
        b'{"map": "d", "polygon": [[0,0],[1,1],[1e999,1]]}',
    ],
)
def test_what_is_no_json_or_not_finite_is_refused(data):
    with pytest.raises(MapError, match="is no polygon file"):
        parse_polygons(data, "p.json")


def test_polygons_of_another_map_are_refused():
    one = Polygon(((),), "a" * 32)
    check_map([one], "a" * 32, "p.json")
    with pytest.raises(MapError, match="drawn on another map"):
        check_map([one], "b" * 32, "p.json")
