"""Modules that are not plain ones: each works, or is refused in one sentence."""

import copy
import sqlite3
import threading

import pytest
import torch
from torch import nn

from raylatent.errors import ModelError
from raylatent.model import Features
from raylatent.model.spec import held_apart, model_spec


class Net(nn.Module):
    """A convolution and a head of three scores."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 5, 4)
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(self.conv(x).mean((2, 3)))


class Wrapping(nn.Module):
    """A plain module around another."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, x):
        return self.encoder(x)


class Forgetful(nn.Module):
    """It does not call what it should."""

    def __init__(self):
        pass


class Lazy(Net):
    """Its head learns its width in the first pass."""

    def __init__(self):
        super().__init__()
        self.fc = nn.LazyLinear(3)


class DistributedDataParallel(Wrapping):
    """Stands in for torch's, which needs a process group."""


def sample():
    return torch.zeros(2, 3, 16, 16)


def on_meta():
    with torch.device("meta"):
        return Net()


def with_meta_buffer():
    net = Net()
    net.register_buffer("grid", torch.ones(2, device="meta"), persistent=False)
    return net


def exported():
    return torch.export.export(Net().eval(), (sample(),))


REFUSED = {
    "traced": (
        lambda: torch.jit.trace(Net(), sample()),
        "is TorchScript, whose layers",
    ),
    "scripted": (lambda: torch.jit.script(Net()), "is TorchScript, whose layers"),
    "scripted within": (
        lambda: Wrapping(torch.jit.script(Net())),
        "Wrapping: its layer encoder is TorchScript",
    ),
    "exported": (exported, "the model is a program of torch.export, whose layers"),
    "exported module": (
        lambda: exported().module(),
        "is a program of torch.export, whose layers",
    ),
    "on meta": (on_meta, "conv.weight is on the meta device"),
    "buffer on meta": (with_meta_buffer, "grid is on the meta device"),
    "lazy": (Lazy, "fc.weight is of a lazy layer"),
    "parallel": (
        lambda: DistributedDataParallel(Net()),
        "wrapped in DistributedDataParallel: give the module within",
    ),
    "no super": (Forgetful, "Forgetful.__init__ does not call super"),
    "class": (lambda: Net, "the class Net, not an nn.Module: make one of it first"),
    "function": (lambda: sample, "the function sample, not an nn.Module"),
    "state dict": (lambda: Net().state_dict(), "is a state dict, not an nn.Module"),
    "nothing": (lambda: None, "a NoneType, not an nn.Module"),
    "session": (lambda: sqlite3.connect(":memory:"), "a Connection, not an nn.Module"),
}


@pytest.mark.parametrize("kind", list(REFUSED))
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_what_is_refused_is_one_sentence(kind):
    make, said = REFUSED[kind]
    with pytest.raises(ModelError) as caught:
        Features(make(), tile_px=16)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "wrap",
    [
        torch.fx.symbolic_trace,
        nn.DataParallel,
        Wrapping,
        copy.deepcopy,
        lambda net: torch.compile(net, backend="eager"),
    ],
)
def test_what_wraps_a_module_gives_the_same_rows(wrap):
    torch.manual_seed(0)
    net = Net().eval()
    tiles = torch.randint(0, 256, (3, 16, 16, 3), dtype=torch.uint8)
    expected = Features(net, tile_px=16)(tiles)
    assert expected.shape == (3, 8)
    assert torch.equal(Features(wrap(net), tile_px=16)(tiles), expected)


def test_a_lazy_module_once_it_has_run():
    lazy = Lazy().eval()
    lazy(sample())
    assert Features(lazy, tile_px=16).shapes == {"postconv": (8,)}


def cannot(value):
    try:
        copy.deepcopy(value)
    except TypeError as error:
        return str(error)
    return None


def test_the_attribute_that_holds_a_module_apart_is_found():
    net = Wrapping(Net())
    assert held_apart(net, cannot) is None
    net.encoder.lock = threading.Lock()
    assert held_apart(net, cannot) == (
        "encoder.lock (a lock): cannot pickle '_thread.lock' object"
    )
    net.caches = {"a": 1, "b": (i for i in [1])}
    assert "caches['b'] (a generator)" in held_apart(net, cannot)


def test_a_module_that_cannot_be_copied_to_float32():
    net = Net().half()
    net.lock = threading.Lock()
    with pytest.raises(ModelError, match=r"cannot be copied to cpu .*lock \(a lock\)"):
        Features(net, tile_px=16)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("allow_pickle", [True, False])
def test_files_that_are_no_pickled_module(tmp_path, allow_pickle):
    """They are told before anybody is asked to trust them."""
    torch.jit.trace(Net().eval(), sample()).save(tmp_path / "traced.pt")
    torch.export.save(exported(), tmp_path / "exported.pt2")
    (tmp_path / "pointer.pth").write_bytes(b"version https://git-lfs.github.com\n")
    (tmp_path / "net.onnx").write_bytes(b"\x08\x07")
    (tmp_path / "net.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    (tmp_path / "w.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    (tmp_path / "half.pt").write_bytes(b"PK\x03\x04")
    for name, said in {
        "traced.pt": "is TorchScript, whose layers",
        "exported.pt2": "is a program of torch.export, whose layers",
        "pointer.pth": "is a git-lfs pointer",
        "net.onnx": "is an ONNX model",
        "net.h5": "is an HDF5 file",
        "w.safetensors": "is safetensors, weights without code",
        "half.pt": "is cut off or damaged",
    }.items():
        with pytest.raises(ModelError) as caught:
            model_spec(tmp_path / name, allow_pickle=allow_pickle)
        assert f"{name} {said}" in str(caught.value)
