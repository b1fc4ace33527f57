"""A record of a TFRecord: its framing with checksums, and the tf.train.Example in it.

A record is framed as `uint64 length, uint32 masked CRC32C of the length, payload,
uint32 masked CRC32C of the payload`, little-endian
(https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details).
The Example holds a tile's picture, slide and location.
"""

import importlib.util
import struct
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from crc32c import crc32c
from google.protobuf.message import DecodeError

from raylatent.errors import ContentError, SourceError
from raylatent.storage import reason

HEADER_BYTES = 12
FRAME_BYTES = HEADER_BYTES + 4
MAX_FRAME_BYTES = (1 << 31) - 1  # a frame's length is an int32 column
SUFFIXES = (".tfrecords", ".tfrecord")
_SHOWN = 40  # characters of a name in a message
_INT32 = range(-(1 << 31), 1 << 31)


def without_ending(name: str) -> str | None:
    """A TFRecord's name or path without its ending; None where it has none.

    >>> without_ending("a.v2.TFRecords"), without_ending("a.tfrecords.bak")
    ('a.v2', None)
    """
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return None


def masked_crc(data: bytes | memoryview) -> int:
    """TFRecord's masked CRC32C.

    >>> hex(masked_crc(b""))
    '0xa282ead8'
    """
    return mask(crc32c(data))


def mask(crc: int) -> int:
    """A CRC32C as TFRecords have it."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def header_length(header: bytes | memoryview) -> int | None:
    """Payload bytes that a 12-byte header tells, None where it is wrong or cut off."""
    if len(header) != HEADER_BYTES:
        return None
    length, crc = struct.unpack("<QI", header)
    return int(length) if masked_crc(header[:8]) == crc else None


def check_frame(frame: memoryview) -> memoryview | ContentError:
    """The payload of one frame, or the ContentError that its checksums give."""
    length = header_length(frame[:HEADER_BYTES])
    whole = len(frame) >= FRAME_BYTES and masked_crc(
        frame[HEADER_BYTES:-4]
    ) == int.from_bytes(frame[-4:], "little")
    if length is None or length + FRAME_BYTES != len(frame):
        return broken_frame(length, one=whole)
    if not whole:
        return ContentError("wrong checksum of the record's payload", stage="read")
    return frame[HEADER_BYTES:-4]


def broken_frame(length: int | None, *, one: bool) -> ContentError:
    """What is said of bytes that are no whole record.

    Where they are is in the tile's row: a reason that many tiles share is counted.

    Args:
        length: Of the payload as a header with a right checksum tells it, if any does.
        one: Whether they are surely one record: all but the header fits.
    """
    if length is not None:
        message = "the record has other bytes in it: it ends before its length does"
    elif one:
        message = "wrong checksum of the record's length: the bytes are one record"
    else:
        message = "no right record length in these bytes: one tile or more"
    return ContentError(message, stage="read")


def frame(payload: bytes) -> bytes:
    """A payload with header and checksums.

    >>> len(frame(b"abc"))
    19
    """
    header = struct.pack("<Q", len(payload))
    return b"".join(
        [
            header,
            struct.pack("<I", masked_crc(header)),
            payload,
            struct.pack("<I", masked_crc(payload)),
        ]
    )


@dataclass(frozen=True)
class TileRecord:
    """What a record says of a tile.

    Attributes:
        image_raw: The encoded picture, JPEG or PNG.
        slide: Its slide's name, None where the record has none.
        loc_x: Center of the tile in level-0 pixels, None where not recorded.
        loc_y: Likewise.
    """

    image_raw: bytes
    slide: str | None = None
    loc_x: int | None = None
    loc_y: int | None = None


@cache
def example_message() -> ModuleType:
    """The protobuf messages that the `tfrecord` package ships.

    Loaded without the package itself, which would import torch in every reader.
    """
    spec = importlib.util.find_spec("tfrecord")
    if spec is None or spec.origin is None:
        message = "the package tfrecord is not installed: pip install tfrecord"
        raise SourceError(message)
    name = "raylatent_tfrecord_example_pb2"
    path = Path(spec.origin).with_name("example_pb2.py")
    file_spec = importlib.util.spec_from_file_location(name, path)
    if file_spec is None or file_spec.loader is None:
        message = f"the package tfrecord lacks {path.name}: install it again"
        raise SourceError(message)
    module = importlib.util.module_from_spec(file_spec)
    sys.modules[name] = module
    file_spec.loader.exec_module(module)
    return module


def parse_example(payload: bytes | memoryview) -> TileRecord:
    """What a record's payload (a serialized tf.train.Example) says of a tile.

    Raises:
        ContentError: It is no Example, has no `image_raw`, or is nowhere on a slide.
    """
    try:
        feature = example_message().Example.FromString(bytes(payload)).features.feature
    except DecodeError as error:
        message = f"not a tf.train.Example: {reason(error)}"
        raise ContentError(message, stage="parse") from error
    image = feature["image_raw"].bytes_list.value if "image_raw" in feature else ()
    if not image:
        names = ", ".join(_shown(name) for name in sorted(feature)[:8]) or "nothing"
        message = f"the record has no image_raw (it has {names})"
        raise ContentError(message, stage="parse")
    slide = feature["slide"].bytes_list.value if "slide" in feature else ()
    return TileRecord(
        image_raw=image[0],
        slide=slide[0].decode("utf-8", "replace") if slide else None,
        loc_x=_location(feature, "loc_x"),
        loc_y=_location(feature, "loc_y"),
    )


def _shown(name: str) -> str:
    """The beginning of a name that a file gives, without what a terminal obeys."""
    return ascii(name[:_SHOWN])[1:-1] + ("..." if len(name) > _SHOWN else "")


def _location(feature: Any, name: str) -> int | None:  # noqa: ANN401
    values = feature[name].int64_list.value if name in feature else ()
    if not values:
        return None
    location = int(values[0])
    if location not in _INT32:
        message = f"{name} has more than 32 bits, which no slide has"
        raise ContentError(message, stage="parse")
    return location
