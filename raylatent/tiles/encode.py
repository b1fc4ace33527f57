"""A unit's tiles as encoded pictures: what becomes the records of a TFRecord."""

from dataclasses import dataclass, replace
from functools import partial

import pyarrow as pa

from raylatent import schema
from raylatent.source.whole_slides import SlideUnit
from raylatent.source.write import encode_tile
from raylatent.source.wsi.regions import SlideCache
from raylatent.tiles.stream import Threads, unit_tiles
from raylatent.tiles.threads import in_order
from raylatent.tiles.tile import Side, Tile, reference_table, split_off_broken

_AHEAD_TILES = 64  # encoded before they are asked for


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What a tile becomes.

    Attributes:
        img_format: `jpg` or `png`.
        jpeg_quality: 1 to 100.
    """

    img_format: str
    jpeg_quality: int


def encoded_unit(
    unit: SlideUnit,
    picture: Picture,
    threads: Threads,
    slides: SlideCache | None = None,
) -> tuple[pa.Table, pa.Table]:
    """A unit of a slide as schema.TILES in tile order, and its schema.QUARANTINE.

    Args:
        unit: Which tiles.
        picture: What they become.
        threads: That read and encode.
        slides: What this worker holds open.

    Raises:
        StorageError: The slide cannot be read, after retries.
    """
    tile_px = unit.geometry.tile_px
    found = unit_tiles(unit, Side(tile_px), threads, slides or SlideCache())
    jobs = (partial(_encoded, tile, picture) for tile in found)
    done = list(in_order(jobs, threads.pool, _AHEAD_TILES))
    done.sort(key=lambda pair: pair[0].position)
    tiles = [tile for tile, _ in done]
    reference, quarantine = split_off_broken(
        reference_table(unit, tiles), [tile.error for tile in tiles]
    )
    images = [image for tile, image in done if tile.error is None]
    columns = [*reference.columns, pa.array(images, pa.large_binary())]
    return pa.Table.from_arrays(columns, schema=schema.TILES), quarantine


def _encoded(tile: Tile, picture: Picture) -> tuple[Tile, bytes]:
    if tile.pixels is None:
        return tile, b""
    image = encode_tile(tile.pixels, picture.img_format, picture.jpeg_quality)
    return replace(tile, pixels=None), image
