"""Pixels of the chosen tiles, found again by reference.

Every tile is shrunk to its cell as soon as it is decoded, so that never more than a
few tiles are held at full resolution. A JPEG's blocks can be decoded to fewer pixels,
which takes half the time of decoding all of them to average them away.
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from raylatent.errors import ContentError, MapError
from raylatent.source.picture import FORMATS, MAX_SCANS, MAX_SIDE_PX, n_scans
from raylatent.source.protocol import Content, Place, PlaceReader
from raylatent.tiles.decode import decode_image
from raylatent.tiles.threads import in_order

_MARGIN = 1.25  # decoded at least so much larger: 45 dB from decoding it whole
_EIGHTHS = 8
_JPEG = b"\xff\xd8"
_COLORS = ("Gray", "YCbCr")

Tile = Image.Image | str
"""A picture that fits its cell, or the reason why there is none."""

_MAX_THREADS = 8
_MAX_OPEN = 4  # slides


def shrunk(
    image_raw: bytes, tile_px: int, formats: Sequence[str] = FORMATS
) -> Image.Image:
    """An encoded picture as RGB, its longer side `tile_px`, antialiased.

    Args:
        image_raw: Its file.
        tile_px: How large it is to be.
        formats: That it may have.

    Raises:
        ContentError: The picture is broken, of another format, or too large.
        StorageError: The memory does not suffice.
    """
    found = _part_of_jpeg(image_raw, round(_MARGIN * tile_px))
    if found is not None:
        pixels, size, share = found
        return fitted(Image.fromarray(pixels), size, share, tile_px)
    whole = Image.fromarray(decode_image(image_raw, formats))
    return fitted(whole, whole.size, 1.0, tile_px)


def fitted(
    image: Image.Image, size: tuple[int, int], share: float, tile_px: int
) -> Image.Image:
    """The longer side `tile_px`; as it is where it has that size.

    Args:
        image: RGB.
        size: Width and height of the whole picture.
        share: Of these that `image` has: its last pixels may reach beyond the picture.
        tile_px: How large it is to be.
    """
    longer = max(size)
    if longer == tile_px:
        return image
    width, height = (max(1, round(side * tile_px / longer)) for side in size)
    return image.resize(
        (width, height),
        Image.Resampling.LANCZOS,
        box=(0, 0, size[0] * share, size[1] * share),
        reducing_gap=3.0,
    )


def _part_of_jpeg(
    image_raw: bytes, longer_px: int
) -> tuple[NDArray[np.uint8], tuple[int, int], float] | None:
    """A JPEG's pixels at a fraction of its size; its width and height; the fraction.

    None for all that must be decoded whole, and what is broken, so that it is told why.
    """
    if not image_raw.startswith(_JPEG):
        return None
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(image_raw, strict=True)
        longer = max(height, width)
        refused = longer > MAX_SIDE_PX or n_scans(image_raw) > MAX_SCANS
        if refused or colors not in _COLORS or longer <= longer_px:
            return None
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
            image_raw,
            "RGB",
            fastdct=False,
            fastupsample=False,
            min_height=max(1, height * longer_px // longer),
            min_width=max(1, width * longer_px // longer),
            min_factor=1.01,
            strict=True,
        )
    except (ValueError, MemoryError):
        return None
    for eighths in range(1, _EIGHTHS + 1):
        # As libjpeg rounds: a last pixel may reach beyond the picture.
        shape = (-(-height * eighths // _EIGHTHS), -(-width * eighths // _EIGHTHS))
        if pixels.shape[:2] == shape:
            return pixels, (width, height), eighths / _EIGHTHS
    return None


def check_array(image: object, position: int) -> NDArray[np.uint8]:
    """A picture as an array of uint8: H x W (grey), H x W x 1, 3 or 4.

    Raises:
        MapError: It is of another shape or dtype.
    """
    array = np.asarray(image)
    if array.dtype != np.uint8:
        message = (
            f"images[{position}] is {array.dtype}: give uint8 pixels from 0 to 255 "
            "(of floats in 0..1, `(image * 255).round().astype('uint8')`)"
        )
        raise MapError(message)
    colors = array.ndim == 3 and array.shape[2] in (1, 3, 4)
    if not (array.ndim == 2 or colors) or not array.size:
        message = (
            f"images[{position}] has shape {array.shape}: give height x width x "
            "channels, with 1, 3 or 4 channels, or height x width for grey"
        )
        raise MapError(message)
    return array


def fit_tile(pixels: NDArray[np.uint8], tile_px: int) -> Image.Image:
    """RGB, its longer side `tile_px`, antialiased; as it is where it has that size.

    Grey is repeated and transparency dropped, as for tiles of TFRecords.

    >>> fit_tile(np.zeros((40, 20), np.uint8), 10).size
    (5, 10)
    """
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.ndim == 3:
        pixels = pixels[:, :, :3]
    image = Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")
    return fitted(image, image.size, 1.0, tile_px)


def array_tiles(
    images: Sequence[NDArray[np.uint8]], picks: Sequence[int], tile_px: int
) -> Iterator[tuple[int, Tile]]:
    """For each pick its position among the picks, and its picture."""
    for position, pick in enumerate(picks):
        yield position, fit_tile(images[pick], tile_px)


def stored_tiles(
    places: Sequence[Place],
    tile_px: int,
    *,
    n_threads: int | None = None,
    own_size: bool = False,
) -> Iterator[tuple[int, Tile]]:
    """Tiles found again in their sources, grouped by file, as they come.

    Args:
        places: Which.
        tile_px: Longer side of the pictures.
        n_threads: That read and decode; default: one a core, at most 8.
        own_size: Encoded tiles keep their size; tiles of slides are cut of `tile_px`.

    Yields:
        The position among `places`, and the picture or the reason why there is none.
    """
    n_threads = n_threads or min(_MAX_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(n_threads, "mosaic-tiles") as pool:
        fetches = _fetches(places, tile_px, own_size=own_size)
        for tiles in in_order(fetches, pool, 2 * n_threads + 1):
            yield from tiles


def _fetches(
    places: Sequence[Place], tile_px: int, *, own_size: bool
) -> Iterator[Callable[[], list[tuple[int, Tile]]]]:
    """What reads a group each, to be begun in this order: file by file."""
    files: dict[tuple[str, ...], list[tuple[int, Place]]] = {}
    for position, place in enumerate(places):
        files.setdefault(place.file, []).append((position, place))
    turns = threading.Semaphore(_MAX_OPEN)
    for _, group in sorted(files.items(), key=lambda item: item[0]):
        group.sort(key=lambda pair: pair[1].order)
        first = group[0][1]
        starts = range(0, len(group), first.together)
        reader = first.reader(len(starts), turns)
        for start in starts:
            some = group[start : start + first.together]
            yield partial(_fetch, reader, some, tile_px, own_size=own_size)


def _fetch(
    reader: PlaceReader,
    group: Sequence[tuple[int, Place]],
    tile_px: int,
    *,
    own_size: bool,
) -> list[tuple[int, Tile]]:
    """Read some tiles of one file, decode and shrink them."""
    formats, side = group[0][1].formats, None if own_size else tile_px
    return [
        (position, found if isinstance(found, str) else _tile(found, side, formats))
        for position, found in reader(group, tile_px)
    ]


def _tile(content: Content, tile_px: int | None, formats: Sequence[str]) -> Tile:
    try:
        if isinstance(content, ContentError):
            raise content
        if isinstance(content, np.ndarray):
            return fit_tile(content, tile_px or max(content.shape[:2]))
        if tile_px is None:
            return Image.fromarray(decode_image(bytes(content), formats))
        return shrunk(bytes(content), tile_px, formats)
    except ContentError as error:
        return f"{error.stage}: {error}"
