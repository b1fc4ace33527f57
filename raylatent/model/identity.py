"""Which model it is: tensors, attributes, code and files, each by a name."""

import gc
import hashlib
import json
import os
import stat
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch
from torch import nn

from raylatent.model.digests import (
    FOREIGN,
    Values,
    attributes,
    bytecode_digest,
    syntax_digest,
    top_name,
)
from raylatent.model.load import load_model
from raylatent.model.model_code import INSTALLED, Code, CodeSearch, Ran, is_installed
from raylatent.model.spec import ModelSpec

Attributes = dict[str, dict[str, str]]
"""By name of the module, then of the attribute."""

_HOOKS = ("_forward_pre_hooks", "_forward_hooks")
# What an attribute was that a first pass fills.
_NOTHING = (None, "None", "{}", "[]", "()", "collections.OrderedDict{}")
# Files that a factory read earlier in this process, which it may remember.
_files_of: dict[str, set[str]] = {}

# Files that are no model's: code, which is compared by function, and weights, which
# are compared as tensors.
_NOT_FILES = (
    *(".py", ".pyc", ".pyi", ".so", ".pth", ".pt", ".ckpt", ".safetensors", ".bin"),
    *(".h5", ".nbi", ".nbc", ".lock"),
)
PART_BYTES = 128 * 2**20
"""Of a file of more than two such parts only the first and the last are read."""
_BLOCK = 2**20
_NOT_FOLDERS = ("/proc/", "/sys/", "/dev/", "/etc/")


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What tells a model from another.

    Attributes:
        tensors: A digest of each parameter, buffer and other state.
        attributes: Each plain attribute of each module, short or as a digest.
        code: A digest of each function.
        constants: What functions refer to: constants, defaults, closures, versions.
        files: A digest of each file that the factory read.
    """

    tensors: dict[str, str]
    attributes: Attributes
    code: dict[str, str]
    constants: dict[str, str]
    files: dict[str, str]

    def fields(self) -> dict[str, str]:
        """One digest for each kind of entry, for the fingerprint."""
        groups = {
            "model": (self.tensors, self.attributes),
            "code": (self.code, self.constants),
            "files": (self.files,),
        }
        return {name: _digest(group) for name, group in groups.items()}


@dataclass(frozen=True, kw_only=True)
class Copy:
    """What a process compares of its own copy of a model with the driver's.

    Attributes:
        tensors: As in an Identity.
        attributes: As they were before the first pass, functions by their bytecode;
            none of a module from Python, whose pickle is the driver's.
        bytecode: A digest of each function.
        lazy: Module and attribute, of those that a pass changes.
    """

    tensors: dict[str, str]
    attributes: Attributes
    bytecode: dict[str, str]
    lazy: frozenset[tuple[str, str]] = frozenset()

    def common(self, other: "Copy") -> "Copy":
        """Without what `other` does not know, or what a pass changes."""
        lazy = self.lazy | other.lazy
        return Copy(
            tensors=self.tensors,
            attributes={
                module: {k: v for k, v in own.items() if (module, k) not in lazy}
                for module, own in self.attributes.items()
            },
            bytecode={k: v for k, v in self.bytecode.items() if k in other.bytecode},
        )

    def entries(self) -> dict[str, Any]:
        """As in run.json, for a comparison."""
        return {
            "tensors": self.tensors,
            "attributes": self.attributes,
            "code": self.bytecode,
        }


class Identification:
    """Follows a model from its making through its first pass, and says what it is.

    Attributes:
        model: The model, loaded under observation; errors as of `load_model`.
    """

    def __init__(self, spec: ModelSpec, device: torch.device) -> None:
        """See the class."""
        self._spec = spec
        self._watch = Watch()
        self._before: Attributes = {}
        self._between: Attributes = {}
        self._tensors: dict[str, str] | None = None
        with self._watch.functions(), self._watch.opened_files():
            self.model = load_model(spec, device)

    def tried(self, first_pass: Callable[[], None]) -> None:
        """Let the model run for the first time, under observation."""
        self._before, _ = self._described(bytecode_digest)
        with self._watch.functions():
            first_pass()

    def between_passes(self) -> None:
        """Take what passes have left so far, before there are others."""
        self._between, _ = self._described(bytecode_digest)

    def identity(self) -> Identity:
        """What the model is."""
        found, values = self._described(syntax_digest)
        # What passes change is no part of the model, but what the first fills for all is.
        for (module, name), value in self._changed().items():
            empty = _value(self._before, module, name) in _NOTHING
            if not (empty and _value(self._between, module, name) == value):
                del found[module][name]
        code = self._code(values)
        return Identity(
            tensors=self._tensors_of(values),
            attributes=found,
            code=code.syntax,
            constants={**_factory(self._spec), **code.values},
            files=self._files(),
        )

    def copy(self) -> Copy:
        """What other processes compare with their own."""
        _, values = self._described(bytecode_digest)
        return Copy(
            tensors=self._tensors_of(values),
            # A pickle carries a module from Python, and may leave out what trains it.
            attributes=self._before if self._spec.module is None else {},
            bytecode=self._code(values).bytecode,
            lazy=frozenset(self._changed()),
        )

    def _described(
        self, of_code: Callable[[CodeType], str]
    ) -> tuple[Attributes, Values]:
        """Class, plain attributes and hooks of every module; and what described them."""
        names = {id(module): name for name, module in self.model.named_modules()}
        folders = [self._spec.folder] if self._spec.folder else []
        # What is unpickled on a worker keeps the driver's paths.
        if of_code is syntax_digest or self._spec.factory is not None:
            folders += _folders(self.model, self._spec)
        values = Values(names, folders, of_code)
        found: Attributes = {}
        for name, module in self.model.named_modules():
            kind = type(module)
            own = {"class": f"{kind.__module__}.{kind.__qualname__}"}
            for key, value in attributes(module).items():
                own[key] = values.text(value)
            for key in _HOOKS:
                hooks = getattr(module, key, None)
                if isinstance(hooks, OrderedDict) and hooks:
                    own[key] = values.text(list(hooks.values()))
            found[name] = dict(sorted(own.items()))
        return found, values

    def _tensors_of(self, values: Values) -> dict[str, str]:
        """A digest of each parameter, buffer and other state, by name.

        Buffers that are not saved count as well, and what quantized modules pack. Once:
        of a large model it takes seconds.
        """
        if self._tensors is None:
            state = {**self.model.state_dict(), **dict(self.model.named_buffers())}
            self._tensors = {name: values.text(state[name]) for name in sorted(state)}
        return self._tensors

    def _changed(self) -> dict[tuple[str, str], str]:
        """Attributes that passes changed, by module and name, as they are now."""
        after, _ = self._described(bytecode_digest)
        earlier = [seen for seen in (self._before, self._between) if seen]
        return {
            (module, name): value
            for module, own in after.items()
            for name, value in own.items()
            if any(_value(seen, module, name) != value for seen in earlier)
        }

    def _code(self, values: Values) -> Code:
        kinds = {type(module) for module in self.model.modules()}
        packages = {top_name(kind.__module__) for kind in kinds}
        packages.add(top_name((self._spec.factory or "").partition(":")[0]))
        search = CodeSearch(values, packages - FOREIGN)
        for kind in kinds:
            search.add_class(kind)
        search.add_ran(self._watch.ran)
        return search.result()

    def _files(self) -> dict[str, str]:
        spec = self._spec
        if spec.factory is None:
            return {}
        key = json.dumps([spec.factory, spec.folder, dict(spec.kwargs)], default=repr)
        paths = _files_of.setdefault(key, set())
        paths |= self._watch.files
        found: dict[str, list[str]] = {}
        folder = None if spec.folder is None else f"{os.path.realpath(spec.folder)}/"
        for path in sorted(paths):
            digest = content_digest(path)
            inside = folder is not None and path.startswith(folder)
            name = path.removeprefix(folder or "") if inside else path.rsplit("/")[-1]
            if digest is not None and path != spec.weights:
                found.setdefault(name, []).append(digest)
        return {name: " ".join(sorted(digests)) for name, digests in found.items()}


def _value(attributes: Attributes, module: str, name: str) -> str | None:
    return attributes.get(module, {}).get(name)


def _folders(model: nn.Module, spec: ModelSpec) -> list[str]:
    """Where the user's own code lies, which may be moved."""
    modules = {type(module).__module__ for module in model.modules()}
    modules.add((spec.factory or "").partition(":")[0])
    tops = {top_name(module) for module in modules} - FOREIGN
    files = {
        str(getattr(sys.modules.get(top), "__file__", None) or "")
        for top in tops
        if not is_installed(top)
    }
    # A package's folder is where it lies in.
    folders = {
        str(Path(file.removesuffix("/__init__.py")).absolute().parent)
        for file in files - {""}
    }
    return sorted(folders, reverse=True)


