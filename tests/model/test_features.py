"""Features of batches of tiles."""

import numpy as np
import pytest
import torch
from torch import nn

from raylatent.errors import ConfigError, LayerError, ModelError
from raylatent.model import Features

PX = 12


class Net(nn.Module):
    """A small network with maps, a vector and scores."""

    def __init__(self, n_classes=3):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 5, 3)
        self.act = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(5, n_classes)

    def forward(self, x):
        return self.head(self.drop(self.act(self.conv(x)).mean((2, 3))))


@pytest.fixture(scope="module")
def tiles():
    return np.random.default_rng(0).integers(0, 256, (70, PX, PX, 3), np.uint8)


def features(model=None, **options):
    return Features(model or Net(), **{"tile_px": PX, **options})


def test_bytes_of_either_layout_as_array_or_tensor(tiles):
    ftrs = features()
    expected = ftrs(tiles)
    assert isinstance(expected, np.ndarray)
    assert expected.shape == (70, 5)
    channels_first = tiles.transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(ftrs(channels_first), expected)
    for batch in (torch.from_numpy(tiles), torch.from_numpy(channels_first.copy())):
        found = ftrs(batch)
        assert isinstance(found, torch.Tensor)
        np.testing.assert_array_equal(found.numpy(), expected)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_are_taken_as_standardized(tiles, dtype):
    mean, std = (0.7, 0.5, 0.6), (0.2, 0.3, 0.25)
    ftrs = features(mean=mean, std=std)
    floats = ((tiles / 255 - mean) / std).transpose(0, 3, 1, 2).astype(dtype)
    tolerance = 1e-2 if dtype == np.float16 else 1e-5
    np.testing.assert_allclose(ftrs(floats), ftrs(tiles), atol=tolerance)
    assert ftrs(floats).dtype == np.float32


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        (np.zeros((2, PX, PX), np.uint8), r"shape \(2, 12, 12\)"),
        (np.zeros((PX, PX, 3), np.uint8), r"shape \(12, 12, 3\)"),
        (np.zeros((2, PX, PX, 4), np.uint8), r"shape \(2, 12, 12, 4\)"),
        (np.zeros((2, PX, PX, 3), np.float32), "neither uint8 nor standardized"),
        (np.zeros((2, 3, PX, PX), np.int64), "int64"),
        (np.zeros((2, 3, PX, PX), complex), "complex128"),
        ([["a"]], "no batch of pictures"),
        ([np.zeros((2, 2, 3)), np.zeros((3, 3, 3))], "one size"),
        (torch.zeros(2, 3, PX, PX, dtype=torch.int32), "int32"),
        (np.zeros((2, 2, 2, 3), np.uint8), r"the model fails on .*3, 2, 2"),
    ],
)
def test_batches_that_make_no_sense(batch, said):
    with pytest.raises(ModelError, match=said):
        features()(batch)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_an_empty_batch(dtype):
    shape = (0, PX, PX, 3) if dtype == np.uint8 else (0, 3, PX, PX)
    acts, preds = features(include_preds=True)(np.zeros(shape, dtype))
    assert acts.shape == (0, 5)
    assert preds.shape == (0, 3)
    maps = features(layers="conv")(np.zeros(shape, dtype))
    assert maps.shape == (0, 5, PX - 2, PX - 2)
    both = features(layers=["conv", "head"])(np.zeros(shape, dtype))
    assert both.shape == (0, 500 + 3)


@pytest.mark.parametrize("n", [1, 15, 16, 31, 32, 33, 70])
def test_all_rows_whatever_the_batch_size(tiles, n):
    whole = features(batch_size=64)(tiles)
    np.testing.assert_allclose(features()(tiles[:n]), whole[:n], atol=1e-6)


def test_a_layer_in_its_shape_or_several_flattened(tiles):
    maps = features(layers="conv")(tiles)
    assert maps.shape == (70, 5, PX - 2, PX - 2)
    assert (maps < 0).any()
    both = features(layers=["conv", "head"])
    found = both(tiles)
    assert found.shape == (70, 500 + 3)
    assert both.num_features == 503
    assert both.sizes == {"conv": 500, "head": 3}
    np.testing.assert_array_equal(found[:, :500], maps.reshape(70, -1))


