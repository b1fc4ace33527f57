"""Models of every kind are loaded, and what fails is said."""

import importlib.machinery
import json
import pickle
import sys
import types

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file
from torch import nn

from raylatent.errors import ModelError, PassError
from raylatent.model import Features
from raylatent.model.forward_pass import call_model
from raylatent.model.load import complete_spec, file_digest, load_model
from raylatent.model.spec import ModelSpec, model_spec, with_overrides
from raylatent.storage import Store

CPU = torch.device("cpu")
NET = """
import torch
from torch import nn

def build(width=4, fail=False):
    if fail:
        raise ValueError("width\\nis cursed")
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 2))

not_callable = 7
def no_module(): return 3
class Inner:
    build = staticmethod(build)
"""

FAILING = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(4, 2)
    def forward(self, x):
        return self.last(x.flatten(1))
build = Net
"""


def state_of(width=4):
    torch.manual_seed(width)
    net = nn.Sequential(
        nn.Conv2d(3, width, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, 2),
    )
    return net.state_dict()


@pytest.fixture
def folder(tmp_path):
    """folder(name, source, state, **changes) writes a model folder."""

    def write(name="model", source=NET, state=None, **changes):
        path = tmp_path / name
        path.mkdir()
        (path / "net.py").write_text(source)
        save_file(state_of() if state is None else state, path / "w.safetensors")
        content = {
            "factory": "net:build",
            "weights": "w.safetensors",
            "tile_px": 8,
            "mean": 0.5,
            "std": 0.5,
            **changes,
        }
        (path / "model.json").write_text(json.dumps(content))
        return path

    return write


@pytest.fixture(autouse=True)
def modules_as_before():
    before = dict(sys.modules)
    yield
    for name in set(sys.modules) - set(before):
        if name.partition(".")[0] in {"net", "blocks"}:
            del sys.modules[name]


def loaded(path, **options):
    return load_model(model_spec(path, **options), CPU)


def test_a_model_folder_with_safetensors(folder):
    model = loaded(folder())
    assert not model.training
    for key, value in state_of().items():
        assert torch.equal(model.state_dict()[key], value)


def test_kwargs_reach_the_factory_and_names_may_have_dots(folder):
    path = folder(state=state_of(6), factory="net:Inner.build", kwargs={"width": 6})
    assert loaded(path)[0].out_channels == 6


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (state_of(), None),
        ({"state_dict": state_of(), "epoch": 3}, "w.pt: taken from 'state_dict'"),
        (
            {
                "m": {f"net.{k}": v for k, v in state_of().items()}
                | {"x": torch.ones(1)}
            },
            "w.pt: taken from 'm', 'net.' taken off their names; not used: x",
        ),
        ({k: v.numpy() for k, v in state_of().items()}, None),
        ({"state_dict": state_of(), "best": np.float64(0.5)}, "'state_dict'"),
    ],
)
def test_a_state_dict_of_torch(folder, content, said, caplog):
    path = folder(weights="w.pt")
    torch.save(content, path / "w.pt")
    with caplog.at_level("INFO"):
        assert torch.equal(loaded(path)[3].weight, state_of()["3.weight"])
    assert (said in caplog.text) if said else not caplog.text


def test_the_place_in_the_file_may_be_named(folder):
    path = folder(weights="w.pt")
    other = {name: value + 1 for name, value in state_of().items()}
    torch.save({"model": state_of(), "ema": other}, path / "w.pt")
    with pytest.raises(ModelError, match=r"w\.pt fit the model in 2 places .*'ema'"):
        loaded(path)
    content = json.loads((path / "model.json").read_text())
    (path / "model.json").write_text(json.dumps(content | {"weights_key": "ema"}))
    assert torch.equal(loaded(path)[3].bias, state_of()["3.bias"] + 1)


@pytest.mark.parametrize(
    "made",
    [
        "nn.LazyLinear(2)",
        "nn.Linear(4, 2, device='meta')",
        "nn.Linear(4, 2, dtype=torch.bfloat16)",
    ],
)
def test_layers_that_wait_for_their_weights(folder, made):
    source = NET.replace("nn.Linear(width, 2)", made)
    model = loaded(folder(source=source))
    assert torch.equal(model[3].weight, state_of()["3.weight"]) or "bfloat16" in made
    assert model[3].weight.dtype == torch.float32
    features = Features(str(folder("again", source=source)), device="cpu")
    assert features.shapes == {"postconv": (4,)}


def test_tied_weights_on_the_meta_device(folder):
    source = (
        NET
        + """
