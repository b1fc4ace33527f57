"""Small slides that look like tissue, and the plain loop over them: no engine, no Ray."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import tifffile
from PIL import Image

from raylatent import schema
from raylatent.errors import ContentError
from raylatent.source.record import TileRecord
from raylatent.source.write import encode_tile, write_tfrecord
from raylatent.source.wsi import WSI

WIDTH, HEIGHT = 1500, 1200
SIDE = 128  # of the files' own tiles
STAIN, PALE = (150, 60, 130), (220, 212, 218)  # of PALE the saturation is below 0.05
WHITE = 244


def tissue(seed, *, width=WIDTH, height=HEIGHT, color=STAIN, grain=70):
    """A textured blob on white, (height, width, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    angle = np.arctan2(y - 0.47 * height, x - 0.53 * width)
    reach = 1 + 0.12 * np.sin(3 * angle + seed)
    inside = (x / width - 0.53) ** 2 + (y / height - 0.47) ** 2 < (0.33 * reach) ** 2
    pixels = np.full((height, width, 3), WHITE, np.uint8)
    shape = (height // 6 + 1, width // 6 + 1, 3 if grain else 1)
    texture = rng.integers(0, grain + 1, shape).repeat(6, 0).repeat(6, 1)
    painted = np.asarray(color) + texture[:height, :width]
    pixels[inside] = painted[inside]
    return pixels


def fluorescence(seed):
    """The same shape as one bright channel on a dark background."""
    pixels = tissue(seed).min(axis=2)
    blue = np.zeros((*pixels.shape, 3), np.uint8)
    blue[..., 2] = np.where(pixels == WHITE, 9, pixels)
    return blue


def write_slide(path, seed=0, *, mpp=0.5, jpeg=False, levels=2, pixels=None, **options):
    """A tiled pyramid in TIFF that OpenSlide opens; without resolution if mpp is None."""
    if pixels is None:
        pixels = tissue(seed, **options)
    with tifffile.TiffWriter(path) as file:
        for level in range(levels):
            shrink = 2**level
            picture = np.asarray(Image.fromarray(pixels).reduce(shrink))
            about = {} if mpp is None else _resolution(mpp * shrink)
            file.write(
                _encoded(picture) if jpeg else picture,
                shape=picture.shape,
                dtype=np.uint8,
                tile=(SIDE, SIDE),
                compression="jpeg" if jpeg else "zlib",
                photometric="ycbcr" if jpeg else "rgb",
                subsampling=(2, 2) if jpeg else None,
                subfiletype=int(level > 0),
                metadata=None,
                **about,
            )
    return Path(path)


def _resolution(mpp):
    return {"resolution": (10_000 / mpp, 10_000 / mpp), "resolutionunit": "CENTIMETER"}


def _encoded(picture):
    """The tiles of a level as JPEGs."""
    height, width = (-(-n // SIDE) * SIDE for n in picture.shape[:2])
    more = (height - picture.shape[0], width - picture.shape[1])
    padded = np.pad(picture, ((0, more[0]), (0, more[1]), (0, 0)), mode="edge")
    for y in range(0, height, SIDE):
        for x in range(0, width, SIDE):
            buffer = io.BytesIO()
            tile = Image.fromarray(padded[y : y + SIDE, x : x + SIDE])
            tile.save(buffer, "JPEG", quality=90, subsampling="4:2:0")
            yield buffer.getvalue()


def harm(path, *, row, col, level=0):
    """Overwrite the head of one of the file's own tiles with zeros."""
    with tifffile.TiffFile(path) as file:
        page = file.pages[level]
        n_cols = -(-page.imagewidth // page.tilewidth)
        offset = page.dataoffsets[row * n_cols + col]
    with Path(path).open("r+b") as file:
        file.seek(offset)
        file.write(bytes(64))


def plain_slide(path, *, tile_um="48", tile_px=96, qc="otsu", **options):
    """A slide with its tissue found, as a person would do it."""
    wsi = WSI(path, tile_px, float(tile_um), **options)
    if qc != "none":
        wsi.qc(qc)
        wsi.filter()
    return wsi


def plain_tiles(wsi):
    """(location, pixels or error) of each tile of a slide that is kept, in order."""
    found = []
    for place, (x, y) in zip(np.argwhere(wsi.grid), wsi.locations, strict=True):
        try:
            pixels = wsi[tuple(place)]
        except ContentError as error:
            pixels = error
        found.append(((int(x), int(y)), pixels))
    return found


def plain_rows(features, wsi, source):
    """Rows and quarantine of a slide; `features` has one layer, and predictions."""
    tiles = plain_tiles(wsi)
    good = [i for i, (_, tile) in enumerate(tiles) if not isinstance(tile, Exception)]
    bad = [i for i in range(len(tiles)) if i not in good]
    values, predictions = features(np.stack([tiles[i][1] for i in good]))
    (layer,) = features.layers
    kind = schema.activations_schema(
        {layer: values.shape[1]}, n_classes=predictions.shape[1]
    )
    vectors = [
        pa.FixedSizeListArray.from_arrays(
            pa.array(np.ascontiguousarray(found).reshape(-1)),
            type=kind.field(name).type,
        )
        for name, found in ((layer, values), (schema.PREDICTIONS, predictions))
    ]
    rows = pa.Table.from_arrays(
        [*_reference(tiles, good, source), *vectors], schema=kind
    )
    errors = [tiles[i][1] for i in bad]
    quarantine = pa.Table.from_arrays(
        [
            *_reference(tiles, bad, source),
            pa.array([error.stage for error in errors], pa.string()),
            pa.array([str(error) for error in errors], pa.string()),
        ],
        schema=schema.QUARANTINE,
    )
    return rows, quarantine


def _reference(tiles, chosen, source):
    n = len(chosen)
    return [
        pa.array(chosen, pa.int64()),
        *(pa.array([tiles[i][0][axis] for i in chosen], pa.int32()) for axis in (0, 1)),
        pa.array([source] * n, pa.int32()),
        pa.nulls(n, pa.int64()),
        pa.nulls(n, pa.int32()),
        pa.nulls(n, pa.string()),
        pa.nulls(n, pa.string()),
    ]


def plain_tfrecord(path, wsi, *, img_format="jpg", jpeg_quality=95):
    """A slide's good tiles as a TFRecord, with its index."""
    records = [
        TileRecord(encode_tile(tile, img_format, jpeg_quality), wsi.name, x, y)
        for (x, y), tile in plain_tiles(wsi)
        if not isinstance(tile, ContentError)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tfrecord(path, records)
    return path
