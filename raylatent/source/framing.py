"""A TFRecord's framing and checksums.

A record is framed as `uint64 length, uint32 masked CRC32C of the length, payload,
uint32 masked CRC32C of the payload`, little-endian
(https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details).
"""

import struct

from crc32c import crc32c

from raylatent.errors import ContentError

HEADER_BYTES = 12
FRAME_BYTES = HEADER_BYTES + 4
MAX_FRAME_BYTES = (1 << 31) - 1  # a frame's length is an int32 column
MAX_PAYLOAD_BYTES = MAX_FRAME_BYTES - FRAME_BYTES
SUFFIXES = (".tfrecords", ".tfrecord")


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