def tied():
    with torch.device("meta"):
        net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    net[1].weight = net[0].weight
    return net
"""
    )
    state = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).state_dict()
    del state["0.weight"]  # as safetensors' save_model does
    model = loaded(folder(source=source, state=state, factory="net:tied"))
    assert torch.equal(model[0].weight, state["1.weight"])
    assert torch.equal(model[1].weight, state["1.weight"])


def test_what_a_modules_own_loading_refuses(folder):
    source = (
        NET
        + """
class Fussy(nn.Linear):
    def _load_from_state_dict(self, *args):
        args[-1].append("not\\nthese")

def fussy(): return Fussy(4, 2)
"""
    )
    path = folder(
        source=source, state=nn.Linear(4, 2).state_dict(), factory="net:fussy"
    )
    with pytest.raises(ModelError, match=r"do not fit the model: .*not these"):
        loaded(path)


def test_weights_of_none_are_what_the_factory_gave(folder):
    assert loaded(folder(weights=None))[0].out_channels == 4


def test_half_weights_are_run_in_float32(folder):
    path = folder(state={k: v.half() for k, v in state_of().items()})
    assert loaded(path)[0].weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"factory": "nowhere.at_all:build"},
            "No module named 'nowhere': correct its name, install it on all",
        ),
        ({"factory": "net:missing"}, "has no attribute 'missing'$"),
        ({"factory": "net:bild"}, "has no attribute 'bild', is 'build' meant?"),
        ({"factory": "net:not_callable"}, "7 cannot be called"),
        ({"factory": "net:no_module"}, "gives an int, not an nn.Module"),
        ({"factory": "net.build"}, "is not package.module:callable"),
        (
            {"kwargs": {"fail": True}},
            r"ValueError: width is cursed \(net\.py:\d+, in build\)",
        ),
        ({"source": "import torhc"}, r"named 'torhc' \(net\.py:1, in <module>\): corr"),
        ({"kwargs": {"depth": 3}}, "unexpected keyword argument 'depth'"),
        (
            {"weights": "missing.safetensors"},
            "missing.safetensors: there is no such file; its folder has w.safetensors",
        ),
    ],
)
def test_what_is_wrong_is_one_sentence(folder, changes, said):
    with pytest.raises(ModelError, match=said) as caught:
        loaded(folder(**changes))
    assert "\n" not in str(caught.value)


def test_a_factory_with_a_syntax_error(folder):
    with pytest.raises(ModelError, match="SyntaxError"):
        loaded(folder(source="def build(:"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("3.bias"), r"they lack 3\.bias"),
        (lambda s: s.update({"7.bias": torch.ones(1)}), r"has not, 7\.bias"),
        (
            lambda s: s.update({"3.bias": torch.ones(5)}),
            r"shapes differ: 3\.bias is \(5,\), the model has \(2,\)",
        ),
        (
            lambda s: [s.update({f"more{i}": torch.ones(1)}) for i in range(5)],
            r"more0, more1, more2 and 2 more",
        ),
    ],
)
def test_weights_that_do_not_fit(folder, change, said):
    state = state_of()
    change(state)
    with pytest.raises(ModelError, match=said):
        loaded(folder(state=state))


def test_old_weights_without_the_counter_of_batches(folder):
    source = "from torch import nn\ndef build(): return nn.BatchNorm2d(3)"
    state = nn.BatchNorm2d(3).state_dict()
    del state["num_batches_tracked"]
    assert isinstance(loaded(folder(source=source, state=state)), nn.BatchNorm2d)


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_a_pickle_in_place_of_weights_runs_nothing(folder, tmp_path, ending):
    path = folder(weights=f"bad.{ending}")
    (path / f"bad.{ending}").write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    with pytest.raises(ModelError, match=r"bad\.\w+ are "):
        loaded(path)
    torch.save({"w": Bomb(tmp_path / "ran")}, path / f"bad.{ending}")
    with pytest.raises(ModelError, match=r"bad\.\w+ are "):
        loaded(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04", b"\x80\x02}q\x00.", b"words", {"a": [1, 2]}, [1]]
)
def test_weights_that_are_no_state_dict(folder, content):
    path = folder(weights="bad.pt")
    if isinstance(content, bytes):
        (path / "bad.pt").write_bytes(content)
    else:
        torch.save(content, path / "bad.pt")
    with pytest.raises(ModelError, match=r"bad\.pt are "):
        loaded(path)


def test_a_pickled_module_when_allowed(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 2, 3))
    torch.save(net, tmp_path / "net.pt")
    model = loaded(tmp_path / "net.pt", allow_pickle=True)
    assert torch.equal(model[0].weight, net[0].weight)
    with pytest.raises(ModelError, match="allow_pickle"):
        load_model(ModelSpec(name="x", pickle=str(tmp_path / "net.pt")), CPU)
    torch.save(net.state_dict(), tmp_path / "state.pt")
    with pytest.raises(
        ModelError, match=r"gives a state dict, not an nn\.Module: give"
    ):
        loaded(tmp_path / "state.pt", allow_pickle=True)
    torch.save({"model": net}, tmp_path / "mapping.pt")
    with pytest.raises(ModelError, match=r"gives a mapping \(dict\), not an"):
        loaded(tmp_path / "mapping.pt", allow_pickle=True)
    (tmp_path / "broken.pt").write_bytes(b"\0")
    with pytest.raises(ModelError, match="cannot be loaded"):
        loaded(tmp_path / "broken.pt", allow_pickle=True)


def test_a_pickled_module_whose_code_is_not_there(tmp_path, monkeypatch):
    module = types.ModuleType("their_lab")
    exec("from torch import nn\nclass Net(nn.Identity): pass", vars(module))  # noqa: S102
    module.Net.__module__ = "their_lab"
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "their_lab", module)
        torch.save(module.Net(), tmp_path / "net.pt")
    with pytest.raises(ModelError, match=r"No module named 'their_lab' \(a pickled"):
        loaded(tmp_path / "net.pt", allow_pickle=True)


def test_two_folders_that_both_have_net_py_and_what_it_imports(folder):
    """Each model gets its own modules, whichever came first."""
    source = "from blocks import block\ndef build(): return block()"
    kinds = ("Tanh", "Sigmoid")
    paths = []
    for kind in kinds:
        path = folder(kind, source=source, state={})
        block = f"from torch import nn\ndef block(): return nn.{kind}()"
        (path / "blocks.py").write_text(block)
        paths.append(path)
    for _ in range(2):
        found = [type(loaded(path)).__name__ for path in paths]
        assert found == list(kinds)
    assert not [entry for entry in sys.path if "Tanh" in entry or "Sigmoid" in entry]


def test_the_users_own_module_of_the_same_name_stays(folder, monkeypatch):
    mine = types.ModuleType("net")
    mine.build = lambda: 0 / 0
    monkeypatch.setitem(sys.modules, "net", mine)
    assert loaded(folder())[0].out_channels == 4
    assert sys.modules["net"] is mine


def test_a_file_that_is_called_like_a_library_does_not_replace_it(folder):
    path = folder()
    for name in ("json", "numpy", "torch"):
        (path / f"{name}.py").write_text("raise RuntimeError('replaced')")
    assert loaded(path)[0].out_channels == 4
    assert sys.modules["numpy"] is np


def test_a_factory_of_an_installed_package(tmp_path):
    spec = ModelSpec(
        name="x",
        factory="torch.nn:Linear",
        kwargs={"in_features": 2, "out_features": 3},
    )
    assert load_model(spec, CPU).out_features == 3


def test_a_model_folder_at_a_uri():
    store = Store("memory://models/one")
    store.write("net.py", b"import blocks\ndef build(): return blocks.block()")
    block = b"from torch import nn\ndef block(): return nn.Linear(2, 3)"
    store.write("blocks.py", block)
    store.write("w.safetensors", save(nn.Linear(2, 3).state_dict()))
    content = {"factory": "net:build", "weights": "w.safetensors", "tile_px": 8}
    store.write("model.json", json.dumps({**content, "mean": 0, "std": 1}).encode())
    spec = model_spec("memory://models/one")
    assert spec.name == "one"
    assert load_model(spec, CPU).out_features == 3
    before = file_digest(spec)
    store.write("blocks.py", block + b"\n")
    assert file_digest(spec) != before


def test_digests_of_files(folder):
    path = folder()
    before = file_digest(model_spec(path))
    assert file_digest(model_spec(path)) == before
    for name in ("net.py", "w.safetensors", "model.json"):
        content = (path / name).read_bytes()
        (path / name).write_bytes(content + b" ")
        assert file_digest(model_spec(path)) != before
        (path / name).write_bytes(content)
    assert file_digest(model_spec(path)) == before


def test_a_forward_that_fails_names_its_line(folder):
    model = loaded(folder(source=FAILING, weights=None))
    with pytest.raises(PassError, match=r"cannot be multiplied.*\(net\.py:9, in forw"):
        call_model(model, model, torch.zeros(2, 3, 8, 8))


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
