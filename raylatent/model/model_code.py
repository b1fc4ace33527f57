"""The code that decides what a model gives: what ran, and what that refers to by name.

Own code (the user's, and the packages that the model's classes come from) is followed
function by function; of other installed packages the functions that it calls are taken,
and their versions. Python, torch and numpy are left out: their versions are recorded.
"""

import dis
import inspect
import site
import sys
import sysconfig
import types
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from types import CodeType
from typing import Any

from torch import nn

from raylatent.model.digests import (
    FOREIGN,
    Values,
    assignment_digest,
    bytecode_digest,
    cells,
    short_digest,
    syntax_digest,
    top_name,
    unwrapped,
)

INSTALLED = tuple(
    {
        str(Path(folder).resolve())
        for folder in (
            *(sysconfig.get_paths()[name] for name in ("purelib", "platlib")),
            *site.getsitepackages(),
            site.getusersitepackages(),
        )
    }
)
"""Folders of installed packages."""
# Methods that Python or torch calls without naming them, and that decide no number.
_SILENT = frozenset(
    {
        *("__init__", "__new__", "__init_subclass__", "__repr__", "__str__", "__del__"),
        *("__getstate__", "__setstate__", "__reduce__", "__reduce_ex__", "__copy__"),
        *("__deepcopy__", "__dir__", "__format__", "__sizeof__", "__subclasshook__"),
    }
)
_CONSTRUCTION = frozenset({"__init__", "__new__", "__post_init__"})
_CALLED_BY_TORCH = frozenset({"forward", "train", "eval"})
# What Python keeps in a class by itself.
_CLASS_BOOKKEEPING = frozenset(
    {
        *("__module__", "__doc__", "__dict__", "__weakref__", "__annotations__"),
        *("__slots__", "__qualname__", "__firstlineno__", "__static_attributes__"),
        *("__abstractmethods__", "__parameters__", "__orig_bases__", "__match_args__"),
    }
)
# By dataclasses and named tuples, from fields that are values.
_OF_DATACLASSES, _OF_NAMED_TUPLES = "__create_fn__", "namedtuple_"
_CONTAINERS = (Mapping, list, tuple, set, frozenset)
# Names in what torch.compile makes of a function, numbered as they come.
_OF_COMPILERS = ("__compiled_fn_", "__resume_at_")
_MEMBERS = (types.FunctionType, staticmethod, classmethod, property)

Ran = dict[int, tuple[CodeType, dict[str, Any]]]
"""Code that was seen to run, with the globals that it ran in, by its identity.

Equal code may run in two modules, and what compilers make may have no hash.
"""


@dataclass(frozen=True)
class Code:
    """The code of a model, by name.

    Attributes:
        syntax: Digests of functions' syntax trees.
        bytecode: Digests of the same functions as they run, to compare processes.
        values: Constants, defaults and closures that they refer to.
    """

    syntax: dict[str, str] = field(default_factory=dict)
    bytecode: dict[str, str] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Names:
    """Names that a code object refers to."""

    globals: frozenset[str]
    written: frozenset[str]
    imports: frozenset[str]
    all: frozenset[str]


