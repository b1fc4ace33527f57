"""The run directory: its layout, what is in it, and what is done."""

from raylatent.parts import Part
from raylatent.run.directory import (
    ExtractionDirectory,
    RunDirectory,
    read,
    remove_litter,
)
from raylatent.run.layout import (
    ACTIVATIONS,
    EXPLORER,
    FINISHED,
    GRIDS,
    MAPS,
    MOSAICS,
    QUARANTINE,
    REMOVED,
    REPORT,
    SOURCES,
    THUMBNAILS,
    TILES,
)
from raylatent.run.settings import (
    IDENTITY,
    OUTPUTS,
    RUN_JSON,
    TILE_LABELS,
    entry_differences,
    fingerprint,
    shortened,
)

__all__ = [
    "ACTIVATIONS",
    "EXPLORER",
    "FINISHED",
    "GRIDS",
    "IDENTITY",
    "MAPS",
    "MOSAICS",
    "OUTPUTS",
    "QUARANTINE",
    "REMOVED",
    "REPORT",
    "RUN_JSON",
    "SOURCES",
    "THUMBNAILS",
    "TILES",
    "TILE_LABELS",
    "ExtractionDirectory",
    "Part",
    "RunDirectory",
    "entry_differences",
    "fingerprint",
    "read",
    "remove_litter",
    "shortened",
]
