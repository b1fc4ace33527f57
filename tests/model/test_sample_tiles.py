"""What a model gives for its sample tiles."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from raylatent.errors import ModelError
from raylatent.model.features import Features
from raylatent.model.sample_tiles import (
    PROJECTIONS,
    TOLERANCE,
    differing_outputs,
    refuse_other_rows,
    summary,
    two_batches,
)

PX = 16


OTHERS = {
    "dropout": functional.dropout,
    "noise": lambda x: x + 0.01 * torch.randn_like(x),
    "mean of the batch": lambda x: x - x.mean(0),
    "largest of the batch": lambda x: x / x.max(),
    "the place in the batch": lambda x: x * torch.arange(1, len(x) + 1)[:, None],
    "attention among tiles": lambda x: (x @ x.T).softmax(1) @ x,
    "order": lambda x: x.flip(0),
}


class Net(nn.Module):
    """A small network with one normalization."""

    def __init__(self, norm=None):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 8, 5, 2), norm or nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 3)

    def features(self, x):
        return functional.relu(self.norm(self.conv(x))).mean((2, 3))

    def forward(self, x):
        return self.fc(self.features(x))


class Training(nn.BatchNorm2d):
    """Stays in training mode."""

    def train(self, mode=True):
        del mode
        return super().train(True)


class Noisy(Net):
    """Changes its features by chance or by the batch."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def features(self, x):
        return self.change(super().features(x))


def features(model, **options):
    return Features(model, tile_px=PX, **options)


@pytest.mark.parametrize("change", OTHERS)
def test_neighbors_and_chance(change):
    with pytest.raises(ModelError, match=r"Noisy is no function of one tile.*dropout"):
        features(Noisy(OTHERS[change]))


def test_batch_norm_without_running_statistics():
    model = Net(nn.BatchNorm2d(8, track_running_stats=False))
    with pytest.raises(
        ModelError, match=r"'postconv'.*norm \(BatchNorm2d\) has no run"
    ):
        features(model)


def test_what_stays_in_training_mode_is_named():
    model = Net(Training(8))
    with pytest.raises(ModelError, match=r"norm \(Training\) stays in training mode"):
        features(model)


def test_dropout_of_a_model_whose_train_does_nothing():
    class Stubborn(Net):
        def __init__(self):
            super().__init__()
            self.drop = nn.Dropout(0.2)

        def features(self, x):
            return self.drop(super().features(x))

        def train(self, mode=True):
            return self if not mode else super().train(mode)

    with pytest.raises(ModelError, match=r"norm \(BatchNorm2d\) and 1 more stays"):
        features(Stubborn())


@pytest.mark.parametrize(
    "norm",
    [
        nn.GroupNorm(2, 8),
        nn.InstanceNorm2d(8),
        nn.InstanceNorm2d(8, affine=True, track_running_stats=True),
        nn.LayerNorm([8, 6, 6]),
        nn.BatchNorm2d(8),
        nn.Dropout2d(0.5),
    ],
)
@pytest.mark.parametrize("mixed_precision", [False, True])
def test_what_depends_on_one_tile_passes(norm, mixed_precision):
    model = Net(norm).train()
    found = features(model, mixed_precision=mixed_precision)
    tiles = np.random.default_rng(0).integers(0, 256, (5, PX, PX, 3), np.uint8)
    assert found(tiles).shape == (5, 8)
    assert model.training


def test_only_what_is_kept_counts():
    class NoisyScores(Net):
        def forward(self, x):
            return functional.dropout(super().forward(x))

    assert features(NoisyScores(), classes=3).shapes == {"postconv": (8,)}
    with pytest.raises(ModelError, match=r"other predictions when.*--no-preds"):
        features(NoisyScores(), classes=3, include_preds=True)
    noisy = Noisy(functional.dropout)
    assert features(noisy, layers="conv").shapes == {"conv": (8, 6, 6)}


def test_workers_leave_it_out():
    assert features(Noisy(functional.dropout), check_rows=False).num_features == 8


def test_the_batches_differ_in_all_but_one_tile():
    one, other = two_batches(PX)
    assert torch.equal(one[0], other[1])
    for of in (torch.amax, torch.amin):
        assert of(one[1], ()) != of(other[[0, 2]], ()) or of is torch.amin
    means = (one.float().mean(), other.float().mean())
    assert abs(means[0] - means[1]) > 20
    assert not other[2].any()


@pytest.mark.parametrize(
    ("off", "bits", "refused"),
    [(1e-5, 32, False), (0.01, 32, True), (0.01, 16, False), (0.2, 16, True)],
)
def test_how_far_a_row_may_be_off(off, bits, refused):
    one = torch.tensor([[1.0, -2.0], [0.0, 0.0]])
    other = torch.stack([one[1], one[0] * (1 + off)])
    for name in ("x", "predictions"):
        rows = ({name: one}, {name: other})
        if refused:
            with pytest.raises(ModelError, match="one tile"):
                refuse_other_rows(nn.Identity(), "m", *rows, bits=bits)
        else:
            refuse_other_rows(nn.Identity(), "m", *rows, bits=bits)


def test_a_row_that_is_no_number_once_is_refused():
    one = torch.ones(3, 2)
    nan = torch.full((3, 2), float("nan"))
    refuse_other_rows(nn.Identity(), "m", {"x": nan}, {"x": nan})
    with pytest.raises(ModelError, match="one tile"):
        refuse_other_rows(nn.Identity(), "m", {"x": one}, {"x": nan})


def values(n=1000, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, n, generator=generator)


def test_a_difference_is_told_as_a_share_of_the_norm():
    one = values(100_000)
    other = one + 0.1 * values(100_000, seed=1)
    (text,) = differing_outputs(summary({"a": one}, None), summary({"a": other}, None))
    share = float(text.removeprefix("layer 'a' by ").removesuffix(" %"))
    assert 5 < share < 18  # 16 projections tell 10 % that well


def test_any_single_feature_counts():
    one = values(300)
    kept = summary({"a": one}, None)
    for i in range(300):
        other = one.clone()
        other[1, i] += 5 * TOLERANCE * one[1].norm()
        assert differing_outputs(kept, summary({"a": other}, None))


def test_rounding_goes_on_and_shapes_do_not_matter():
    one = values().reshape(2, 10, 10, 10)
    kept = json.loads(json.dumps(summary({"a": one}, one.sum((2, 3)))))
    noisy = one * (1 + 1e-5 * values(seed=2).reshape(one.shape))
    assert differing_outputs(kept, summary({"a": noisy}, noisy.sum((2, 3)))) == []
    assert len(kept["output"]) == 2
    assert len(kept["output"][0]) == 1 + PROJECTIONS
    norm = np.linalg.norm(one[0].numpy().astype(np.float64))
    assert kept["layer 'a'"][0][0] == pytest.approx(norm, rel=1e-8)


def test_numbers_that_are_none():
    one = values()
    bad = one.clone()
    bad[0, 3] = math.nan
    kept = json.loads(json.dumps(summary({"a": bad}, None), allow_nan=False))
    assert differing_outputs(kept, summary({"a": bad}, None)) == []
    found = differing_outputs(kept, summary({"a": one}, None))
    assert found == ["layer 'a': NaN or infinite"]
    zeros = torch.zeros(2, 3)
    kept = summary({"a": zeros}, None)
    assert differing_outputs(kept, summary({"a": zeros}, None)) == []
    assert differing_outputs(kept, summary({"a": zeros + 1e-9}, None))
