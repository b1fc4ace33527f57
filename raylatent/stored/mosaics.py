"""What a mosaic leaves: a picture, or the folder of one with its cells."""

import io
import json
from collections.abc import Mapping

import pyarrow as pa
from PIL import Image

from raylatent.errors import MapError
from raylatent.seal import (
    DIGEST,
    FILES,
    content_digest,
    seal_in,
    sealed_json,
    sealed_parquet,
)
from raylatent.storage import Store, write_file
from raylatent.stored.manifest import relisted

PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
_NOT_WRITTEN = (".bmp", ".eps", ".gif", ".pdf", ".svg", ".tif", ".tiff", ".webp")
MOSAIC_JSON = "mosaic.json"


def picture_format(uri: str) -> str | None:
    """`PNG` or `JPEG` by the suffix, None for a folder; MapError for other pictures.

    >>> picture_format("/runs/mosaic.png"), picture_format("/runs/v1.2")
    ('PNG', None)
    """
    name = uri.rsplit("/", 1)[-1].lower()
    suffix = "." + name.rsplit(".", 1)[-1] if "." in name else ""
    if suffix in _NOT_WRITTEN:
        message = f"cannot write {uri}: a mosaic is saved as .png or .jpg"
        raise MapError(message)
    return PICTURES.get(suffix)


def encoded(picture: Image.Image, kind: str) -> bytes:
    """As PNG or JPEG."""
    data = io.BytesIO()
    if kind == "JPEG":
        picture.save(data, kind, quality=92, subsampling=0)
    else:
        # The fastest level: tissue hardly shrinks further, and more takes seconds.
        picture.save(data, kind, compress_level=1)
    return data.getvalue()


def export_mosaic(
    uri: str, picture: Image.Image, cells: pa.Table, about: Mapping[str, object]
) -> None:
    """Put `mosaic.png` and `cells.parquet` in place, then what describes them.

    Args:
        uri: The folder.
        picture: The mosaic.
        cells: Its cells, `schema.CELLS`.
        about: What mosaic.json says of it.

    Raises:
        StorageError: It could not be written.
    """
    png = encoded(picture, "PNG")
    table = bytes(memoryview(sealed_parquet(cells)))
    files = {"mosaic.png": content_digest(png), "cells.parquet": seal_in(table)}
    told = sealed_json({**about, FILES: files})
    text = json.dumps(told, indent=1, ensure_ascii=False)
    with relisted(uri) as digests:
        Store(uri).delete(MOSAIC_JSON)  # which tells of those that were there before
        write_file(f"{uri}/mosaic.png", png)
        write_file(f"{uri}/cells.parquet", table)
        write_file(f"{uri}/{MOSAIC_JSON}", text.encode("utf-8", "replace"))
        digests.update({**files, MOSAIC_JSON: told[DIGEST]})
