"""Pixels of the chosen tiles, found again by reference.

Every tile is shrunk to its cell as soon as it is decoded, so that never more than a
few tiles are held at full resolution. A JPEG's blocks can be decoded to fewer pixels,
which takes half the time of decoding all of them to average them away.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from raylatent.errors import ContentError, MapError, SourceError, StorageError
from raylatent.montage.slide_tiles import (
    Group,
    SharedSlide,
    SlideTile,
    slide_groups,
)
from raylatent.source.picture import MAX_SCANS, MAX_SIDE_PX, n_scans
from raylatent.source.tfrecord import (
    TFRecordIndex,
    index_tfrecord,
    parse_example,
    read_records,
)
from raylatent.tiles.ahead import in_order
from raylatent.tiles.decode import decode_image

_MARGIN = 1.25  # decoded at least so much larger: 45 dB from decoding it whole
_EIGHTHS = 8
_JPEG = b"\xff\xd8"
_COLORS = ("Gray", "YCbCr")

Tile = Image.Image | str
"""A picture that fits its cell, or the reason why there is none."""

_GROUP = 32  # records read and decoded by one thread at a time
_GROUP_BYTES = 32 << 20  # held by one thread at a time; one record may have more
_MAX_THREADS = 8


def shrunk(image_raw: bytes, tile_px: int) -> Image.Image:
    """A JPEG or PNG as RGB, its longer side `tile_px`, antialiased.

    Raises:
        ContentError: The picture is broken, of another format, or too large.
        StorageError: The memory does not suffice.
    """
    found = _part_of_jpeg(image_raw, round(_MARGIN * tile_px))
    if found is not None:
        pixels, size, share = found
        return fitted(Image.fromarray(pixels), size, share, tile_px)
    whole = Image.fromarray(decode_image(image_raw))
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


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Where a tile's record is.

    Attributes:
        uri: The TFRecord.
        tile_index: Number of the record in it.
        offset: First byte of its frame; None: found through the file's index.
        length: Bytes of its frame.
    """

    uri: str
    tile_index: int
    offset: int | None = None
    length: int | None = None


def frame_of(index: TFRecordIndex, uri: str, tile_index: int) -> Frame:
    """The frame of a record by its number; MapError if there are not as many."""
    if not 0 <= tile_index < len(index.offsets):
        message = (
            f"there is no tile {tile_index} in {uri}, which has "
            f"{len(index.offsets)} records, numbered from 0"
        )
        raise MapError(message)
    return Frame(
        uri=uri,
        tile_index=tile_index,
        offset=int(index.offsets[tile_index]),
        length=int(index.lengths[tile_index]),
    )


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
    places: Sequence[Frame | SlideTile], tile_px: int, *, n_threads: int | None = None
) -> Iterator[tuple[int, Tile]]:
    """Tiles of TFRecords and of slides, grouped by file, as they come.

    Args:
        places: Which; records without an offset are found by the file's index.
        tile_px: Longer side of the pictures.
        n_threads: That read and decode; default: one a core, at most 8.

    Yields:
        The position among `places`, and the picture or the reason why there is none.
    """
    n_threads = n_threads or min(_MAX_THREADS, os.cpu_count() or 1)
    # Groups in turn are of one file: it is indexed once.
    index_of = lru_cache(maxsize=2 * n_threads)(index_tfrecord)
    with ThreadPoolExecutor(n_threads, "mosaic-tiles") as pool:
        fetches = _fetches(places, tile_px, index_of)
        for tiles in in_order(fetches, pool, 2 * n_threads + 1):
            yield from tiles


def _fetches(
    places: Sequence[Frame | SlideTile],
    tile_px: int,
    index_of: Callable[[str], TFRecordIndex],
) -> Iterator[Callable[[], list[tuple[int, Tile]]]]:
    """What reads a group each, to be begun in this order."""
    frames = [(i, place) for i, place in enumerate(places) if isinstance(place, Frame)]
    for uri, group in _groups(frames):
        yield partial(_fetch, uri, group, tile_px, index_of)
    tiles = [
        (i, place) for i, place in enumerate(places) if isinstance(place, SlideTile)
    ]
    for slide, cut in slide_groups(tiles):
        yield partial(_fetch_cut, slide, cut, tile_px)


def _groups(
    frames: Sequence[tuple[int, Frame]],
) -> Iterator[tuple[str, list[tuple[int, Frame]]]]:
    """Frames of one file with their positions, near ones together, at most `_GROUP`."""
    by_uri: dict[str, list[tuple[int, Frame]]] = {}
    for position, frame in frames:
        by_uri.setdefault(frame.uri, []).append((position, frame))
    for uri, group in sorted(by_uri.items()):
        group.sort(key=lambda pair: pair[1].tile_index)
        for start in range(0, len(group), _GROUP):
            yield uri, group[start : start + _GROUP]


def _fetch_cut(
    slide: SharedSlide, group: Group, tile_px: int
) -> list[tuple[int, Tile]]:
    """Read some tiles of one slide."""
    return [
        (position, found if isinstance(found, str) else fit_tile(found, tile_px))
        for position, found in slide.read(group, tile_px)
    ]


def _fetch(
    uri: str,
    group: list[tuple[int, Frame]],
    tile_px: int,
    index_of: Callable[[str], TFRecordIndex],
) -> list[tuple[int, Tile]]:
    """Read, decode and shrink some records of one file."""
    tiles: list[tuple[int, Tile]] = []
    try:
        located = _locate(uri, group, tiles, index_of)
    except (SourceError, StorageError) as error:
        return [(position, str(error)) for position, _ in group]
    for some in _batches(located):
        tiles += _fetch_located(uri, some, tile_px)
    return tiles


def _batches(
    located: Sequence[tuple[int, Frame]],
) -> Iterator[list[tuple[int, Frame]]]:
    """Frames of at most `_GROUP_BYTES` together."""
    some: list[tuple[int, Frame]] = []
    n_bytes = 0
    for position, frame in located:
        length = frame.length or 0
        if some and n_bytes + length > _GROUP_BYTES:
            yield some
            some, n_bytes = [], 0
        some.append((position, frame))
        n_bytes += length
    if some:
        yield some


def _fetch_located(
    uri: str, located: Sequence[tuple[int, Frame]], tile_px: int
) -> list[tuple[int, Tile]]:
    """Records whose frames are known."""
    try:
        payloads = read_records(
            uri,
            [frame.offset or 0 for _, frame in located],
            [frame.length or 0 for _, frame in located],
        )
    except (SourceError, StorageError) as error:
        return [(position, str(error)) for position, _ in located]
    return [
        (position, _tile(payload, tile_px))
        for (position, _), payload in zip(located, payloads, strict=True)
    ]


def _locate(
    uri: str,
    group: list[tuple[int, Frame]],
    tiles: list[tuple[int, Tile]],
    index_of: Callable[[str], TFRecordIndex],
) -> list[tuple[int, Frame]]:
    """The group with offsets; what cannot be located goes to `tiles` with why."""
    if all(frame.offset is not None for _, frame in group):
        return group
    index = index_of(uri)
    located = []
    for position, frame in group:
        try:
            found = frame_of(index, uri, frame.tile_index)
        except MapError as error:
            tiles.append((position, str(error)))
        else:
            located.append((position, replace(frame, **vars(found))))
    return located


def _tile(payload: bytes | ContentError, tile_px: int) -> Tile:
    try:
        if isinstance(payload, ContentError):
            raise payload
        return shrunk(parse_example(payload).image_raw, tile_px)
    except ContentError as error:
        return f"{error.stage}: {error}"
