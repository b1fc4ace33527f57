"""From a spec to an nn.Module with its weights, in evaluation mode."""

import hashlib
import importlib
import importlib.machinery
import io
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from raylatent.errors import ModelError, StorageError
from raylatent.model.spec import ModelSpec
from raylatent.storage import Store, is_uri, reason

# What a factory or a broken file raises; anything else is a bug and shows as one.
_FAILURES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    NotImplementedError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)
# Older weights lack this counter, which evaluation never reads.
_IGNORED_KEY = "num_batches_tracked"


def load_model(spec: ModelSpec, device: torch.device) -> nn.Module:
    """The model with its weights, on a device, in evaluation mode, in float32.

    Raises:
        ModelError: It cannot be loaded, or the weights do not fit.
    """
    if spec.module is not None:
        model = spec.module
    elif spec.hub is not None:
        model = _load_hub(spec)
    elif spec.pickle is not None:
        model = _load_pickle(spec)
    else:
        model = _call_factory(spec)
        if spec.weights is not None:
            _load_weights(model, read_weights(spec.weights), spec.weights)
    if not isinstance(model, nn.Module):
        message = f"{spec.name} gives a {type(model).__name__}, not an nn.Module"
        raise ModelError(message)
    return model.to(device).eval()


def _call_factory(spec: ModelSpec) -> nn.Module:
    path, colon, attribute = (spec.factory or "").partition(":")
    if not path or not colon or not attribute:
        message = f"factory {spec.factory!r} must be package.module:callable"
        raise ModelError(message)
    try:
        found: object = _import(path, spec.folder)
        for name in attribute.split("."):
            found = getattr(found, name)
        model: nn.Module = _callable(found, spec)(**dict(spec.kwargs))
    except _FAILURES as error:
        message = f"factory {spec.factory} failed: {type(error).__name__}: {error}"
        raise ModelError(" ".join(message.split())) from error
    return model


def _callable(found: object, spec: ModelSpec) -> Callable[..., nn.Module]:
    if not callable(found):
        message = f"{spec.factory} cannot be called"
        raise TypeError(message)
    return found


def _import(path: str, folder: str | None) -> Any:  # noqa: ANN401
    """Import a module, first from the model folder, then as Python finds it.

    Two model folders may each hold a `net.py`: a module of that name that came from
    elsewhere is imported anew.
    """
    if folder is None or is_uri(folder):
        return importlib.import_module(path)
    top = path.split(".", 1)[0]
    found = importlib.machinery.PathFinder.find_spec(top, [folder])
    if found is None or found.origin is None:
        return importlib.import_module(path)
    loaded = sys.modules.get(top)
    if loaded is not None and getattr(loaded, "__file__", None) != found.origin:
        for name in [n for n in sys.modules if n == top or n.startswith(f"{top}.")]:
            del sys.modules[name]
    sys.path.insert(0, folder)
    try:
        importlib.invalidate_caches()
        return importlib.import_module(path)
    finally:
        sys.path.remove(folder)


def read_weights(uri: str) -> dict[str, torch.Tensor]:
    """A state dict from safetensors, or from torch's format without its pickles.

    Raises:
        ModelError: The file is not there, or is neither.
    """
    folder, _, name = uri.rpartition("/")
    try:
        data = Store(folder).read(name)
    except StorageError as error:
        message = f"weights {uri} cannot be read: {error}"
        raise ModelError(message) from error
    try:
        if name.endswith(".safetensors"):
            return dict(safetensors.torch.load(data))
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except safetensors.SafetensorError as error:
        message = f"weights {uri} are no safetensors: {reason(error)}"
        raise ModelError(message) from error
    except (*_FAILURES, torch.serialization.pickle.UnpicklingError) as error:
        message = (
            f"weights {uri} are no plain state dict: save model.state_dict(), best as "
            f"safetensors ({type(error).__name__})"
        )
        raise ModelError(message) from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(
        isinstance(value, torch.Tensor) for value in state.values()
    ):
        message = f"weights {uri} are no state dict: save model.state_dict()"
        raise ModelError(message)
    return dict(state)


def _load_weights(model: nn.Module, state: dict[str, torch.Tensor], uri: str) -> None:
    own = model.state_dict()
    missing = [k for k in own if k not in state and not k.endswith(_IGNORED_KEY)]
    unexpected = [key for key in state if key not in own]
    shapes = [
        f"{key} is {tuple(state[key].shape)}, the model has {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    complaints = [
        f"{text} {', '.join(keys[:3])}{f' and {len(keys) - 3} more' * (len(keys) > 3)}"
        for text, keys in (
            ("they lack", missing),
            ("they have, and the model has not,", unexpected),
            ("shapes differ:", shapes),
        )
        if keys
    ]
    if complaints:
        message = f"weights {uri} do not fit the model: {'; '.join(complaints)}"
        raise ModelError(message)
    model.load_state_dict(state, strict=False)


def _load_hub(spec: ModelSpec) -> nn.Module:
    try:
        import timm  # noqa: PLC0415  (an extra, and slow)
    except ImportError as error:
        message = f"{spec.hub} needs timm: pip install 'raylatent[timm]'"
        raise ModelError(message) from error
    name = str(spec.hub).removeprefix("timm:")
    try:
        model: nn.Module = timm.create_model(name, pretrained=True, num_classes=0)
    except _FAILURES as error:
        message = f"{spec.hub} cannot be loaded: {reason(error)}"
        raise ModelError(message) from error
    return model


def complete_spec(spec: ModelSpec, model: nn.Module) -> ModelSpec:
    """The spec with tile size, mean and std that a timm model carries."""
    config = getattr(model, "pretrained_cfg", None)
    if spec.hub is None or not isinstance(config, Mapping):
        return spec
    from dataclasses import replace  # noqa: PLC0415

    size = config.get("input_size") or (3, None, None)
    return replace(
        spec,
        tile_px=spec.tile_px or size[-1],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


def _load_pickle(spec: ModelSpec) -> nn.Module:
    if not spec.allow_pickle:
        message = f"{spec.pickle} is pickled: allow_pickle=True if you trust the file"
        raise ModelError(message)
    try:
        model: nn.Module = torch.load(
            str(spec.pickle),
            map_location="cpu",
            weights_only=False,  # the user asked
        )
    except (*_FAILURES, torch.serialization.pickle.UnpicklingError) as error:
        message = f"{spec.pickle} cannot be loaded: {reason(error)}"
        raise ModelError(message) from error
    return model


def model_digest(model: nn.Module) -> str:
    """A digest of a model's structure and weights.

    BLAKE2b over its printed structure and, sorted by name, each tensor of its state
    dict with name, dtype, shape and bytes.
    """
    hasher = hashlib.blake2b(digest_size=16)
    hasher.update(f"{type(model).__qualname__}\n{model!r}".encode())
    for name, tensor in sorted(model.state_dict().items()):
        value = tensor.detach().cpu().contiguous()
        hasher.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        hasher.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()


def file_digest(spec: ModelSpec) -> str:
    """A digest of the files that a worker loads, to prove that it sees the same."""
    hasher = hashlib.blake2b(digest_size=16)
    for uri in (spec.weights, spec.pickle):
        if uri is not None:
            folder, _, name = uri.rpartition("/")
            hasher.update(Store(folder).read(name))
    if spec.folder is not None:
        hasher.update(Store(spec.folder).read("model.json"))
        sources = Path(spec.folder).glob("*.py") if not is_uri(spec.folder) else ()
        for source in sorted(sources):
            hasher.update(source.read_bytes())
    return hasher.hexdigest()
