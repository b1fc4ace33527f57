"""Every tile holds the pixels that its location says, on slides that encode theirs."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from raylatent.source.wsi import WSI
from tests.source.synthetic_slides import (
    FOLD_PX,
    LOSSLESS,
    RGB_JPEG,
    fold_of,
    folded,
    folded_level,
    jpeg,
    write_slide,
)

MPP = 0.5  # 20x
EXACT = ((1008, 752), (504, 376), (252, 188))
NARROW = ((1008, 200), (504, 97), (252, 47))  # along y 2.0619, 4.2553
ODD = ((1001, 743), (500, 371), (250, 185))  # OpenSlide's downsamples: 2.0023, 4.0101
SLIDES = {
    "whole downsamples": (EXACT, None, LOSSLESS),
    "odd sizes": (ODD, None, LOSSLESS),
    "narrow": (NARROW, None, LOSSLESS),
    "jpeg tiles": (EXACT, "jpeg", RGB_JPEG),
    "jpeg tiles, odd sizes": (ODD, "jpeg", RGB_JPEG),
}
JPEG_NOISE = (2, 0.2)  # how far colors may be off, and their mean over a tile
MANY = 8  # columns or rows over which errors are evened out
SHIFT_NOISE = (3, 1)  # OpenSlide shifts by less than a pixel, rounding down


def fine_jpeg(pixels, level, row, col):
    return jpeg(pixels, quality=100, subsampling="4:4:4", keep_rgb=True)


@pytest.fixture(scope="module", params=SLIDES)
def slide(request, tmp_path_factory):
    """The file, its levels' sizes, whether it is in JPEG."""
    sizes, kind, style = SLIDES[request.param]
    path = tmp_path_factory.mktemp("slides") / "slide.tif"
    levels = [folded_level(size, sizes[0], level) for level, size in enumerate(sizes)]
    encode = fine_jpeg if kind else None
    write_slide(path, levels, tile=48, mpp=MPP, encode=encode, style=style)
    return path, sizes, bool(kind)


@st.composite
def asked(draw):
    """Arguments of WSI, with windows of 16 to 640 px."""
    tile_px = draw(st.integers(24, 80))
    sizes = st.one_of(
        st.sampled_from([0.75, 1, 2, 2.0023, 2.05, 4, 4.0101]), st.floats(0.7, 8)
    ).map(lambda ratio: ratio * tile_px * MPP)
    sizes |= st.sampled_from(["20x", "10x", "5x", "15x", "7x", "2.5x"])
    return {
        "tile_px": tile_px,
        "tile_um": draw(sizes),
        "stride_div": draw(st.sampled_from([0.7, 1, 1.5, 2, 3.3])),
        "origin": tuple(draw(st.integers(-90, 300)) for _ in range(2)),
        "use_edge_tiles": draw(st.booleans()),
    }


def opened(path, options):
    wsi = WSI(path, **options, allow_upsampling=True)
    assume(wsi.num_tiles and wsi.full_stride >= 16)
    return wsi


def read_all(wsi, rows, cols):
    """Tiles as they come from regions, in the order that was asked."""
    found = {}
    for region in wsi.reader.regions(rows, cols):
        for tile, pixels in wsi.reader.read(region):
            assert tile not in found
            found[tile] = pixels
    assert sorted(found) == list(range(len(rows)))
    return np.stack([found[i] for i in range(len(rows))])


def places(starts, wsi):
    """Where the pixels of tiles lie along one axis, level-0 pixels, (n, tile_px)."""
    step = wsi.full_extract_px / wsi.tile_px
    return starts[:, None] + (np.arange(wsi.tile_px) + 0.5) * step


