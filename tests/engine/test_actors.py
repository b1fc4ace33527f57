"""What an actor does before its first unit."""

import pickle
import sqlite3
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from raylatent.engine import actors
from raylatent.engine.actors import ActivationsActor, PackedSpec
from raylatent.errors import ModelError
from raylatent.model.load import call_factory
from raylatent.model.rows import RowOptions
from raylatent.model.spec import ModelSpec


@pytest.mark.parametrize("compiled", [False, True])
def test_compiling_is_no_part_of_the_first_unit(monkeypatch, compiled):
    passes = []
    lane = SimpleNamespace(warm_up=lambda **options: passes.append(options))
    monkeypatch.setattr(actors, "ray", SimpleNamespace(get=lambda reference: reference))
    monkeypatch.setattr(actors, "load_features", lambda *_: None)
    monkeypatch.setattr(actors, "lane_of", lambda _: lane)
    monkeypatch.setattr(actors, "set_threads", lambda _: None)
    actor = object.__new__(ActivationsActor)
    actor._spec = SimpleNamespace(unpack=lambda: None)
    actor._threads = SimpleNamespace(count=1)
    actor._options = SimpleNamespace(
        compiled=compiled,
        num_gpus=0,
        reader=None,
        rows=RowOptions(with_preds=True),
    )
    actor.prepare()
    assert passes == [{"with_preds": True}] * compiled


class Net(nn.Module):
    """A module that may hold what cannot be sent."""

    def __init__(self, **held):
        super().__init__()
        self.encoder = nn.Conv2d(3, 2, 3)
        vars(self.encoder).update(held)


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ({"lock": threading.Lock()}, r"encoder\.lock \(a lock\): cannot pickle"),
        ({"rows": (i for i in [1])}, r"encoder\.rows \(a generator\)"),
        ({"db": sqlite3.connect(":memory:")}, r"encoder\.db \(a Connection\)"),
        ({"log": {"out": sqlite3.connect(":memory:")}}, r"encoder\.log\['out'\] \(a "),
    ],
)
def test_a_module_that_cannot_be_sent_names_what_it_holds(held, said):
    spec = ModelSpec(name="mine", module=Net(**held))
    with pytest.raises(ModelError, match=f"mine cannot be sent .*{said}") as caught:
        PackedSpec.pack(spec)
    assert "give a model folder" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_module_is_the_same_on_the_other_side():
    spec = ModelSpec(name="mine", module=Net(scale=lambda x: 2 * x))
    other = PackedSpec.pack(spec).unpack()
    assert other.module.encoder.scale(3) == 6
    assert torch.equal(other.module.encoder.weight, spec.module.encoder.weight)


class Refusing(nn.Module):
    """It needs what only the driver has."""

    def __setstate__(self, state):
        message = "no process group\nhere"
        raise RuntimeError(message)


def test_a_module_that_fails_on_the_other_side():
    packed = PackedSpec.pack(ModelSpec(name="mine", module=Refusing()))
    with pytest.raises(ModelError, match=r"cannot be loaded on .*: no process group$"):
        packed.unpack()


@pytest.mark.slow
def test_a_module_of_timm_on_the_other_side(tmp_path):
    """A worker is a fresh process: it has not imported torchvision yet."""
    kwargs = {"model_name": "test_resnet", "pretrained": False}
    made = call_factory(ModelSpec(name="x", factory="timm:create_model", kwargs=kwargs))
    packed = PackedSpec.pack(ModelSpec(name="mine", module=made))
    (tmp_path / "packed").write_bytes(pickle.dumps(packed))
    program = (
        "import pickle, sys; from pathlib import Path\n"
        "from raylatent.engine.actors import PackedSpec\n"
        "print(type(pickle.loads(Path(sys.argv[1]).read_bytes()).unpack().module))"
    )
    done = subprocess.run(  # noqa: S603  (this Python)
        [sys.executable, "-c", program, tmp_path / "packed"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "timm" in done.stdout, done.stderr
