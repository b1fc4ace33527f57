"""Pictures made small: decoded at a fraction of their size where JPEG allows it.

A JPEG's blocks can be decoded to fewer pixels, which takes half the time of decoding all
of them to average them away.
"""

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from raylatent.source.picture import MAX_SCANS, MAX_SIDE_PX, n_scans
from raylatent.tiles.decode import decode_image

_MARGIN = 1.25  # decoded at least so much larger: 45 dB from decoding it whole
_EIGHTHS = 8
_JPEG = b"\xff\xd8"
_COLORS = ("Gray", "YCbCr")


def shrunk(image_raw: bytes, tile_px: int) -> Image.Image:
    """A JPEG or PNG as RGB, its longer side `tile_px`, antialiased.

    Raises:
        ContentError: The picture is broken, of another format, or too large.
        StorageError: The memory does not suffice.
    """
    found = _part_of_jpeg(image_raw, round(_MARGIN * tile_px))
    if found is not None:
        pixels, size, share = found
        return fitted(Image.fromarray(pixels), size, share, tile_px)
    whole = Image.fromarray(decode_image(image_raw))
    return fitted(whole, whole.size, 1.0, tile_px)


def fitted(
    image: Image.Image, size: tuple[int, int], share: float, tile_px: int
) -> Image.Image:
    """The longer side `tile_px`; as it is where it has that size.

    Args:
        image: RGB.
        size: Width and height of the whole picture.
        share: Of these that `image` has: its last pixels may reach beyond the picture.
        tile_px: How large it is to be.
    """
    longer = max(size)
    if longer == tile_px:
        return image
    width, height = (max(1, round(side * tile_px / longer)) for side in size)
    return image.resize(
        (width, height),
        Image.Resampling.LANCZOS,
        box=(0, 0, size[0] * share, size[1] * share),
        reducing_gap=3.0,
    )


def _part_of_jpeg(
    image_raw: bytes, longer_px: int
) -> tuple[NDArray[np.uint8], tuple[int, int], float] | None:
    """A JPEG's pixels at a fraction of its size; its width and height; the fraction.

    None for all that must be decoded whole, and what is broken, so that it is told why.
    """
    if not image_raw.startswith(_JPEG):
        return None
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(image_raw, strict=True)
        longer = max(height, width)
        refused = longer > MAX_SIDE_PX or n_scans(image_raw) > MAX_SCANS
        if refused or colors not in _COLORS or longer <= longer_px:
            return None
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
            image_raw,
            "RGB",
            fastdct=False,
            fastupsample=False,
            min_height=max(1, height * longer_px // longer),
            min_width=max(1, width * longer_px // longer),
            min_factor=1.01,
            strict=True,
        )
    except (ValueError, MemoryError):
        return None
    for eighths in range(1, _EIGHTHS + 1):
        # As libjpeg rounds: a last pixel may reach beyond the picture.
        shape = (-(-height * eighths // _EIGHTHS), -(-width * eighths // _EIGHTHS))
        if pixels.shape[:2] == shape:
            return pixels, (width, height), eighths / _EIGHTHS
    return None
