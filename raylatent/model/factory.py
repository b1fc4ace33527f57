"""Importing a model's factory, first from its model folder, then as Python finds it."""

import importlib
import linecache
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from raylatent.errors import ModelError
from raylatent.model.running import raised_at
from raylatent.model.spec import ModelSpec
from raylatent.model.torchvision_operators import (
    declare_missing_operators,
    missing_operator,
)
from raylatent.storage import Store, is_uri

# A model folder that has a file of such a name does not get in their place.
_NEVER_REPLACED = sys.stdlib_module_names | {"numpy", "ray", "raylatent", "torch"}


def call_factory(spec: ModelSpec) -> nn.Module:
    """The module that a spec's factory makes.

    Raises:
        ModelError: It cannot be imported or called, or it fails.
    """
    path, colon, attribute = (spec.factory or "").partition(":")
    if not path or not colon or not attribute:
        message = (
            f"{spec.name}: factory {spec.factory!r} is not package.module:callable"
        )
        raise ModelError(message)
    declare_missing_operators()
    try:
        with tempfile.TemporaryDirectory(prefix="raylatent-") as scratch:
            folder = _local_folder(spec.folder, Path(scratch))
            with _found_first(folder):
                found: Any = importlib.import_module(path)
                for name in attribute.split("."):
                    found = getattr(found, name)
                model: nn.Module = _callable(found)(**dict(spec.kwargs))
    except (Exception, SystemExit) as error:  # a factory may raise anything
        where = f" of {spec.folder}" if spec.folder else ""
        why = missing_operator(error) or f"{type(error).__name__}: {error}"
        why += f"{raised_at(error)}{_advice(error)}"
        message = f"factory {spec.factory}{where} failed: {why}"
        raise ModelError(" ".join(message.split())) from error
    return model


def _advice(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError):
        return (
            ": correct its name, install it on all nodes, or put its code into the "
            "model folder"
        )
    if isinstance(error, AttributeError) and isinstance(error.obj, ModuleType):
        near = get_close_matches(str(error.name), vars(error.obj), 1)
        return f", is {near[0]!r} meant?" if near else ""
    return ""


def _callable(found: object) -> Callable[..., nn.Module]:
    if not callable(found):
        message = f"{found!r} cannot be called"
        raise TypeError(message)
    return found


def source_files(folder: str) -> list[str]:
    """Names of the Python files of a model folder, sorted."""
    return [name for name in Store(folder).list() if name.endswith(".py")]


def _local_folder(folder: str | None, scratch: Path) -> Path | None:
    """The model folder, or a copy of its Python files if it is at a URI."""
    if folder is None:
        return None
    if not is_uri(folder):
        return Path(folder)
    store = Store(folder)
    for name in source_files(folder):
        target = scratch / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(store.read(name))
        linecache.getlines(str(target))  # kept: the copy is soon gone
    return scratch


@contextmanager
def _found_first(folder: Path | None) -> Iterator[None]:
    """Imports look into a model folder first.

    Two folders may each hold a `net.py`, and the user's own program another: a module
    of such a name that came from elsewhere steps aside, and is back afterwards.
    """
    own = set() if folder is None else _top_names(folder)
    if not own:
        yield
        return
    aside = _modules(own)
    for name in aside:
        del sys.modules[name]
    entry = str(folder)
    sys.path.insert(0, entry)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(entry)
        came = _modules(own)
        # Modules of names that were free stay: what a model imports late finds them.
        taken = {name.partition(".")[0] for name in aside}
        for name in came:
            if name.partition(".")[0] in taken:
                del sys.modules[name]
        sys.modules.update(aside)


def _top_names(folder: Path) -> set[str]:
    """Names of modules and packages that a folder holds."""
    if not folder.is_dir():
        return set()
    files = {path.stem for path in folder.glob("*.py")}
    packages = {path.parent.name for path in folder.glob("*/*.py")}
    return (files | packages) - _NEVER_REPLACED


def _modules(tops: set[str]) -> dict[str, ModuleType]:
    return {
        name: module
        for name, module in sys.modules.items()
        if name.partition(".")[0] in tops
    }
