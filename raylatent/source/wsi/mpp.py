"""Micrometers a pixel: what a slide's file says, what others say, and which is used."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from raylatent.errors import MissingMPPError, SourceError
from raylatent.pixel_size import why_not_mpp

_UM = {"inch": 25_400.0, "centimeter": 10_000.0}
_PRINTER_UM = 20.0  # 1,200 dots an inch are 21 µm; no scanner is as coarse as printers
_GENERIC = "generic-tiff"
_UM_X = 10.0  # µm a pixel times magnification, about: 40x is 0.25 µm a pixel
_SQUARE = 0.05  # x and y may differ by this share
_SAME = 0.01  # what the user's number may differ by without a line
_FEW = 0.03  # likewise of --mpp, which is one for many slides
_OFF_X = 4.0  # times that a magnification and µm a pixel differ by in no microscope
_OVERRULE = "a column mpp of --annotations overrules the file (mpp= of a WSI in Python)"


@dataclass(frozen=True, kw_only=True)
class FileSize:
    """What a slide's file says of the size of its pixels.

    Attributes:
        x: µm a pixel of level 0 along x; None where it does not say.
        y: Likewise along y.
        power: Magnification of the objective.
    """

    x: float | None = None
    y: float | None = None
    power: float | None = None


@dataclass(frozen=True, kw_only=True)
class GivenSize:
    """What a user says of it, µm a pixel of level 0.

    Attributes:
        of_slide: Of this slide: overrules the file.
        of_all: Of all slides: for those whose file does not say.
    """

    of_slide: float | None = None
    of_all: float | None = None


def file_size(properties: Mapping[str, str]) -> FileSize:
    """What a slide's properties tell.

    `openslide.mpp-x` and `-y`, which OpenSlide has of the vendor's own words (DICOM's
    pixel spacing, Aperio's MPP); else TIFF's resolution tags. A resolution of printers,
    such as 72 dots an inch, is what programs write that know none: it says nothing.

    >>> file_size({"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.26"})
    FileSize(x=0.25, y=0.26, power=None)
    >>> file_size({"tiff.XResolution": "72", "tiff.ResolutionUnit": "inch"})
    FileSize(x=None, y=None, power=None)
    """
    x, y = (_number(properties, f"openslide.mpp-{axis}") for axis in "xy")
    generic = properties.get("openslide.vendor") == _GENERIC
    unit = _UM.get(properties.get("tiff.ResolutionUnit", ""))
    if x is None and y is None and unit is not None:
        dots = (_number(properties, f"tiff.{axis}Resolution") for axis in "XY")
        x, y = (None if n is None else unit / n for n in dots)
        generic = True
    x, y = (x if x is not None else y), (y if y is not None else x)
    if generic and x is not None and x >= _PRINTER_UM:
        x = y = None
    return FileSize(x=x, y=y, power=_number(properties, "openslide.objective-power"))


def _number(properties: Mapping[str, str], name: str) -> float | None:
    """A property that is a number above 0."""
    try:
        value = float(properties.get(name, ""))
    except ValueError:
        return None
    return value if 0 < value < math.inf else None


def mpp_of(slide: str, own: FileSize, given: GivenSize) -> float:
    """The µm a pixel that are used: of this slide, of its file, of all slides.

    Args:
        slide: For messages.
        own: What the file says.
        given: What the user says.

    Raises:
        MissingMPPError: Nobody says.
        SourceError: The file says what cannot be, or that pixels are not square.
    """
    if given.of_slide is not None:
        return given.of_slide
    if own.x is None or own.y is None:
        if given.of_all is not None:
            return given.of_all
        raise MissingMPPError(_missing(slide, own))
    if _apart(own.x, own.y) > _SQUARE:
        message = (
            f"slide {slide}: its file says that pixels are not square, {own.x:.4g} µm "
            f"along x and {own.y:.4g} along y, and tiles would be distorted: if that is "
            f"not true, {_OVERRULE}"
        )
        raise SourceError(message)
    why_not = why_not_mpp(own.x)
    if why_not is not None:
        message = (
            f"slide {slide}: its file says {own.x:g} µm a pixel, {why_not}; {_OVERRULE}"
        )
        raise SourceError(message)
    return own.x


def _missing(slide: str, own: FileSize) -> str:
    text = (
        f"slide {slide} does not say how many µm a pixel is: give --mpp "
        "(mpp= in Python), or a column mpp in the annotations"
    )
    if own.power is None:
        return text
    return (
        f"{text}; its file tells of an objective of {own.power:g}x, at which a pixel is "
        f"often about {_UM_X / own.power:.2g} µm"
    )


def remarks_on_mpp(slide: str, own: FileSize, given: GivenSize) -> list[str]:
    """Where the file and the user, or the file and itself, contradict each other.

    >>> remarks_on_mpp("a", FileSize(x=0.05, y=0.05), GivenSize(of_slide=0.5))
    ["slide 'a': its file says 0.05 µm a pixel, you say 0.5 of this slide: mpp 0.5 is used"]
    """
    if own.x is None or own.y is None:
        return []
    of_slide, of_all, power = given.of_slide, given.of_all, own.power
    sides = f"{own.x:.4g} µm a pixel"
    if _apart(own.x, own.y) > _SQUARE:
        sides = f"{own.x:.4g} µm along x and {own.y:.4g} along y"
    if of_slide is not None:
        if max(_apart(own.x, of_slide), _apart(own.y, of_slide)) <= _SAME:
            return []
        return [
            f"slide {slide!r}: its file says {sides}, you say {of_slide:.4g} of this "
            f"slide: mpp {of_slide:.4g} is used"
        ]
    found = []
    if of_all is not None and _apart(own.x, of_all) > _FEW:
        found.append(
            f"slide {slide!r}: its file says {sides}, which is used, not --mpp "
            f"{of_all:.4g}, which is for slides that do not say: {_OVERRULE}"
        )
    if power is not None and _apart(own.x * power, _UM_X) > _OFF_X - 1:
        found.append(
            f"slide {slide!r}: its file says {sides} and an objective of {power:g}x, "
            f"at which a pixel is often about {_UM_X / power:.2g} µm: if the first is "
            f"wrong, {_OVERRULE}"
        )
    return found


def _apart(one: float, other: float) -> float:
    """By what share the larger is larger."""
    return max(one, other) / min(one, other) - 1
