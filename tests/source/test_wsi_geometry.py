"""The grid over a slide, the level it is read from, and the pixels under a tile."""

import math

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from raylatent.errors import ConfigError, SourceError
from raylatent.source.wsi import TileOptions, geometry_of, parse_tile_um, size_name
from raylatent.source.wsi.geometry import best_level, span


def made(
    tile_px=224, tile_um=112, *, mpp=0.5, size=(5000, 3000), levels=(1, 4), **more
):
    options = TileOptions(tile_px=tile_px, tile_um=tile_um, **more)
    return geometry_of("s", options, mpp=mpp, dimensions=size, downsamples=levels)


@pytest.mark.parametrize(
    ("tile_um", "found"),
    [
        (302, ("um", 302.0)),
        (302.5, ("um", 302.5)),
        ("302.5", ("um", 302.5)),
        ("10x", ("x", 10.0)),
        ("2.5X", ("x", 2.5)),
    ],
)
def test_tile_um_is_micrometers_or_a_magnification(tile_um, found):
    assert parse_tile_um(tile_um) == found


@pytest.mark.parametrize(
    "tile_um", ["", "x", "10 x", "x10", "-3", "0", 0, -1, "0x", "nan", "inf", None, []]
)
def test_what_is_neither_is_refused(tile_um):
    with pytest.raises(ConfigError, match="tile_um is"):
        parse_tile_um(tile_um)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"tile_px": 0}, "tile_px"),
        ({"tile_px": "224"}, "tile_px"),
        ({"tile_px": 224.5}, "tile_px"),
        ({"mpp": "0.5"}, "mpp"),
        ({"stride_div": 0}, "stride_div"),
        ({"stride_div": math.nan}, "stride_div"),
        ({"stride_div": math.inf}, "stride_div"),
        ({"mpp": 0}, "mpp"),
        ({"mpp": -0.5}, "mpp"),
        ({"mpp": math.nan}, "mpp"),
        ({"tile_um": "big"}, "tile_um"),
    ],
)
def test_options_that_are_nonsense_are_refused(wrong, said):
    with pytest.raises(ConfigError, match=f"^{said} is"):
        TileOptions(**{"tile_px": 224, "tile_um": 112, **wrong})


def test_names_of_sizes_are_slideflows():
    assert size_name(299, "10X") == "299px_10x"
    assert size_name(96, 96) == size_name(96, "96.0") == "96px_96um"
    assert size_name(96, 96.5) == "96px_96.5um"


def test_the_window_is_rounded_down_and_its_real_size_is_said():
    geometry = made(mpp=0.499)
    assert geometry.window_px == int(112 / 0.499) == 224
    assert geometry.tile_um == pytest.approx(224 * 0.499)
    assert made(stride_div=3, tile_um=150).stride_px == round(300 / 3.0)


def test_at_a_magnification_the_window_is_of_the_level_nearest():
    """20x of a 40x slide is its level of 2.0005, whole tiles of it."""
    found = made(96, "20x", mpp=0.25, levels=(1.0, 2.0005, 4.0))
    assert (found.window_px, found.tile_um) == (192, 48)
    assert made(96, "10x", mpp=0.25, levels=(1.0, 4.0)).window_px == 384
    assert made(96, "10x", mpp=0.2282, levels=(1.0, 4.0)).window_px == 384


def test_at_a_magnification_without_a_level_it_is_exact():
    assert made(96, "20x", mpp=0.25, levels=(1.0, 4.0)).window_px == 192
    assert made(96, "1.25x", mpp=0.5, levels=(1.0, 8.0)).window_px == 1536
    # 2.5x is within Slideflow's 2 of 1.25x, and twice as much.
    assert made(96, "1.25x", mpp=0.5, levels=(1.0, 4.0, 8.0)).window_px == 1536


