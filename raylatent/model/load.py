"""From a spec to an nn.Module with its weights, in evaluation mode.

A factory is imported first from its model folder, then as Python finds it; of a file's
weights all are put into the model, or none.
"""

import copy
import functools
import hashlib
import importlib
import importlib.util
import linecache
import logging
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from raylatent.errors import ModelError
from raylatent.model.forward_pass import missing_operator, raised_at
from raylatent.model.spec import (
    MODEL_JSON,
    ModelSpec,
    check_kind,
    failing_attribute,
)
from raylatent.model.weight_files import UNREADABLE, read_checkpoint
from raylatent.model.weight_matching import Fit, find_weights, listed
from raylatent.storage import Store, is_uri, reason

logger = logging.getLogger(__name__)

# A model folder that has a file of such a name does not get in their place.
_NEVER_REPLACED = sys.stdlib_module_names | {"numpy", "ray", "raylatent", "torch"}
_SHOWN = 5

# What torchvision registers shapes and gradients for when it is imported.
_OPERATORS = (
    *("nms", "qnms", "deform_conv2d", "_deform_conv2d_backward"),
    *("roi_align", "qroi_align", "_roi_align_backward"),
    *("roi_pool", "_roi_pool_backward"),
    *("ps_roi_align", "_ps_roi_align_backward"),
    *("ps_roi_pool", "_ps_roi_pool_backward"),
)


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
                if not callable(found):
                    message = f"{found!r} cannot be called"
                    raise TypeError(message)  # noqa: TRY301
                model: nn.Module = found(**dict(spec.kwargs))
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


def load_weights(model: nn.Module, uri: str, key: str | None = None) -> None:
    """Put weights of a file or URI into a model that has just their names and shapes.

    What a training program wrote around them is taken off, see `find_weights`, and said
    in one line. The key says where in the file, where more than one place fits.

    Raises:
        ModelError: They cannot be read, or do not fit: the message has what is missing,
            what is too much, and what has another shape.
    """
    saved = read_checkpoint(uri)
    own = model.state_dict(keep_vars=True)
    found = find_weights(own, saved, key)
    if not isinstance(found, Fit):
        message = f"weights {uri} {found}"
        raise ModelError(message)
    if found.taken:
        beside = f"; not used: {listed(found.unused, _SHOWN)}" if found.unused else ""
        logger.info("weights %s: %s%s", uri, found.taken, beside)
    on_meta = any(isinstance(value, Tensor) and value.is_meta for value in own.values())
    try:
        model.load_state_dict(found.state, strict=False, assign=on_meta)
    except RuntimeError as error:  # of a module's own way to load
        message = f"weights {uri} do not fit the model: {' '.join(str(error).split())}"
        raise ModelError(message) from error


def load_model(spec: ModelSpec, device: torch.device) -> nn.Module:
    """The model with its weights, on a device, in float32.

    In evaluation mode, but for a module from Python, which stays as it is: it is run
    in evaluation mode, and copied where its device or type are others.

    Raises:
        ModelError: It cannot be loaded, or the weights do not fit.
    """
    if spec.module is not None:
        _check_values(spec.module, spec.name, spec.name)
        return _fitting(spec.module, device)
    if spec.hub is not None:
        made: object = _load_hub(spec)
    elif spec.pickle is not None:
        made = _load_pickle(spec)
    else:
        made = call_factory(spec)
    model = check_kind(made, spec.pickle or spec.name)
    if spec.weights is not None:
        load_weights(model, spec.weights, spec.weights_key)
    _check_values(model, spec.name, spec.weights or spec.name)
    return model.to(device).float().eval()


def _check_values(model: nn.Module, name: str, weights: str) -> None:
    """Refuse tensors without values, and values that are not a number.

    Infinities pass: masks are made of them.

    Raises:
        ModelError: The message names the first such tensor.
    """
    for tensor_name, tensor in (*model.named_parameters(), *model.named_buffers()):
        why = ""
        if is_lazy(tensor):
            why = (
                "of a lazy layer, which has no weights yet: run the model once on a "
                "batch where it is made, or give weights for it"
            )
        elif tensor.is_meta:
            why = (
                "on the meta device, where tensors have no values: make the model on "
                "the CPU, or give weights that have this one"
            )
        if why:
            message = f"{name}: {tensor_name} is {why}"
            raise ModelError(message)
    bad = [
        key
        for key, tensor in model.state_dict().items()
        if isinstance(tensor, Tensor)
        and tensor.is_floating_point()
        and bool(tensor.isnan().any())
    ]
    if bad:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        message = (
            f"weights {weights} have NaN in {bad[0]}{more}: the training diverged, or "
            "the file is damaged"
        )
        raise ModelError(message)


