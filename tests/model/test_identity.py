"""Which model it is: one thing at a time is changed, and named; or must not matter."""

import functools
import importlib
import json
import os
import subprocess
import sys
import textwrap
import types
from dataclasses import asdict, dataclass

import numpy as np
import pytest
import torch
from torch import nn

from raylatent.engine.actors import DriverModel, PackedSpec, check_model
from raylatent.errors import ModelError
from raylatent.model.features import Features
from raylatent.run import entry_differences

NET = '''
"""A net."""
import functools
import importlib
import json
import math
from pathlib import Path
import torch
from torch import nn
import blocks
from blocks import act, Block as B
from tables import CONFIG, SCALE, plot
import registry

FOLDER = Path(__file__).parent

def decorated(factor):
    def wrap(function):
        @functools.wraps(function)
        def inner(*args):
            return function(*args) * factor
        return inner
    return wrap

class Head(nn.Module):
    gain = 1.5

    def __init__(self, width):
        super().__init__()
        self.fc = nn.Linear(width, 2)
        self.temperature = 0.5
        self.options = {"pad": [1, 2], "names": {"a", "b"}}
        self.prototypes = torch.arange(4.0)
        self.shift = lambda x: x + 1
        self.register_buffer("kept", torch.ones(2), persistent=False)

    @property
    def factor(self):
        return self.gain * 2

    @decorated(2.0)
    def scored(self, x, bias=SCALE):
        return self.fc(x) + bias

    def forward(self, x):
        """Scores."""
        name = "score" + "d"
        return self.shift(self.scored(x)) / self.temperature * self.factor + CONFIG["add"]

    def training_step(self, batch):
        return batch

class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.block = B(width)
        self.act = registry.KINDS["relu"]
        self.head = Head(width)

    def forward(self, x):
        x = blocks.second(self.block(x))
        return self.head(self.act(x).mean((2, 3)))

def helper():
    from late import late
    return late()

def build(width=4):
    torch.manual_seed(0)
    net = Net(width)
    helper()
    net.head.prototypes = torch.tensor(json.loads((FOLDER / "p.json").read_text()))
    return net

def train():
    print("training")
'''
FILES = {
    "net.py": NET,
    "blocks.py": """
        import torch
        from torch import nn
        class Base(nn.Module):
            def inner(self, x):
                return torch.relu(x)
        class Block(Base):
            def __init__(self, width):
                super().__init__()
                self.conv = nn.Conv2d(3, width, 3)
            def forward(self, x):
                return self.inner(self.conv(x))
        def act(x):
            return x.relu()
        def second(x):
            return act(x) * 2
        def unused(x):
            return x
        """,
    "tables.py": """
        CONFIG = {"add": 1.0}
        SCALE = 0.25
        def plot(): return 3
        """,
    "registry.py": """
        from torch.nn import functional as F
        def mine(x): return x + 1
        def other(x): return x + 2
        KINDS = {"relu": mine, "other": other}
        """,
    "late.py": "def late(): return 0.125",
    "p.json": "[1.0, 2.0]",
}


@pytest.fixture(autouse=True)
def modules_as_before():
    before = dict(sys.modules)
    yield
    for name in set(sys.modules) - set(before):
        if f"{name}.py" in FILES:
            del sys.modules[name]


@pytest.fixture
def written(tmp_path):
    """written(file, old, new) is a model folder in which one text was replaced."""
    made = []

    def write(file=None, old="", new="", **changes):
        path = tmp_path / str(len(made)) / "model"
        path.mkdir(parents=True)
        made.append(path)
        for name, text in FILES.items():
            content = textwrap.dedent(text)
            if name == file:
                assert content.count(old) == 1, (old, content.count(old))
                content = content.replace(old, new)
            (path / name).write_text(content)
        content = {"factory": "net:build", "weights": None, "tile_px": 8}
        content |= {"mean": 0.5, "std": 0.5, **changes}
        (path / "model.json").write_text(json.dumps(content))
        return str(path)

    return write


def identity(model, **options):
    return Features(model, tile_px=8, device="cpu", **options).identity()


