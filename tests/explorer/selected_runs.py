"""Runs with a map to select from, and the plain loop that says what is inside."""

import json

import numpy as np

from raylatent import schema
from raylatent.source.protocol import Source, sources_table
from raylatent.storage import FileStat, Store
from raylatent.stored.maps import read_info
from tests.stored_maps import write_map, write_run

SLIDES = {"007": 30, "=2+b": 25, "a'b<script>\"&=%20 ü": 45}
SQUARE = [[-1.1, -1.1], [0.9, -1.1], [0.9, 0.9], [-1.1, 0.9]]


def mapped_run(folder, slides=SLIDES, *, kind="slides", **about):
    """A run with a map, rows of whose parts are shuffled; the run, points by slide.

    Args:
        folder: Of the run.
        slides: Tiles of each.
        kind: Of its sources.
        about: Of each source, as `Source` has it.
    """
    run, points = write_run(folder, slides)
    for number, slide in enumerate(points):
        at = points[slide].schema.get_field_index(schema.SOURCE)
        ids = np.full(slides[slide], number, np.int32)
        field = schema.POINTS.field(schema.SOURCE)
        points[slide] = points[slide].set_column(at, field, [ids])
    sources = [
        Source(
            source=number,
            slide=slide,
            kind=kind,
            stat=FileStat(size=1, mtime_ns=1),
            n_indexed=n,
            **{"uri": f"/nowhere/{number}.svs", **about},
        )
        for number, (slide, n) in enumerate(slides.items())
    ]
    run.write_sources(sources_table(sources))
    write_map(run, points, order=np.random.default_rng(1))
    return run, points


def digest_of(run, name="default"):
    return read_info(Store(f"{run.uri}/maps/{name}"))["digest"]


def polygon_file(path, run, rings=(SQUARE,), **more):
    path.write_text(
        json.dumps({"map": digest_of(run), "rings": [*rings], **more}), "utf-8"
    )
    return path


def regions_file(path, run, **rings):
    regions = [
        {"name": name, "map": digest_of(run), "rings": some}
        for name, some in rings.items()
    ]
    path.write_text(json.dumps(regions), "utf-8")
    return path


def plain_loop(rings, x, y):
    """The formula of the contract, word for word."""
    inside = False
    for ring in rings:
        for (x1, y1), (x2, y2) in zip(ring, [*ring[1:], ring[0]], strict=True):
            if (y1 > y) != (y2 > y) and x < (x2 - x1) * (y - y1) / (y2 - y1) + x1:
                inside = not inside
    return inside


def inside_of(points, rings=(SQUARE,)):
    """[(slide, row)] of the points in rings, by slide, then tile index."""
    return [
        (slide, row)
        for slide in sorted(points)
        for row in points[slide].sort_by("tile_index").to_pylist()
        if plain_loop(rings, row["x"], row["y"])
    ]


def tiles_of(found):
    return [(slide, row["tile_index"]) for slide, row in found]
