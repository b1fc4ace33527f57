"""What is a module whose layers can be named, watched and copied, and what is none."""

import inspect
from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from raylatent.errors import ModelError
from raylatent.model.weight_files import EXPORTED, SCRIPT

_PARALLEL = frozenset({"DistributedDataParallel", "FullyShardedDataParallel"})


def check_kind(model: object, name: str) -> nn.Module:
    """A plain module of torch, as it is.

    Raises:
        ModelError: It is none: the message says what it is, and what to give instead.
    """
    if not isinstance(model, nn.Module):
        message = f"{name} gives {no_module(model)}"
        raise ModelError(message)
    if not hasattr(model, "_modules"):
        kind = type(model).__name__
        message = f"{name}: {kind}.__init__ does not call super().__init__()"
        raise ModelError(message)
    for layer, module in model.named_modules():
        if why := _not_plain(module):
            where = f"{name}: its layer {layer}" if layer else name
            message = f"{where} is {why}"
            raise ModelError(message)
    return model


def no_module(model: object) -> str:
    """What an object is that is no module, and what to give.

    >>> no_module(3)
    'an int, not an nn.Module: give a model folder or an nn.Module'
    >>> no_module({"fc.weight": torch.ones(2)}).split(":")[0]
    'a state dict, not an nn.Module'
    """
    kind = type(model).__name__
    article = "an" if kind[:1].lower() in "aeiou" else "a"
    what, advice = f"{article} {kind}", "give a model folder or an nn.Module"
    if isinstance(model, type):
        what, advice = f"the class {model.__name__}", "make one of it first: call it"
    elif isinstance(model, Mapping):
        what = "a state dict" if is_state_dict(model) else f"a mapping ({kind})"
        advice = (
            "give a model folder whose model.json names the factory of its module, and "
            "these as weights"
        )
    elif inspect.isroutine(model):
        what = f"the function {getattr(model, '__name__', kind)}"
        advice = "give the nn.Module that it calls, or an nn.Module whose forward it is"
    elif isinstance(model, torch.export.ExportedProgram):
        return EXPORTED
    return f"{what}, not an nn.Module: {advice}"


def is_state_dict(model: Mapping[object, object]) -> bool:
    """Whether there are tensors in it."""
    return any(isinstance(value, torch.Tensor) for value in model.values())


def _not_plain(module: nn.Module) -> str | None:
    kind = type(module).__name__
    if isinstance(module, torch.jit.ScriptModule):
        return SCRIPT
    if isinstance(module, torch.fx.GraphModule) and "train" in vars(module):
        return EXPORTED  # which puts a train() there that refuses
    if kind in _PARALLEL:
        return f"wrapped in {kind}: give the module within, model.module"
    return None


def check_values(model: nn.Module, name: str) -> None:
    """Refuse parameters and buffers that have no values yet.

    Raises:
        ModelError: The message names the first such tensor.
    """
    tensors = [*model.named_parameters(), *model.named_buffers()]
    for tensor_name, tensor in tensors:
        if is_lazy(tensor):
            message = (
                f"{name}: {tensor_name} is of a lazy layer, which has no weights yet: "
                "run the model once on a batch where it is made, or give weights for it"
            )
            raise ModelError(message)
        if tensor.is_meta:
            message = (
                f"{name}: {tensor_name} is on the meta device, where tensors have no "
                "values: make the model on the CPU, or give weights that have this one"
            )
            raise ModelError(message)


def held_apart(model: nn.Module, fails: Callable[[object], str | None]) -> str | None:
    """The attribute of a module for which something fails, and why.

    Args:
        model: The module.
        fails: Says why it fails for an object, None where it does not.

    Returns:
        Such as `encoder.lock (a lock): cannot pickle ...`, None where none was found.
    """
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            inner = value.items() if isinstance(value, dict) else [(None, value)]
            for entry, one in inner if key != "_modules" else ():
                if why := fails(one):
                    path = ".".join(part for part in (name, key) if part)
                    path += "" if entry is None else f"[{entry!r}]"
                    return f"{path} (a {type(one).__name__}): {why}"
    for kind in {type(module) for module in model.modules()}:
        if why := fails(kind):
            return f"what the code of the class {kind.__name__} refers to: {why}"
    return None
