"""Slides whose own tiles are JPEG: OpenSlide's pixels, and what becomes of damage."""

from pathlib import Path

import numpy as np
import pytest

from raylatent.errors import ContentError
from raylatent.source.wsi import WSI
from tests.source import synthetic_slides as slides
from tests.source.scanner_slides import write_svs

TILE = 64


def jpeg_slide(path, **options):
    """A pyramid of three levels, its own tiles 64 px."""
    levels = slides.pyramid(slides.blob(768, 512), 2, 4)
    encode = options.pop("encode", slides.plain_jpeg)
    return slides.write_slide(
        path, levels, encode=encode, style={**slides.JPEG, **options}
    )


@pytest.fixture
def wsi(tmp_path):
    return WSI(jpeg_slide(tmp_path / "s.tif"), TILE, TILE / 2)


def same_pixels(handle, n, seed=0):
    """Compares random places of all levels, also beyond the slide."""
    rng = np.random.default_rng(seed)
    for level, (width, height) in enumerate(handle.level_dimensions):
        if not handle.downsamples[level].is_integer():
            continue
        for _ in range(n):
            x, y = rng.integers(-100, width + 50), rng.integers(-100, height + 50)
            size = tuple(map(int, rng.integers(1, 300, 2)))
            place = (level, int(x), int(y), *size)
            np.testing.assert_array_equal(
                handle.read(*place), handle._by_openslide(*place)
            )


def test_pixels_are_openslides(wsi):
    assert wsi.handle.reader == "jpeg-tiff"
    same_pixels(wsi.handle, 40)


def test_pixels_of_rgb_jpegs_are_openslides(tmp_path):
    levels = slides.pyramid(slides.blob(300, 200), 2)
    path = slides.write_slide(tmp_path / "rgb.tif", levels, style=slides.RGB_JPEG)
    same_pixels(WSI(path, TILE, TILE / 2).handle, 20)


def test_pixels_of_aperios_slides_are_openslides(tmp_path):
    """Their tiles are JPEGs of RGB, whose tables are in one place for all of them."""
    path = write_svs(tmp_path / "a.svs", slides.blob(900, 700), shrinks=(2, 4))
    handle = WSI(path, 96, 48).handle
    assert handle.properties["openslide.vendor"] == "aperio"
    assert handle.reader == "jpeg-tiff"
    same_pixels(handle, 30)


def test_pixels_of_real_slides_are_openslides(test_data):
    for name in ("data/slides/CMU-1-Small-Region.svs", "goldens/wsi_b.tif"):
        handle = WSI(test_data / name, 96, 48, mpp=0.5).handle
        assert handle.reader == "jpeg-tiff"
        same_pixels(handle, 30)


def test_other_formats_are_openslides(tmp_path):
    options = {"mpp": None, "jpeg2000": True}
    pixels = slides.blob(904, 704)[:701, :901]
    coded = write_svs(tmp_path / "b.svs", pixels, **options)
    handle = WSI(coded, TILE, TILE / 2, mpp=0.5).handle
    assert handle.properties["openslide.vendor"] == "aperio"
    assert handle.reader == "openslide"
    plain = slides.write_slide(tmp_path / "plain.tif", [slides.blob(300, 200)])
    assert WSI(plain, TILE, TILE / 2).handle.reader == "openslide"


def broken_places(wsi):
    """Rows and columns of the grid that cannot be read."""
    found = set()
    for row, col in np.ndindex(*wsi.grid.shape):
        try:
            assert wsi[row, col].shape == (TILE, TILE, 3)
        except ContentError:
            found.add((row, col))
    return found


def by_regions(wsi):
    rows, cols = np.nonzero(wsi.grid)
    return {
        (rows[i], cols[i]): found
        for region in wsi.reader.regions(rows, cols)
        for i, found in wsi.reader.read(region)
    }


@pytest.mark.parametrize("where", ["head", "early end", "end"])
def test_damage_costs_the_tiles_that_touch_it(tmp_path, wsi, where):
    whole = by_regions(wsi)
    path = tmp_path / "s.tif"
    offsets, lengths = slides.tiles_of(path)
    offset, length = int(offsets[3, 4]), int(lengths[3, 4])
    start = {"head": 0, "early end": length // 2, "end": length - 40}[where]
    with Path(path).open("r+b") as file:
        file.seek(offset + start)
        file.write(b"\xff\xd9" if where == "early end" else bytes(32))
    harmed = WSI(path, TILE, TILE / 2)
    assert broken_places(harmed) == {(3, 4)}
    found = by_regions(harmed)
    assert isinstance(found.pop((3, 4)), ContentError)
    for place, pixels in found.items():
        np.testing.assert_array_equal(pixels, whole[place])


def test_damage_between_tiles_costs_all_that_overlap_it(tmp_path, wsi):
    slides.break_tiles(tmp_path / "s.tif", [(3, 4)])
    shifted = WSI(tmp_path / "s.tif", TILE, TILE / 2, origin=(32, 32))
    assert broken_places(shifted) == {(2, 3), (2, 4), (3, 3), (3, 4)}


def test_a_file_that_is_cut_off_keeps_what_is_there(tmp_path, wsi):
    path = tmp_path / "s.tif"
    offsets, _ = slides.tiles_of(path)
    handle = wsi.handle  # opened before
    with Path(path).open("r+b") as file:
        file.truncate(int(offsets[5, 0]))
    assert handle.read(0, 0, 0, TILE, TILE).shape == (TILE, TILE, 3)
    with pytest.raises(ContentError):
        handle.read(0, 0, 5 * TILE, TILE, TILE)


def test_a_tile_that_the_file_lacks_is_white(tmp_path):
    def encode(pixels, level, row, col):
        hole = level == 0 and (row, col) == (2, 2)
        return b"" if hole else slides.plain_jpeg(pixels, level, row, col)

    path = jpeg_slide(tmp_path / "sparse.tif", encode=encode)
    wsi = WSI(path, TILE, TILE / 2)
    assert (wsi[2, 2] == 255).all()
    assert wsi[2, 3].min() < 200
    same_pixels(wsi.handle, 10)


def test_of_aperio_openslide_fills_missing_tiles(tmp_path):
    def encode(pixels, level, row, col):
        hole = level == 1 and (row, col) == (1, 2)
        return b"" if hole else slides.plain_jpeg(pixels, level, row, col)

    levels = slides.pyramid(slides.blob(768, 512), 2)
    for name, written in (("whole", slides.plain_jpeg), ("sparse", encode)):
        slides.write_slide(
            tmp_path / f"{name}.svs", levels, encode=written, style=slides.JPEG
        )
    wsi = WSI(tmp_path / "sparse.svs", TILE, TILE)
    assert wsi.handle._tiff is not None  # no Aperio: OpenSlide paints nothing there
    opened = type(wsi.handle._tiff).open
    sizes = wsi.handle.level_dimensions
    assert opened(tmp_path / "sparse.svs", sizes, sparse=False) is None
    assert opened(tmp_path / "whole.svs", sizes, sparse=False) is not None
