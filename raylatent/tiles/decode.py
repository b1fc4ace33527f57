"""Encoded pictures to pixels."""

from collections.abc import Sequence
from importlib.metadata import version

import numpy as np
import PIL
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from raylatent.errors import ContentError, StorageError
from raylatent.source.picture import (
    BROKEN,
    FORMATS,
    MAX_SIDE_PX,
    is_jpeg,
    open_image,
)
from raylatent.storage import reason

__all__ = ["DECODER", "MAX_SIDE_PX", "decode_image", "open_image"]

_OF_32_BITS = frozenset({"I", "F"})  # what white is, nobody can say
_OTHER_KIND = "subsampling level"  # sampling factors that TurboJPEG has no name for
DECODER = f"pillow-{PIL.__version__}, simplejpeg-{version('simplejpeg')}"


def decode_image(
    image_raw: bytes | memoryview, formats: Sequence[str] = FORMATS
) -> NDArray[np.uint8]:
    """Pixels of a picture, shape (height, width, 3), RGB, uint8.

    Grey pictures are repeated, of 16 bits the upper 8 are taken, transparency is
    dropped as Slideflow drops it. The orientation that a camera may have noted is not
    applied: a tile is as it is stored.

    Args:
        image_raw: The picture's file.
        formats: That it may have.

    Raises:
        ContentError: The picture is broken, of another format, or too large.
        StorageError: The memory does not suffice, which is not the tile's fault.
    """
    image = open_image(image_raw, formats)
    try:
        if is_jpeg(image) and image.mode in {"RGB", "L"}:
            pixels = _strictly(image_raw)
            if pixels is not None:
                return pixels
        if image.format == "TIFF" and image.mode in _OF_32_BITS:
            message = (
                "the picture's pixels are numbers of 32 bits: write them as 8 bits"
            )
            raise ContentError(message, stage="decode")
        image.load()
        if image.mode.startswith("I"):  # Pillow would cut off at 255
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        # Dropped below in any case; palettes would make Pillow warn.
        image.info.pop("transparency", None)
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except MemoryError as error:
        message = (
            f"not enough memory to decode a picture of {image.size[0]} x "
            f"{image.size[1]} px: use fewer workers on a node, or give it more memory"
        )
        raise StorageError(message) from error
    except BROKEN as error:
        message = f"broken picture: {reason(error)}"
        raise ContentError(message, stage="decode") from error


def _strictly(image_raw: bytes | memoryview) -> NDArray[np.uint8] | None:
    """A JPEG's pixels, None where only Pillow knows its kind; ValueError if damaged.

    They are those of Pillow, which makes a grey or garbled picture of damaged data and
    says nothing.
    """
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
            image_raw, "RGB", fastdct=False, fastupsample=False, strict=True
        )
    except ValueError as error:
        if _OTHER_KIND in str(error):
            return None
        raise
    return pixels
