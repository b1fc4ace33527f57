"""Decoded at a fraction of its size, a tile looks as when it is decoded whole."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import gaussian_filter

from raylatent.errors import ContentError
from raylatent.tiles.fetch import fit_tile, shrunk
from raylatent.tiles.tile import decode_image


def picture(height, width, seed=0):
    """Smooth blobs of three colors, uint8."""
    rng = np.random.default_rng(seed)
    blobs = gaussian_filter(rng.normal(size=(height, width, 3)), (2.5, 2.5, 0))
    return np.clip(128 + 40 * blobs / blobs.std(), 0, 255).astype(np.uint8)


def encoded(pixels, kind="JPEG", **options):
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, kind, **options)
    return data.getvalue()


def decibels(a, b):
    error = np.square(np.asarray(a, float) - np.asarray(b, float)).mean()
    return 10 * np.log10(255**2 / max(error, 1e-9))


@given(
    height=st.integers(40, 400),
    width=st.integers(40, 400),
    tile_px=st.integers(16, 200),
    subsampling=st.sampled_from(["4:4:4", "4:2:0"]),
)
def test_a_jpeg_looks_as_if_decoded_whole(height, width, tile_px, subsampling):
    raw = encoded(picture(height, width), quality=95, subsampling=subsampling)
    whole = fit_tile(decode_image(raw), tile_px)
    found = shrunk(raw, tile_px)
    assert found.size == whole.size
    assert found.mode == "RGB"
    assert decibels(found, whole) > 30  # shifted by a pixel: 20


def test_it_is_not_decoded_whole(monkeypatch):
    from raylatent.tiles import fetch

    monkeypatch.setattr(fetch, "decode_image", None)
    assert shrunk(encoded(picture(299, 299)), 100).size == (100, 100)


@pytest.mark.parametrize("tile_px", [50, 96, 140])
def test_others_are_decoded_whole(tile_px):
    pixels = picture(96, 96)
    grey = encoded(pixels[:, :, 0])
    for raw in (encoded(pixels, "PNG"), encoded(pixels, "PNG", compress_level=1), grey):
        whole = fit_tile(decode_image(raw), tile_px)
        assert decibels(shrunk(raw, tile_px), whole) > 35
    ink = encoded(np.zeros((96, 96, 4), np.uint8), "TIFF")
    with pytest.raises(ContentError, match="neither JPEG nor PNG"):
        shrunk(ink, tile_px)
    as_is = shrunk(encoded(pixels, "PNG"), 96)
    np.testing.assert_array_equal(as_is, pixels)


def test_a_damaged_one_tells_what_decoding_it_tells():
    raw = encoded(picture(299, 299))
    for broken in (raw[: len(raw) // 2], raw[:20], b"\xff\xd8\xff", raw[:-400]):
        with pytest.raises(ContentError) as whole:
            decode_image(broken)
        with pytest.raises(ContentError) as found:
            shrunk(broken, 100)
        assert str(found.value) == str(whole.value)


def test_a_picture_made_to_be_slow_is_refused():
    raw = encoded(picture(299, 299))
    with pytest.raises(ContentError, match="scans"):
        shrunk(raw[:-2] + b"\xff\xda" * 200 + raw[-2:], 100)
