"""Models of hubs, through a stand-in for timm."""

import importlib.machinery
import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

from raylatent.errors import ModelError
from raylatent.model import Features
from raylatent.model.load import complete_spec
from raylatent.model.spec import model_spec, with_overrides


class Timm(nn.Module):
    """What timm gives without classifier: features, and its configuration."""

    def __init__(self, config):
        super().__init__()
        self.conv, self.proj = nn.Conv2d(3, 4, 3), nn.Linear(4, 4)
        self.pretrained_cfg = config

    def forward(self, x):
        return self.proj(self.conv(x).mean((2, 3)))


@pytest.fixture
def timm(monkeypatch):
    """A stand-in for timm; calls are kept."""
    module = types.ModuleType("timm")
    module.calls = []
    module.config = {
        "input_size": (3, 10, 10),
        "mean": (0.1, 0.2, 0.3),
        "std": [0.4, 0.5, 0.6],
    }

    def create_model(name, **options):
        module.calls.append((name, options))
        if "missing" in name:
            message = f"Unknown model ({name})\nmore"
            raise RuntimeError(message)
        return Timm(module.config)

    module.create_model = create_model
    module.__spec__ = importlib.machinery.ModuleSpec("timm", None)
    monkeypatch.setitem(sys.modules, "timm", module)
    return module


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("timm:resnet18.a1_in1k", "resnet18.a1_in1k"),
        ("hf-hub:org/UNI@0a1b2c", "hf-hub:org/UNI@0a1b2c"),
    ],
)
def test_models_of_hubs(timm, path, name):
    features = Features(path)
    assert timm.calls == [(name, {"pretrained": True, "num_classes": 0})]
    assert features.tile_px == 10
    assert features.spec.mean == (0.1, 0.2, 0.3)
    assert features.spec.std == (0.4, 0.5, 0.6)
    tiles = np.zeros((3, 10, 10, 3), np.uint8)
    # Its output, not what goes into its last linear layer: it has no classifier.
    with torch.inference_mode():
        white = -torch.tensor([0.1, 0.2, 0.3]) / torch.tensor([0.4, 0.5, 0.6])
        batch = white.reshape(1, 3, 1, 1).expand(3, 3, 10, 10)
        expected = features.model(batch).numpy()
    np.testing.assert_allclose(features(tiles), expected, atol=1e-5)


def test_what_the_user_gives_is_not_replaced_by_the_hubs(timm):
    spec = with_overrides(model_spec("timm:x"), mean=0.9, tile_px=12)
    complete = complete_spec(spec, Timm(timm.config))
    assert complete.mean == (0.9, 0.9, 0.9)
    assert complete.tile_px == 12
    assert complete.std == (0.4, 0.5, 0.6)
    # The workers complete it again.
    assert complete_spec(complete, Timm(timm.config)) == complete


def test_a_hub_model_that_says_little(timm):
    timm.config = {"input_size": None}
    features = Features("timm:x")
    assert features.tile_px == 224
    assert features.spec.mean == (0.5, 0.5, 0.5)


def test_a_hub_model_that_is_not_there(timm):
    with pytest.raises(
        ModelError, match=r"timm:missing cannot .*Unknown model"
    ) as caught:
        Features("timm:missing")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["timm:resnet18", "hf-hub:org/x@1"])
def test_without_the_extra(monkeypatch, path):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ModelError, match=r"pip install 'raylatent\[timm\]'"):
        Features(path)