def _factory(spec: ModelSpec) -> dict[str, str]:
    """What calls a factory, for the code's entries."""
    found = {"factory": spec.factory, "hub": spec.hub}
    named = {name: repr(value) for name, value in found.items() if value is not None}
    values = Values({}, [spec.folder] if spec.folder else [])
    arguments = {
        f"factory argument {k!r}": values.text(v) for k, v in spec.kwargs.items()
    }
    return {**named, **arguments}


def _digest(content: Mapping[str, Any] | tuple[Any, ...]) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


class Watch:
    """Sees Python functions that run in this thread, and files that are opened.

    Attributes:
        ran: Code that ran, but for what an import runs: it runs only the first time.
        files: Absolute paths of files that were opened to be read, and not written.
    """

    def __init__(self) -> None:
        """See the class."""
        self.ran: Ran = {}
        self.files: set[str] = set()
        self._written: set[str] = set()
        self._importing = 0
        self._thread = 0

    @contextmanager
    def functions(self) -> Iterator[None]:
        """See what runs.

        Nothing is collected meanwhile: what a collection happens to call, such as
        finalizers of other objects, is no code of the model.
        """
        before, collects = sys.getprofile(), gc.isenabled()
        gc.disable()
        sys.setprofile(self._event)
        try:
            yield
        finally:
            sys.setprofile(None)
            if collects:
                gc.enable()
            self._importing = 0
            # cProfile gives itself here, and is no function.
            resume = getattr(before, "enable", lambda: sys.setprofile(before))
            resume()

    @contextmanager
    def opened_files(self) -> Iterator[None]:
        """See what is opened."""
        _add_hook()
        self._thread = threading.get_ident()
        _watches.append(self)
        try:
            yield
        finally:
            _watches.remove(self)

    def _event(self, frame: FrameType, event: str, _argument: object) -> None:
        code: CodeType = frame.f_code
        if code.co_name == "<module>":
            self._importing += {"call": 1, "return": -1}.get(event, 0)
        elif event == "call" and not self._importing and id(code) not in self.ran:
            scope: dict[str, Any] = frame.f_globals
            if top_name(str(scope.get("__name__"))) not in FOREIGN:
                self.ran[id(code)] = (code, scope)

    def opened(self, path: object, mode: object, flags: object) -> None:
        """Take an `open` of this thread."""
        if threading.get_ident() != self._thread or self._importing:
            return
        if not isinstance(path, str | bytes | os.PathLike):
            return
        name = os.path.realpath(os.fsdecode(path))
        access = flags if isinstance(flags, int) else 0
        writes = access & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes or (isinstance(mode, str) and set(mode) & set("wax+")):
            self._written.add(name)
            self.files.discard(name)
        elif name not in self._written and _counts(name):
            self.files.add(name)


