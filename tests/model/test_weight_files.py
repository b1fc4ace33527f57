"""Files of weights by their content, and what is said of files that are none."""

import gzip
import io
import json
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file
from torch import nn

from raylatent.errors import ModelError
from raylatent.model.weight_files import read_checkpoint
from raylatent.storage import Store

STATE = {"w": torch.arange(4.0), "b": torch.ones(2)}


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


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
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
