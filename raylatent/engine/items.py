"""What an actor tells of a unit: its rows, footer and manifest."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from raylatent import schema
from raylatent.source.grids import SlideUnit
from raylatent.source.units import Source, Unit
from raylatent.tiles.clock import Clock

_WORK_SECONDS = (
    *(schema.READ_S, schema.DECODE_S, schema.WAIT_S),
    *(schema.TRANSFER_S, schema.FORWARD_S, schema.WRITE_S),
)
_CPU_SECONDS = (schema.READ_CPU_S, schema.DECODE_CPU_S, schema.WRITE_CPU_S)


def unit_footer(
    unit: Unit | SlideUnit, n_quarantined: int, fingerprint: str
) -> dict[str, str]:
    """What a part says of itself, but for the layers."""
    return {
        schema.FOOTER_FINGERPRINT: fingerprint,
        schema.FOOTER_SLIDE: unit.source.slide,
        schema.FOOTER_SOURCE: source_footer(unit.source),
        schema.FOOTER_UNIT: str(unit.unit),
        schema.FOOTER_FIRST: str(unit.first),
        schema.FOOTER_LAST: str(unit.last),
        schema.FOOTER_QUARANTINED: str(n_quarantined),
    }


def source_footer(source: Source) -> str:
    """The source as it was when the part was made."""
    stat = source.stat
    about: dict[str, object] = {
        "id": source.source,
        "size": stat.size,
        "mtime_ns": stat.mtime_ns,
        "etag": stat.etag,
    }
    if source.is_slide:
        about |= {"mpp": source.mpp, "window_px": source.window_px}
    return json.dumps(about)


@dataclass(frozen=True, kw_only=True)
class UnitResult:
    """What became of a unit, for its part and for the driver.

    Attributes:
        rows: For its part.
        quarantine: Its bad tiles, as schema.QUARANTINE.
        footer: What its part says beside where it is from.
        counts: `resized`, `other_slide` and `smaller_batch` tiles.
        seconds: Of its stages: `read`, `decode`, `wait`, `transfer`, `forward`.
        cpu: CPU seconds of `read` and `decode`.
        constants: Layers that are the same in all rows, see model.constant.
    """

    rows: pa.Table
    quarantine: pa.Table
    footer: Mapping[str, str] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    cpu: Mapping[str, float] = field(default_factory=dict)
    constants: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def manifest(unit: Unit | SlideUnit, result: UnitResult, written: Clock) -> pa.Table:
    """What the driver is told of a unit that is done; the clock counted `write`."""
    seconds = {**result.seconds, **written.seconds}
    cpu = {**result.cpu, **written.cpu}
    row = {
        schema.SLIDE: unit.source.slide,
        schema.UNIT: unit.unit,
        schema.ROWS: len(result.rows),
        schema.QUARANTINED: len(result.quarantine),
        schema.RESIZED: result.counts.get("resized", 0),
        schema.OTHER_SLIDE: result.counts.get("other_slide", 0),
        schema.SMALLER_BATCH: result.counts.get("smaller_batch", 0),
        schema.CONSTANT: json.dumps(result.constants) if len(result.rows) else None,
        **{
            column: seconds.get(column.removesuffix("_s"), 0.0)
            for column in _WORK_SECONDS
        },
        **{
            column: cpu.get(column.removesuffix("_cpu_s"), 0.0)
            for column in _CPU_SECONDS
        },
        schema.ERROR: None,
    }
    return pa.Table.from_pylist([row], schema=schema.MANIFEST)


def undone(slide: str, unit: int, error: str) -> pa.Table:
    """What the driver is told of a unit that could not be read."""
    counts = (
        *(schema.ROWS, schema.QUARANTINED, schema.RESIZED),
        *(schema.OTHER_SLIDE, schema.SMALLER_BATCH),
    )
    row = {
        schema.SLIDE: slide,
        schema.UNIT: unit,
        **dict.fromkeys(counts, 0),
        **dict.fromkeys((*_WORK_SECONDS, *_CPU_SECONDS), 0.0),
        schema.ERROR: error,
    }
    return pa.Table.from_pylist([row], schema=schema.MANIFEST)
