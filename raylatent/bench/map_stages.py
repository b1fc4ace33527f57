"""Placing and drawing: the stages of map and mosaic by themselves."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import repeat
from math import ceil, sqrt

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylatent import schema
from raylatent.bench.rates import Rate
from raylatent.bench.stopwatch import measure
from raylatent.bench.units import AnyUnit
from raylatent.bench.whole import LEAST_ROWS
from raylatent.mapping.fit import fit_map
from raylatent.mapping.parameters import MapParameters
from raylatent.montage.images import Frame, stored_tiles
from raylatent.montage.output import encode_picture
from raylatent.montage.render import Layout, Look, draw_raster
from raylatent.montage.slide_tiles import SlideTile, WholeSlide, tile_at
from raylatent.source.units import Unit

_DRAWN = 256
_PLACED = 2048
_NOISE = 0.1  # of what the rows vary by
_MOST_BYTES = 256 << 20  # of a sample


def place_rate(
    features: NDArray[np.floating], params: MapParameters, seconds: float
) -> Rate:
    """Rows placed by one thread on a map that is fitted on others.

    Placing takes longer on a larger map: the sample is made as large as the job's, by
    rows that differ a little from those given. A row of the sample itself takes no
    descent, so that half of the rows are for the map and half are placed.

    Args:
        features: Activations (n, d), at least `LEAST_ROWS`.
        params: What the map is to be.
        seconds: How long.
    """
    most = max(LEAST_ROWS, _MOST_BYTES // (4 * features.shape[1]))
    n = min(params.sample, most)
    random = np.random.default_rng(params.seed)
    sample = _distinct(features[::2], n, random)
    rows = _distinct(features[1::2], min(n, _PLACED), random)
    # Where the rows lie does not matter: one epoch.
    other = tuple(sorted({**dict(params.other), "n_epochs": 1}.items()))
    fitted = fit_map(sample, replace(params, other=other))
    fitted.place(rows[:LEAST_ROWS])  # compiled from here on

    def place() -> tuple[int, int]:
        fitted.place(rows)
        return len(rows), 0

    rate = measure(repeat(place), seconds)
    small = n < params.sample
    job = (
        f", the job's by {params.sample:,}: placing takes longer there" if small else ""
    )
    return replace(rate, note=f"on a map of {n:,} rows{job}", at_best=small)


def _distinct(
    rows: NDArray[np.floating], n: int, random: np.random.Generator
) -> NDArray[np.float32]:
    """So many rows (n, d) that are like some, no two alike."""
    some = np.resize(np.arange(len(rows)), n)
    noise = random.standard_normal((n, rows.shape[1]), np.float32)
    noise *= _NOISE * rows.std(axis=0) + np.finfo(np.float32).tiny
    noise += rows[some]
    return noise


def places_of(
    tables: Sequence[tuple[AnyUnit, pa.Table]],
) -> list[Frame | SlideTile]:
    """Where the pixels of some rows are."""
    found: list[Frame | SlideTile] = []
    for unit, table in tables:
        for row in table.select(schema.REFERENCE.names).slice(0, _DRAWN).to_pylist():
            if isinstance(unit, Unit):
                found.append(
                    Frame(
                        uri=unit.source.uri,
                        tile_index=row[schema.TILE_INDEX],
                        offset=row[schema.OFFSET],
                        length=row[schema.LENGTH],
                    )
                )
                continue
            slide = WholeSlide(
                uri=unit.source.uri,
                window_px=unit.geometry.window_px,
                icc=unit.icc,
                tile_px=unit.geometry.tile_px,
            )
            found.append(tile_at(slide, row[schema.LOC_X], row[schema.LOC_Y]))
        if len(found) >= _DRAWN:
            break
    return found[:_DRAWN]


def draw_rate(places: Sequence[Frame | SlideTile], seconds: float) -> Rate:
    """Tiles read again, shrunk, drawn into a mosaic and encoded, by one thread."""
    side = ceil(sqrt(len(places)))
    at = np.arange(len(places))
    layout = Layout(
        rows=at // side,
        cols=at % side,
        n_rows=side,
        n_cols=side,
        colors=[None] * len(places),
    )
    look = Look()

    def draw() -> tuple[int, int]:
        tiles = stored_tiles(places, look.cell_px, n_threads=1)
        raster, failed = draw_raster(layout, look, tiles)
        encode_picture(raster, "PNG")
        return len(places) - len(failed), 0

    return measure(repeat(draw), seconds)
