"""The picture of a record: opened, its size known, not decoded."""

import io
import struct
import zlib

from PIL import Image, UnidentifiedImageError

from raylatent.errors import ContentError
from raylatent.storage import reason

FORMATS = ("JPEG", "PNG")
MAX_SIDE_PX = 8192
MAX_SCANS = 100  # each costs time for all of a JPEG; encoders make a dozen
_SCAN = b"\xff\xda"
# What decoders raise on broken input.
BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    LookupError,
    ArithmeticError,
    EOFError,
    TypeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Warning,  # where they are made errors
)


def open_image(image_raw: bytes) -> Image.Image:
    """A JPEG or PNG, opened but not decoded.

    Raises:
        ContentError: It is neither, larger than `MAX_SIDE_PX` a side, or made to be
            slow.
    """
    try:
        image = Image.open(io.BytesIO(image_raw), formats=FORMATS)
    except UnidentifiedImageError as error:
        message = "the picture is neither JPEG nor PNG"
        raise ContentError(message, stage="decode") from error
    except BROKEN as error:
        message = f"broken picture: {reason(error)}"
        raise ContentError(message, stage="decode") from error
    if max(image.size) > MAX_SIDE_PX:
        message = (
            f"picture of {image.size[0]} x {image.size[1]} px: tiles have at most "
            f"{MAX_SIDE_PX} px a side"
        )
        raise ContentError(message, stage="decode")
    if image.format != "PNG" and (scans := n_scans(image_raw)) > MAX_SCANS:
        message = f"JPEG of {scans} scans: tiles have at most {MAX_SCANS}"
        raise ContentError(message, stage="decode")
    return image


def n_scans(image_raw: bytes) -> int:
    """How many scans a JPEG has, which is not decoded for it."""
    return image_raw.count(_SCAN)
