"""Files of weights: what every program writes is read, nothing of it is run."""

import argparse
import collections
import datetime as dt
import enum
import functools
import gzip
import io
import json
import os
import pathlib
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file
from torch import nn

from raylatent.errors import ModelError
from raylatent.model.weight_files import (
    NumpyValue,
    Placeholder,
    load_without_code,
    read_checkpoint,
)
from raylatent.storage import Store

STATE = {"w": torch.arange(4.0), "b": torch.ones(2)}


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def torch_bytes(content, **options):
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


@pytest.fixture
def read(tmp_path):
    """read(name, data): what a file with these bytes holds."""

    def read_file(name, data):
        (tmp_path / name).write_bytes(data)
        return read_checkpoint(str(tmp_path / name))

    return read_file


def assert_state(found):
    assert found.keys() == STATE.keys()
    for name, value in STATE.items():
        assert torch.equal(found[name], value)


@pytest.mark.parametrize(
    "name", ["w.pt", "w.bin", "w.safetensors", "w.pth.tar", "w", "w.ckpt"]
)
def test_the_content_says_what_it_is_whatever_the_name(read, name):
    assert_state(read(name, save(STATE, {"format": "pt"})))
    assert_state(read(name, torch_bytes(STATE)))
    assert_state(read(name, torch_bytes(STATE, _use_new_zipfile_serialization=False)))
    assert_state(read(name, gzip.compress(torch_bytes(STATE))))


def test_shards_beside_their_index(read, tmp_path):
    save_file({"w": STATE["w"]}, tmp_path / "m-1.safetensors")
    torch.save({"b": STATE["b"]}, tmp_path / "m-2.bin")
    index = {"weight_map": {"w": "m-1.safetensors", "b": "m-2.bin"}}
    assert_state(read("m.safetensors.index.json", json.dumps(index).encode()))


@pytest.mark.parametrize(
    ("index", "said"),
    [
        (b"{", "are JSON, and no index of shards"),
        (b"[1]", "are JSON, and no index of shards"),
        (b'{"weight_map": {"w": "../w.pt"}}', "not beside them: '../w.pt'"),
        (b'{"weight_map": {"w": "i.json"}}', "not beside them: 'i.json'"),
        (b'{"weight_map": {"w": "gone.pt"}}', "gone.pt: there is no such file"),
    ],
)
def test_what_is_wrong_with_an_index(read, index, said):
    with pytest.raises(ModelError, match=said):
        read("i.json", index)


def zip_of(*names):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return stream.getvalue()


def tar_of(name):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    return stream.getvalue()


def numpy_bytes(write):
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


def script():
    stream = io.BytesIO()
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), stream)
    return stream.getvalue()


def exported():
    stream = io.BytesIO()
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),)), stream)
    return stream.getvalue()


def one_bit():
    data = bytearray(torch_bytes(STATE))
    place = data.find(STATE["w"].numpy().tobytes())
    data[place + 5] ^= 1
    return bytes(data)


FOREIGN = {
    "empty": (lambda: b"", "empty"),
    "pointer": (lambda: POINTER, "a git-lfs pointer: git lfs pull"),
    "page": (lambda: b"\n<!DOCTYPE html>\n<html>", "a web page"),
    "xml": (lambda: b"<?xml version='1.0'?><Error>", "a web page"),
    "keras": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(600), "an HDF5 file, as Keras"),
    "keras zip": (
        lambda: zip_of("config.json", "model.weights.h5"),
        "a zip archive of config.json, model.weights.h5",
    ),
    "npz": (
        lambda: numpy_bytes(lambda f: np.savez(f, w=np.ones(2))),
        "a zip archive of w.npy",
    ),
    "npy": (lambda: numpy_bytes(lambda f: np.save(f, np.ones(2))), "a NumPy array"),
    "tar": (lambda: tar_of("w.pt"), "a tar archive: unpack it"),
    "not found": (lambda: b"Entry not found", "text, which begins 'Entry not found'"),
    "error": (lambda: b'{"error":\n"no"}', "text, which begins '{"),
    "plain pickle": (
        lambda: pickle.dumps({"w": np.ones(2)}),
        "a pickle that torch.save did not write",
    ),
    "xz": (lambda: b"\xfd7zXZ\0" + bytes(9), "compressed by xz: unpack it"),
    "script": (script, "TorchScript, whose layers cannot be named"),
    "exported": (exported, "a program of torch.export, whose layers cannot be named"),
    "half a zip": (
        lambda: torch_bytes(STATE)[:300],
        "cut off or damaged: copy them again",
    ),
    "a bit": (one_bit, "has another checksum: copy them again"),
}