def differing(before, after):
    """Sentences; the fingerprint differs where there is one."""
    found = entry_differences(asdict(before), asdict(after))
    assert bool(found) == (before.fields() != after.fields())
    return found


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        ("blocks.py", "torch.relu(x)", "torch.tanh(x)", "code of blocks.Base.inner differs"),
        ("blocks.py", "x.relu()", "x.tanh()", "the code of blocks.act differs"),
        ("blocks.py", "act(x) * 2", "act(x) * 3", "the code of blocks.second differs"),
        ("late.py", "0.125", "0.5", "the code of late.late differs"),
        ("registry.py", "x + 1", "x + 3", "the code of registry.mine differs"),
        ("tables.py", '"add": 1.0', '"add": 2.0', "net.CONFIG"),
        ("tables.py", "0.25", "0.5", "net.Head.scored was 0.25, now 0.5"),
        ("net.py", "@decorated(2.0)", "@decorated(3.0)", "was 2.0, now 3.0"),
        ("net.py", "gain = 1.5", "gain = 2.5", "net.Head.gain was 1.5, now 2.5"),
        ("net.py", "self.gain * 2", "self.gain * 3", "code of net.Head.factor differs"),
        ("net.py", "= 0.5", "= 0.7", "attribute 'temperature' of module 'head' was 0.5, now 0.7"),
        ("net.py", "[1, 2]", "[1, 3]", "attribute 'options' of module 'head'"),
        ("net.py", '"a", "b"', '"a", "c"', "attribute 'options' of module 'head'"),
        ("net.py", "lambda x: x + 1", "lambda x: x + 2", "attribute 'shift' of module 'head'"),
        ("net.py", "torch.ones(2)", "torch.zeros(2)", "the tensor 'head.kept' differs"),
        ("net.py", "manual_seed(0)", "manual_seed(1)", "the tensor 'block.conv.bias' differs"),
        ("net.py", "width=4", "width=5", "the code of net.build differs"),
        ("net.py", "self.fc(x) + bias", "self.fc(x) - bias", "the code of net.Head.scored"),
        ("p.json", "2.0", "3.0", "the file p.json that the factory reads differs"),
        ("p.json", "2.0", "3.0", "attribute 'prototypes' of module 'head' differs"),
    ],
)  # fmt: skip
def test_what_decides_a_row_is_named(written, file, old, new, says):
    found = differing(identity(written()), identity(written(file, old, new)))
    assert says in "; ".join(found)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("net.py", '"""Scores."""', '"""Other\n\n        words."""  # a comment'),
        ("net.py", '"""A net."""', "# moved\n\n\n"),
        ("net.py", '        """Scores."""\n', ""),
        ("net.py", "(self.block(x))", "(\n            self.block( x ),\n        )"),
        ("net.py", '"score" + "d"', "'score'  +  'd'"),
        ("net.py", 'print("training")', 'print("not training")'),
        ("net.py", "return batch", "return batch[0]"),
        (
            "blocks.py",
            "def unused(x):\n    return x",
            "def unused(x):\n    return 2 * x",
        ),
        ("tables.py", "return 3", "return 4"),
        ("registry.py", "x + 2", "x + 5"),
        ("late.py", "return 0.125", "return (0.125)  # late"),
    ],
)
def test_what_changes_nothing_goes_on(written, file, old, new):
    assert differing(identity(written()), identity(written(file, old, new))) == []


def test_arguments_of_a_factory_count(written):
    found = differing(identity(written()), identity(written(kwargs={"width": 6})))
    assert "the factory argument 'width' is new" in "; ".join(found)


def test_the_same_model_twice_in_one_process(written):
    """Its modules are imported already, and what they cached is filled."""
    path = written()
    assert differing(identity(path), identity(path)) == []


# Two on one line, of one name.
CHOICES = [lambda x: x + 1, lambda x: x + 2]


class Config:
    __slots__ = ("depth", "owner")

    def __init__(self):
        self.depth = 3
        self.owner = self  # a cycle


@dataclass
class Size:
    height: int = 2


def added(x, amount=1):
    return x + amount


def scaled(factor):
    def scale(x):
        return x * factor

    return scale


