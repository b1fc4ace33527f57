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
from raylatent.model.plain_modules import check_kind, check_values, held_apart
from raylatent.model.spec import MODEL_JSON, ModelSpec
from raylatent.model.torchvision_operators import declare_missing_operators
from raylatent.model.weight_files import UNREADABLE
from raylatent.model.weights import load_weights
from raylatent.storage import Store, reason


def load_model(spec: ModelSpec, device: torch.device) -> nn.Module:
    """The model with its weights, on a device, in float32.

    In evaluation mode, but for a module from Python, which stays as it is: it is run
    in evaluation mode, and copied where its device or type are others.

    Raises:
        ModelError: It cannot be loaded, or the weights do not fit.
    """
    if spec.module is not None:
        check_values(spec.module, spec.name)
        refuse_nan(spec.module, spec.name)
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
    check_values(model, spec.name)
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
    try:
        return copy.deepcopy(module).to(device).float()
    except Exception as error:  # what an attribute raises that cannot be copied
        message = (
            f"{type(module).__name__} cannot be copied to {device} in float32 "
            f"({held_apart(module, _not_copied) or reason(error)}): give model.float()"
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


def _load_pickle(spec: ModelSpec) -> object:
    if not spec.allow_pickle:
        message = f"{spec.pickle} is pickled: allow_pickle=True if you trust the file"
        raise ModelError(message)
    declare_missing_operators()
    try:
        return torch.load(
            str(spec.pickle),
            map_location="cpu",
            weights_only=False,  # the user asked
        )
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
