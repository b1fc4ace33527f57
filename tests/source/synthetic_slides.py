"""Slides written for tests: pixels that say where they are, tissue, broken tiles."""

import io
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

FOLD_PX = 256  # red and green go up and down again over so many level-0 pixels
_FOLDS = 4  # each way: slides of up to 1,024 px
JPEG = {"compression": "jpeg", "photometric": "ycbcr", "subsampling": (2, 2)}
RGB_JPEG = {  # tifffile would change colors to YCbCr otherwise
    "compression": "jpeg",
    "photometric": "rgb",
    "compressionargs": {"outcolorspace": "rgb"},
}
LOSSLESS = {"compression": "zlib", "photometric": "rgb"}


def folded(x):
    """Red of level-0 place x, green likewise of y: one step for each pixel."""
    return np.abs((x + FOLD_PX) % (2 * FOLD_PX) - FOLD_PX)


def fold_of(x, y, level):
    """Blue says on which of the folds, and of which level."""
    fold = np.floor(x / FOLD_PX) + _FOLDS * np.floor(y / FOLD_PX)
    return 6 * (12 * level + fold)


def folded_level(size, size0, level):
    """A level (width, height) whose colors say where each pixel is."""
    x, y = ((np.arange(n) + 0.5) * n0 / n for n, n0 in zip(size, size0, strict=True))
    x, y = np.meshgrid(x, y)
    values = [folded(x), folded(y), fold_of(x, y, level)]
    return np.stack(values, axis=2).astype(np.uint8)


def pyramid(pixels, *shrinks):
    """Levels of a picture, each so many times smaller."""
    image = Image.fromarray(pixels)
    return [np.asarray(image.reduce(n) if n > 1 else image) for n in (1, *shrinks)]


def blob(width=1024, height=768, seed=0):
    """Stained texture in the middle of a bright, slightly noisy glass."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    inside = (x / width - 0.5) ** 2 + (y / height - 0.5) ** 2 < 0.35**2
    pixels = rng.integers(236, 246, (height, width, 1), np.uint8).repeat(3, axis=2)
    stain = rng.integers(0, 80, (height // 4, width // 4, 3), np.uint8)
    stain = stain.repeat(4, axis=0).repeat(4, axis=1)
    stain += np.array([150, 70, 130], np.uint8)
    pixels[inside] = stain[inside]
    return pixels


def jpeg(pixels, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(
        buffer, "JPEG", **{"quality": 90, "subsampling": "4:2:0", **options}
    )
    return buffer.getvalue()


def write_slide(path, levels, *, tile=64, mpp=0.5, encode=None, style=LOSSLESS):
    """A tiled pyramid in TIFF.

    Args:
        path: The file.
        levels: (h, w, 3) uint8 each, level 0 first.
        tile: Side of the file's own tiles.
        mpp: µm a pixel of level 0; None: the file does not say.
        encode: Gives the bytes of a tile (None: there is no such tile) of its pixels,
            level, row and column; default: tifffile encodes.
        style: Compression and colors.
    """
    with tifffile.TiffWriter(path) as file:
        for level, pixels in enumerate(levels):
            about = {}
            if mpp is not None:
                shrink = levels[0].shape[1] / pixels.shape[1]
                dots = 10_000 / (mpp * shrink)
                about = {"resolution": (dots, dots), "resolutionunit": "CENTIMETER"}
            file.write(
                pixels if encode is None else _encoded(pixels, tile, level, encode),
                shape=pixels.shape,
                dtype=np.uint8,
                tile=(tile, tile),
                subfiletype=int(level > 0),
                metadata=None,
                **style,
                **about,
            )
    return Path(path)


def _encoded(pixels, tile, level, encode):
    """Tiles row by row; those at the edges are filled with what is no white."""
    rows, cols = (-(-n // tile) for n in pixels.shape[:2])
    full = np.full((rows * tile, cols * tile, 3), 90, np.uint8)
    full[: pixels.shape[0], : pixels.shape[1]] = pixels
    for row in range(rows):
        for col in range(cols):
            y, x = row * tile, col * tile
            yield encode(full[y : y + tile, x : x + tile], level, row, col)


def plain_jpeg(pixels, level, row, col):
    """For `encode`: JPEG as most scanners write it."""
    return jpeg(pixels)


def tiles_of(path, level=0):
    """Offset and length of the file's own tiles of a level, (rows, cols) each."""
    with tifffile.TiffFile(path) as file:
        page = file.pages[level]
        shape = (-(-page.imagelength // page.tilelength), -1)
        return (
            np.reshape(page.dataoffsets, shape),
            np.reshape(page.databytecounts, shape),
        )


def break_tiles(path, places, level=0):
    """Spoil some of the file's own tiles (row, column) from their first bytes on."""
    offsets, _ = tiles_of(path, level)
    with Path(path).open("r+b") as file:
        for place in places:
            file.seek(offsets[place])
            file.write(bytes(64))
