"""What a mosaic leaves: a picture, or the folder of one with its cells."""

import io
import json
import logging
import re
from collections.abc import Collection, Mapping

import pyarrow as pa
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from raylatent import schema
from raylatent.claim import Claim, new_token
from raylatent.errors import MapError
from raylatent.montage.render import Layout, Look
from raylatent.run import layout
from raylatent.seal import (
    DIGEST,
    FILES,
    content_digest,
    parse_json,
    seal_in,
    sealed_json,
    sealed_parquet,
)
from raylatent.stable_hash import slide_hash
from raylatent.storage import Store, write_file
from raylatent.stored.manifest import relisted

logger = logging.getLogger(__name__)

PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".pdf": "PDF"}
_NOT_WRITTEN = (".bmp", ".eps", ".gif", ".svg", ".tif", ".tiff", ".webp")
MOSAIC_JSON = "mosaic.json"
REFERENCES = "raylatent.mosaic"
"""The text chunk of a PNG that tells its tiles, JSON."""

MAX_REFERENCES = 1_000_000  # characters: Pillow opens no PNG with texts above 1 MiB
_DPI = 300.0
_PDF = "mosaic.pdf"
_FILES = (MOSAIC_JSON, "cells.parquet", "mosaic.png", _PDF)
_MAX_LABEL_BYTES = 60  # of a folder's name
_TOLD = (schema.SLIDE, schema.TILE_INDEX, schema.LOC_X, schema.LOC_Y)


def picture_format(uri: str) -> str | None:
    """`PNG`, `JPEG` or `PDF` by the suffix, None for a folder; MapError for others.

    >>> picture_format("/runs/mosaic.png"), picture_format("/runs/v1.2")
    ('PNG', None)
    """
    name = uri.rsplit("/", 1)[-1].lower()
    suffix = "." + name.rsplit(".", 1)[-1] if "." in name else ""
    if suffix in _NOT_WRITTEN:
        message = f"cannot write {uri}: a mosaic is saved as .png, .jpg or .pdf"
        raise MapError(message)
    return PICTURES.get(suffix)


def encoded(picture: Image.Image, kind: str, references: str = "") -> bytes:
    """As PNG, in which references are a text, as JPEG or as PDF."""
    data = io.BytesIO()
    if kind == "JPEG":
        picture.save(data, kind, quality=92, subsampling=0)
    elif kind == "PDF":
        days = {"creationDate": None, "modDate": None}  # no file depends on the day
        picture.save(data, kind, resolution=_DPI, quality=92, subsampling=0, **days)
    else:
        about = PngInfo()
        if references:
            about.add_text(REFERENCES, references, zip=True)
        # The fastest level: tissue hardly shrinks further, and more takes seconds.
        picture.save(data, kind, compress_level=1, pnginfo=about)
    return data.getvalue()


def references_of(cells: pa.Table, drawn: Layout, look: Look, above_px: int) -> str:
    """Which tile is where in a picture, as JSON; at most 1,000,000 characters.

    The tile in `row` (0 at the bottom) and `col` begins at x = col * pitch and
    y = above + (rows - 1 - row) * pitch, in pixels, pitch = cell_px + gap_px. Where
    there are too many tiles, `tiles` is null.
    """
    slides, *others = (cells[name].to_pylist() for name in _TOLD)
    number = {slide: i for i, slide in enumerate(dict.fromkeys(slides))}
    codes = [None if slide is None else number[slide] for slide in slides]
    places = (drawn.rows.tolist(), drawn.cols.tolist())
    told = {
        "rows": drawn.n_rows,
        "cols": drawn.n_cols,
        "cell_px": look.cell_px,
        "gap_px": look.gap_px,
        "above_px": above_px,
        "columns": [schema.ROW, schema.COL, *_TOLD],  # of tiles; slides by number
        "slides": list(number),
        "tiles": list(zip(*places, codes, *others, strict=True)),
    }
    text = json.dumps(told, separators=(",", ":"))
    if len(text) > MAX_REFERENCES:
        left = {"slides": None, "tiles": None}  # cells.parquet has them
        text = json.dumps({**told, **left}, separators=(",", ":"))
    return text


def folder_of_label(mosaic: str, label: str) -> str:
    """The name of the folder of a label's own mosaic, whatever is in the label.

    Letters and digits stay, others become `%XX`; of a long one the beginning stays, and
    a hash of all of it.

    >>> folder_of_label("m", "../a b"), folder_of_label("m", "Ä")
    ('m-label=%2E%2E%2Fa%20b', 'm-label=Ä')
    """
    name = re.sub(r"[^\w-]", _escaped, label)
    if len(name.encode()) > _MAX_LABEL_BYTES:
        kept = name.encode()[:_MAX_LABEL_BYTES].decode(errors="ignore")
        name = f"{kept}~{slide_hash(label):016x}"
    return f"{mosaic}-label={name}"


def delete_mosaics_of_labels(run: Store, mosaic: str, drawn: Collection[str]) -> None:
    """Delete labels' own mosaics of an earlier drawing, but for folders drawn now.

    Only those go whose mosaic.json says what they are.

    Raises:
        StorageError: They could not be deleted.
        ClaimError: Another driver works on the run.
    """
    store = run.child(layout.MOSAICS)
    for name in store.root_folders():
        here = store.child(name)
        if here.uri in drawn or not name.startswith(f"{mosaic}-label="):
            continue
        told = here.read(MOSAIC_JSON) if here.exists(MOSAIC_JSON) else b""
        label = (parse_json(told) or {}).get("label")
        if not isinstance(label, str) or folder_of_label(mosaic, label) != name:
            continue  # somebody called a mosaic so, or it is none
        logger.warning("%s is of an earlier drawing: it is deleted", here.uri)
        with Claim(run, new_token()):
            for file in _FILES:
                here.delete(file)
            run.delete(layout.manifest_of("mosaic", name))
            if not here.list():
                store.delete_folder(name)


def _escaped(found: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8", "surrogatepass"))


def export_mosaic(
    uri: str,
    pictures: Mapping[str, bytes],
    cells: pa.Table,
    about: Mapping[str, object],
) -> None:
    """Put pictures and `cells.parquet` in place, then what describes them.

    Args:
        uri: The folder.
        pictures: Of the mosaic, by name; a `mosaic.pdf` of an earlier drawing is
            deleted where none is given.
        cells: Its cells, `schema.CELLS`.
        about: What mosaic.json says of it.

    Raises:
        StorageError: It could not be written.
    """
    table = bytes(memoryview(sealed_parquet(cells)))
    files = {name: content_digest(data) for name, data in pictures.items()}
    files["cells.parquet"] = seal_in(table)
    told = sealed_json({**about, FILES: files})
    text = json.dumps(told, indent=1, ensure_ascii=False)
    with relisted(uri) as digests:
        Store(uri).delete(MOSAIC_JSON)  # which tells of those that were there before
        Store(uri).delete(_PDF)
        for name, data in {**pictures, "cells.parquet": table}.items():
            write_file(f"{uri}/{name}", data)
        write_file(f"{uri}/{MOSAIC_JSON}", text.encode("utf-8", "replace"))
        digests.update({**files, MOSAIC_JSON: told[DIGEST]})
