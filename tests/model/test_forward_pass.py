"""Passes of any model: what comes back, and how it fails."""

import json
import subprocess
import sys
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from raylatent.errors import ModelError
from raylatent.model.features import Features
from raylatent.model.forward_pass import (
    Output,
    first_tensor,
    missing_operator,
    tensors_in,
)
from raylatent.model.spec import model_spec

N, C = 2, 3


Pair = namedtuple("Pair", "features logits")


TILES = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)

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


@dataclass
class Result:
    """As many models return."""

    embedding: torch.Tensor
    scores: torch.Tensor
    loss: float | None = None


def feature():
    return torch.zeros(N, 8)


def scores():
    return torch.ones(N, C)


def tokens():
    return torch.zeros(N, 16, 8)


def test_all_tensors_with_what_leads_to_them():
    value = {"a": None, "b": [torch.zeros(1), ("x", Pair(feature(), scores()))]}
    paths = [path for path, _ in tensors_in(value)]
    assert paths == [("b", 0), ("b", 1, 1, "features"), ("b", 1, 1, "logits")]
    assert tensors_in("words") == []
    assert [p for p, _ in tensors_in(Result(feature(), scores()))] == [
        ("embedding",),
        ("scores",),
    ]


@pytest.mark.parametrize(
    ("value", "classes", "path"),
    [
        (scores(), None, ()),
        ((None, scores()), None, (1,)),
        ((tokens(), feature()), None, (1,)),
        ((feature(), tokens()), None, (0,)),
        ((feature(), scores()), C, (1,)),
        ((feature(), scores()[:, :, None, None]), C, (1,)),
        (Pair(feature(), scores()), C, ("logits",)),
        (Pair(feature(), scores()), None, ("logits",)),
        (Result(feature(), scores()), C, ("scores",)),
        (SimpleNamespace(embedding=feature(), out=scores()), C, ("out",)),
        ({"embedding": feature(), "out": scores()}, C, ("out",)),
        ({"hidden": scores(), "logits": scores()}, C, ("logits",)),
        ({"hidden": feature(), "logits": scores()}, None, ("logits",)),
        (
            OrderedDict(last_hidden_state=tokens(), pooler_output=feature()),
            None,
            ("last_hidden_state",),
        ),
        ({"head": {"main": scores()}, "tokens": tokens()}, C, ("head", "main")),
        ((feature()[:, 0], tokens()), 1, (0,)),
    ],
)
def test_the_one_that_fits(value, classes, path):
    output = Output("m", classes=classes)
    found = output.of(value, N)
    assert output.path == path
    assert any(found is tensor for _, tensor in tensors_in(value))
    assert bool(output.several) == (len(tensors_in(value)) > 1)


@pytest.mark.parametrize(
    ("value", "classes", "said"),
    [
        ((feature(), scores()), None, r'0 \(8,\), 1 \(3,\).*"output": 0'),
        ((scores(), scores()), C, r"for 3 classes is not clear"),
        ((tokens(), tokens()), None, r"0 \(16, 8\), 1 \(16, 8\)"),
        (Result(feature(), feature()), None, r'"output": "embedding"'),
        ((feature(), tokens()), C, r"for 3 classes"),
    ],
)
def test_a_question_where_it_is_not_clear(value, classes, said):
    with pytest.raises(ModelError, match=rf"^m returns 2 tensors a tile.*{said}"):
        Output("m", classes=classes).of(value, N)


@pytest.mark.parametrize(
    ("value", "key", "path"),
    [
        ((feature(), scores()), 1, (1,)),
        ((feature(), scores()), "1", (1,)),
        (Result(feature(), scores()), "scores", ("scores",)),
        (Pair(feature(), scores()), "features", ("features",)),
        ({"a": [scores(), scores()]}, "a.1", ("a", 1)),
        ({0: feature(), 1: scores()}, 1, ("1",)),
    ],
)
def test_the_one_that_was_asked_for(value, key, path):
    output = Output("m", key=key)
    assert output.of(value, N) is dict(tensors_in(value))[path]
    assert output.path == path


def test_a_key_that_is_not_there():
    with pytest.raises(ModelError, match=r"called 'logit'; it returns 0 \(8,\), 1"):
        Output("m", key="logit").of((feature(), scores()), N)
    output = Output("m")
    output.of({"a": scores()}, N)
    with pytest.raises(ModelError, match="no tensor as its output 'a' this time"):
        output.of({"b": scores()}, N)


def test_of_a_layer_the_first():
    assert first_tensor((None, feature())) is not None
    assert first_tensor(Result(feature(), scores())).shape == (N, 8)


class Both(nn.Module):
    """Returns what it is built to."""

    def __init__(self, how):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.fc, self.how = nn.Conv2d(3, 4, 8), nn.Linear(4, 4), how

    def forward(self, x):
        feature = self.body(x).mean((2, 3))
        return self.how(feature, self.fc(feature))


@pytest.mark.parametrize(
    ("how", "key"),
    [
        (lambda f, s: (f, s), 1),
        (lambda f, s: {"x": f, "y": s}, "y"),
        (Result, "scores"),
    ],
)
def test_predictions_and_postconv_of_the_chosen_output(how, key):
    model = Both(how)
    with pytest.raises(ModelError, match="for 4 classes is not clear"):
        Features(model, tile_px=16, classes=4)
    found = Features(model, tile_px=16, classes=4, include_preds=True, output=key)
    alone = Features(Both(lambda _, s: s), tile_px=16, classes=4, include_preds=True)
    for value, right in zip(found(TILES), alone(TILES), strict=True):
        np.testing.assert_array_equal(value, right)


def test_layers_by_name_need_no_choice():
    found = Features(Both(lambda f, s: (f, s)), tile_px=16, layers="body")
    assert found.shapes == {"body": (4, 9, 9)}


def test_a_layer_that_gives_several_says_which_is_taken():
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.cut = nn.Conv2d(3, 4, 8, 8)
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x):
            x = self.cut(x).flatten(2).transpose(1, 2)
            return self.attention(x, x, x)[0].mean(1)

    found = Features(Attending(), tile_px=16, layers="attention")
    assert found.notes == [
        "layer 'attention' gives several tensors (0 (4, 4), 1 (4, 4)): 0 is taken"
    ]


def test_output_in_model_json(tmp_path):
    content = {
        "factory": "m:f",
        "weights": None,
        "tile_px": 16,
        "mean": 0.5,
        "std": 0.5,
        "output": "logits",
    }
    (tmp_path / "model.json").write_text(json.dumps(content))
    assert model_spec(tmp_path).output == "logits"
    (tmp_path / "model.json").write_text(json.dumps(content | {"output": [1]}))
    with pytest.raises(ModelError, match=r"output takes an index, or a key.*\[1\]"):
        model_spec(tmp_path)


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


@pytest.mark.slow
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
