"""Encoded pictures to pixels."""

from collections.abc import Sequence
from importlib.metadata import version

import numpy as np
import PIL
import simplejpeg
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

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

# Tags of TIFF, and what they say.
_BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION, _PLANES = 258, 259, 262, 274, 284
_RAW, _WHITE_IS_0, _ONE_BY_ONE = 1, 0, 2
# What undoes the turn that Pillow gives a TIFF of an orientation.
_BACK = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
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
        if isinstance(image, TiffImageFile):
            image = _as_stored(image)
        image.load()
        if image.mode.startswith("I"):
            image = _upper_bits(image, 16)
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


def _as_stored(image: TiffImageFile) -> Image.Image:
    """A TIFF's picture as its file has it, grey ones of 8 bits.

    Raises:
        ContentError: Pillow would give other pixels, or nobody can say what white is.
    """
    tags = image.tag_v2
    bits = max(tags.get(_BITS, (1,)))
    if image.mode in {"I", "F"}:
        message = (
            "the picture's pixels are signed numbers, fractions or numbers of 32 bits: "
            "write them as 8 bits, or 16 bits without sign"
        )
        raise ContentError(message, stage="decode")
    in_planes = (
        tags.get(_PLANES) == _ONE_BY_ONE and tags.get(_COMPRESSION, _RAW) == _RAW
    )
    if bits > 8 and in_planes:
        message = (
            f"the picture's colors have {bits} bits and lie in planes one after the "
            "other, uncompressed, which Pillow garbles: write the colors of each pixel "
            "together, or 8 bits"
        )
        raise ContentError(message, stage="decode")
    turned = image.getexif().get(_ORIENTATION, 1)
    image.load()
    found: Image.Image = image
    if image.mode.startswith("I"):
        found = _upper_bits(image, bits)
        if tags.get(_PHOTOMETRIC) == _WHITE_IS_0:  # which Pillow does for 8 bits
            found = found.point(range(255, -1, -1))
    return found.transpose(_BACK[turned]) if turned in _BACK else found


def _upper_bits(image: Image.Image, bits: int) -> Image.Image:
    """A grey picture's upper 8 bits; Pillow would cut off at 255."""
    return Image.fromarray((np.asarray(image) >> (bits - 8)).astype(np.uint8))


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