class Plain(nn.Module):
    """Holds one of each kind."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        for tensor in self.parameters():
            nn.init.constant_(tensor, 0.1)
        self.bank = torch.arange(4.0)
        self.array = np.arange(3)
        self.half = torch.float16
        self.config = Config()
        self.size = Size()
        self.bound = self.again
        self.part = functools.partial(added, amount=1)
        self.closure = scaled(2)
        self.hidden = [nn.Linear(2, 2, bias=False)]
        nn.init.constant_(self.hidden[0].weight, 0.5)
        self.chosen = CHOICES[0]
        self.calls = 0
        self.cache = None
        self.table = {}
        self.history = []
        self.seen = None

    def again(self, x):
        return x

    def forward(self, x):
        self.calls += 1
        if self.cache is None:
            self.cache = torch.ones(1)
        self.table.setdefault(x.shape[-1], len(self.table))
        self.history.append(x.shape[-1])
        self.seen = x.mean((2, 3))
        return self.conv(x).mean((2, 3)) * self.cache


def of_lambda(net):
    net.chosen = CHOICES[1]


def of_deep(net):
    net.config.depth = 4


def of_dataclass(net):
    net.size.height = 3


def of_tensor(net):
    net.bank[0] = 7


def of_array(net):
    net.array[0] = 7


def of_type(net):
    net.half = torch.bfloat16


def of_partial(net):
    net.part = functools.partial(added, amount=2)


def of_closure(net):
    net.closure = scaled(3)


def of_hidden(net):
    net.hidden[0].weight.data[0, 0] = 9


def of_forward(net):
    net.forward = types.MethodType(lambda self, x: self.conv(x).mean((2, 3)), net)


def of_weight(net):
    net.conv.weight.data[0, 0, 0, 0] = 9


def of_hook(net):
    net.conv.register_forward_hook(lambda module, args, output: output * 2)


def of_pre_hook(net):
    net.conv.register_forward_pre_hook(lambda module, args: (args[0] * 2,))


def of_padding(net):
    net.conv.padding_mode = "reflect"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (of_lambda, "attribute 'chosen' of the model itself differs"),
        (of_deep, "attribute 'config' of the model itself differs"),
        (of_dataclass, "attribute 'size' of the model itself"),
        (of_tensor, "attribute 'bank' of the model itself differs"),
        (of_array, "attribute 'array' of the model itself differs"),
        (of_type, "'half' of the model itself was torch.float16, now torch.bfloat16"),
        (of_partial, "attribute 'part' of the model itself"),
        (of_closure, "attribute 'closure' of the model itself differs"),
        (of_hidden, "attribute 'hidden' of the model itself"),
        (of_forward, "attribute 'forward' of the model itself is new"),
        (of_weight, "the tensor 'conv.weight' differs"),
        (of_hook, "the forward hooks of module 'conv' is new"),
        (of_pre_hook, "the forward pre-hooks of module 'conv' is new"),
        (of_padding, "'padding_mode' of module 'conv' was 'zeros', now 'reflect'"),
    ],
)
def test_what_a_module_from_python_is(change, says):
    net = Plain()
    change(net)
    assert says in "; ".join(differing(identity(Plain()), identity(net)))


def test_what_a_pass_changes_is_no_part_of_a_model():
    """A counter, a history, what was seen; a cache that the first pass fills stays."""
    net = Plain()
    first = identity(net)
    assert not {"calls", "history", "seen"} & set(first.attributes[""])
    assert "cache" in first.attributes[""]
    assert differing(first, identity(net)) == []
    features = Features(net, tile_px=8)
    check_model(Features(Plain(), tile_px=8), DriverModel.of(features))


def test_double_precision_is_another_model():
    found = differing(identity(nn.Conv2d(3, 4, 3)), identity(nn.Conv2d(3, 4, 3).half()))
    assert any("tensor 'weight'" in text for text in found)


def quantized(scale=1.0):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    net[1].weight.data *= scale
    return torch.ao.quantization.quantize_dynamic(net, {nn.Linear}, torch.qint8)


@pytest.mark.filterwarnings("ignore")
def test_packed_weights_of_quantized_layers():
    """They are in the state dict as pairs, not as tensors."""
    assert differing(identity(quantized()), identity(quantized())) == []
    found = differing(identity(quantized()), identity(quantized(1.5)))
    assert "1._packed_params._packed_params" in "; ".join(found)


def test_a_random_attribute_is_refused_by_name_on_a_worker(written):
    path = written("net.py", "= 0.5", "= __import__('random').random()")
    driver, worker = (Features(path, tile_px=8, device="cpu") for _ in range(2))
    with pytest.raises(
        ModelError, match="attribute 'temperature' of module 'head' was"
    ):
        check_model(worker, DriverModel.of(driver))


def test_another_version_of_a_package_on_a_worker(written):
    driver = Features(written(), tile_px=8, device="cpu")
    other = written("blocks.py", "torch.relu(x)", "torch.tanh(x)")
    with pytest.raises(ModelError, match=r"the code of blocks\.Base\.inner differs"):
        check_model(Features(other, tile_px=8, device="cpu"), DriverModel.of(driver))
    same = Features(written("blocks.py", "x.relu()", "x.relu()  # the same"), tile_px=8)
    check_model(same, DriverModel.of(driver))


SCRIPT = """
import json, sys
from dataclasses import asdict
from raylatent.model.features import Features
features = Features(sys.argv[1], tile_px=8, device="cpu")
print(json.dumps([asdict(features.identity()), features.sample_outputs]))
"""


@pytest.mark.slow
def test_other_processes_see_the_same_model(written, tmp_path):
    """Another hash seed, working directory, copy of the folder, and vector unit."""
    # Drawn weights differ in their last bits from one vector unit to another.
    fixed = "[nn.init.constant_(p, 0.1) for p in net.parameters()]; helper()\n"
    found = []
    for number, capability in enumerate(("default", "avx2")):
        environment = {
            **os.environ,
            "PYTHONHASHSEED": str(number + 1),
            "ATEN_CPU_CAPABILITY": capability,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        }
        there = tmp_path / f"elsewhere{number}"
        there.mkdir()
        done = subprocess.run(  # noqa: S603
            [
                sys.executable,
                "-c",
                SCRIPT,
                written("net.py", "    helper()\n", f"    {fixed}"),
            ],
            env=environment,
            cwd=there,
            capture_output=True,
            text=True,
            check=True,
        )
        found.append(json.loads(done.stdout))
    assert found[0][0] == found[1][0]


SHIPPED = """
import uuid
from torch import nn
SESSION, SCALE = uuid.uuid4().hex, 2.0
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        import lazy_package
        self.conv, self.alike = nn.Conv2d(3, 2, 8), lazy_package.Alike
    def forward(self, x):
        return self.conv(x).flatten(1) * SCALE * len(SESSION)
