"""Size and standardization."""

import numpy as np
import pytest
import torch

from raylatent.tiles.preprocess import row_of, scaled, standardize
from raylatent.tiles.tile import resize

NOISE = np.random.default_rng(0).integers(0, 256, (5, 24, 24, 3), np.uint8)


def test_a_tile_of_the_right_size_is_untouched():
    tile = NOISE[0]
    assert resize(tile, 24) is tile


def test_resizing_keeps_a_plain_color_and_the_mean():
    plain = np.full((50, 40, 3), 77, np.uint8)
    assert (resize(plain, 24) == 77).all()
    assert resize(plain, 24).shape == (24, 24, 3)
    small = resize(NOISE[0], 8)
    assert abs(small.mean() - NOISE[0].mean()) < 3
    assert small.std() < 0.7 * NOISE[0].std()  # antialiased


def test_standardize_is_the_formula_and_leaves_its_input():
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    batch = torch.from_numpy(NOISE.copy())
    found = standardize(batch, mean, std)
    wanted = (NOISE.astype(np.float64) / 255 - mean) / std
    assert found.dtype == torch.float32
    assert np.allclose(found.numpy(), wanted.transpose(0, 3, 1, 2), atol=1e-5)
    assert np.array_equal(batch.numpy(), NOISE)


def test_a_tile_does_not_depend_on_its_batch():
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    whole = standardize(torch.from_numpy(NOISE), mean, std)
    for i in range(len(NOISE)):
        alone = standardize(torch.from_numpy(NOISE[i : i + 1]), mean, std)
        assert torch.equal(alone[0], whole[i])


@pytest.mark.parametrize("n", [0, 1, 5])
def test_standardized_tiles_have_the_bits_of_the_formula(n):
    batch = torch.randint(0, 256, (n, 7, 9, 3), dtype=torch.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    center, scale = (torch.tensor(v).mul(255).reshape(1, 3, 1, 1) for v in (mean, std))
    wanted = (batch.permute(0, 3, 1, 2).to(torch.float32) - center) / scale
    kept = torch.full((n, 7, 9, 3), torch.nan)
    for found in (
        standardize(batch, mean, std),
        standardize(batch, mean, std, out=kept),
    ):
        assert torch.equal(found, wanted)
        assert found.shape == wanted.shape
        assert found.permute(0, 2, 3, 1).is_contiguous()


def test_one_expression_gives_the_bits_of_tile_by_tile():
    pixels = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (5, 6, 7, 3), np.uint8)
    )
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    rows = (row_of(values, 7, torch.device("cpu")) for values in (mean, std))
    found, expected = scaled(pixels, *rows), standardize(pixels, mean, std)
    assert torch.equal(found, expected)
    assert found.stride() == expected.stride()
