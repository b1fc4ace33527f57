"""A tile: its pixels at the side that is asked for, or what is wrong with it.

Of a unit's tiles there are references, and the quarantine of those that are broken.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image

from raylatent import schema
from raylatent.errors import ContentError
from raylatent.source.grids import SlideUnit
from raylatent.source.record import parse_example
from raylatent.source.units import Unit
from raylatent.tiles.decode import decode_image


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


def tile_of_record(
    position: int, payload: bytes | memoryview | ContentError, slide: str, side: Side
) -> Tile:
    """The tile in a record's payload.

    Args:
        position: In its unit.
        payload: The serialized tf.train.Example, or why it cannot be read.
        slide: Whose tile it should be.
        side: What it shall have.

    Raises:
        StorageError: The memory does not suffice.
    """
    if isinstance(payload, ContentError):
        return Tile(position, error=payload)
    loc_x = loc_y = None
    try:
        record = parse_example(payload)
        loc_x, loc_y = record.loc_x, record.loc_y
        image = decode_image(record.image_raw)
        pixels = side.fit(image)
    except ContentError as error:
        return Tile(position, loc_x, loc_y, error=error)
    return Tile(
        position,
        loc_x,
        loc_y,
        pixels=pixels,
        resized=pixels is not image,
        other_slide=record.slide not in {None, slide},
    )


def reference_table(unit: Unit | SlideUnit, tiles: Sequence[Tile]) -> pa.Table:
    """schema.REFERENCE of a unit's tiles, which are in tile order."""
    n = len(unit)
    frames = [pa.nulls(n, pa.int64()), pa.nulls(n, pa.int32())]
    if isinstance(unit, Unit):
        frames = [pa.array(unit.offsets), pa.array(unit.lengths.astype(np.int32))]
    return pa.Table.from_arrays(
        [
            pa.array(np.arange(unit.first, unit.last)),
            pa.array([tile.loc_x for tile in tiles], pa.int32()),
            pa.array([tile.loc_y for tile in tiles], pa.int32()),
            pa.array(np.full(n, unit.source.source, np.int32)),
            *frames,
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
