"""Features called on any tiles: the rows and scores that a run stores."""

import numpy as np
import pytest
import torch
from torch import nn

from raylatent.model import Features


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
