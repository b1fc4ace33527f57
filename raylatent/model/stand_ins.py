"""What lies beside the weights in a checkpoint, without importing or running any of it.

Training programs save more than weights: their arguments, metrics, schedules. Torch's
own restricted unpickler (`weights_only=True`) refuses the whole file for one of them.
Here it still reads the file, and does what it always does, but each name that it does
not know stands for a class of this module, which is found by that name alone: nothing
that a file names is imported, looked up or called. What is made of such a class keeps
nothing, but for NumPy's arrays, which may be weights.
"""

import io
import pickletools
import sys
import threading
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

_OTHER_ORDER = ">" if sys.byteorder == "little" else "<"
_ONE_AT_A_TIME = threading.Lock()  # torch's list of safe names is the process'
_LEGACY_PICKLES = 4  # of torch's format before 1.6: magic, version, system, content


class _TakesItems(type):
    """Torch sets items on dictionaries only: what stands for a subclass passes as one."""

    def __eq__(cls, other: object) -> bool:
        return cls is other or other is dict

    __hash__ = type.__hash__


class StandIn(metaclass=_TakesItems):
    """An object of a class that is not wanted here.

    Attributes:
        name: What the file calls its class, such as `argparse.Namespace`.
    """

    name = ""

    def __new__(cls, *_args: object, **_kwargs: object) -> "StandIn":
        """Whatever the arguments."""
        return object.__new__(cls)

    def __init__(self, *_args: object, **_kwargs: object) -> None:
        """Keep nothing."""

    def __setstate__(self, _state: object) -> None:
        """Keep nothing."""

    def __setitem__(self, _key: object, _value: object) -> None:
        """Keep nothing."""


class _DType(StandIn):
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


class NumpyValue(StandIn):
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


def _list(*_args: object) -> list[object]:
    """In place of a deque: torch appends to lists only."""
    return []


def _no_bytes(*_args: object) -> bytes:
    """In place of `bytes()`: other bytes are written in another way."""
    return b""


_KNOWN: dict[str, Callable[..., Any]] = {
    "builtins.bytes": _no_bytes,
    "collections.deque": _list,
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


def load_inertly(data: bytes) -> Any:  # noqa: ANN401  (a checkpoint may be anything)
    """What torch.save wrote, with stand-ins for all that torch does not know as safe.

    Raises:
        pickle.UnpicklingError: Torch refuses it; and whatever else damage makes it raise.
    """
    stands: list[Any] = [(_standing_for(name), name) for name in sorted(_names(data))]
    with _ONE_AT_A_TIME, torch.serialization.safe_globals(stands):
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _standing_for(name: str) -> Callable[..., Any]:
    known = _KNOWN.get(name)
    return known or _TakesItems("StandIn", (StandIn,), {"name": name})


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
