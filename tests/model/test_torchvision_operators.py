"""timm, transformers and torchvision, also beside a torch that is not theirs."""

import json
import subprocess
import sys

import numpy as np
import pytest

from raylatent.errors import ModelError
from raylatent.model import Features
from raylatent.model.forward_pass import missing_operator

NETS = """
from torch import nn

def by_timm(**kwargs):
    import timm
    return timm.create_model("test_resnet", pretrained=False, **kwargs)

def by_transformers():
    from transformers import Dinov2Config, Dinov2Model
    return Dinov2Model(Dinov2Config(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=28))

def by_torchvision():
    from torchvision.models import resnet18
    return resnet18(weights=None)

class Suppressing(nn.Module):
    def forward(self, x):
        import torch, torchvision
        return torchvision.ops.nms(torch.rand(3, 4), torch.rand(3), 0.5)[None]
"""


@pytest.fixture
def folder(tmp_path):
    """folder(factory): a model folder without weights."""

    def write(factory):
        (tmp_path / "hub_nets.py").write_text(NETS)
        content = {"factory": f"hub_nets:{factory}", "weights": None, "tile_px": 28}
        content |= {"mean": 0.5, "std": 0.5}
        (tmp_path / "model.json").write_text(json.dumps(content))
        return str(tmp_path)

    return write


@pytest.mark.parametrize(
    ("factory", "shape"),
    [
        ("by_timm", (96,)),
        ("by_transformers", (5, 8)),
        ("by_torchvision", (512,)),
    ],
)
def test_a_factory_imports_torchvision_in_a_fresh_process(folder, factory, shape):
    """Its import is what fails, and a process that has it proves nothing."""
    program = (
        "import sys; from raylatent.model import Features\n"
        "print(Features(sys.argv[1], device='cpu').shapes)"
    )
    done = subprocess.run(  # noqa: S603  (this Python)
        [sys.executable, "-c", program, folder(factory)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == str({"postconv": shape}), done.stderr


def test_a_model_that_calls_a_missing_operator(folder):
    try:
        features = Features(folder("Suppressing"), device="cpu")
    except ModelError as error:
        text = str(error)
        assert "the model fails on a batch" in text
        assert "install the torchvision that fits" in text
        assert "\n" not in text
    else:  # torchvision and torch fit each other here
        assert features(np.zeros((1, 28, 28, 3), np.uint8)).shape[0] == 1


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("Couldn't load custom C++ ops. This can happen if", True),
        ("Could not run 'torchvision::roi_align' with arguments", True),
        ("mat1 and mat2 shapes cannot be multiplied", False),
    ],
)
def test_which_errors_are_missing_operators(text, known):
    assert (missing_operator(RuntimeError(text)) is not None) is known