@cache
def _names(code: CodeType) -> _Names:
    reads, written, imports, names = set(), set(), set(), set(code.co_names)
    for instruction in dis.get_instructions(code):
        if instruction.opname in {"LOAD_GLOBAL", "LOAD_NAME"}:
            reads.add(instruction.argval)
        elif instruction.opname == "STORE_GLOBAL":
            written.add(instruction.argval)
        elif instruction.opname in {"IMPORT_NAME", "IMPORT_FROM"}:
            imports.add(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            inner = _names(constant)
            reads |= inner.globals
            written |= inner.written
            imports |= inner.imports
            names |= inner.all
        elif isinstance(constant, str) and constant.isidentifier():
            names.add(constant)  # as for getattr
    return _Names(*map(frozenset, (reads, written, imports, names)))


def is_installed(module: str | None) -> bool:
    """Whether a module lies where packages are installed.

    The program itself never does, although a notebook's kernel is installed.
    """
    if module == "__main__":
        return False
    path = getattr(sys.modules.get(module or ""), "__file__", None)
    return path is not None and str(Path(path).resolve()).startswith(INSTALLED)


class CodeSearch:
    """Follows code from what is given to it.

    Args:
        values: Describes constants, defaults and closures.
        roots: Installed packages to follow as one's own.
    """

    def __init__(self, values: Values, roots: Collection[str]) -> None:
        """See the class."""
        self._values = values
        self._roots = frozenset(roots)
        self._own: dict[str, bool] = {}
        self._syntax: dict[str, set[str]] = defaultdict(set)
        self._bytecode: dict[str, set[str]] = defaultdict(set)
        self._constants: dict[str, str] = {}
        self._todo: list[tuple[CodeType, Mapping[str, Any]]] = []
        self._seen_codes: set[tuple[str, CodeType]] = set()
        self._seen: dict[int, object] = {}
        self._visited: set[tuple[int, object]] = set()
        self._classes: dict[type, bool] = {}
        self._names: set[str] = set()
        self._state: set[str] = set()

    def result(self) -> Code:
        """All that is reached."""
        self._follow()
        constants = {k: v for k, v in self._constants.items() if k not in self._state}
        return Code(_joined(self._syntax), _joined(self._bytecode), constants)

    def add_ran(self, ran: Ran) -> None:
        """Take what was seen to run."""
        for code, scope in ran.values():
            name = scope.get("__name__")
            compiled = any(n.startswith(_OF_COMPILERS) for n in code.co_names)
            if isinstance(name, str) and self._is_own(name) and not compiled:
                self._code(f"{name}.{code.co_qualname}", code, scope)

    def add(self, found: object) -> None:
        """Take a function, a class or what wraps one."""
        found = unwrapped(found)
        if id(found) in self._seen:
            return
        self._seen[id(found)] = found
        if isinstance(found, types.FunctionType):
            self._function(f"{found.__module__}.{found.__qualname__}", found)
        elif isinstance(found, type):
            self.add_class(found)

    def add_class(self, kind: type, *, constructed: bool = False) -> None:
        """Take a class: methods that run unnamed now, others once they are named."""
        for base in kind.__mro__:
            if self._is_own(base.__module__):
                self._classes[base] = self._classes.get(base, False) or constructed
            elif isinstance(base, type) and issubclass(base, nn.Module):
                self._patched(base)

    def _patched(self, base: type) -> None:
        """A class of torch whose forward pass was replaced."""
        forward = vars(base).get("forward")
        if isinstance(forward, types.FunctionType):
            scope = forward.__globals__.get("__name__", "")
            name = f"{base.__module__}.{base.__qualname__}.forward"
            if top_name(scope) not in FOREIGN:
                self._function(name, forward)

    def _is_own(self, module: str) -> bool:
        if module not in self._own:
            top = top_name(module)
            own = top in self._roots or not is_installed(module)
            self._own[module] = own and top not in FOREIGN
        return self._own[module]

    def _function(self, name: str, function: types.FunctionType) -> None:
        module = function.__globals__.get("__name__") or function.__module__ or ""
        if top_name(module) in FOREIGN or module.startswith(_OF_NAMED_TUPLES):
            return
        if not self._is_own(module):
            self._library(function, module)
            return
        self._code(name, function.__code__, function.__globals__)
        bound = inspect.signature(function, follow_wrapped=False).parameters
        for key, parameter in bound.items():
            if parameter.default is not parameter.empty:
                self._constant(f"default {key!r} of {name}", parameter.default)
        for key, value in cells(function).items():
            self._constant(f"variable {key!r} enclosed by {name}", value)
        self.add(getattr(function, "__wrapped__", None))

    def _library(self, function: types.FunctionType, module: str) -> None:
        """A function of an installed package, and the package's version."""
        self._digest(f"{module}.{function.__qualname__}", function.__code__)
        self._version(module)

    def _digest(self, name: str, code: CodeType) -> None:
        self._syntax[name].add(syntax_digest(code))
        self._bytecode[name].add(bytecode_digest(code))

    def _version(self, module: str) -> None:
        top = top_name(module)
        if top not in FOREIGN and not self._is_own(module):
            self._constants[f"version of {top}"] = _version(top)

    def _code(self, name: str, code: CodeType, scope: Mapping[str, Any]) -> None:
        of_tuple = name.startswith(_OF_NAMED_TUPLES)
        generated = _OF_DATACLASSES in code.co_qualname or of_tuple
        plain = not code.co_name.startswith("<") or code.co_name == "<lambda>"
        is_function = bool(code.co_flags & inspect.CO_OPTIMIZED)
        if generated or not plain or not is_function:
            return
        if (name, code) in self._seen_codes:
            return
        self._seen_codes.add((name, code))
        self._digest(name, code)
        self._todo.append((code, scope))

    def _follow(self) -> None:
        """Until nothing new is named."""
        while True:
            before = self._size()
            while self._todo:
                code, scope = self._todo.pop()
                self._references(_names(code), scope)
            for kind, constructed in list(self._classes.items()):
                self._members(kind, constructed=constructed)
            found, self._values.found = self._values.found, []
            for item in found:
                self.add(item)
            if self._size() == before and not self._todo:
                return

    def _size(self) -> int:
        sizes = (len(self._seen_codes), len(self._names), len(self._seen))
        return sum(sizes) + len(self._classes) + sum(self._classes.values())

    def _references(self, names: _Names, scope: Mapping[str, Any]) -> None:
        module = str(scope.get("__name__", ""))
        self._names |= names.all
        self._state |= {f"{module}.{name}" for name in names.written}
        for name in sorted(names.globals & scope.keys()):
            self._global(f"{module}.{name}", scope[name], names)
        package = str(scope.get("__package__") or "")
        for name in sorted(names.imports):
            for full in (name, f"{package}.{name}"):
                if full in sys.modules:
                    self._in_module(sys.modules[full], names)

    def _global(self, name: str, value: object, names: _Names) -> None:
        value = unwrapped(value)
        if isinstance(value, types.ModuleType):
            self._in_module(value, names)
        elif isinstance(value, types.FunctionType):
            self.add(value)
        elif isinstance(value, type):
            self.add_class(value, constructed=True)
            self._version(value.__module__)
        elif is_installed(module := name.rpartition(".")[0]):
            self._installed_constant(module, name)
        elif self._is_own(type(value).__module__) or _is_data(value):
            self._constant(name, value)

    def _in_module(self, module: types.ModuleType, names: _Names) -> None:
        """What of a module is named together with it."""
        if top_name(module.__name__) in FOREIGN:
            return
        if type(module) is not types.ModuleType:  # a lazy one knows what was asked for
            return
        if (id(module), names) in self._visited:
            return
        self._visited.add((id(module), names))
        for name in sorted(names.all & vars(module).keys()):
            self._global(f"{module.__name__}.{name}", vars(module)[name], names)

    def _constant(self, name: str, value: object) -> None:
        if name not in self._constants:
            # Of a registry's functions those count that run.
            follow = not isinstance(value, _CONTAINERS)
            text = self._values.text(value, follow=follow)
            if not text.startswith("<"):  # nothing is known of it
                self._constants[name] = text

    def _installed_constant(self, module: str, name: str) -> None:
        """As it is written: its value may be another in each process, or grow."""
        self._version(module)
        text = assignment_digest(sys.modules[module], name.rpartition(".")[2])
        if self._is_own(module) and text is not None:
            self._constants[name] = text

    def _members(self, kind: type, *, constructed: bool) -> None:
        """Methods and attributes of a class that are reached."""
        for name, member in list(vars(kind).items()):
            dunder = name.startswith("__") and name.endswith("__")
            if name in _CONSTRUCTION:
                wanted = constructed
            elif isinstance(member, _MEMBERS):
                unnamed = name in _CALLED_BY_TORCH or (dunder and name not in _SILENT)
                wanted = unnamed or name in self._names
            else:
                wanted = name in self._names and name not in _CLASS_BOOKKEEPING
            if wanted:
                self._member(f"{kind.__module__}.{kind.__qualname__}.{name}", member)

    def _member(self, name: str, member: object) -> None:
        if (id(member), name) in self._visited:
            return
        self._visited.add((id(member), name))
        functions = list(_functions(member))
        for function in functions:
            self._function(name, function)
        if not functions:
            self._global(name, member, _NOTHING)


_NOTHING = _Names(frozenset(), frozenset(), frozenset(), frozenset())


def _functions(member: object) -> Iterator[types.FunctionType]:
    """The functions of a class's member."""
    if isinstance(member, property):
        inner: tuple[object, ...] = (member.fget, member.fset, member.fdel)
    elif isinstance(member, staticmethod | classmethod):
        inner = (member.__func__,)
    else:
        inner = (unwrapped(member),)
    for function in inner:
        if isinstance(function, types.FunctionType):
            yield function


def _is_data(value: object) -> bool:
    """Whether a constant is not an object of an installed package, such as a logger."""
    module = type(value).__module__
    installed = is_installed(module) and top_name(module) not in FOREIGN
    return isinstance(value, _CONTAINERS) or not installed


def _joined(digests: Mapping[str, set[str]]) -> dict[str, str]:
    """One digest a name: lambdas of one function have the same name."""
    return {
        name: next(iter(found))
        if len(found) == 1
        else short_digest(" ".join(sorted(found)).encode())
        for name, found in sorted(digests.items())
    }


@cache
def _version(top: str) -> str:
    try:
        return metadata.version(top)
    except metadata.PackageNotFoundError:  # its distribution has another name
        return str(getattr(sys.modules.get(top), "__version__", "unknown"))
