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
MAX_PAYLOAD_BYTES = (1 << 31) - 1 - FRAME_BYTES  # a frame's length is an int32 column
SUFFIXES = (".tfrecords", ".tfrecord")


def masked_crc(data: bytes | memoryview) -> int:
    """TFRecord's masked CRC32C.

    >>> hex(masked_crc(b""))
    '0xa282ead8'
    """
    crc = crc32c(data)
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
    if length is None:
        return ContentError("wrong checksum of the record's length", stage="read")
    if length + FRAME_BYTES != len(frame):
        message = f"record of {length} bytes in a frame of {len(frame)}"
        return ContentError(message, stage="read")
    payload = frame[HEADER_BYTES:-4]
    (crc,) = struct.unpack("<I", frame[-4:])
    if masked_crc(payload) != crc:
        return ContentError("wrong checksum of the record's payload", stage="read")
    return payload


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
