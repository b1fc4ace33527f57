"""What lies beside weights is passed over, and nothing that a file names is run."""

import argparse
import collections
import datetime as dt
import enum
import functools
import io
import os
import pathlib
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from raylatent.model.weight_files import NumpyValue, StandIn, load_inertly


class Attributes(dict):
    """As Lightning's AttributeDict."""


class Slotted:
    """Its state is no dictionary."""

    __slots__ = ("a",)


class Color(enum.Enum):
    """A choice among arguments."""

    RED = 1


def slotted():
    one = Slotted()
    one.a = 1
    return one


BESIDE = {
    "namespace": argparse.Namespace(lr=0.1),
    "path": pathlib.PurePosixPath("/runs/1"),
    "partial": functools.partial(torch.optim.SGD, lr=0.1),
    "subclass of dict": Attributes(lr=0.1),
    "defaultdict": collections.defaultdict(list, loss=[1.0]),
    "deque": collections.deque([1.0], maxlen=5),
    "date": dt.datetime(2026, 1, 1),
    "slots": slotted(),
    "enum": Color.RED,
    "function": os.path.join,
    "class": Attributes,
    "random state": np.random.RandomState(0).get_state(),
    "array of objects": np.array([None, "x"], object),
    "array of text": np.array(["x"]),
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("beside", list(BESIDE))
def test_whatever_lies_beside_the_weights(beside, zipped):
    weights = torch.arange(6.0).reshape(2, 3)
    stream = io.BytesIO()
    torch.save(
        {"args": BESIDE[beside], "w": weights, "after": [1, "x"]},
        stream,
        _use_new_zipfile_serialization=zipped,
    )
    found = load_inertly(stream.getvalue())
    assert torch.equal(found["w"], weights)
    assert found["after"] == [1, "x"]


def test_a_pickled_module_beside_the_weights():
    stream = io.BytesIO()
    torch.save({"loss": nn.Linear(2, 2), "w": torch.ones(3)}, stream)
    found = load_inertly(stream.getvalue())
    assert found["loss"].name == "torch.nn.modules.linear.Linear"
    assert torch.equal(found["w"], torch.ones(3))


def test_a_stand_in_says_what_it_stands_for():
    stream = io.BytesIO()
    torch.save(BESIDE["namespace"], stream)
    found = load_inertly(stream.getvalue())
    assert isinstance(found, StandIn)
    assert found.name == "argparse.Namespace"
    assert not hasattr(found, "lr")


@pytest.mark.parametrize(
    "value",
    [
        np.arange(6, dtype="<f4").reshape(2, 3),
        np.arange(6, dtype=">f8").reshape(2, 3).T,
        np.asfortranarray(np.arange(6, dtype="i8").reshape(2, 3)),
        np.array(True),
        np.float64(0.25),
        np.int32(-7),
        np.zeros((0, 3), "f2"),
    ],
)
def test_numbers_of_numpy_keep_their_values(value):
    stream = io.BytesIO()
    torch.save({"w": value}, stream)
    found = load_inertly(stream.getvalue())["w"]
    assert isinstance(found, NumpyValue)
    np.testing.assert_array_equal(found.array, value)
    assert found.array.shape == value.shape
    assert found.array.dtype == value.dtype.newbyteorder("=")


def legacy(content):
    """A file of torch's old format with this pickle as content."""
    parts = [torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, {}]
    return b"".join(
        [*(pickle.dumps(x, 2) for x in parts), content, pickle.dumps([], 2)]
    )


def calls(module, name, argument):
    """A pickle that calls a function by name with one text."""
    text = argument.encode()
    return (
        b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"X"
        + len(text).to_bytes(4, "little") + text + b"\x85R."
    )  # fmt: skip


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("posix", "system"),
        ("subprocess", "call"),
        ("builtins", "eval"),
        ("builtins", "exec"),
        ("builtins", "getattr"),
        ("builtins", "__import__"),
        ("importlib", "import_module"),
        ("torch.serialization", "load"),
        ("torch.hub", "load"),
        ("numpy.core.multiarray", "fromfile"),
    ],
)
def test_a_call_is_never_made(module, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    commands = {"system": "touch ran", "call": "touch"}
    source = commands.get(name, "open('ran', 'w')")
    content = legacy(calls(module, name, source))
    if module in ("os", "posix"):
        with pytest.raises(pickle.UnpicklingError, match="blocked"):
            load_inertly(content)
    else:
        found = load_inertly(content)
        assert isinstance(found, StandIn)
        assert found.name == f"{module}.{name}"
    assert not list(tmp_path.iterdir())


class Reduces:
    """Pickled as the call of a function with arguments."""

    def __init__(self, *how):
        self.how = how

    def __reduce__(self):
        return self.how


def _code_of_a_function():
    """State that would replace the defaults of a function of torch."""
    return Reduces(
        Reduces,  # stands for a class; the state below is given to what it makes
        (),
        (None, {"__defaults__": (1,), "__code__": 2, "__class__": 3}),
    )


def test_state_and_items_on_stand_ins_change_nothing():
    stream = io.BytesIO()
    before = dict(vars(StandIn))
    torch.save({"a": _code_of_a_function()}, stream)
    found = load_inertly(stream.getvalue())["a"]
    assert isinstance(found, StandIn)
    assert not vars(found)
    assert dict(vars(StandIn)) == before


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [
        ((2**40,), (1,), 0),
        ((2,), (2**40,), 0),
        ((2,), (1,), 2**40),
        ((2,), (1,), -1),
        ((-5,), (1,), 0),
        ((4, 4), (-1, 1), 0),
    ],
)
def test_a_tensor_outside_of_its_storage_is_refused(size, stride, offset):
    storage = torch.ones(4)._typed_storage()
    rebuild = torch._utils._rebuild_tensor_v2
    arguments = (storage, offset, size, stride, False, collections.OrderedDict())
    stream = io.BytesIO()
    torch.save({"w": Reduces(rebuild, arguments)}, stream)
    with pytest.raises((RuntimeError, MemoryError, ValueError)):
        load_inertly(stream.getvalue())


def test_arrays_whose_bytes_are_not_those_of_their_shape():
    bad = Reduces(
        np._core.multiarray._reconstruct,
        (np.ndarray, (0,), b"b"),
        (1, (2**40,), np.dtype("f4"), False, b"1234"),
    )
    stream = io.BytesIO()
    torch.save({"w": bad}, stream)
    with pytest.raises(ValueError, match="reshape"):
        load_inertly(stream.getvalue())


def test_what_stands_in_is_forgotten_afterwards():
    before = set(torch.serialization.get_safe_globals())
    stream = io.BytesIO()
    torch.save({"args": BESIDE["namespace"]}, stream)
    load_inertly(stream.getvalue())
    assert set(torch.serialization.get_safe_globals()) == before
    stream.seek(0)
    with pytest.raises(pickle.UnpicklingError, match=r"argparse\.Namespace"):
        torch.load(stream, weights_only=True)
