"""Functions and any Python values as short texts that are the same in every process."""

import ast
import functools
import hashlib
import inspect
import linecache
import re
import sys
import types
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from enum import Enum
from pathlib import Path, PurePath
from types import CodeType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_SHORT = 8  # bytes of a digest
# Parts of a syntax tree that say how it was written, not what it does.
_WRITING = frozenset({"ctx", "kind", "type_comment", "type_ignores"})
_Key = tuple[str, int]
_Parsed = tuple[dict[_Key, list[CodeType]], dict[_Key, list[ast.AST]]]
_ASSIGNED = ("Assign", 0)  # under this key all that a module assigns


# Files that were parsed: their lines, as linecache holds them, and what is in them.
_files: dict[str, tuple[list[str], _Parsed]] = {}

MAX_DEPTH = 24
"""What lies deeper in a value is not seen."""
MAX_VALUES = 1_000_000
"""Nor is what comes after so many values in one attribute."""
FOREIGN = sys.stdlib_module_names | {
    *("builtins", "cloudpickle", "numpy", "ray", "raylatent", "torch"),
    "typing_extensions",
}
"""Packages whose versions tell their code, or which do not decide a row."""
_TEXT = 60
_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...))
_AS_TEXT = (
    *(torch.dtype, torch.layout, torch.memory_format, torch.Size),
    *(np.generic, np.dtype, range, slice),
)
# Where a tensor is, or a copy of a model folder, is none of the model's business.
_DEVICE = re.compile(r"(cpu|cuda|mps|xpu)(:\d+)?")
_SCRATCH = re.compile(r"^.*/raylatent-\w{8}(?=/|$)")
# Of Python's own classes only those that hold data count: no lock, file or logger.
_DATA_MODULES = frozenset(
    {"argparse", "collections", "datetime", "decimal", "fractions", "types", "uuid"}
)
# What torch keeps beside what a module is.
BOOKKEEPING = frozenset(nn.Module().__dict__) | {"_compiled_call_impl"}
_COMPILERS = ("torch._dynamo", "torch._inductor", "torch.fx", "torch._C", "torch.cuda")
# What trains a model, and decides no row: its state is another after each start.
_TRAINING = (
    *(torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler),
    *(torch.utils.data.DataLoader, torch.utils.data.Dataset, torch.amp.GradScaler),
)
_TRAINERS = frozenset({"lightning", "lightning_fabric", "pytorch_lightning"})
_NEVER_SLOTS = frozenset({"__dict__", "__weakref__"})


def short_digest(content: bytes) -> str:
    """A digest of 16 hexadecimal digits.

    >>> short_digest(b"")
    'e4a6a0577479b2b4'
    """
    return hashlib.blake2b(content, digest_size=_SHORT).hexdigest()


def syntax_digest(code: CodeType) -> str:
    """What a function does: its syntax tree, without comments, docstrings, positions.

    The source is used only where it is what runs: a file that was edited after it was
    imported is not. Where there is no such source (exec, a console) it is the digest of
    the code object, which another minor version of Python changes.
    """
    found = _of_source(code)
    return found if found is not None else bytecode_digest(code)


def assignment_digest(module: ModuleType, name: str) -> str | None:
    """A digest of how a module assigns a name; None where its source does not."""
    _, nodes = _source(module.__file__ or "")
    found = []
    for node in nodes.get(_ASSIGNED, ()):
        targets = getattr(node, "targets", None) or [getattr(node, "target", None)]
        parts = [part for target in targets for part in ast.walk(target)]
        if any(isinstance(part, ast.Name) and part.id == name for part in parts):
            found.append(node)
    text = "\n".join(map(_tree, found))
    return short_digest(text.encode()) if found else None


def _source(path: str) -> _Parsed:
    """What is in a file."""
    if Path(path).exists():  # else a notebook's cell, or a copy that is gone
        linecache.checkcache(path)
    lines = linecache.getlines(path)
    known = _files.get(path)
    if known is None or known[0] is not lines:
        known = _files[path] = (lines, _parsed("".join(lines)))
    return known[1]


def _of_source(code: CodeType) -> str | None:
    codes, nodes = _source(code.co_filename)
    key = (code.co_name, code.co_firstlineno)
    if code not in codes.get(key, ()) or key not in nodes:
        return None
    text = "\n".join(_tree(node) for node in nodes[key])
    if len(nodes[key]) > 1:  # lambdas of one line: which of them it is
        text += bytecode_digest(code)
    return short_digest(text.encode())


