"""What may be called a model, and what is refused."""

import copy
import json
import sqlite3
import threading

import numpy as np
import pytest
import torch
from torch import nn

from raylatent.errors import ModelError
from raylatent.model import Features
from raylatent.model.spec import (
    ModelSpec,
    failing_attribute,
    model_spec,
    with_overrides,
)

GOOD = {
    "factory": "net:build",
    "weights": "weights.safetensors",
    "tile_px": 96,
    "mean": [0.5, 0.4, 0.3],
    "std": [0.1, 0.2, 0.3],
}


@pytest.fixture
def folder(tmp_path):
    """folder(**changes of model.json) writes it; `...` leaves an entry out."""

    def write(**changes):
        content = {k: v for k, v in {**GOOD, **changes}.items() if v is not ...}
        (tmp_path / "model.json").write_text(json.dumps(content))
        return str(tmp_path)

    return write


def test_a_model_folder(folder, tmp_path):
    path = folder(kwargs={"width": 4}, classes=["a", "b"], outcome="subtype")
    assert (
        model_spec(path)
        == model_spec(tmp_path)
        == ModelSpec(
            name=tmp_path.name,
            factory="net:build",
            kwargs={"width": 4},
            weights=f"{tmp_path}/weights.safetensors",
            folder=str(tmp_path),
            tile_px=96,
            mean=(0.5, 0.4, 0.3),
            std=(0.1, 0.2, 0.3),
            classes=("a", "b"),
            outcome="subtype",
        )
    )


def test_the_same_as_arguments(tmp_path):
    spec = model_spec({**GOOD, "weights": str(tmp_path / "w.pt")})
    assert spec.weights == str(tmp_path / "w.pt")
    assert spec.name == "build"
    assert spec.folder is None


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (2, ("0", "1")),
        (["x"], ("x",)),
        ({"1": "b", "0": "a", "10": "c"}, ("a", "b", "c")),
        (None, None),
    ],
)
def test_classes(folder, classes, expected):
    assert model_spec(folder(classes=classes)).classes == expected


def test_one_number_for_all_channels(folder):
    assert model_spec(folder(mean=0.5, std=0.25)).std == (0.25, 0.25, 0.25)


def test_weights_of_none_are_the_factorys_own(folder):
    assert model_spec(folder(weights=None)).weights is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"factory": ...}, "lacks 'factory'"),
        ({"weights": ...}, "lacks 'weights'"),
        ({"tile_px": ...}, "lacks 'tile_px'"),
        ({"mean": ...}, "lacks 'mean'"),
        ({"std": ...}, "lacks 'std'"),
        ({"tile_pixels": 96}, "unknown 'tile_pixels'"),
        ({"std": ..., "sdt": 0.5}, "lacks 'std' and has unknown 'sdt'"),
        ({"weights": "../weights.pt"}, "leaves the model folder"),
        ({"weights": "a/../../weights.pt"}, "leaves the model folder"),
        ({"weights": "/etc/passwd"}, "leaves the model folder"),
        ({"weights": "s3://bucket/weights.pt"}, "leaves the model folder"),
        ({"weights": 7}, "must be a file's name"),
        ({"weights_key": 7}, "weights_key takes a text"),
        ({"tile_px": "many"}, "wrong kind"),
        ({"tile_px": 0}, "tile_px is 0"),
        ({"tile_px": [96, 96]}, "wrong kind"),
        ({"mean": [0.5, 0.5]}, "3 numbers"),
        ({"mean": "grey"}, "3 numbers"),
        ({"tile_px": "224"}, "one whole number"),
        ({"tile_px": 224.7}, "one whole number"),
        ({"tile_px": True}, "one whole number"),
        ({"mean": [0.5, 0.5, 0.5, 0.5]}, "3 numbers"),
        ({"mean": {"r": 1, "g": 1, "b": 1}}, "wrong kind"),
        ({"classes": []}, "list of names"),
        ({"classes": True}, "list of names"),
        ({"classes": {"a": "b"}}, "wrong kind"),
        ({"kwargs": [1]}, "wrong kind"),
    ],
)
def test_what_is_wrong_with_model_json(folder, changes, said):
    path = folder(**changes)
    with pytest.raises(ModelError, match=said) as caught:
        model_spec(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (  # of 0..255, as some model zoos write ImageNet's
            {"mean": [123.675, 116.28, 103.53]},
            r"mean is \[123\.675, .* divide by 255: 0\.485, 0\.456, 0\.406$",
        ),
        ({"std": [58.395, 57.12, 57.375]}, r"divide by 255: 0\.229, 0\.224, 0\.225$"),
        ({"mean": 127.5}, r"divide by 255: 0\.5, 0\.5, 0\.5$"),
        ({"mean": [0.485, 0.456, 116.28]}, r"from 0 to 1: pixels go to the model as"),
        ({"mean": [-0.03, 0.09, 0.2]}, r"from 0 to 1: pixels go to the model as"),
        ({"mean": 1000}, r"from 0 to 1: pixels go to the model as"),
        ({"std": [0.1, 0.1, 0]}, r"std is \[0\.1, 0\.1, 0\.0\].*from 0\.003 to 1"),
        ({"std": -0.5}, r"from 0\.003 to 1"),
        ({"std": 0.229 / 255}, r"from 0\.003 to 1"),  # divided twice
        ({"mean": float("nan")}, "mean is .*nan"),
        ({"std": [float("inf"), 0.2, 0.2]}, "std is .*inf"),
    ],
)
def test_numbers_that_no_pixels_of_0_to_1_have(folder, changes, said):
    with pytest.raises(ModelError, match=said):
        model_spec(folder(**changes))
    with pytest.raises(ModelError, match=said):
        with_overrides(ModelSpec(name="net"), **changes)


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ([0, 0, 0], [1, 1, 1]),  # as they are
        ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),  # -1 to 1
        ([0.485, 0.456, 0.406], 1 / 255),  # 0 to 255, less their mean
        (np.array([0.485, 0.456, 0.406]), np.float32(0.25)),
    ],
)
def test_numbers_that_models_are_made_with(mean, std):
    spec = with_overrides(ModelSpec(name="net"), mean=mean, std=std)
    assert spec.mean == tuple(np.broadcast_to(mean, 3))
    assert spec.std == tuple(np.broadcast_to(std, 3))


