"""The run directory: its layout, what is in it, and what is done."""

from raylatent.parts import Part
from raylatent.run.directory import RunDirectory, read
from raylatent.run.extraction import ExtractionDirectory
from raylatent.run.layout import (
    ACTIVATIONS,
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
from raylatent.run.litter import remove_litter
from raylatent.run.settings import RUN_JSON, fingerprint

__all__ = [
    "ACTIVATIONS",
    "FINISHED",
    "GRIDS",
    "MAPS",
    "MOSAICS",
    "QUARANTINE",
    "REMOVED",
    "REPORT",
    "RUN_JSON",
    "SOURCES",
    "THUMBNAILS",
    "TILES",
    "ExtractionDirectory",
    "Part",
    "RunDirectory",
    "fingerprint",
    "read",
    "remove_litter",
]
