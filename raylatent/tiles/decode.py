"""Encoded pictures to pixels."""

import io
import struct
import zlib

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from raylatent.errors import ContentError
from raylatent.storage import reason

DECODER = f"pillow-{PIL.__version__}"
FORMATS = ("JPEG", "PNG")
MAX_SIDE_PX = 8192
# What Pillow's decoders raise on broken input.
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    LookupError,
    ArithmeticError,
    EOFError,
    MemoryError,
    TypeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


def open_image(image_raw: bytes) -> Image.Image:
    """A JPEG or PNG, opened but not decoded.

    Raises:
        ContentError: It is neither, or larger than `MAX_SIDE_PX` a side.
    """
    try:
        image = Image.open(io.BytesIO(image_raw), formats=FORMATS)
    except UnidentifiedImageError as error:
        message = "the picture is neither JPEG nor PNG"
        raise ContentError(message, stage="decode") from error
    except _BROKEN as error:
        message = f"broken picture: {reason(error)}"
        raise ContentError(message, stage="decode") from error
    if max(image.size) > MAX_SIDE_PX:
        message = (
            f"picture of {image.size[0]} x {image.size[1]} px: tiles have at most "
            f"{MAX_SIDE_PX} px a side"
        )
        raise ContentError(message, stage="decode")
    return image


def decode_image(image_raw: bytes) -> NDArray[np.uint8]:
    """Pixels of a JPEG or PNG, shape (height, width, 3), RGB, uint8.

    Grey pictures are repeated, of 16 bits the upper 8 are taken, transparency is
    dropped as Slideflow drops it. The orientation that a camera may have noted is not
    applied: a tile is as it is stored.

    Raises:
        ContentError: The picture is broken, of another format, or too large.
    """
    image = open_image(image_raw)
    try:
        image.load()
        if image.mode.startswith("I"):  # Pillow would cut off at 255
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        # Dropped below in any case; palettes would make Pillow warn.
        image.info.pop("transparency", None)
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except _BROKEN as error:
        message = f"broken picture: {reason(error)}"
        raise ContentError(message, stage="decode") from error