@pytest.mark.parametrize("content", ["", "{", "[1]", '"x"', "\x00"])
def test_no_json_object(tmp_path, content):
    (tmp_path / "model.json").write_text(content)
    with pytest.raises(ModelError, match=r"model\.json (is no JSON|must be an object)"):
        model_spec(str(tmp_path))


def test_what_is_no_model_at_all(tmp_path):
    with pytest.raises(ModelError, match=r"no such model: .*missing"):
        model_spec(str(tmp_path / "missing"))
    with pytest.raises(ModelError, match=r"it has no model\.json"):
        model_spec(str(tmp_path))
    with pytest.raises(ModelError, match=r"model: gone \(looked for /.*/gone\)$"):
        model_spec("gone")
    (tmp_path / "params.json").write_text("{}")
    with pytest.raises(ModelError, match="is a Slideflow model folder"):
        model_spec(str(tmp_path))
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(
        ModelError, match=r"notes\.txt is text, which begins 'x': give a folder"
    ):
        model_spec(str(tmp_path / "notes.txt"))
    with pytest.raises(ModelError, match=r"a list, not an nn\.Module"):
        model_spec([])


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_state_dict_in_place_of_a_model(tmp_path, wrapped):
    state = nn.Linear(2, 2).state_dict()
    torch.save({"state_dict": state} if wrapped else state, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"w\.pth holds a .*: give a model folder"):
        model_spec(tmp_path / "w.pth")


def test_a_relative_path_in_a_submitted_job(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(ModelError, match="runs there, not where you are") as caught:
        model_spec("./net")
    assert f"looked for {tmp_path}/net" in str(caught.value)
    with pytest.raises(ModelError, match=r"no such model: /gone$"):
        model_spec("/gone")


@pytest.mark.parametrize("ending", [".pt", ".pth", ".pkl", ".bin"])
def test_a_pickle_only_when_allowed(tmp_path, ending):
    path = tmp_path / f"model{ending}"
    path.write_bytes(b"\0")
    with pytest.raises(ModelError, match="--allow-pickle"):
        model_spec(path)
    spec = model_spec(path, allow_pickle=True)
    assert (spec.pickle, spec.allow_pickle) == (str(path), True)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("timm:resnet18.a1_in1k", "resnet18.a1_in1k"),
        ("hf-hub:org/UNI@0a1b", "UNI@0a1b"),
    ],
)
def test_hubs(path, name):
    spec = model_spec(path)
    assert (spec.hub, spec.name) == (path, name)


@pytest.mark.parametrize("path", ["timm:", "hf-hub:", "hf-hub:org/"])
def test_hubs_without_name(path):
    with pytest.raises(ModelError, match="names no model"):
        model_spec(path)


def test_a_module_from_python():
    net = nn.Sequential()
    spec = model_spec(net)
    assert spec.module is net
    assert spec.name == "Sequential"


def test_overrides_are_kept_apart(folder):
    spec = model_spec(folder())
    assert with_overrides(spec) == spec
    changed = with_overrides(spec, tile_px=48, std=[1, 1, 1], classes=2)
    assert changed.tile_px == 48
    assert changed.mean == spec.mean
    assert changed.std == (1.0, 1.0, 1.0)
    assert changed.classes == ("0", "1")
    assert changed.given == {"tile_px", "std", "classes"}
    assert with_overrides(changed, mean=0.5).given == {
        "tile_px",
        "std",
        "classes",
        "mean",
    }
    with pytest.raises(ModelError, match="3 numbers"):
        with_overrides(spec, mean="x")


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
    assert failing_attribute(net, cannot) is None
    net.encoder.lock = threading.Lock()
    assert failing_attribute(net, cannot) == (
        "encoder.lock (a lock): cannot pickle '_thread.lock' object"
    )
    net.caches = {"a": 1, "b": (i for i in [1])}
    assert "caches['b'] (a generator)" in failing_attribute(net, cannot)


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
