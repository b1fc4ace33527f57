"""Features of a slide: the plain loop's numbers, each where its tile is."""

import logging
import threading
import time

import numpy as np
import pytest
from torch import nn

from raylatent.errors import ConfigError, ContentError, StorageError
from raylatent.model import Features, slide_grid
from raylatent.source.wsi import WSI
from raylatent.tiles.tile import resize

PX = 96
CLASSES = 3


def is_gray(tile):
    """Whether more than 60 % of a tile's pixels have a saturation below 0.05."""
    largest, smallest = tile.max(axis=2).astype(float), tile.min(axis=2)
    saturation = (largest - smallest) / np.maximum(largest, 1)
    return (saturation < 0.05).mean() > 0.6


def plain(ftrs, wsi, *, px=PX):
    """What the loop over the kept tiles gives, row by row."""
    tiles = [resize(wsi[i, j], px) for i, j in np.argwhere(wsi.grid)]
    return ftrs(np.stack(tiles))


def filtered(wsi, **options):
    """The same slide, its grid filtered."""
    wsi.filter(**options)
    return wsi


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"include_preds": True, "batch_size": 17},
        {"layers": ["layer1", "postconv"], "pooling": "avg", "include_preds": True},
        {"layers": ["layer2", "postconv"]},  # maps, flattened beside a vector
        {"layers": "layer2"},
    ],
)
def test_bits_of_the_plain_loop(features, wsi, options):
    ftrs = features(**options)
    before = wsi.grid.copy()
    found = ftrs(wsi)
    np.testing.assert_array_equal(wsi.grid, before)
    wanted = plain(ftrs, filtered(wsi))
    if not ftrs.include_preds:
        found, wanted = (found,), (wanted,)
    assert len(found) == len(wanted) == 1 + ftrs.include_preds
    assert found[0].shape == (11, 15, ftrs.num_features)
    for grid, rows in zip(found, wanted, strict=True):
        assert isinstance(grid, np.ma.MaskedArray)
        assert grid.dtype == np.float32
        assert grid.mask.shape == grid.shape
        np.testing.assert_array_equal(grid.mask.all(axis=2), ~wsi.grid)
        np.testing.assert_array_equal(grid.mask.any(axis=2), ~wsi.grid)
        np.testing.assert_array_equal(grid.data[wsi.grid], rows.reshape(len(rows), -1))
        assert not grid.data[~wsi.grid].any()
        assert np.isnan(grid.filled()[~wsi.grid]).all()


def test_overlapping_tiles_of_a_jpeg_slide(features, small):
    wsi = small(jpeg=True, stride_div=2)
    ftrs = features(layers="layer1", pooling="max")
    grid = ftrs(wsi)
    rows = plain(ftrs, filtered(wsi))
    assert len(rows) > 150
    np.testing.assert_array_equal(grid.data[wsi.grid], rows)
    np.testing.assert_array_equal(grid.mask[:, :, 0], ~wsi.grid)


@pytest.mark.parametrize("tile_px", [64, 128])
def test_tiles_of_another_size_are_resized(features, small, tile_px):
    wsi = small(tile_px=tile_px)
    grid = features()(wsi)
    rows = plain(features(), filtered(wsi))
    np.testing.assert_array_equal(grid.data[wsi.grid], rows)


def test_only_tiles_that_the_grid_keeps(features, wsi):
    """And what neither the filter nor the user left out."""
    ftrs = features()
    whole = ftrs(wsi)
    wsi.grid[:, ::2] = False
    half = ftrs(wsi)
    assert half.mask[:, ::2].all()
    np.testing.assert_array_equal(half.mask[:, 1::2], whole.mask[:, 1::2])
    np.testing.assert_array_equal(half.data[:, 1::2], whole.data[:, 1::2])


def test_the_filters_numbers(features, wsi):
    ftrs = features()
    gray = [[is_gray(wsi[i, j]) for j in range(15)] for i in range(11)]
    assert 0 < np.sum(gray) < 165
    np.testing.assert_array_equal(ftrs(wsi).mask[:, :, 0], gray)
    assert not ftrs(wsi, grayspace_fraction=1).mask.any()
    for options in (
        {"grayspace_threshold": 0.2, "grayspace_fraction": 0.3},
        {
            "grayspace_fraction": 1,
            "whitespace_fraction": 0.2,
            "whitespace_threshold": 215,
        },
    ):
        wsi.remove_qc()
        grid = ftrs(wsi, **options)
        wsi.filter(**options)
        assert 0 < wsi.num_tiles < wsi.grid.size
        np.testing.assert_array_equal(grid.mask[:, :, 0], ~wsi.grid)


@pytest.mark.parametrize(
    "dtype", ["float16", np.float16, np.dtype(np.float16), "float32", np.float32]
)
def test_types_of_the_grid(features, wsi, dtype):
    acts, preds = features(include_preds=True)(wsi, dtype=dtype)
    for grid, whole in zip(
        (acts, preds), features(include_preds=True)(wsi), strict=True
    ):
        assert grid.dtype == np.dtype(dtype)
        assert np.isnan(grid.fill_value)
        np.testing.assert_array_equal(grid.data, whole.data.astype(dtype))
        np.testing.assert_array_equal(grid.mask, whole.mask)


@pytest.mark.parametrize("dtype", ["float64", np.int32, "half a float", None, object()])
def test_types_that_there_are_not(features, wsi, dtype):
    with pytest.raises(ConfigError, match=r"dtype is .*, not float32 or float16"):
        features()(wsi, dtype=dtype)


