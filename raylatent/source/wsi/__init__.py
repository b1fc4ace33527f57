"""Whole slides through OpenSlide: the only folder that imports it."""

from raylatent.source.wsi.geometry import (
    Geometry,
    TileOptions,
    geometry_of,
    parse_tile_um,
    size_name,
)
from raylatent.source.wsi.handle import READER, SlideHandle, detect_format, longer_side
from raylatent.source.wsi.regions import Region
from raylatent.source.wsi.selection import (
    draw_tiles,
    filter_tiles,
    select_tiles,
    thumbnail,
)
from raylatent.source.wsi.wsi import WSI, open_grid

__all__ = [
    "READER",
    "WSI",
    "Geometry",
    "Region",
    "SlideHandle",
    "TileOptions",
    "detect_format",
    "draw_tiles",
    "filter_tiles",
    "geometry_of",
    "longer_side",
    "open_grid",
    "parse_tile_um",
    "select_tiles",
    "size_name",
    "thumbnail",
]
