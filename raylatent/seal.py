"""Seals: what a file says of its own bytes, so that any flipped bit shows.

A Parquet file's seal is a value in its footer: a digest of the whole file, the seal
itself taken as zeros. Page checksums see damaged pages alone, a seal sees headers,
statistics and the footer as well, and is checked without decoding anything.
"""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raylatent import schema

DIGEST = "digest"
"""The key of a JSON object's seal."""
FILES = "files"
"""The key under which a JSON object tells the digests of files beside it, by name."""

_BLANK = b"0" * 32
# The footer's entry in Thrift's compact protocol: key, then a string of 32 bytes.
_ENTRY = schema.FOOTER_SEAL.encode() + b"\x18\x20"


def sealed_parquet(
    table: pa.Table, *, level: int = 1, use_dictionary: Sequence[str] = ()
) -> pa.Buffer:
    """A table as a Parquet file with page checksums and a seal.

    The table's metadata goes into the footer.

    Args:
        table: The rows.
        level: Of zstd.
        use_dictionary: Columns that repeat few values.
    """
    sink = io.BytesIO()  # grows by little, Arrow's own by doubling
    with pq.ParquetWriter(
        sink,
        table.schema,
        compression="zstd",
        compression_level=level,
        use_dictionary=list(use_dictionary),
        write_page_checksum=True,
    ) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({schema.FOOTER_SEAL: _BLANK.decode()})
    view = sink.getbuffer()  # no copy: parts may be large
    start = _seal_start(view)
    view[start : start + len(_BLANK)] = _digest(view, start)
    return pa.py_buffer(view)


def seal_of(data: bytes | memoryview) -> str | None:
    """The seal of a Parquet file, None where its bytes are not those that were sealed.

    >>> seal_of(b"PAR1") is None
    True
    """
    try:
        start = _seal_start(data)
    except ValueError:
        return None
    seal = bytes(data[start : start + len(_BLANK)])
    return seal.decode() if seal == _digest(data, start) else None


def seal_in(data: bytes | pa.Buffer) -> str:
    """The seal that `sealed_parquet` has put into a file; its bytes are not checked."""
    view = memoryview(data)
    start = _seal_start(view)
    return bytes(view[start : start + len(_BLANK)]).decode()


def _seal_start(data: bytes | memoryview) -> int:
    """Where the seal begins in a file; ValueError where its footer has none."""
    footer = bytes(data[-8 - int.from_bytes(data[-8:-4], "little") :])
    return len(data) - len(footer) + footer.rindex(_ENTRY) + len(_ENTRY)


def _digest(data: bytes | bytearray | memoryview, start: int) -> bytes:
    """The digest of a file whose seal begins at a byte."""
    view = memoryview(data)
    hasher = hashlib.blake2b(view[:start], digest_size=len(_BLANK) // 2)
    hasher.update(_BLANK)
    hasher.update(view[start + len(_BLANK) :])
    return hasher.hexdigest().encode()


def content_digest(data: bytes | memoryview) -> str:
    """A digest of a file's bytes, for what else tells of the file.

    >>> content_digest(b"")[:8]
    'cae66941'
    """
    hasher = content_hasher()
    hasher.update(data)
    return hasher.hexdigest()


def content_hasher() -> "hashlib.blake2b":
    """What computes the same of a file that comes in pieces."""
    return hashlib.blake2b(digest_size=len(_BLANK) // 2)


def sealed_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same with a digest of all the rest, in place of one that is there.

    >>> json_holds(sealed_json({"a": 1})), json_holds({**sealed_json({"a": 1}), "a": 2})
    (True, False)
    """
    rest = {key: value for key, value in values.items() if key != DIGEST}
    return {**rest, DIGEST: _json_digest(rest)}


def json_holds(values: Mapping[str, Any]) -> bool:
    """Whether a JSON object is as it was sealed; False where it has no seal."""
    if DIGEST not in values:
        return False
    rest = {key: value for key, value in values.items() if key != DIGEST}
    try:
        return bool(values[DIGEST] == _json_digest(rest))
    except RecursionError:  # nothing that we write is so deep
        return False


def parse_json(data: bytes | str) -> dict[str, Any] | None:
    """A JSON object, None where the text is none: whoever wrote it.

    >>> parse_json(b'{"a": 1}'), parse_json(b"[1]"), parse_json(b"[" * 200_000)
    ({'a': 1}, None, None)
    """
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def _json_digest(values: Mapping[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return content_digest(text.encode())
