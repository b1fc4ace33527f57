"""A tile: its pixels at the side that is asked for, or what is wrong with it.

Of a unit's tiles there are references, and the quarantine of those that are broken.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image

from raylatent import schema
from raylatent.errors import ContentError
from raylatent.source.protocol import Chunk, SourceTile, Unit
from raylatent.tiles.decode import decode_image
from raylatent.tiles.threads import Clock


@dataclass(frozen=True)
class Tile:
    """One tile's pixels, or what is wrong with it.

    Attributes:
        position: In its unit, from 0.
        loc_x: Center in level-0 pixels, None where not recorded.
        loc_y: Likewise.
        pixels: (tile_px, tile_px, 3) uint8.
        error: Why there are none.
        resized: Whether it had another size.
        other_slide: Whether its record names another slide.
    """

    position: int
    loc_x: int | None = None
    loc_y: int | None = None
    pixels: NDArray[np.uint8] | None = None
    error: ContentError | None = None
    resized: bool = False
    other_slide: bool = False


@dataclass(frozen=True)
class Side:
    """The side that tiles shall have.

    Attributes:
        tile_px: In pixels.
        resize: Whether tiles of another size are resized; they are bad otherwise.
    """

    tile_px: int
    resize: bool = True

    def fit(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A picture at this size; the same array if it has it.

        Raises:
            ContentError: It has not, and is not to be resized.
        """
        height, width = pixels.shape[:2]
        if not self.resize and (width, height) != (self.tile_px, self.tile_px):
            message = (
                f"picture of {width} x {height} px, not {self.tile_px} x {self.tile_px} "
                "(--resize takes it)"
            )
            raise ContentError(message, stage="decode")
        return resize(pixels, self.tile_px)


def resize(image: NDArray[np.uint8], tile_px: int) -> NDArray[np.uint8]:
    """A picture (h, w, 3) at (tile_px, tile_px, 3); the same array if it has that size.

    Antialiased bicubic, once.
    """
    if image.shape[:2] == (tile_px, tile_px):
        return image
    resized = Image.fromarray(image).resize(
        (tile_px, tile_px), Image.Resampling.BICUBIC
    )
    return np.asarray(resized)


def tile_of(found: SourceTile, side: Side) -> Tile:
    """A tile's pixels, decoded where they are not yet.

    Args:
        found: What its source gave.
        side: What it shall have.

    Raises:
        StorageError: The memory does not suffice.
    """
    tile = Tile(found.position, found.loc_x, found.loc_y)
    content = found.content
    if isinstance(content, ContentError):
        return replace(tile, error=content)
    try:
        image = (
            content
            if isinstance(content, np.ndarray)
            else decode_image(content, found.formats)
        )
        pixels = side.fit(image)
    except ContentError as error:
        return replace(tile, error=error)
    return replace(
        tile,
        pixels=pixels,
        resized=pixels is not image,
        other_slide=found.other_slide,
    )


def chunk_tiles(chunk: Chunk, side: Side, clock: Clock) -> list[Tile]:
    """The tiles of a chunk, decoded; the clock counts what they took."""
    if chunk.stage == "decode":
        with clock.timed("decode"):
            return [tile_of(found, side) for found in chunk.tiles()]
    tiles: list[Tile] = []
    waiting = chunk.tiles()
    while True:
        with clock.timed(chunk.stage):
            found = next(waiting, None)
        if found is None:
            return tiles
        with clock.timed("decode"):
            tiles.append(tile_of(found, side))


def reference_table(unit: Unit, tiles: Sequence[Tile]) -> pa.Table:
    """schema.REFERENCE of a unit's tiles, which are in tile order."""
    columns = {
        schema.TILE_INDEX: pa.array(np.arange(unit.first, unit.last)),
        schema.LOC_X: pa.array([tile.loc_x for tile in tiles], pa.int32()),
        schema.LOC_Y: pa.array([tile.loc_y for tile in tiles], pa.int32()),
        schema.SOURCE: pa.array(np.full(len(unit), unit.source.source, np.int32)),
        **unit.columns(),
    }
    return pa.Table.from_arrays(
        [
            columns[field.name]
            if field.name in columns
            else pa.nulls(len(unit), field.type)
            for field in schema.REFERENCE
        ],
        schema=schema.REFERENCE,
    )


def split_off_broken(
    reference: pa.Table, errors: Sequence[ContentError | None]
) -> tuple[pa.Table, pa.Table]:
    """References of the good tiles, and schema.QUARANTINE of the others.

    Args:
        reference: Of all tiles.
        errors: What is wrong with each, None where nothing is.
    """
    good = pa.array([error is None for error in errors], pa.bool_())
    bad = [error for error in errors if error is not None]
    broken = reference.filter(pc.invert(good))
    quarantine = pa.Table.from_arrays(
        [
            *broken.columns,
            pa.array([error.stage for error in bad], pa.string()),
            pa.array([str(error) for error in bad], pa.string()),
        ],
        schema=schema.QUARANTINE,
    )
    return reference.filter(good), quarantine