def test_a_row_depends_on_no_other(tiles):
    ftrs = features(layers=["conv", "postconv"], include_preds=True)
    rng = np.random.default_rng(1)
    alone = tiles[7]
    seen = []
    for _ in range(4):
        batch = rng.integers(0, 256, (32, PX, PX, 3), np.uint8)
        place = rng.integers(32)
        batch[place] = alone
        arrays, preds = ftrs.forward(batch, with_preds=True)
        seen.append([arrays["conv"][place], arrays["postconv"][place], preds[place]])
    for row in seen[1:]:
        for value, first in zip(row, seen[0], strict=True):
            np.testing.assert_array_equal(value, first)


def test_without_predictions_forward_gives_none(tiles):
    arrays, preds = features().forward(tiles[:32], with_preds=False)
    assert preds is None
    assert list(arrays) == ["postconv"]


def test_probabilities_where_the_model_has_classes(tiles):
    raw = features(include_preds=True)(tiles)[1]
    soft = features(include_preds=True, classes=["a", "b", "c"])(tiles)[1]
    np.testing.assert_allclose(
        soft, np.exp(raw) / np.exp(raw).sum(1, keepdims=True), rtol=1e-5
    )
    forced = features(include_preds=True, apply_softmax=True)(tiles)[1]
    np.testing.assert_array_equal(forced, soft)
    kept = features(include_preds=True, classes=3, apply_softmax=False)(tiles)[1]
    np.testing.assert_array_equal(kept, raw)


def test_probabilities_are_not_softmaxed_again(tiles):
    net = Net()
    ends_so = nn.Sequential(net, nn.Softmax(1))
    soft = features(net, include_preds=True, classes=3)(tiles)[1]
    found = features(ends_so, include_preds=True, classes=3)(tiles)[1]
    np.testing.assert_allclose(found, soft, rtol=1e-6)


def test_classes_that_do_not_fit(tiles):
    with pytest.raises(ModelError, match=r"has 4 classes but its output is \(3,\)"):
        features(classes=list("abcd"))
    no_head = nn.Sequential(nn.Conv2d(3, 4, 3))
    with pytest.raises(ModelError, match="makes no predictions"):
        features(no_head, include_preds=True)
    assert features(classes=3).classes == ("0", "1", "2")


