"""The run directory: its layout, what is in it, and what is done."""

from raylatent.parts import Part
from raylatent.run.directory import (
    ACTIVATIONS,
    MAPS,
    MOSAICS,
    QUARANTINE,
    REMOVED,
    REPORT,
    SOURCES,
    RunDirectory,
    read,
)
from raylatent.run.litter import remove_litter
from raylatent.run.settings import RUN_JSON, fingerprint

__all__ = [
    "ACTIVATIONS",
    "MAPS",
    "MOSAICS",
    "QUARANTINE",
    "REMOVED",
    "REPORT",
    "RUN_JSON",
    "SOURCES",
    "Part",
    "RunDirectory",
    "fingerprint",
    "read",
    "remove_litter",
]
