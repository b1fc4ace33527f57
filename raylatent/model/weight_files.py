"""Reading a file of weights, whichever program wrote it, without running code of it.

Training programs save more than weights: their arguments, metrics, schedules. Torch's
own restricted unpickler (`weights_only=True`) refuses the whole file for one of them.
Here it still reads the file, and does what it always does, but each name that it does
not know stands for a class of this module, which is found by that name alone: nothing
that a file names is imported, looked up or called. What is made of such a class keeps
nothing, but for NumPy's arrays, which may be weights.
"""

import gzip
import io
import json
import pickletools
import sys
import threading
import warnings
import zipfile
import zlib
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray

from raylatent.errors import ModelError, StorageError
from raylatent.storage import Store, reason

# What a broken or foreign file makes torch.load raise.
UNREADABLE = (
    *(AssertionError, AttributeError, EOFError, ImportError, LookupError, OSError),
    *(NotImplementedError, RuntimeError, TypeError, UnpicklingError, ValueError),
)
_SAVE = "torch.save(model.state_dict(), path), or better safetensors"
# What a file that starts so is, and what to do about it.
_FOREIGN = (
    (b"version https://git-lfs", "a git-lfs pointer: git lfs pull fetches the weights"),
    (b"<", "a web page: what was downloaded is no file of weights"),
    (b"\x89HDF", "an HDF5 file, as Keras and TensorFlow write"),
    (b"GGUF", "a GGUF file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"BZh", "compressed by bzip2: unpack it"),
    (b"\xfd7zXZ", "compressed by xz: unpack it"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd: unpack it"),
    (b"7z\xbc\xaf", "a 7z archive: unpack it"),
    (b"Rar!", "a RAR archive: unpack it"),
)
_SHOWN = 40
_FILES_SHOWN = 5
# The number that torch's format before 1.6 begins with, as pickled.
_TORCH = b"\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
_START = 512  # bytes, which tell a kind
_MARK = slice(257, 262)  # of a tar archive
_CODE = "give the module's own code and its state dict, in a model folder"
SCRIPT = f"TorchScript, whose layers cannot be named or watched: {_CODE}"
EXPORTED = (
    f"a program of torch.export, whose layers cannot be named or watched: {_CODE}"
)

_OTHER_ORDER = ">" if sys.byteorder == "little" else "<"
_ONE_AT_A_TIME = threading.Lock()  # torch's list of safe names is the process'
_LEGACY_PICKLES = 4  # of torch's format before 1.6: magic, version, system, content


def _beside(folder: str, name: str) -> str:
    """What a folder holds that was perhaps meant, in words."""
    others = (".py", "model.json")
    files = [file for file in Store(folder).root_files() if not file.endswith(others)]
    near = get_close_matches(name, files, n=_FILES_SHOWN) or files[:_FILES_SHOWN]
    return f"; its folder has {', '.join(near)}" if near else ""


def read_checkpoint(uri: str) -> Any:  # noqa: ANN401  (it may be anything)
    """What a file of weights holds; no code of the file is run.

    Safetensors, the index of its or torch's shards, and whatever torch.save wrote, told
    by their content. In place of objects that are neither tensors nor plain data there
    are placeholders, see `load_without_code`.

    Raises:
        ModelError: It is not there, or is nothing of this; the message says what it is.
    """
    folder, _, name = uri.rpartition("/")
    try:
        data = Store(folder).read(name)
    except StorageError as error:
        message = f"weights {uri} cannot be read: {error}"
        if isinstance(error.__cause__, FileNotFoundError):
            message = f"weights {uri}: there is no such file{_beside(folder, name)}"
        raise ModelError(message) from error
    if data[:2] == b"\x1f\x8b" and not _is_safetensors(data):
        data = _unzipped(data, uri)
    if name.endswith(".json"):
        return _shards(data, uri)
    if what := foreign(data, name):
        what += "" if ": " in what else ": give safetensors, or what torch.save wrote"
        message = f"weights {uri} are {what}"
        raise ModelError(message)
    return _loaded(data, uri)


def foreign(data: bytes, name: str) -> str | None:
    """What a file is that is neither safetensors nor of torch.save; None if it may be.

    >>> foreign(b"", "w.pt"), foreign(b"<!DOCTYPE html>", "w.pt")
    ('empty', 'a web page: what was downloaded is no file of weights')
    """
    start = data[:_START]
    if data[:4] == b"PK\x03\x04":
        return _foreign_zip(io.BytesIO(data))
    if _is_safetensors(data):
        return None
    kinds = {what: start.lstrip().startswith(magic) for magic, what in _FOREIGN}
    kinds |= {
        "empty": not data,
        f"an ONNX model: {_CODE}": name.endswith(".onnx"),
        "a tar archive: unpack it": data[_MARK] == b"ustar",
        f"a pickle that torch.save did not write: save them by {_SAVE}": (
            start[:1] == b"\x80" and _TORCH not in start
        ),
        f"text, which begins {ascii(start[:_SHOWN])[1:]}": (
            start.isascii() and " ".join(start.decode().split()).isprintable()
        ),
    }
    return next((what for what, is_so in kinds.items() if is_so), None)


def foreign_file(path: str) -> str | None:
    """Like `foreign`, of a local file that should be a pickled module.

    Raises:
        ModelError: It cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            start = file.read(_START)
            zipped = start[:4] == b"PK\x03\x04"
            what = _foreign_zip(file) if zipped else foreign(start, path)
    except OSError as error:
        message = f"{path} cannot be read: {reason(error)}"
        raise ModelError(message) from error
    if _is_safetensors(start):
        return f"safetensors, weights without code: {_CODE}"
    return what


def holds_mapping(path: str) -> Mapping[Any, Any] | None:
    """The state dict, or other mapping, in a local file that torch.save wrote.

    None where it holds another thing, or cannot be read without running its code.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as in reading weights
            saved = load_without_code(Path(path).read_bytes())
    except (*UNREADABLE, MemoryError):
        return None
    return saved if isinstance(saved, Mapping) else None


def _is_safetensors(data: bytes) -> bool:
    """Whether it begins with the length of a header, and its JSON."""
    return data[5:9] == b"\0\0\0{"


def _foreign_zip(file: BinaryIO) -> str | None:
    try:
        archive = zipfile.ZipFile(file)
        names, other = archive.namelist(), archive.testzip()
    except (zipfile.BadZipFile, zlib.error, *UNREADABLE):
        return "cut off or damaged: copy them again"
    if other is not None:  # torch does not look
        return f"damaged, {printable(other)} has another checksum: copy them again"
    tops = {name.rpartition("/")[2] for name in names}
    first = ", ".join(map(printable, sorted(tops)[:3]))
    kinds = {
        SCRIPT: "constants.pkl" in tops,
        EXPORTED: bool(tops & {"serialized_exported_program.json", "archive_format"}),
        f"a zip archive of {first}": "data.pkl" not in tops,
    }
    return next((what for what, is_so in kinds.items() if is_so), None)


def _loaded(data: bytes, uri: str) -> Any:  # noqa: ANN401
    try:
        if _is_safetensors(data):
            return safetensors.torch.load(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks on foreign pickles
            return load_without_code(data)
    except safetensors.SafetensorError as error:
        message = f"weights {uri} are no whole safetensors file: {reason(error)}"
        raise ModelError(message) from error
    except UnpicklingError as error:
        message = (
            f"weights {uri} are no state dict that can be read without running code of "
            f"the file ({_of_torch(error)}): save them by {_SAVE}"
        )
        raise ModelError(message) from error
    except (*UNREADABLE, MemoryError) as error:
        message = f"weights {uri} are damaged, or no state dict: {_of_torch(error)}"
        raise ModelError(message) from error


def _of_torch(error: BaseException) -> str:
    """Torch's own reason, without its advice to trust the file."""
    text = str(error)
    inner = text.rpartition("WeightsUnpickler error: ")[2].strip()
    lines = [*inner.splitlines(), type(error).__name__]
    line = next((x for x in lines if "GLOBAL" in x), lines[0])
    return printable(line.partition(" Please use")[0].rstrip(" ."))


def _unzipped(data: bytes, uri: str) -> bytes:
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        message = f"weights {uri} are compressed by gzip, and damaged: {reason(error)}"
        raise ModelError(message) from error


def _shards(data: bytes, uri: str) -> dict[str, Any]:
    """The tensors of all files that an index names, which must lie beside it."""
    folder = uri.rpartition("/")[0]
    try:
        files = set(json.loads(data)["weight_map"].values())
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        message = f"weights {uri} are JSON, and no index of shards: {reason(error)}"
        raise ModelError(message) from error
    found: dict[str, Any] = {}
    for name in sorted(map(str, files)):
        if "/" in name or name in ("", "..") or name.endswith(".json"):
            message = f"weights {uri} name a shard that is not beside them: {name!r}"
            raise ModelError(message)
        shard = read_checkpoint(f"{folder}/{name}")
        if not isinstance(shard, Mapping):
            message = f"weights {folder}/{name} are no state dict"
            raise ModelError(message)
        found |= shard
    return found


class _TakesItems(type):
    """Torch sets items on dictionaries only: what stands for a subclass passes as one."""

    def __eq__(cls, other: object) -> bool:
        return cls is other or other is dict

    __hash__ = type.__hash__


class Placeholder(metaclass=_TakesItems):
    """An object of a class that is not wanted here.

    Attributes:
        name: What the file calls its class, such as `argparse.Namespace`.
    """

    name = ""

    def __new__(cls, *_args: object, **_kwargs: object) -> "Placeholder":
        """Whatever the arguments."""
        return object.__new__(cls)

    def __init__(self, *_args: object, **_kwargs: object) -> None:
        """Keep nothing."""

    def __setstate__(self, _state: object) -> None:
        """Keep nothing."""

    def __setitem__(self, _key: object, _value: object) -> None:
        """Keep nothing."""


class _DType(Placeholder):
    """`numpy.dtype`, of numbers only."""

    name = "numpy.dtype"

    def __init__(self, text: object = "", *_args: object) -> None:
        self.code, self.swapped = str(text), False

    def __setstate__(self, state: object) -> None:
        """Its second part is the order of bytes."""
        self.swapped = isinstance(state, tuple) and state[1:2] == (_OTHER_ORDER,)

    def numpy(self) -> np.dtype[Any] | None:
        """None for what is no plain number."""
        number = self.code[:1] in "biufc" and self.code[1:].isdigit()
        known = np.dtype(self.code) if number else None
        return known.newbyteorder() if known and self.swapped else known


class NumpyValue(Placeholder):
    """A NumPy array, or number, that a file holds in place of a tensor.

    Attributes:
        array: None where it is not of numbers.
    """

    array: NDArray[Any] | None = None

    def _fill(self, dtype: object, data: object, shape: object, order: str) -> None:
        known = dtype.numpy() if isinstance(dtype, _DType) else None
        if known is None or not isinstance(data, bytes) or not isinstance(shape, tuple):
            return
        values = np.frombuffer(data, known)
        whole = values.reshape(shape, order="F" if order == "F" else "C")
        self.array = whole.astype(known.newbyteorder("="))


class _Array(NumpyValue):
    name = "numpy.ndarray"

    def __setstate__(self, state: object) -> None:
        if isinstance(state, tuple) and len(state) == 5:
            _version, shape, dtype, fortran, data = state
            self._fill(dtype, data, shape, "F" if fortran else "C")


class _Number(NumpyValue):
    name = "numpy.number"

    def __init__(
        self, dtype: object = None, data: object = None, *_args: object
    ) -> None:
        self._fill(dtype, data, (), "C")


_KNOWN: dict[str, Callable[..., Any]] = {
    "builtins.bytes": lambda *_args: b"",  # other bytes are written in another way
    "collections.deque": lambda *_args: [],  # torch appends to lists only
    "numpy.dtype": _DType,
    **{
        f"numpy.{core}.multiarray.{name}": kind
        for core in ("core", "_core")
        for name, kind in (("_reconstruct", _Array), ("scalar", _Number))
    },
}


def printable(text: str) -> str:
    """A name that comes from a file, for a message: no line breaks, no escapes.

    >>> printable("fc.weight"), len(printable(chr(10)).splitlines())
    ('fc.weight', 1)
    """
    return text if text.isprintable() else ascii(text)


def load_without_code(data: bytes) -> Any:  # noqa: ANN401  (a checkpoint may be anything)
    """What torch.save wrote, with placeholders for all that torch does not know as safe.

    Raises:
        pickle.UnpicklingError: Torch refuses it; and whatever else damage makes it raise.
    """
    stands: list[Any] = [
        (
            _KNOWN.get(name)
            or _TakesItems("Placeholder", (Placeholder,), {"name": name}),
            name,
        )
        for name in sorted(_names(data))
    ]
    with _ONE_AT_A_TIME, torch.serialization.safe_globals(stands):
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _names(data: bytes) -> set[str]:
    """Names of classes and functions in a checkpoint that torch does not know as safe."""
    stream = io.BytesIO(data)
    if data[:4] == b"PK\x03\x04":
        return set(torch.serialization.get_unsafe_globals_in_checkpoint(stream))
    return {
        _present_name(*str(argument).split(" ", 1))
        for _ in range(_LEGACY_PICKLES)
        for code, argument, _ in pickletools.genops(stream)
        if code.name == "GLOBAL"
    }


def _present_name(module: str, name: str) -> str:
    """Such as `builtins.list`, which pickles call `__builtin__ list` as Python 2 did."""
    module, name = NAME_MAPPING.get((module, name), (module, name))
    return f"{IMPORT_MAPPING.get(module, module)}.{name}"