class Scaled(nn.Module):
    """The mean of a tile, some of it too large for float16."""

    def forward(self, x):
        return x.mean((2, 3)) * 1e5


def test_what_float16_cannot_hold_is_infinite_not_masked(small, caplog):
    """A number of the slide, so nothing that is to be hidden."""
    ftrs = Features(nn.Sequential(Scaled()), layers="0", tile_px=PX, device="cpu")
    wsi = small()
    whole, half = ftrs(wsi), ftrs(wsi, dtype="float16")
    np.testing.assert_array_equal(half.mask, whole.mask)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(half.data, whole.data.astype(np.float16))
    n = np.isinf(half).sum()
    assert 0 < n < half.count()
    assert [record.getMessage() for record in caplog.records] == [
        f"slide small: {n} values are too large for float16: inf"
    ]


def test_no_tile_is_left(features, wsi):
    wsi.grid[:] = False
    acts, preds = features(include_preds=True)(wsi)
    assert acts.shape == (11, 15, 64)
    assert preds.shape == (11, 15, CLASSES)
    for grid in (acts, preds):
        assert grid.mask.shape == grid.shape
        assert grid.mask.all()
        assert not grid.data.any()


def test_a_slide_smaller_than_a_tile(features, large_slide):
    wsi = WSI(large_slide, PX, 2000, mpp=0.5)
    assert wsi.grid.size == 0
    grid = features()(wsi)
    assert grid.shape == (*wsi.grid.shape, 64)


def test_tiles_in_a_broken_part_are_masked_and_told(features, small, caplog):
    ftrs = features(include_preds=True)
    whole = ftrs(small(jpeg=True))
    caplog.set_level(logging.WARNING)
    wsi = small(jpeg=True, harmed=[(4, 5), (4, 6)])
    found = ftrs(wsi)
    kept = ~whole[0].mask[:, :, 0]
    broken = []
    for row, col in np.argwhere(kept).tolist():
        try:
            wsi[row, col]
        except ContentError:
            broken.append((row, col))
    assert 4 <= len(broken) < kept.sum() / 2
    for place in broken:
        kept[place] = False
    for grid, before in zip(found, whole, strict=True):
        np.testing.assert_array_equal(grid.mask[:, :, 0], ~kept)
        np.testing.assert_array_equal(grid.data[kept], before.data[kept])
        assert not grid.data[~kept].any()
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == len(broken)
    for row, col in broken:
        head = f"slide small: the tile at row {row}, column {col} is masked: "
        assert sum(message.startswith(head) for message in told) == 1


def test_a_slide_that_cannot_be_read_any_more(features, wsi, monkeypatch):
    def read(region):
        message = "gone"
        raise StorageError(message)

    monkeypatch.setattr(wsi.reader, "read", read)
    with pytest.raises(StorageError, match="gone"):
        features()(wsi)
    assert not reading_threads()


def test_no_thread_goes_on_after_an_error_of_the_model(features, wsi, monkeypatch):
    ftrs = features()

    def forward(tiles, *, with_preds):
        message = "no"
        raise ZeroDivisionError(message)

    monkeypatch.setattr(ftrs, "forward", forward)
    with pytest.raises(ZeroDivisionError):
        ftrs(wsi)
    assert not reading_threads()


def reading_threads():
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith("raylatent-slide")]


def test_few_tiles_are_held(features, small, monkeypatch):
    """Those under way and a micro-batch, however slow the model is."""
    wsi, ftrs = small(stride_div=2), features(batch_size=16)
    most = 5
    monkeypatch.setattr(slide_grid, "_AHEAD_BYTES", 3 * PX * PX * most)
    parts, held, lock = [], [], threading.Lock()
    n_read = n_done = 0
    read, forward = wsi.reader.read, ftrs.forward

    def counted_read(region):
        nonlocal n_read
        parts.append(len(region.tiles))
        for found in read(region):
            with lock:
                n_read += 1
            yield found

    def counted_forward(tiles, *, with_preds):
        nonlocal n_done
        time.sleep(0.01)
        with lock:
            held.append(n_read - n_done)
            n_done += len(tiles)
        return forward(tiles, with_preds=with_preds)

    monkeypatch.setattr(wsi.reader, "read", counted_read)
    monkeypatch.setattr(ftrs, "forward", counted_forward)
    grid = ftrs(wsi, grayspace_fraction=1)
    assert not grid.mask.any()
    assert n_read == wsi.num_tiles > 600
    assert max(parts) == most
    # A part that is being used, three that are under way, and the micro-batch.
    assert 16 < max(held) <= 16 + 4 * most


def test_options_with_a_batch(features):
    tiles = np.zeros((2, PX, PX, 3), np.uint8)
    with pytest.raises(ConfigError, match="dtype: for a WSI only"):
        features()(tiles, dtype="float32")
    with pytest.raises(ConfigError, match="dtype, grayspace_fraction: for a WSI only"):
        features()(tiles, dtype="float16", grayspace_fraction=0.6)


def test_filters_out_of_range(features, wsi):
    with pytest.raises(ConfigError, match=r"grayspace_fraction is 2, not 0 to 1"):
        features()(wsi, grayspace_fraction=2)
    with pytest.raises(TypeError, match="gray_fraction"):
        features()(wsi, gray_fraction=0.5)
