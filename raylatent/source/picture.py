"""A tile's encoded picture: opened, its size known, not decoded."""

import io
import struct
import zlib
from collections.abc import Sequence

from PIL import Image, UnidentifiedImageError

from raylatent.errors import ContentError
from raylatent.storage import reason

FORMATS = ("JPEG", "PNG")
"""Of pictures in TFRecords."""
FILE_FORMATS = (*FORMATS, "TIFF")
"""Of pictures that are files."""
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
MAX_SIDE_PX = 8192
MAX_BYTES = 64 << 20  # of a file or record: decoding takes several times as many
MAX_SCANS = 100  # each costs time for all of a JPEG; encoders make a dozen
_SCAN = b"\xff\xda"
_TIFF_MARKS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_NO_JPEG = frozenset({"PNG", "TIFF"})  # else JPEG, or a kind of it
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


def open_image(
    image_raw: bytes | memoryview, formats: Sequence[str] = FORMATS
) -> Image.Image:
    """A picture, opened but not decoded.

    Args:
        image_raw: Its file's bytes.
        formats: That it may have.

    Raises:
        ContentError: It is none, larger than `MAX_SIDE_PX` a side, or made to be
            slow.
    """
    try:
        image = Image.open(io.BytesIO(image_raw), formats=tuple(formats))
    except UnidentifiedImageError as error:
        message = "the picture is neither JPEG nor PNG"
        if len(formats) > len(FORMATS):
            message = f"the picture is none of {', '.join(formats)}"
        if "TIFF" in formats and bytes(image_raw[:4]) in _TIFF_MARKS:
            message = (
                "the picture is a TIFF whose kind of pixels Pillow does not know: write "
                "it as grey or RGB of 8 bits"
            )
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
    if is_jpeg(image) and (scans := n_scans(image_raw)) > MAX_SCANS:
        message = f"JPEG of {scans} scans: tiles have at most {MAX_SCANS}"
        raise ContentError(message, stage="decode")
    return image


def is_jpeg(image: Image.Image) -> bool:
    """Whether an opened picture is a JPEG, of whatever kind."""
    return image.format not in _NO_JPEG


def n_scans(image_raw: bytes | memoryview) -> int:
    """How many scans a JPEG has, which is not decoded for it."""
    return bytes(image_raw).count(_SCAN)


def is_picture(name: str) -> bool:
    """Whether a path ends as a picture does; macOS's `._*` are none.

    >>> is_picture("a/b.PNG"), is_picture("a/._b.png"), is_picture("a/b.svs")
    (True, False, False)
    """
    file = name.rsplit("/", 1)[-1]
    return file.lower().endswith(PICTURE_SUFFIXES) and not file.startswith(".")
