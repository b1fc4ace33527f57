"""Encoded pictures to pixels."""

import io
import struct
import warnings
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from raylatent.errors import ContentError
from raylatent.storage import reason

DECODER = f"pillow-{Image.__version__}"
FORMATS = ("JPEG", "PNG")
MAX_SIDE_PX = 16_384
# What Pillow's decoders raise on broken input.
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
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
        message = f"picture of {image.size[0]} x {image.size[1]} px is too large"
        raise ContentError(message, stage="decode")
    return image


def decode_image(image_raw: bytes) -> NDArray[np.uint8]:
    """Pixels of a JPEG or PNG, shape (height, width, 3), RGB, uint8.

    Grey pictures are repeated, transparency is dropped as Slideflow drops it. The
    orientation that a camera may have noted is not applied: a tile is as it is stored.

    Raises:
        ContentError: The picture is broken, of another format, or too large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = open_image(image_raw)
            return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except _BROKEN as error:
        message = f"broken picture: {reason(error)}"
        raise ContentError(message, stage="decode") from error
