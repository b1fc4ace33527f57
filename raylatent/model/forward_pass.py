"""One pass of any model over a batch, and which of the returned tensors is meant."""

import dataclasses
import importlib
import os
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

import raylatent
from raylatent.errors import ModelError, PassError, RaylatentError
from raylatent.storage import reason

T = TypeVar("T")
_NOT_THE_MODELS = (
    "<",
    *(
        f"{Path(str(package.__file__)).parent}{os.sep}"
        for package in (torch, raylatent, importlib)
    ),
)

# How torchvision, and torch, say that an operator cannot be called.
_SAID = ("Couldn't load custom C++ ops", "torchvision::")

Keys = tuple[str | int, ...]

# As transformers' models name what they return, the first of them that is there.
_KNOWN = ("logits", "last_hidden_state")


class StopForward(Exception):  # noqa: N818  (a signal, not an error)
    """Everything that was wanted of a pass has been seen."""


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and afterwards every module as it was.

    A module from Python belongs to the user, who may be training it.
    """
    before = [(module, module.training) for module in model.modules()]
    if not any(training for _, training in before):
        yield
        return
    model.eval()
    try:
        yield
    finally:
        model.train()  # what a module's own train() undoes, it does again
        for module, training in before:
            module.training = training


def call_model(model: nn.Module, run: Callable[[Tensor], T], batch: Tensor) -> T:
    """What `run`, a way to run the model, gives for a standardized batch (n, 3, h, w).

    Raises:
        PassError: The model fails; the message has the failure's first line.
        torch.OutOfMemoryError: The device has no room for it.
    """
    try:
        with evaluating(model), torch.inference_mode():
            return run(batch)
    except (RaylatentError, StopForward, torch.OutOfMemoryError):
        raise
    except (Exception, SystemExit) as error:  # a model's code may raise anything
        why = missing_operator(error) or f"{type(error).__name__}: {reason(error)}"
        why += raised_at(error)
        message = f"the model fails on a batch of shape {tuple(batch.shape)}: {why}"
        raise PassError(message) from error


def raised_at(error: BaseException) -> str:
    """Where in a model's own code an exception arose: ` (net.py:22, in forward)`.

    Torch's own lines and ours, and those of an import, say nothing to its author.
    """
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith(_NOT_THE_MODELS):
            return f" ({Path(frame.filename).name}:{frame.lineno}, in {frame.name})"
    return ""


@contextmanager
def watched(
    modules: Mapping[str, nn.Module], see: Callable[[str, object], None]
) -> Iterator[None]:
    """While this lasts, call `see` with name and output of modules that run."""

    def hook_of(name: str) -> Callable[[nn.Module, object, object], None]:
        return lambda _module, _inputs, output: see(name, output)

    handles = [
        module.register_forward_hook(hook_of(name)) for name, module in modules.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def layer_shapes(model: nn.Module, sample: Tensor) -> list[tuple[str, str, str]]:
    """Name, class and output shape of every module that runs, in order of execution.

    Of a module with several names all are given: `act1 = act2`.
    """
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if name:
            names.setdefault(module, []).append(name)
    modules = {" = ".join(called): module for module, called in names.items()}
    rows: list[tuple[str, str, str]] = []

    def record(name: str, output: object) -> None:
        tensor = first_tensor(output)
        shape = "-" if tensor is None else str(tuple(tensor.shape[1:]))
        rows.append((name, type(modules[name]).__name__, shape))

    with watched(modules, record):
        call_model(model, model, sample)
    return rows


def missing_operator(error: BaseException) -> str | None:
    """What to do where torchvision lacks the operator that was called; else None."""
    if not any(text in str(error) for text in _SAID):
        return None
    return (
        "torchvision's compiled operators are not installed for this torch "
        f"({torch.__version__}): install the torchvision that fits, without a GPU by "
        "pip install torchvision --index-url https://download.pytorch.org/whl/cpu"
    )


def tensors_in(value: object) -> list[tuple[Keys, Tensor]]:
    """Every tensor in what a module returns, with the keys that lead to it.

    Tensors in mappings, sequences, named tuples, dataclasses and plain objects with
    attributes are found, in their order.

    >>> import torch
    >>> [path for path, _ in tensors_in({"a": None, "b": [torch.zeros(1)]})]
    [('b', 0)]
    """
    if isinstance(value, Tensor):
        return [((), value)]
    return [
        ((key, *path), tensor)
        for key, item in _items(value)
        for path, tensor in tensors_in(item)
    ]


def _items(value: object) -> Iterator[tuple[str | int, object]]:
    if isinstance(value, Mapping):
        yield from ((str(key), item) for key, item in value.items())
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        names = getattr(value, "_fields", None)
        yield from zip(names or range(len(value)), value, strict=True)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield field.name, getattr(value, field.name)
    elif not isinstance(value, nn.Module | type):
        yield from getattr(value, "__dict__", {}).items()


def first_tensor(value: object) -> Tensor | None:
    """The tensor in what a module returns: itself, or the first inside.

    Of a mapping (as transformers' models return) first `logits`, then
    `last_hidden_state`, then the first value.
    """
    if isinstance(value, Tensor):
        return value
    found = tensors_in(value)
    if isinstance(value, Mapping):
        found.sort(key=lambda item: _rank(item[0]))
    return found[0][1] if found else None


def _rank(path: Keys) -> int:
    key = path[0] if path else None
    return _KNOWN.index(key) if key in _KNOWN else len(_KNOWN)


def row_shape(tensor: Tensor) -> tuple[int, ...]:
    """The shape of one tile's part, without sides of 1: `(c,)` of (n, c, 1, 1).

    One number a tile is `(1,)`.

    >>> import torch
    >>> row_shape(torch.zeros(2, 5, 1, 1)), row_shape(torch.zeros(2))
    ((5,), (1,))
    """
    return tuple(side for side in tensor.shape[1:] if side != 1) or (1,)


class Output:
    """The model's own output among the tensors that it returns.

    Args:
        name: Of the model, for errors.
        key: The index, key or attribute that the user gave, `a.b` for nested ones.
        classes: How many classes the model has, None where that is not known.

    Attributes:
        path: The keys that lead to the tensor; None until it was looked for.
        several: What came back, in words, where the choice was among several.
    """

    def __init__(
        self,
        name: str = "the model",
        key: str | int | None = None,
        classes: int | None = None,
    ) -> None:
        """See the class."""
        self.name = name
        self.key = key
        self.classes = classes
        self.path: Keys | None = None
        self.several = ""

    def of(self, value: object, n: int) -> Tensor | None:
        """The output in what the model returned for n tiles, None where it has none.

        Raises:
            ModelError: Which tensor it is cannot be known: the message lists them.
        """
        if self.path is None:
            found = tensors_in(value)
            if not found:
                return None
            self.path = self._choose(found, n)
        for key in self.path:
            value = _get(value, key)
        if not isinstance(value, Tensor):
            message = (
                f"{self.name} returned no tensor as its output {dotted(self.path)!r} "
                "this time, though it did before"
            )
            raise ModelError(message)
        return value

    def _choose(self, found: list[tuple[Keys, Tensor]], n: int) -> Keys:
        listed = ", ".join(
            f"{dotted(path)} {tuple(tensor.shape[1:])}" for path, tensor in found
        )
        if self.key is not None:
            return self._asked(found, listed)
        if len(found) == 1:
            return found[0][0]
        fitting: list[Keys]
        rows = [(path, t) for path, t in found if t.ndim and t.shape[0] == n]
        if self.classes is not None:
            fitting = [path for path, t in rows if row_shape(t) == (self.classes,)]
        else:
            fitting = [path for path, t in rows if len(row_shape(t)) == 1]
        # Transformers' own names are clear, whatever the shapes.
        known: list[Keys] = [
            path for path, _ in found if path[0] in _KNOWN and len(path) == 1
        ]
        known.sort(key=_rank)
        if known and (self.classes is None or known[0] in fitting):
            fitting = known[:1]
        if len(fitting) == 1:
            self.several = f"{dotted(fitting[0])} of several tensors ({listed})"
            return fitting[0]
        fits = "" if self.classes is None else f" for {self.classes} classes"
        message = (
            f"{self.name} returns {len(found)} tensors a tile, and which one is its "
            f"output{fits} is not clear: {listed}; choose one in model.json, as "
            f'"output": {_as_json((fitting or [found[0][0]])[0])}, or by output= in Python'
        )
        raise ModelError(message)

    def _asked(self, found: list[tuple[Keys, Tensor]], listed: str) -> Keys:
        for path, _ in found:
            if dotted(path) == str(self.key):
                return path
        message = (
            f"{self.name} returns no tensor called {str(self.key)!r}; it returns "
            f'{listed}: choose one of these in model.json ("output") or by output='
        )
        raise ModelError(message)


def dotted(path: Keys) -> str:
    """The keys as a user writes them; `output` where the model returns one tensor."""
    return ".".join(map(str, path)) or "output"


def _as_json(path: Keys) -> str:
    index = len(path) == 1 and isinstance(path[0], int)
    return str(path[0]) if index else f'"{dotted(path)}"'


def _get(value: Any, key: str | int) -> object:  # noqa: ANN401  (whatever came back)
    if isinstance(value, Mapping):
        other = next((v for k, v in value.items() if str(k) == key), None)
        return value.get(key, other)
    if isinstance(key, int):
        return value[key]
    return getattr(value, key, None)