@pytest.mark.parametrize("kind", list(FOREIGN))
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
def test_files_of_other_kinds(read, kind):
    make, said = FOREIGN[kind]
    data = make()
    with pytest.raises(ModelError, match=r"w\.pt are ") as caught:
        read("w.pt", data)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_onnx_is_known_by_its_name(read):
    with pytest.raises(ModelError, match="an ONNX model"):
        read("model.onnx", b"\x08\x07\x12\x07pytorch")


@pytest.mark.parametrize(
    "data",
    [
        save(STATE)[:-3],
        save(STATE)[:30],
        torch_bytes(STATE, _use_new_zipfile_serialization=False)[:-5],
        torch_bytes(STATE, _use_new_zipfile_serialization=False)[:60],
        b"words",
        b"\x80\x02}q\x00.",
        gzip.compress(torch_bytes(STATE))[:-20],
    ],
)
def test_damaged_files(read, data):
    with pytest.raises(ModelError) as caught:
        read("w.pt", data)
    assert str(caught.value).startswith("weights ")
    assert "\n" not in str(caught.value)


def test_torchs_own_reason_is_in_the_message(read):
    data = torch_bytes({"w": torch.ones(2), "run": __import__("os").system})
    with pytest.raises(ModelError, match=r"GLOBAL posix\.system whose module posix"):
        read("w.pt", data)
    with pytest.raises(ModelError, match="Unsupported operand"):
        read("w.pt", torch_bytes(STATE, pickle_protocol=4))


def test_a_header_whose_length_reads_as_another_kind(read):
    """A length of 60 bytes begins with "<", as web pages do."""
    data = save({"w": torch.ones(1)})
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length]
    for wanted in (60 + 256, int.from_bytes(b"\x1f\x8b", "little")):
        padded = wanted.to_bytes(8, "little") + header.ljust(wanted)
        assert torch.equal(read("w.bin", padded + data[-4:])["w"], torch.ones(1))


def test_a_folder_and_a_file_that_is_not_there(read, tmp_path):
    (tmp_path / "folder").mkdir()
    for name, said in (
        ("folder", "folder cannot be read"),
        ("gone.pt", "gone.pt: there is no such file$"),
    ):
        with pytest.raises(ModelError, match=said):
            read_checkpoint(str(tmp_path / name))


def test_weights_at_a_uri():
    Store("memory://weights").write("w.pt", torch_bytes(STATE))
    assert_state(read_checkpoint("memory://weights/w.pt"))


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
    found = load_without_code(stream.getvalue())
    assert torch.equal(found["w"], weights)
    assert found["after"] == [1, "x"]


def test_a_pickled_module_beside_the_weights():
    stream = io.BytesIO()
    torch.save({"loss": nn.Linear(2, 2), "w": torch.ones(3)}, stream)
    found = load_without_code(stream.getvalue())
    assert found["loss"].name == "torch.nn.modules.linear.Linear"
    assert torch.equal(found["w"], torch.ones(3))


def test_a_stand_in_says_what_it_stands_for():
    stream = io.BytesIO()
    torch.save(BESIDE["namespace"], stream)
    found = load_without_code(stream.getvalue())
    assert isinstance(found, Placeholder)
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
    found = load_without_code(stream.getvalue())["w"]
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
            load_without_code(content)
    else:
        found = load_without_code(content)
        assert isinstance(found, Placeholder)
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
    before = dict(vars(Placeholder))
    torch.save({"a": _code_of_a_function()}, stream)
    found = load_without_code(stream.getvalue())["a"]
    assert isinstance(found, Placeholder)
    assert not vars(found)
    assert dict(vars(Placeholder)) == before


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
        load_without_code(stream.getvalue())


def test_arrays_whose_bytes_are_not_those_of_their_shape():
    bad = Reduces(
        np._core.multiarray._reconstruct,
        (np.ndarray, (0,), b"b"),
        (1, (2**40,), np.dtype("f4"), False, b"1234"),
    )
    stream = io.BytesIO()
    torch.save({"w": bad}, stream)
    with pytest.raises(ValueError, match="reshape"):
        load_without_code(stream.getvalue())


def test_what_stands_in_is_forgotten_afterwards():
    before = set(torch.serialization.get_safe_globals())
    stream = io.BytesIO()
    torch.save({"args": BESIDE["namespace"]}, stream)
    load_without_code(stream.getvalue())
    assert set(torch.serialization.get_safe_globals()) == before
    stream.seek(0)
    with pytest.raises(pickle.UnpicklingError, match=r"argparse\.Namespace"):
        torch.load(stream, weights_only=True)
