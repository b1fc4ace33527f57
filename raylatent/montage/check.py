"""Whether a stored mosaic is whole, and whether a picture is."""

import io
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from PIL import Image

from raylatent import schema
from raylatent.errors import BrokenPartError
from raylatent.montage.output import FILES
from raylatent.run.checked import check_part
from raylatent.seal import content_digest, is_as_written, parse_json
from raylatent.storage import Store

_JSON, _PNG, _CELLS = "mosaic.json", "mosaic.png", "cells.parquet"
_COUNTS = ("drawn", "failed")  # in mosaic.json: together the cells
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, kw_only=True)
class MosaicCheck:
    """What was found of a mosaic.

    Attributes:
        complaints: What is wrong, by the name of the file in the mosaic's folder.
        chosen: Tiles that its cells name: slide, tile_index, offset.
        n_bytes: Of its files.
    """

    complaints: Mapping[str, str] = field(default_factory=dict)
    chosen: pa.Table | None = None
    n_bytes: int = 0


def check_mosaic(store: Store, *, sealed: bool = False) -> MosaicCheck:
    """Read all files of a mosaic's folder; the picture is decoded whole.

    Args:
        store: The mosaic's folder.
        sealed: Whether its files must have seals.

    Raises:
        StorageError: A file cannot be read, after retries.
    """
    complaints: dict[str, str] = {}
    contents: dict[str, bytes] = {}
    for name in (_JSON, _PNG, _CELLS):
        if store.exists(name):
            contents[name] = store.read(name)
        else:
            complaints[name] = "it is missing"
    about = _description(contents[_JSON], sealed=sealed) if _JSON in contents else {}
    if about is None:
        complaints[_JSON] = "it is not as it was written"
    digests: Mapping[str, str] = (about or {}).get(FILES, {})
    if _PNG in contents and (why := picture_complaint(contents[_PNG])):
        complaints[_PNG] = why
    for name in {_PNG, _CELLS} & contents.keys() - complaints.keys():
        if name in digests and digests[name] != content_digest(contents[name]):
            complaints[name] = "it is not the one that mosaic.json tells of"
    chosen = None
    if _CELLS in contents and _CELLS not in complaints:
        chosen, why = _cells(store, about, sealed=sealed)
        complaints |= {} if why is None else {_CELLS: why}
    n_bytes = sum(len(content) for content in contents.values())
    return MosaicCheck(complaints=complaints, chosen=chosen, n_bytes=n_bytes)


def _cells(
    store: Store, about: Mapping[str, Any] | None, *, sealed: bool
) -> tuple[pa.Table | None, str | None]:
    """The chosen tiles, and what is wrong with them."""
    try:
        columns = (schema.SLIDE, schema.TILE_INDEX, schema.OFFSET)
        chosen = check_part(store, _CELLS, columns, sealed=sealed).table
    except BrokenPartError as error:
        return None, str(error).split(" is broken: ", 1)[-1]
    counts = (about or {}).get("counts")
    if counts is None:
        return chosen, None
    n_cells = sum(counts[name] for name in _COUNTS)
    if n_cells == len(chosen):
        return chosen, None
    return chosen, f"it has {len(chosen)} cells, not {n_cells}"


def _description(content: bytes, *, sealed: bool) -> dict[str, Any] | None:
    """What mosaic.json holds, None where it is broken."""
    about = parse_json(content)
    if about is None or not is_as_written(about, sealed=sealed):
        return None
    empty = {FILES: {}, "counts": dict.fromkeys(_COUNTS, 0)}
    told = about if sealed else {**empty, **about}  # early ones did not tell
    files, counts = told.get(FILES), told.get("counts")
    if not isinstance(files, dict) or (sealed and not {_PNG, _CELLS} <= files.keys()):
        return None
    if not isinstance(counts, dict):
        return None
    whole = all(isinstance(counts.get(name), int) for name in _COUNTS)
    return about if whole else None


def picture_complaint(data: bytes) -> str | None:
    """What is wrong with a PNG or JPEG, None where nothing is.

    Every byte of a PNG has a checksum; of a JPEG all that shows is checked.
    """
    is_png = data.startswith(_SIGNATURE)
    why = _chunk_complaint(data) if is_png else None
    if why is not None:
        return why
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as picture:
            picture.load()
    except (OSError, ValueError, SyntaxError, struct.error) as error:
        return f"it cannot be decoded: {error}"
    except Image.DecompressionBombError:
        return None  # large, as it was asked to be
    return None


def _chunk_complaint(data: bytes) -> str | None:
    """What is wrong with the chunks of a PNG."""
    position, kind = len(_SIGNATURE), b""
    while kind != b"IEND":
        if position + 12 > len(data):
            return f"it breaks off at byte {len(data)}"
        (length,) = struct.unpack_from(">I", data, position)
        kind = data[position + 4 : position + 8]
        end = position + 8 + length
        if end + 4 > len(data):
            return f"it breaks off at byte {len(data)}"
        (crc,) = struct.unpack_from(">I", data, end)
        if zlib.crc32(memoryview(data)[position + 4 : end]) != crc:
            return f"wrong checksum of the chunk at byte {position}"
        position = end + 4
    return None if position == len(data) else f"{len(data) - position} bytes follow it"
