"""What is said of layers: the same for all tiles, or of many numbers."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from raylatent.config import ActivationsConfig
from raylatent.engine.activations import prepare
from raylatent.errors import ConfigError
from raylatent.model.layer_checks import (
    UNIT_BYTES,
    Spread,
    constant_layers,
    constants_of_both,
    cost_in_words,
    if_short_of_memory,
    refuse_unasked,
    tiles_of_unit,
    unit_in_words,
)
from raylatent.model.spec import ModelSpec
from raylatent.source.record import TileRecord
from raylatent.source.write import write_tfrecord

SAME = np.tile(np.float32([0.5, -3.0, 0.0]), (12, 1))

MAPS, TOKENS = (64, 112, 112), (197, 768)
WIDE = 64 * 112 * 112


def constants(rows, *, cuts=()):
    """Of one unit, its rows given block by block."""
    spread = Spread()
    for block in np.split(np.asarray(rows, np.float32), cuts):
        spread.add(block)
    return {} if spread.constant is None else {"x": spread.constant}


def of_units(units):
    found = [constants(unit) for unit in units]
    merged = found[0]
    for other in found[1:]:
        merged = constants_of_both(merged, other)
    return merged


@given(cuts=st.lists(st.integers(0, 12), max_size=3).map(sorted))
def test_blocks_do_not_matter(cuts):
    assert constants(SAME, cuts=cuts)["x"] == (pytest.approx(-2.5 / 3), 3.0)
    other = SAME.copy()
    other[-1, 2] = 0.01
    assert not constants(other, cuts=cuts)


@given(unit=st.integers(0, 3), row=st.integers(0, 2), col=st.integers(0, 2))
def test_one_row_that_differs_is_enough_in_whichever_unit(unit, row, col):
    rows = SAME.copy().reshape(4, 3, 3)
    assert of_units(rows)
    rows[unit, row, col] += 1
    assert not of_units(rows)


def test_units_that_are_constant_but_not_the_same():
    assert not of_units([SAME, 2 * SAME])
    assert not of_units([0 * SAME, SAME])
    assert of_units([SAME, SAME * np.float32(1 + 1e-7)])  # a GPU's last digit


def test_no_rows_say_nothing():
    assert not constants(np.empty((0, 3)))


def test_what_is_said():
    both = {"a": (0.0, 0.0), "b": (1.0, 2.0)}
    zero, same = constant_layers(["b", "c", "a"], both, 4000)[::-1]
    assert (zero.layer, zero.zero, same.layer, same.zero) == ("a", True, "b", False)
    assert "layer 'a' is zero in all 4,000 tiles" in str(zero)
    assert "layer 'b' is the same in all 4,000 tiles" in str(same)
    assert constant_layers(["a"], both, 9) == []  # of few tiles nothing
    assert constant_layers(["c"], both, 4000) == []


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        (
            {"conv1": MAPS},
            ["'conv1'", "maps", "64 x 112 x 112 = 802,816", "3.2 GB", "(64 numbers"],
        ),
        ({"block": TOKENS}, ["tokens", "151,296 numbers", "0.61 GB", "(768 numbers"]),
        ({"fc": (4,), "conv1": MAPS, "block": TOKENS}, ["'conv1'", "1 more layer"]),
        ({"just": (2, 64, 65)}, ["'just'", "8,320"]),
    ],
)
def test_a_wide_layer_is_asked_for(shapes, words):
    with pytest.raises(ConfigError) as caught:
        refuse_unasked(shapes, "float32")
    said = str(caught.value)
    for word in (*words, "--pooling avg", "--pooling none"):
        assert word in said


@pytest.mark.parametrize(
    "shape",
    [
        (8192,),
        (2, 64, 64),  # 8,192, no more
        (25_088,),  # a flat vector: pooling would not make it smaller
        (4, 8, 64, 64),  # of a kind that pooling leaves as it is
    ],
)
def test_what_is_not_asked_for(shape):
    refuse_unasked({"layer": shape}, "float32")


def test_the_cost_is_that_of_the_stored_numbers():
    assert cost_in_words({"small": (8192,)}, 10**9, "float32") is None
    said = cost_in_words({"fc1": (25_088,)}, 1_000_000, "float32")
    assert "'fc1' is stored whole: 25,088 numbers a tile, 100.4 GB" in said
    assert "1,000,000 tiles" in said
    assert "50.2 GB" in cost_in_words({"fc1": (25_088,)}, 1_000_000, "float16")
    both = cost_in_words({"conv1": MAPS, "block": TOKENS, "fc": (3,)}, 1000, "float32")
    assert "'conv1', 'block' are stored whole: 954,112 numbers a tile, 3.8 GB" in both


@given(n_numbers=st.integers(1, 10**8), batch_size=st.integers(16, 512))
def test_units_fit_their_bound_in_whole_micro_batches(n_numbers, batch_size):
    n = tiles_of_unit(n_numbers, batch_size)
    assert n == 2048 or n % batch_size == 0
    assert n == max(batch_size, n)
    assert n <= max(2048, batch_size)
    if n > batch_size:
        assert 4 * n_numbers * n <= UNIT_BYTES
    if n < 2048:  # one micro-batch more would be too much
        assert 4 * n_numbers * (n + batch_size) > UNIT_BYTES


def test_usual_layers_keep_their_units():
    assert tiles_of_unit(1, 32) == tiles_of_unit(32_768, 32) == 2048
    assert tiles_of_unit(32_769, 32) < 2048


def test_what_is_said_of_units():
    assert unit_in_words(2048, 1280, 32) is None
    assert unit_in_words(100_000, 512, 32) is None
    assert "units have 64 tiles, not 2,048" in unit_in_words(64, WIDE, 32)
    assert unit_in_words(32, WIDE, 32) is None  # as the user has it
    said = unit_in_words(2048, WIDE, 32)
    assert "--unit-tiles 2048" in said
    assert "6.6 GB" in said
    assert "--unit-tiles 64" in said


def test_the_advice_names_what_is_large():
    assert if_short_of_memory(2048, WIDE, 32).startswith("a smaller --unit-tiles")
    assert "--pooling avg" in if_short_of_memory(2048, WIDE, 32)
    for small in ((2048, 512, 32), (32, WIDE, 32)):
        assert if_short_of_memory(*small).startswith("fewer --actors")


class Tokens(nn.Module):
    """A layer of 64 x 160 numbers, beside one of few."""

    def __init__(self):
        super().__init__()
        self.maps, self.fc = nn.Conv2d(3, 160, 8, 8), nn.Linear(160, 2)

    def forward(self, x):
        return self.fc(self.maps(x).mean((2, 3)))


@pytest.fixture
def job(tmp_path):
    """Makes what is known before the cluster is, of a layer of maps."""
    path = tmp_path / "s.tfrecords"
    write_tfrecord(path, [TileRecord(image_raw=b"x", slide="s", loc_x=0, loc_y=0)])
    torch.manual_seed(0)
    spec = ModelSpec(name="net", module=Tokens(), tile_px=64)

    def make(**options):
        config = ActivationsConfig(
            **{"tfrecords": (str(path),), "out": str(tmp_path / "run")} | options
        )
        return prepare(config, spec)

    return make


def test_a_run_asks_before_it_begins(job):
    with pytest.raises(ConfigError, match=r"160 x 8 x 8 = 10,240.*--pooling none"):
        job(layers=("maps",))
    assert job(layers=("maps",), pooling="none").features.num_features == 10_240
    assert job(layers=("maps",), pooling="avg").features.num_features == 160
    assert job(layers=("postconv",)).features.num_features == 160


def test_units_of_a_run(job):
    assert job(layers=("fc",)).inputs.unit_tiles == 2048
    assert job(layers=("fc",), unit_tiles=7).inputs.unit_tiles == 7
    whole = {"layers": ("maps",), "pooling": "none"}
    assert job(**whole).inputs.unit_tiles == 2048
    assert job(**whole, unit_tiles=5000).inputs.unit_tiles == 5000
    assert job(**whole).row_numbers == (2048, 10_240, 32)