def test_a_slide_that_is_coarser_than_asked_is_refused():
    """By more than 1.1: 0.55 µm a pixel for 0.5."""
    assert made(mpp=0.5499).window_px == 203
    with pytest.raises(SourceError, match=r"s.*1\.1 times coarser.*--allow-upsampling"):
        made(mpp=0.551)
    assert made(mpp=0.551, allow_upsampling=True).window_px == 203
    assert made(224, "20x", mpp=0.5499, levels=(1.0,)).window_px == 224
    with pytest.raises(SourceError, match="tile_um 20x"):
        made(224, "20x", mpp=1.0)
    with pytest.raises(SourceError, match=r"\(10 is in micrometers, .* is 10x\)$"):
        made(224, "10", mpp=0.5)


def test_a_window_of_no_pixel_is_refused():
    with pytest.raises(SourceError, match="0 pixels wide"):
        made(8, 8, mpp=10, allow_upsampling=True)
    with pytest.raises(SourceError, match="stride 0"):
        made(8, 8, mpp=1, stride_div=100)


GRIDS = st.fixed_dictionaries(
    {
        "tile_um": st.integers(20, 400),
        "stride_div": st.sampled_from([0.5, 1, 1.7, 3]),
        "size": st.tuples(st.integers(1, 1500), st.integers(1, 1500)),
        "origin": st.tuples(st.integers(-50, 900), st.integers(-50, 900)),
        "use_edge_tiles": st.booleans(),
    }
)


@given(GRIDS)
def test_the_grid_holds_every_place_that_fits(grid):
    geometry = made(16, **grid, mpp=1)
    window, stride = geometry.window_px, geometry.stride_px
    room = 0 if geometry.use_edge_tiles else window
    for edges, size, origin in (
        (geometry.xs, geometry.width, geometry.origin[0]),
        (geometry.ys, geometry.height, geometry.origin[1]),
    ):
        wanted = [at for at in range(origin, size + 1, stride) if at <= size - room]
        assert edges.tolist() == wanted
    rows, cols = geometry.shape
    assert geometry.empty_grid().shape == (rows, cols) == (len(geometry.ys), cols)
    coord = geometry.coord()
    assert coord.shape == (rows * cols, 4)
    flat = [(r, c) for r in range(rows) for c in range(cols)]
    assert coord[:, [3, 2]].tolist() == [list(place) for place in flat]
    assert np.array_equal(coord[:, 0], geometry.xs[coord[:, 2]])
    assert np.array_equal(coord[:, 1], geometry.ys[coord[:, 3]])


@given(
    st.lists(st.floats(1, 64), max_size=5), st.integers(1, 3000), st.integers(1, 500)
)
def test_the_level_is_the_coarsest_that_is_fine_enough(downsamples, window, tile_px):
    downsamples = [1.0, *downsamples]
    chosen = best_level(downsamples, window, tile_px)
    fine = [d for d in downsamples if window / d >= tile_px - 0.5]
    assert downsamples[chosen] == max(fine, default=1.0)


@given(
    size=st.integers(1, 700),
    downsample=st.sampled_from([1.0, 2.0, 2.0023, 3.9987, 4.0, 7.3]),
    first=st.integers(-900, 3000),
    window=st.integers(1, 900),
    tile_px=st.integers(1, 300),
)
@example(size=504, downsample=2.0, first=1008 - 95, window=95, tile_px=48)
@example(size=504, downsample=2.0, first=1008 - 97, window=97, tile_px=40)
def test_the_pixels_of_a_tile_are_under_its_window(
    size, downsample, first, window, tile_px
):
    size0 = round(size * downsample)
    assume(best_level([1.0, downsample], window, tile_px) == 1 or downsample == 1.0)
    found = span(first, window, tile_px, (downsample, size, size0))
    low, high = first / downsample, (first + window) / downsample
    assert found.start < found.stop
    if found.low is None:  # no resampling: as many pixels as the tile has
        assert found.stop - found.start == tile_px
        assert abs(found.start - low) <= 1.5
        assert abs(high - low - tile_px) <= 0.5
    else:
        assert found.start + found.low == pytest.approx(low)
        assert abs(found.start + found.high - high) <= 1
        assert 0 <= found.low < found.high <= found.stop - found.start
    if first >= 0 and first + window <= size0 and tile_px <= size:
        assert found.start >= 0
        assert found.stop <= size  # nothing of beyond the slide