class Tokens(nn.Module):
    """Patches to tokens, a class token first."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.block = nn.Conv2d(3, 6, 4, 4), nn.Linear(6, 6)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([x.sum(1, keepdim=True), x], 1)
        return {"last_hidden_state": self.block(x), "pooler": None}


def test_tokens(tiles):
    tokens = features(Tokens(), layers="block")(tiles)
    assert tokens.shape == (70, 10, 6)
    pooled = {
        pooling: features(Tokens(), layers="block", pooling=pooling)(tiles)
        for pooling in ("cls", "avg", "max")
    }
    np.testing.assert_array_equal(pooled["cls"], tokens[:, 0])
    np.testing.assert_allclose(pooled["avg"], tokens[:, 1:].mean(1), atol=1e-5)
    np.testing.assert_array_equal(pooled["max"], tokens[:, 1:].max(1))
    assert features(Tokens(), pooling="cls")(tiles).shape == (70, 6)


def test_a_users_module_is_left_as_it_is(tiles):
    net = Net().train()
    ftrs = features(net)
    first, second = ftrs(tiles), ftrs(tiles)
    np.testing.assert_array_equal(first, second)  # without dropout
    assert net.training
    assert net.drop.training
    assert ftrs.model is net
    assert not any(p.grad is not None for p in net.parameters())


def test_activations_can_train_something_else(tiles):
    """They are no inference tensors, which autograd refuses."""
    acts, preds = features(include_preds=True)(torch.from_numpy(tiles))
    for found in (acts, preds):
        head = nn.Linear(found.shape[1], 1)
        head(found).sum().backward()
        assert head.weight.grad is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_module_of_another_type_runs_in_float32(tiles, dtype):
    net = Net().to(dtype)
    found = features(net)(tiles)
    np.testing.assert_allclose(found, features(Net())(tiles), atol=0.02)
    assert next(net.parameters()).dtype == dtype


def test_threads_do_not_change_bits(tiles):
    before = torch.get_num_threads()
    found = []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            found.append(features().forward(tiles[:32], with_preds=False)[0])
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(found[0]["postconv"], found[1]["postconv"])


def test_arguments_out_of_range():
    with pytest.raises(ConfigError, match="batch_size is 8, less than 16"):
        features(batch_size=8)
    with pytest.raises(ConfigError, match="pooling is 'median'"):
        features(pooling="median")
    with pytest.raises(LayerError, match=r"'cnov'.*conv"):
        features(layers="cnov")
    with pytest.raises(ModelError, match="tile_px is 0"):
        features(tile_px=0)
    with pytest.raises(ModelError, match="std"):
        features(std=(0.1, 0.0, 0.1))
    with pytest.raises(ModelError, match="3 numbers"):
        features(mean=(0.1, 0.2))
    with pytest.raises(ModelError, match="is an int, not an nn"):
        Features(7)


def test_slideflows_standardization_where_none_is_known(tiles):
    white = np.full((1, PX, PX, 3), 255, np.uint8)
    identity = nn.Sequential(nn.Identity())
    np.testing.assert_array_equal(features(identity)(white), np.ones((1, 3, PX, PX)))
    np.testing.assert_array_equal(
        features(identity)(white * 0), -np.ones((1, 3, PX, PX))
    )


def test_mixed_precision_gives_float32_of_little_difference(tiles):
    whole = features()(tiles)
    mixed = features(mixed_precision=True)(tiles)
    assert mixed.dtype == np.float32
    assert not np.array_equal(mixed, whole)
    cosine = (
        (mixed * whole).sum(1)
        / np.linalg.norm(mixed, axis=1)
        / np.linalg.norm(whole, axis=1)
    )
    assert cosine.min() > 0.999


@pytest.mark.parametrize("batch_size", [16, 32, 48])
def test_the_bits_that_are_stored(batch_size):
    """Called with one tile or with all: the rows of `forward`'s micro-batches."""
    torch.manual_seed(0)
    wide = nn.Sequential(
        *(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.GELU(), nn.Conv2d(64, 96, 3)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 64), nn.Linear(64, 5)),
    )
    ftrs = Features(wide, "6", tile_px=32, batch_size=batch_size, include_preds=True)
    some = np.random.default_rng(0).integers(0, 256, (37, 32, 32, 3), np.uint8)
    stored, scores = [], []
    for first in range(0, len(some), batch_size):
        chunk = some[first : first + batch_size]
        padded = np.zeros((batch_size, 32, 32, 3), np.uint8)
        padded[: len(chunk)] = chunk
        found, preds = ftrs.forward(padded, with_preds=True)
        stored.append(found["6"][: len(chunk)])
        scores.append(preds[: len(chunk)])
    stored, scores = np.concatenate(stored), np.concatenate(scores)
    floats = torch.from_numpy(some).permute(0, 3, 1, 2).to(torch.float32)
    floats = (floats.sub(127.5) / 127.5).contiguous()
    for batch in (some, torch.from_numpy(some), floats):
        together = ftrs(batch)
        singly = [ftrs(batch[i : i + 1]) for i in range(0, len(some), 5)]
        for k, wanted in enumerate((stored, scores)):
            assert np.asarray(together[k]).tobytes() == wanted.tobytes()
            one_by_one = np.concatenate([np.asarray(pair[k]) for pair in singly])
            assert one_by_one.tobytes() == wanted[::5].tobytes()


def test_of_one_class_the_sigmoid():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 12, 1))
    tiles = np.random.default_rng(0).integers(0, 256, (70, 12, 12, 3), np.uint8)
    options = {"tile_px": 12, "classes": ["tumor"], "include_preds": True}
    scores = Features(net, "0", apply_softmax=False, **options)(tiles)[1]
    found = Features(net, "0", **options)(tiles)[1]
    assert found.shape == (70, 1)
    assert len(np.unique(found)) > 1
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-scores)), rtol=1e-5)