def assert_is_where_it_says(tiles, x, y, wsi, sizes, is_jpeg):
    """Within about a pixel of the level that is read.

    Each pixel and the mean of each tile: exactly where tiles are resampled, and at level
    0; else half a pixel off (they begin at a whole one) and what their size is rounded
    by. At a tile's outermost pixels another tenth of the filter's width, which has but
    one side there. Only pixels whose surroundings are on the slide, and on one fold, are looked at; those
    whose surroundings are all beyond the slide are white.
    """
    downsample = wsi.levels[wsi.downsample_level]["downsample"]
    is_whole = float(downsample).is_integer()
    own = wsi.full_extract_px / downsample
    as_it_is = round(own + 1e-9) == wsi.tile_px
    rounded = as_it_is and downsample > 1
    near = downsample * (0.5 + abs(own - wsi.tile_px) / 2) if rounded else 0.0
    noise, bias = JPEG_NOISE if is_jpeg else (0, 0) if is_whole else SHIFT_NOISE
    scale = max(downsample, wsi.full_extract_px / wsi.tile_px)
    reach = 2 * (scale + downsample)
    at = [places(starts, wsi) for starts in (x, y)]
    beyond = [(p < -reach) | (p > n + reach) for p, n in zip(at, sizes[0], strict=True)]
    assert (tiles[beyond[0][:, None, :] | beyond[1][:, :, None]] == 255).all()
    on_slide = [
        (p >= reach)
        & (p <= n - reach)
        & (np.abs((p + FOLD_PX / 2) % FOLD_PX - FOLD_PX / 2) > reach)
        for p, n in zip(at, sizes[0], strict=True)
    ]
    inside = on_slide[0][:, None, :] & on_slide[1][:, :, None]
    wanted_x, wanted_y = at[0][:, None, :], at[1][:, :, None]
    fold = fold_of(wanted_x, wanted_y, wsi.downsample_level)
    assert (np.abs(tiles[..., 2] - fold)[inside] <= min(noise, 2)).all()
    if is_whole or is_jpeg:  # OpenSlide lets white into the last pixels when it shifts
        whole = [
            (start >= 0) & (start + wsi.full_extract_px <= n)
            for start, n in zip((x, y), sizes[0], strict=True)
        ]
        bluest = fold_of(*(n - 1 for n in sizes[0]), wsi.downsample_level)
        assert tiles[whole[0] & whole[1], ..., 2].max(initial=0) <= bluest + noise
    for wanted, channel in ((wanted_x, 0), (wanted_y, 1)):
        # Pixels' centers are at half pixels of level 0, and colors are rounded down.
        found = tiles[..., channel] + (0.0 if is_whole and downsample > 1 else 0.5)
        off = np.where(inside, found - folded(wanted), 0)
        assert np.abs(off).max() <= near + 0.1 * (scale + downsample) + 0.5 + noise
        step = 0.1 if as_it_is and is_whole else 0.5  # colors are whole numbers
        n = inside.sum(axis=(1, 2))
        mean = off.sum(axis=(1, 2)) / np.maximum(n, 1)
        # Of few columns or rows each pixel's error is that of all.
        many = (n >= 100) & (on_slide[channel].sum(axis=1) >= MANY)
        assert (np.abs(mean)[many] <= near + step + bias).all()


@settings(deadline=None, max_examples=20)
@given(options=asked(), data=st.data())
def test_tiles_hold_the_pixels_of_their_location(slide, options, data):
    path, sizes, is_jpeg = slide
    wsi = opened(path, options)
    assert wsi.handle.reader == ("jpeg-tiff" if is_jpeg else "openslide")
    coord = wsi.coord
    tiles = read_all(wsi, coord[:, 3], coord[:, 2])
    assert_is_where_it_says(tiles, coord[:, 0], coord[:, 1], wsi, sizes, is_jpeg)
    half = wsi.full_extract_px // 2
    np.testing.assert_array_equal(wsi.locations, coord[:, :2] + half)
    for i in data.draw(st.lists(st.integers(0, len(coord) - 1), max_size=8)):
        col, row = coord[i, 2:].tolist()
        np.testing.assert_array_equal(wsi[row, col], tiles[i])


@settings(deadline=None, max_examples=12)
@given(options=asked(), data=st.data())
def test_a_tile_does_not_depend_on_which_others_are_asked_for(slide, options, data):
    """Nor on their order, nor on what was read before."""
    path, _, _ = slide
    wsi = opened(path, options)
    n = len(wsi.coord)
    chosen = data.draw(st.lists(st.integers(0, n - 1), max_size=25, unique=True))
    cols, rows = wsi.coord[chosen, 2], wsi.coord[chosen, 3]
    assume(chosen)
    alone = WSI(path, **options, allow_upsampling=True)
    wanted = np.stack([alone[place] for place in zip(rows, cols, strict=True)])
    np.testing.assert_array_equal(read_all(wsi, rows, cols), wanted)


@settings(deadline=None, max_examples=20)
@given(options=asked())
def test_the_level_read_is_the_coarsest_that_is_fine_enough(slide, options):
    path, _, _ = slide
    wsi = opened(path, options)
    has = [wsi.full_extract_px / level["downsample"] for level in wsi.levels]
    fine = [i for i, px in enumerate(has) if round(px + 1e-9) >= wsi.tile_px]
    assert wsi.downsample_level == max(fine, default=0)


@pytest.mark.parametrize("window", range(46, 54))
def test_a_tile_has_its_size_however_a_level_is_shrunk(tmp_path, window):
    """24 pixels, of 24 to 27 of the level across and 22 to 26 down."""
    levels = [folded_level(size, NARROW[0], i) for i, size in enumerate(NARROW)]
    path = write_slide(tmp_path / "s.tif", levels, tile=48, mpp=MPP)
    wsi = WSI(path, 24, window * MPP, origin=(3, 3))
    assert wsi[0, 0].shape == (24, 24, 3)


def test_beyond_the_slide_is_pure_white(slide):
    path, _, _ = slide
    for tile_um in (48, 30, 100, 200):
        wsi = WSI(path, 96, tile_um, origin=(-700, -700), allow_upsampling=True)
        for shift in ((-500, 0), (0, -500), (1500, 0), (0, 1500), (-500, 1500)):
            assert (wsi.reader.at(*shift) == 255).all()
        corner = wsi.reader.at(-wsi.full_extract_px // 2, -wsi.full_extract_px // 2)
        assert (corner[:40, :] == 255).all()
        assert (corner[:, :40] == 255).all()
        assert not (corner[-40:, -40:] == 255).all(axis=2).any()
