"""From a spec to an nn.Module with its weights, in evaluation mode."""

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from raylatent.errors import ModelError
from raylatent.model.factory import call_factory, source_files
from raylatent.model.spec import MODEL_JSON, ModelSpec
from raylatent.model.weights import UNREADABLE, load_weights
from raylatent.storage import Store, reason


def load_model(spec: ModelSpec, device: torch.device) -> nn.Module:
    """The model with its weights, on a device, in float32.

    In evaluation mode, but for a module from Python, which stays as it is: it is run
    in evaluation mode, and copied where its device or type are others.

    Raises:
        ModelError: It cannot be loaded, or the weights do not fit.
    """
    if spec.module is not None:
        refuse_nan(spec.module, spec.name)
        return _fitting(spec.module, device)
    if spec.hub is not None:
        model: Any = _load_hub(spec)
    elif spec.pickle is not None:
        model = _load_pickle(spec)
    else:
        model = call_factory(spec)
    if not isinstance(model, nn.Module):
        message = f"{spec.name} gives a {type(model).__name__}, not an nn.Module"
        raise ModelError(message)
    if spec.weights is not None:
        load_weights(model, spec.weights)
    refuse_nan(model, spec.weights or spec.name)
    return model.to(device).float().eval()


def refuse_nan(model: nn.Module, where: str) -> None:
    """Refuse weights that are not a number: no tile would have activations.

    Infinities pass: masks are made of them.

    Raises:
        ModelError: The message names the first such tensor.
    """
    bad = [
        name
        for name, tensor in model.state_dict().items()
        if isinstance(tensor, torch.Tensor)
        and tensor.is_floating_point()
        and bool(tensor.isnan().any())
    ]
    if bad:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        message = (
            f"weights {where} have NaN in {bad[0]}{more}: the training diverged, or "
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
    return copy.deepcopy(module).to(device).float()


def _load_hub(spec: ModelSpec) -> nn.Module:
    try:
        import timm  # noqa: PLC0415  (an extra, and slow)
    except ImportError as error:
        message = f"{spec.hub} needs timm: pip install 'raylatent[timm]'"
        raise ModelError(message) from error
    name = str(spec.hub).removeprefix("timm:")
    try:
        model: nn.Module = timm.create_model(name, pretrained=True, num_classes=0)
    except UNREADABLE as error:
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
    values = {
        "tile_px": (config.get("input_size") or (None,))[-1],
        "mean": config.get("mean"),
        "std": config.get("std"),
    }
    known: dict[str, Any] = {
        name: tuple(value) if name != "tile_px" else int(value)
        for name, value in values.items()
        if value is not None and name not in spec.given
    }
    return replace(spec, **known)


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
    except UNREADABLE as error:
        message = f"{spec.pickle} cannot be loaded: {reason(error)}"
        raise ModelError(message) from error
    return model


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
