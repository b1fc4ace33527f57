"""Micrometers a pixel, as a slide's properties tell them."""

import math
from collections.abc import Mapping

_UM = {"inch": 25_400.0, "centimeter": 10_000.0}
_PRINTER_UM = 20.0  # 1,200 dots an inch are 21 µm; no scanner is as coarse as printers
_GENERIC = "generic-tiff"


def mpp_of(properties: Mapping[str, str]) -> float | None:
    """µm a pixel of level 0, along x; None where the slide does not say.

    `openslide.mpp-x`, which OpenSlide has of the vendor's own words (DICOM's pixel
    spacing, Aperio's MPP); else TIFF's resolution tags. A resolution of printers, such as
    72 dots an inch, is what programs write that know none: it says nothing.

    >>> mpp_of({"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.25"})
    0.25
    >>> mpp_of({"tiff.XResolution": "72", "tiff.ResolutionUnit": "inch"}) is None
    True
    """
    own = _first(properties, "openslide.mpp-x", "openslide.mpp-y")
    if own is not None and properties.get("openslide.vendor") != _GENERIC:
        return own
    unit = _UM.get(properties.get("tiff.ResolutionUnit", ""))
    tag = _first(properties, "tiff.XResolution", "tiff.YResolution")
    if own is None and unit is not None and tag is not None:
        own = unit / tag
    return own if own is not None and own < _PRINTER_UM else None


def _first(properties: Mapping[str, str], *names: str) -> float | None:
    """The first of some properties that is a number above 0."""
    for name in names:
        try:
            value = float(properties.get(name, ""))
        except ValueError:
            continue
        if 0 < value < math.inf:
            return value
    return None