"""


class Lazy(types.ModuleType):
    """Keeps what it was asked for, as transformers does."""

    def __getattr__(self, name):
        if name != "Alike":
            raise AttributeError(name)
        vars(self)[name] = types.new_class(name)
        return vars(self)[name]


def installed_identity(tmp_path, monkeypatch, source):
    """Of a model of an installed package, as a new process has it."""
    (tmp_path / "shipped.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(
        "raylatent.model.model_code.INSTALLED", (str(tmp_path.resolve()),)
    )
    monkeypatch.delitem(sys.modules, "shipped", raising=False)
    monkeypatch.setitem(sys.modules, "lazy_package", Lazy("lazy_package"))
    return of_shipped(importlib.import_module("shipped"))


def of_shipped(module):
    torch.manual_seed(0)
    return asdict(identity(module.Net(), layers="conv"))


def test_constants_of_an_installed_package_count_as_they_are_written(
    tmp_path, monkeypatch
):
    was = installed_identity(tmp_path, monkeypatch, SHIPPED)
    again = installed_identity(tmp_path, monkeypatch, SHIPPED)
    assert entry_differences(was, again) == []
    # What the first model asked of a lazy module is no part of the second.
    once_more = of_shipped(sys.modules["shipped"])
    assert entry_differences(again, once_more) == []
    other = SHIPPED.replace("2.0", "2.5")
    found = entry_differences(was, installed_identity(tmp_path, monkeypatch, other))
    assert "the value of shipped.SCALE differs" in found


ELSEWHERE = """
from pathlib import Path
from torch import nn
HERE = Path(__file__).parent
ROOT = str(HERE.parent)
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.file = nn.Conv2d(3, 2, 8), str(HERE / "options.json")
        self.root = ROOT, HERE
    def forward(self, x):
        return self.conv(x).flatten(1)
def make():
    return Net()
"""


def test_code_that_is_moved_is_the_same(tmp_path, monkeypatch):
    found = []
    for folder in ("a/nets", "b/c/nets"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "moved_net.py").write_text(ELSEWHERE)
        with monkeypatch.context() as patch:
            patch.syspath_prepend(tmp_path / folder)
            patch.delitem(sys.modules, "moved_net", raising=False)
            torch.manual_seed(0)
            module = importlib.import_module("moved_net")
            found.append(asdict(identity(module.Net(), layers="conv")))
            del sys.modules["moved_net"]
    assert entry_differences(*found) == []


class Trained(Plain):
    """As Lightning's modules: a pickle leaves out the trainer."""

    def __init__(self):
        super().__init__()
        self.optimizer = torch.optim.Adam(self.parameters())
        self.trainer = "of this process"

    def __getstate__(self):
        return {**vars(self), "trainer": None}


def test_what_trains_a_model_is_no_part_of_it():
    net = Trained()
    features = Features(net, layers="conv", tile_px=8, device="cpu")
    spec = PackedSpec.pack(features.spec).unpack()
    there = Features(spec, layers="conv", tile_px=8, device="cpu", check_rows=False)
    assert there.model.trainer is None
    check_model(there, DriverModel.of(features))
    before = features.identity()
    net.optimizer.state["steps"] = 3
    assert differing(before, identity(net, layers="conv")) == []