def _fitting(module: nn.Module, device: torch.device) -> nn.Module:
    """A user's module where it fits, else a copy on the device, in float32."""
    tensors = [tensor.data for tensor in (*module.parameters(), *module.buffers())]
    of_type = all(t.dtype == torch.float32 for t in tensors if t.is_floating_point())
    index = device.index or 0
    there = all(
        t.device.type == device.type and (t.device.index or 0) == index for t in tensors
    )
    if of_type and there:
        return module
    try:
        return copy.deepcopy(module).to(device).float()
    except Exception as error:  # what an attribute raises that cannot be copied
        message = (
            f"{type(module).__name__} cannot be copied to {device} in float32 "
            f"({failing_attribute(module, _not_copied) or reason(error)}): give model.float()"
            f'.to("{device}") yourself, or a model folder'
        )
        raise ModelError(message) from error


def _not_copied(value: object) -> str | None:
    try:
        copy.deepcopy(value)
    except Exception as error:  # noqa: BLE001  (it may raise anything)
        return reason(error)
    return None


def _load_hub(spec: ModelSpec) -> nn.Module:
    declare_missing_operators()
    try:
        import timm  # noqa: PLC0415  (an extra, and slow)
    except UNREADABLE as error:
        absent = isinstance(error, ImportError) and error.name == "timm"
        why = "" if absent else f", which fails to import: {reason(error)}"
        message = f"{spec.hub} needs timm{why}: pip install 'raylatent[timm]'"
        raise ModelError(message) from error
    name = str(spec.hub).removeprefix("timm:")
    try:
        model: nn.Module = timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:  # of timm, of the hub, of the network
        message = f"{spec.hub} cannot be loaded: {reason(error)}"
        raise ModelError(message) from error
    return model


def complete_spec(spec: ModelSpec, model: nn.Module) -> ModelSpec:
    """The spec with tile size, mean and std that a timm model carries.

    What the user gave is kept.
    """
    config: Any = getattr(model, "pretrained_cfg", None)
    if spec.hub is None or not isinstance(config, Mapping):
        return spec
    known: dict[str, Any] = {
        name: tuple(config[name])
        for name in ("mean", "std")
        if config.get(name) is not None
    }
    if size := config.get("input_size"):
        known["tile_px"] = int(size[-1])
    own = {name: value for name, value in known.items() if name not in spec.given}
    return replace(spec, **own)


def _load_pickle(spec: ModelSpec) -> object:
    if not spec.allow_pickle:
        message = f"{spec.pickle} is pickled: allow_pickle=True if you trust the file"
        raise ModelError(message)
    declare_missing_operators()
    try:  # weights_only=False: the user asked
        return torch.load(str(spec.pickle), map_location="cpu", weights_only=False)
    except (Exception, SystemExit) as error:  # a pickle may raise anything
        message = (
            f"{spec.pickle} cannot be loaded: {type(error).__name__}: {reason(error)} "
            "(a pickled module needs the code of its class, importable as it was when "
            "it was saved)"
        )
        raise ModelError(message) from error


def file_digest(spec: ModelSpec) -> str:
    """A digest of the files that a worker loads, to prove that it sees the same."""
    hasher = hashlib.blake2b(digest_size=16)
    for uri in (spec.weights, spec.pickle):
        if uri is not None:
            folder, _, name = uri.rpartition("/")
            hasher.update(Store(folder).read(name))
    if spec.folder is not None:
        store = Store(spec.folder)
        for name in (MODEL_JSON, *source_files(spec.folder)):
            hasher.update(name.encode() + store.read(name))
    return hasher.hexdigest()


@functools.cache
def declare_missing_operators() -> torch.library.Library | None:
    """Let torchvision be imported where its compiled operators cannot be loaded.

    PyPI's torchvision is built for CUDA. Beside a CPU torch its library does not load,
    and its import fails because its operators have no names, and with it the imports of
    timm and of transformers' image models, though hardly a model calls an operator of
    detection. Here the names are given, which the result keeps alive; a call of one
    still fails.
    """
    spec = None
    if "torchvision" not in sys.modules:
        spec = importlib.util.find_spec("torchvision")
    if spec is None:
        return None
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    try:
        for path in (path for folder in folders for path in folder.glob("_C*.*")):
            torch.ops.load_library(path)  # type: ignore[no-untyped-call]
            return None
    except OSError:
        pass  # it was built for another torch
    library: Any = torch.library.Library  # which has no types
    names: torch.library.Library = library("torchvision", "FRAGMENT")
    for name in _OPERATORS:
        if not hasattr(torch.ops.torchvision, name):
            names.define(f"{name}(Tensor x) -> Tensor")  # type: ignore[no-untyped-call]
    return names