_watches: list[Watch] = []


@cache
def _add_hook() -> None:
    """Once: what is added here stays until Python ends."""
    sys.addaudithook(_hook)


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _watches and event == "open":
        for watch in tuple(_watches):
            watch.opened(*arguments)


def _counts(name: str) -> bool:
    if name.endswith(_NOT_FILES) or name.startswith(_NOT_FOLDERS):
        return False
    return not name.startswith((*_PYTHON, *INSTALLED)) and "/__pycache__/" not in name


def _python_folders() -> tuple[str, ...]:
    folders = {os.path.realpath(folder) for folder in (sys.prefix, sys.base_prefix)}
    library = str(Path(os.__file__).resolve().parent)
    # /usr holds data of others as well: of it only the library.
    kept = {f for f in folders if f not in {"/", "/usr", "/usr/local"}}
    return tuple(f"{folder}/" for folder in sorted(kept | {library}))


_PYTHON = _python_folders()


def content_digest(path: str) -> str | None:
    """A digest of a file's content, None where it is gone or cannot be read.

    Of a file above 256 MiB it is of the size and of the first and last 128 MiB.
    """
    hasher = hashlib.blake2b(digest_size=8)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116
            return None
        with Path(path).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            spans = [(0, size)]
            if size > 2 * PART_BYTES:
                hasher.update(f"{size} ".encode())
                spans = [(0, PART_BYTES), (size - PART_BYTES, size)]
            for first, last in spans:
                file.seek(first)
                while (left := last - file.tell()) > 0:
                    block = file.read(min(left, _BLOCK))
                    if not block:
                        break
                    hasher.update(block)
    except OSError:
        return None
    return hasher.hexdigest()
