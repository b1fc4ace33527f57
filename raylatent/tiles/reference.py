"""References of a unit's tiles, and the quarantine of those that are broken."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raylatent import schema
from raylatent.errors import ContentError
from raylatent.source.grids import SlideUnit
from raylatent.source.units import Unit
from raylatent.tiles.tile import Tile


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
