"""Units on their way to an actor, and what it tells of them: rows, footers, manifests."""

import json

import numpy as np
import pyarrow as pa

from raylatent import schema
from raylatent.errors import StorageError
from raylatent.model.rows import UnitRows
from raylatent.source.units import Source, Unit, UnitPlan, load_unit
from raylatent.storage import FileStat


def unit_footer(unit: Unit, found: UnitRows, fingerprint: str) -> dict[str, str]:
    """What a part says of itself, but for the layers."""
    return {
        schema.FOOTER_FINGERPRINT: fingerprint,
        schema.FOOTER_SLIDE: unit.source.slide,
        schema.FOOTER_SOURCE: source_footer(unit.source),
        schema.FOOTER_UNIT: str(unit.unit),
        schema.FOOTER_FIRST: str(unit.first),
        schema.FOOTER_LAST: str(unit.last),
        schema.FOOTER_QUARANTINED: str(len(found.quarantine)),
    }


def source_footer(source: Source) -> str:
    """The source as it was when the part was made."""
    stat = source.stat
    return json.dumps(
        {
            "id": source.source,
            "size": stat.size,
            "mtime_ns": stat.mtime_ns,
            "etag": stat.etag,
        }
    )


def read_unit(plan: UnitPlan) -> pa.Table:
    """A unit as schema.UNITS, its frames read on the worker that calls this."""
    source = plan.source
    row = {
        schema.SOURCE: source.source,
        schema.SLIDE: source.slide,
        schema.URI: source.uri,
        schema.SIZE: source.stat.size,
        schema.MTIME: source.stat.mtime_ns,
        schema.ETAG: source.stat.etag,
        schema.UNIT: plan.unit,
        schema.FIRST: plan.first,
        schema.OFFSETS: [],
        schema.LENGTHS: [],
        schema.ERROR: None,
    }
    try:
        unit = load_unit(plan)
    except StorageError as error:
        row[schema.ERROR] = str(error)
    else:
        row[schema.OFFSETS] = unit.offsets
        row[schema.LENGTHS] = unit.lengths
    return pa.Table.from_pylist([row], schema=schema.UNITS)


def unit_from_row(row: dict[str, object]) -> Unit:
    """The inverse of `read_unit`, for a unit whose frames could be read."""
    offsets = np.asarray(row[schema.OFFSETS], np.int64)
    stat = FileStat(
        size=row[schema.SIZE],  # type: ignore[arg-type]
        mtime_ns=row[schema.MTIME],  # type: ignore[arg-type]
        etag=row[schema.ETAG],  # type: ignore[arg-type]
    )
    source = Source(
        source=row[schema.SOURCE],  # type: ignore[arg-type]
        slide=row[schema.SLIDE],  # type: ignore[arg-type]
        uri=row[schema.URI],  # type: ignore[arg-type]
        stat=stat,
        n_indexed=len(offsets),
    )
    return Unit(
        source=source,
        unit=row[schema.UNIT],  # type: ignore[arg-type]
        first=row[schema.FIRST],  # type: ignore[arg-type]
        offsets=offsets,
        lengths=np.asarray(row[schema.LENGTHS], np.int64),
    )


def manifest(unit: Unit, found: UnitRows, write_s: float) -> pa.Table:
    """What the driver is told of a unit that is done."""
    row = {
        schema.SLIDE: unit.source.slide,
        schema.UNIT: unit.unit,
        schema.ROWS: len(found.rows),
        schema.QUARANTINED: len(found.quarantine),
        schema.RESIZED: found.counts["resized"],
        schema.OTHER_SLIDE: found.counts["other_slide"],
        schema.DECODE_S: found.seconds["decode"],
        schema.FORWARD_S: found.seconds["forward"],
        schema.WRITE_S: write_s,
        schema.ERROR: None,
    }
    return pa.Table.from_pylist([row], schema=schema.MANIFEST)


def undone(slide: str, unit: int, error: str) -> pa.Table:
    """What the driver is told of a unit that could not be read."""
    counts = (schema.ROWS, schema.QUARANTINED, schema.RESIZED, schema.OTHER_SLIDE)
    seconds = (schema.DECODE_S, schema.FORWARD_S, schema.WRITE_S)
    row = {
        schema.SLIDE: slide,
        schema.UNIT: unit,
        **dict.fromkeys(counts, 0),
        **dict.fromkeys(seconds, 0.0),
        schema.ERROR: error,
    }
    return pa.Table.from_pylist([row], schema=schema.MANIFEST)