def _parsed(source: str) -> _Parsed:
    """The functions of a file by name and first line: code objects and syntax trees."""
    codes: dict[_Key, list[CodeType]] = defaultdict(list)
    nodes: dict[_Key, list[ast.AST]] = defaultdict(list)
    try:
        tree = ast.parse(source)
        top = compile(tree, "", "exec", dont_inherit=True)
    except (
        SyntaxError,
        ValueError,
        RecursionError,
    ):  # cells of notebooks may have magic
        return {}, {}
    for code in _nested(top):
        codes[code.co_name, code.co_firstlineno].append(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            nodes[node.name, first].append(node)
        elif isinstance(node, ast.Lambda):
            nodes["<lambda>", node.lineno].append(node)
    nodes[_ASSIGNED] = list(_assignments(tree))
    return dict(codes), dict(nodes)


def _assignments(node: ast.AST) -> Iterator[ast.AST]:
    """Those of a module, not of its functions and classes."""
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, ast.Assign | ast.AnnAssign | ast.AugAssign):
            yield inner
        elif not isinstance(
            inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
        ):
            yield from _assignments(inner)


def _nested(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _nested(constant)


def _tree(node: object) -> str:
    """A syntax tree as text that is the same for every version of Python.

    >>> _tree(ast.parse("def f(x): 'Says.'; return (x)").body[0])
    '(FunctionDef name:f args:(arguments args:[(arg arg:x)]) body:[(Return value:(Name id:x))])'
    """
    if isinstance(node, list):
        return f"[{' '.join(_tree(item) for item in node)}]"
    if isinstance(node, ast.Constant):
        return f"(Constant {type(node.value).__name__} {_constant(node.value)})"
    if not isinstance(node, ast.AST):
        return str(node)
    parts = [type(node).__name__]
    for name, value in ast.iter_fields(node):
        if name == "body" and isinstance(value, list):
            value = value[_has_docstring(node) :]  # noqa: PLW2901
        if name not in _WRITING and value is not None and value != []:
            parts.append(f"{name}:{_tree(value)}")
    return f"({' '.join(parts)})"


def _has_docstring(node: ast.AST) -> bool:
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return isinstance(node, kinds) and ast.get_docstring(node, clean=False) is not None


def bytecode_digest(code: CodeType) -> str:
    """A digest of a code object, without docstrings and positions.

    The same for processes that run the same version of Python.
    """
    return short_digest(repr(_bytecode(code)).encode())


def _bytecode(code: CodeType) -> tuple[object, ...]:
    # The first constant of a function is its docstring, if that is a text.
    start = int(bool(code.co_consts) and isinstance(code.co_consts[0], str))
    return (
        code.co_name,
        (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount),
        code.co_code,
        (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars),
        tuple(_constant(constant) for constant in code.co_consts[start:]),
    )


def _constant(value: object) -> str:
    if isinstance(value, CodeType):
        return repr(_bytecode(value))
    if isinstance(value, tuple):
        return f"({', '.join(_constant(item) for item in value)})"
    if isinstance(value, frozenset):  # its order is another in every process
        return f"{{{', '.join(sorted(_constant(item) for item in value))}}}"
    return repr(value)


def top_name(module: str | None) -> str:
    """The package that a module is in.

    >>> top_name("mylab.blocks")
    'mylab'
    """
    return (module or "").partition(".")[0]


def tensor_bytes(tensor: Tensor) -> Iterable[bytes | memoryview]:
    """What a tensor is: dtype, shape and bytes, wherever it lies."""
    value = tensor.detach()
    if hasattr(value, "__tensor_flatten__"):
        names, context = value.__tensor_flatten__()
        yield f"{type(value).__qualname__} {context!r}".encode()
        for name in names:
            yield from tensor_bytes(getattr(value, name))
        return
    yield f"{value.dtype} {tuple(value.shape)} {value.layout}".encode()
    if value.is_meta:
        return
    if value.is_quantized:
        yield str(value.qscheme()).encode()
        if value.qscheme() in {torch.per_tensor_affine, torch.per_tensor_symmetric}:
            yield f"{value.q_scale()!r} {value.q_zero_point()!r}".encode()
        else:
            yield f"{value.q_per_channel_axis()}".encode()
            yield from tensor_bytes(value.q_per_channel_scales())
            yield from tensor_bytes(value.q_per_channel_zero_points())
        value = value.int_repr()
    if value.layout != torch.strided:
        value = value.to_dense()
    value = value.resolve_conj().resolve_neg().cpu().contiguous()
    yield value.reshape(-1).view(torch.uint8).numpy().data


class Values:
    """Describes values: what is plain and short as it is, the rest by a digest.

    Args:
        modules: Names of the modules that the model knows by itself.
        folders: Of the model and its code: texts that lie in one, or above it, are taken
            as seen from there.
        of_code: A digest of a function's code.

    Attributes:
        found: Functions and classes that were met, whose code counts.

    >>> values = Values({})
    >>> values.text(0.5), values.text({"b": 1, "a": [2]}) == values.text({"a": [2], "b": 1})
    ('0.5', True)
    """

    def __init__(
        self,
        modules: Mapping[int, str],
        folders: Collection[str] = (),
        of_code: Callable[[CodeType], str] = syntax_digest,
    ) -> None:
        """See the class."""
        self._modules = modules
        self._of_code = of_code
        self._folders = tuple(folders)
        self._open: list[int] = []
        self._done: dict[int, tuple[object, str]] = {}
        self._left = 0
        self._follow = True
        self.found: list[object] = []

    def text(self, value: object, *, follow: bool = True) -> str:
        """A value in at most 60 characters.

        Functions and classes count with their code if they are followed, else by their
        names.
        """
        self._follow = follow
        self._open.clear()
        self._done.clear()
        self._left = MAX_VALUES
        if isinstance(value, Tensor):
            dtype = str(value.dtype).removeprefix("torch.")
            return f"{self._value(value)} {f'{dtype} {tuple(value.shape)}'[:40]}"
        return _short(self._value(value))

    def _value(self, value: object) -> str:
        if isinstance(value, _PLAIN) and not isinstance(value, Enum):
            return self._plain(value)
        if isinstance(value, _AS_TEXT):
            return repr(value)
        self._left -= 1
        key = id(value)
        if key in self._open:  # a cycle
            return f"<{len(self._open) - self._open.index(key)} levels up>"
        if key in self._done:
            return self._done[key][1]
        if self._left <= 0 or len(self._open) >= MAX_DEPTH:
            return f"<{type(value).__qualname__}>"
        self._open.append(key)
        try:
            text = _short(self._made(value))
        finally:
            self._open.pop()
        self._done[key] = (value, text)  # held, so that no other takes its address
        return text

    def _plain(self, value: object) -> str:
        if isinstance(value, str):
            if _DEVICE.fullmatch(value):
                return "<device>"
            value = self._path(value)
        return _short(repr(value))

    def _path(self, text: str) -> str:
        for folder in self._folders:
            if text.startswith(folder):
                return text.removeprefix(folder)
            if len(text) > 1 and folder.startswith(f"{text.rstrip('/')}/"):
                return "/.." * folder.removeprefix(text).strip("/").count("/") + "/.."
        return _SCRATCH.sub("", text)

    def _made(self, value: object) -> str:
        """Of a value that is made of others."""
        for kinds, describe in self._kinds():
            if isinstance(value, kinds):
                return describe(value)
        return self._object(value)

    def _kinds(self) -> Iterable[tuple[Any, Callable[[Any], str]]]:
        yield torch.device, lambda _: "<device>"
        yield Tensor, lambda v: _digest(tensor_bytes(v))
        yield np.ndarray, self._array
        yield Enum, lambda v: f"{_name(type(v))}.{v.name}={self._value(v.value)}"
        yield PurePath, lambda v: f"Path {self._path(str(v))!r}"
        yield re.Pattern, lambda v: f"{v.pattern!r} {v.flags}"
        yield nn.Module, self._module
        yield (Mapping, types.MappingProxyType), self._mapping
        yield (list, tuple, deque), self._sequence
        yield (set, frozenset), self._set
        yield (functools.partial, functools.partialmethod), self._partial
        yield types.MethodType, self._method
        yield types.FunctionType, self._function
        yield type, self._class
        yield (property, staticmethod, classmethod), self._accessor
        yield (types.ModuleType, types.BuiltinFunctionType), _named

    def _array(self, value: Any) -> str:  # noqa: ANN401
        if value.dtype.hasobject:
            return f"array {value.shape} {self._value(value.tolist())}"
        head = f"array {value.dtype.str} {value.shape}".encode()
        return _digest([head, np.ascontiguousarray(value).tobytes()])

    def _mapping(self, value: Mapping[Any, Any]) -> str:
        pairs = sorted(f"{self._value(k)}: {self._value(v)}" for k, v in value.items())
        return f"{_container(value)}{{{', '.join(pairs)}}}{self._rest(value)}"

    def _sequence(self, value: Iterable[Any]) -> str:
        items = ", ".join(self._value(item) for item in value)
        left, right = "()" if type(value) is tuple else "[]"
        return f"{_container(value)}{left}{items}{right}{self._rest(value)}"

    def _set(self, value: Iterable[Any]) -> str:
        items = ", ".join(sorted(self._value(item) for item in value))
        return f"{{{items}}}" if items else "set()"

    def _rest(self, value: object) -> str:
        """What a container of a class of its own holds beside its items."""
        own = getattr(value, "__dict__", None)
        return self._value(dict(own)) if own else ""

    def _partial(
        self, value: "functools.partial[Any] | functools.partialmethod[Any]"
    ) -> str:
        parts = (value.func, value.args, value.keywords)
        return f"partial {self._sequence(parts)}"

    def _method(self, value: types.MethodType) -> str:
        owner = self._value(value.__self__)
        return f"method {self._value(value.__func__)} of {owner}"

    def _function(self, value: types.FunctionType) -> str:
        name = f"{value.__module__}.{value.__qualname__}"
        if top_name(value.__module__) in FOREIGN or not self._follow:
            return f"function {name}"
        self.found.append(value)
        bound = [value.__defaults__, value.__kwdefaults__, cells(value)]
        texts = " ".join(self._value(item) for item in bound)
        return f"function {name} {self._of_code(value.__code__)} {texts}"

    def _class(self, value: type) -> str:
        if self._follow:
            self.found.append(value)
        return f"class {_name(value)}"

    def _accessor(self, value: Any) -> str:  # noqa: ANN401
        inner = getattr(value, "fget", None) or getattr(value, "__func__", None)
        return f"{type(value).__name__} {self._value(inner)}"

    def _module(self, value: nn.Module) -> str:
        """A module: by its name if the model knows it, else all that it is."""
        name = self._modules.get(id(value))
        if name is not None:
            return f"module {name!r}"
        self.found.append(type(value))
        parts = {
            "parameters": dict(value.named_parameters(recurse=False)),
            "buffers": dict(value.named_buffers(recurse=False)),
            "modules": dict(value.named_children()),
            "attributes": attributes(value),
        }
        return f"{_name(type(value))} {self._mapping(parts)}"

    def _object(self, value: object) -> str:
        kind = type(value)
        name = _name(kind)
        if isinstance(value, torch.jit.ScriptFunction):
            return f"script {value.code}"
        if (wrapped := unwrapped(value)) is not value:
            return f"{name} of {self._value(wrapped)}"
        top = top_name(kind.__module__)
        opaque = top in FOREIGN and top != "torch" and top not in _DATA_MODULES
        opaque = opaque or top in _TRAINERS or isinstance(value, _TRAINING)
        if opaque or kind.__module__.startswith(_COMPILERS):
            return f"<{name}>"
        if kind.__module__ in {"datetime", "decimal", "fractions", "uuid"}:
            return repr(value)
        self.found.append(kind)
        own: dict[str, Any] = {}
        for base in kind.__mro__:
            slots = vars(base).get("__slots__", ())
            for slot in (slots,) if isinstance(slots, str) else tuple(slots):
                if slot not in _NEVER_SLOTS:
                    own[slot] = getattr(value, slot, None)
        return f"{name} {self._mapping({**own, **getattr(value, '__dict__', {})})}"


def attributes(module: nn.Module) -> dict[str, Any]:
    """A module's plain attributes: neither torch's bookkeeping nor its parts."""
    if type(module).__module__.startswith(_COMPILERS):
        return {}
    own = vars(module)
    return {name: own[name] for name in own if name not in BOOKKEEPING}


def cells(function: types.FunctionType) -> dict[str, Any]:
    """What a function holds from where it was made, but for its class."""
    names = function.__code__.co_freevars
    found: dict[str, Any] = {}
    for name, cell in zip(names, function.__closure__ or (), strict=True):
        if name != "__class__":
            try:
                found[name] = cell.cell_contents
            except ValueError:  # not filled yet
                found[name] = None
    return found


def unwrapped(value: object) -> object:
    """The function in a cached, compiled or decorated one."""
    if isinstance(value, types.FunctionType | type | nn.Module):
        return value
    if isinstance(value, functools.cached_property):
        return value.func
    for name in ("__wrapped__", "py_func", "_torchdynamo_orig_callable"):
        inner = inspect.getattr_static(value, name, None)
        if inspect.isfunction(inner):
            return inner
    return value


def _container(value: object) -> str:
    return "" if type(value) in {dict, list, tuple} else _name(type(value))


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")


def _named(value: Any) -> str:  # noqa: ANN401
    owner = getattr(value, "__module__", None)
    return f"{type(value).__name__} {owner}.{value.__name__}"


def _digest(parts: Iterable[bytes | memoryview]) -> str:
    hasher = hashlib.blake2b(digest_size=8)
    for part in parts:
        hasher.update(part)
        hasher.update(b"\0")
    return hasher.hexdigest()


def _short(text: str) -> str:
    return text if len(text) <= _TEXT else short_digest(text.encode())
