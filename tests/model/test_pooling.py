"""Which numbers of maps and tokens are pooled, and when that cannot be told."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from raylatent.errors import LayerError
from raylatent.model.features import Features
from raylatent.model.pooling import Layout, find_layout, layout_by_growth, pool

PX = 32


def rand(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@given(
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(2, 4),
    st.integers(1, 5),
    st.integers(0, 99),
)
def test_maps_of_either_order_and_their_places_as_tokens(n, c, side, prefix, seed):
    values = rand(n, c, side, side, seed=seed)
    flat = values.reshape(n, c, -1)
    last = values.permute(0, 2, 3, 1)
    tokens = torch.cat([rand(n, prefix, c) + 9, flat.transpose(1, 2)], 1)
    ways = [
        (values, Layout(axes=(2, 3))),
        (last, Layout(axes=(1, 2))),
        (tokens, Layout(axes=(1,), prefix=prefix, class_token=True)),
    ]
    for output, layout in ways:
        found = pool(output, "avg", layout, layer="x")
        torch.testing.assert_close(found, flat.mean(2))
        assert torch.equal(pool(output, "max", layout, layer="x"), flat.amax(2))
        assert torch.equal(pool(output, None, layout, layer="x"), output)
    assert torch.equal(pool(tokens, "cls", ways[2][1], layer="x"), tokens[:, 0])


@pytest.mark.parametrize("pooling", [None, "avg", "max", "cls"])
def test_vectors_and_maps_of_one_place_stay(pooling):
    vectors = rand(2, 5)
    maps = vectors[:, :, None, None]
    assert torch.equal(pool(vectors, pooling, Layout(), layer="x"), vectors)
    assert torch.equal(pool(maps, pooling, Layout(), layer="x"), vectors)


@pytest.mark.parametrize("layout", [Layout(axes=(2, 3)), Layout(axes=(1,))])
def test_the_class_token_of_what_has_none_is_an_error(layout):
    output = rand(2, 4, 3, 3) if len(layout.axes) == 2 else rand(2, 9, 4)
    with pytest.raises(LayerError, match=r"'conv' gives .*none: take pooling 'avg'"):
        pool(output, "cls", layout, layer="conv")


class Norm2d(nn.LayerNorm):
    """Of maps (n, c, h, w), as published ones are called."""


@pytest.mark.parametrize(
    ("module", "shape", "axes"),
    [
        (nn.Identity(), (5, 4, 4), (2, 3)),
        (nn.Identity(), (4, 4, 5), (1, 2)),
        (nn.Identity(), (4, 4, 4), None),
        (nn.Conv2d(3, 4, 1), (4, 4, 4), (2, 3)),
        (nn.Conv2d(3, 4, 1), (4, 4, 5), (2, 3)),
        (nn.BatchNorm2d(4), (4, 4, 4), (2, 3)),
        (nn.AdaptiveAvgPool2d(4), (4, 4, 4), (2, 3)),
        (Norm2d(4), (4, 4, 4), (2, 3)),
        (nn.LayerNorm(4), (4, 4, 4), (1, 2)),
        (nn.Linear(4, 5), (3, 4, 5), (1, 2)),
        (nn.Identity(), (7,), ()),
        (nn.Identity(), (7, 1, 1), ()),
        (nn.Conv1d(3, 4, 1), (4, 9), (2,)),
        (nn.Identity(), (9, 4), (1,)),
    ],
)
def test_what_is_pooled_by_class_and_shape(module, shape, axes):
    layout = find_layout(nn.Sequential(module), "0", shape, PX, layer="x")
    assert (None if layout is None else layout.axes) == axes


@pytest.mark.parametrize("shape", [(3, 4, 5), (4, 5, 4), (2, 3, 4, 5)])
def test_shapes_that_say_nothing_are_refused(shape):
    with pytest.raises(LayerError, match=r"'x' gives .*take pooling 'none'"):
        find_layout(nn.Sequential(nn.Identity()), "0", shape, PX, layer="x")


def test_maps_of_equal_sides_by_a_larger_tile():
    assert layout_by_growth((4, 4, 4), (4, 8, 8), layer="x").axes == (2, 3)
    assert layout_by_growth((4, 4, 4), (8, 8, 4), layer="x").axes == (1, 2)
    for larger in [(4, 4, 4), (8, 8, 8), (8, 4, 8)]:
        with pytest.raises(LayerError, match="h and w cannot be told"):
            layout_by_growth((4, 4, 4), larger, layer="x")


@dataclass
class Case:
    """A kind of vision transformer: what is before its 16 patches."""

    parameters: dict
    attribute: int | None
    patches: bool
    prefix: int
    class_token: bool


CASES = {
    "class token": Case({"cls_token": (1, 1, 6)}, None, True, 1, True),
    "timm with registers": Case(
        {"cls_token": (1, 1, 6), "reg_token": (1, 4, 6)}, 5, True, 5, True
    ),
    "registers only": Case({"register_tokens": (1, 4, 6)}, None, True, 4, False),
    "by names alone": Case(
        {"class_token": (1, 1, 6), "register_tokens": (1, 4, 6)}, None, False, 5, True
    ),
    "as OpenCLIP": Case({"class_embedding": (6,)}, None, False, 1, True),
    "without any": Case({}, None, True, 0, False),
    "none, and no patches known": Case({}, None, False, 0, False),
    "distilled": Case(
        {"cls_token": (1, 1, 6), "dist_token": (1, 1, 6)}, 2, False, 2, True
    ),
}


class Transformer(nn.Module):
    """Patches of 8 px, some tokens before them."""

    def __init__(self, case):
        super().__init__()
        torch.manual_seed(0)
        self.cut = (
            nn.Conv2d(3, 6, 8, 8)
            if case.patches
            else nn.Sequential(nn.PixelUnshuffle(8), nn.Conv2d(192, 6, 1))
        )
        for name, shape in case.parameters.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape)))
        if case.attribute is not None:
            self.num_prefix_tokens = case.attribute
        self.prefix = [getattr(self, name) for name in case.parameters]
        self.block = nn.Identity()

    def forward(self, x):
        x = self.cut(x).flatten(2).transpose(1, 2)
        before = [
            token.reshape(1, -1, 6).expand(len(x), -1, -1) for token in self.prefix
        ]
        return self.block(torch.cat([*before, x], 1))


@pytest.mark.parametrize("name", CASES)
def test_tokens_before_the_patches_are_left_out(name):
    case = CASES[name]
    model = Transformer(case)
    tiles = np.random.default_rng(0).integers(0, 256, (3, PX, PX, 3), np.uint8)
    tokens = Features(model, layers="block", tile_px=PX)(tiles)
    assert tokens.shape == (3, case.prefix + 16, 6)
    pooled = Features(model, layers="block", tile_px=PX, pooling="avg")
    expected = tokens[:, case.prefix :].mean(1)
    np.testing.assert_allclose(pooled(tiles), expected, atol=1e-5)
    said = " ".join(pooled.notes)
    assert (f"{case.prefix} before the patches" in said) == bool(case.prefix)
    largest = Features(model, layers="block", tile_px=PX, pooling="max")(tiles)
    np.testing.assert_array_equal(largest, tokens[:, case.prefix :].max(1))
    if case.class_token:
        cls = Features(model, layers="block", tile_px=PX, pooling="cls")(tiles)
        np.testing.assert_array_equal(cls, tokens[:, 0])
    else:
        with pytest.raises(LayerError, match="has none: take pooling 'avg'"):
            Features(model, layers="block", tile_px=PX, pooling="cls")


def test_a_number_of_tokens_that_nothing_explains_is_refused():
    model = Transformer(Case({"latents": (1, 3, 6)}, None, False, 3, False))
    with pytest.raises(LayerError, match=r"19 tokens a tile.*no square"):
        Features(model, layers="block", tile_px=PX, pooling="avg")


class Last(nn.Module):
    """Maps with the channels last."""

    def __init__(self, c):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.block = nn.Conv2d(3, c, 8, 8), nn.Identity()

    def forward(self, x):
        return self.block(self.conv(x).permute(0, 2, 3, 1))


@pytest.mark.parametrize("c", [4, 6])
def test_maps_with_the_channels_last(c):
    tiles = np.random.default_rng(0).integers(0, 256, (3, PX, PX, 3), np.uint8)
    maps = Features(Last(c), layers="conv", tile_px=PX)(tiles)
    pooled = Features(Last(c), layers="block", tile_px=PX, pooling="avg")
    np.testing.assert_allclose(pooled(tiles), maps.mean((2, 3)), atol=1e-6)
    assert "channels last" in " ".join(pooled.notes)
