"""What a model is: a spec that every worker can load by itself, or a plain module."""

import inspect
import json
import numbers
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import nn

from raylatent.errors import ModelError
from raylatent.model.weight_files import EXPORTED, SCRIPT, foreign_file, holds_mapping
from raylatent.storage import Store, absolute, is_uri

MODEL_JSON = "model.json"
_REQUIRED = ("factory", "weights", "tile_px", "mean", "std")
_OPTIONAL = ("kwargs", "weights_key", "classes", "outcome", "output")
_HUBS = ("timm:", "hf-hub:")
_PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin", ".zip")
_OF_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # which Ray sets for a submitted job
# Slideflow's own standardization, x / 127.5 - 1, for models that do not say.
SLIDEFLOW_MEAN = SLIDEFLOW_STD = (0.5, 0.5, 0.5)

# 1/255 gives a model pixels of 0 to 255; what is below was divided by 255 twice.
_SMALLEST_STD = 0.003

Triple = tuple[float, float, float]

_PARALLEL = frozenset({"DistributedDataParallel", "FullyShardedDataParallel"})


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """How to load a model, and what it expects and returns.

    Attributes:
        name: For people and folder names.
        factory: `package.module:callable` that returns the nn.Module.
        kwargs: Its keyword arguments, plain JSON.
        weights: Path or URI of a safetensors file or an index of its shards, or of
            what torch.save wrote; None to take the factory's own.
        weights_key: Where in the file, as `teacher.backbone`, where more than one
            place fits.
        folder: The model folder, from which the factory may be imported.
        hub: `timm:NAME` or `hf-hub:REPO@REVISION` instead of a factory.
        pickle: Path of a pickled module, loaded only with `allow_pickle`.
        module: A module from Python instead of all of these.
        tile_px: Side of the tiles that it takes, None for the tiles' own.
        mean: Of each channel of pixels scaled to 0..1.
        std: Of each channel, in the same scale.
        classes: Names of its outputs, if it classifies.
        outcome: What it was trained to predict.
        output: Index, key or attribute of its output, where it returns several tensors.
        allow_pickle: Whether `pickle` may be loaded, which runs code from the file.
        given: Attributes that the user gave: a hub's own values do not replace them.
    """

    name: str
    factory: str | None = None
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    weights: str | None = None
    weights_key: str | None = None
    folder: str | None = None
    hub: str | None = None
    pickle: str | None = None
    module: Any = field(default=None, repr=False, compare=False)
    tile_px: int | None = None
    mean: Triple = SLIDEFLOW_MEAN
    std: Triple = SLIDEFLOW_STD
    classes: tuple[str, ...] | None = None
    outcome: str | None = None
    output: str | int | None = None
    allow_pickle: bool = False
    given: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        """Refuse nonsense."""
        if self.tile_px is not None and not 1 <= self.tile_px <= 16_384:
            message = f"{self.name}: tile_px is {self.tile_px}, not 1 to 16384"
            raise ModelError(message)
        _refuse_other_scale(self.name, "mean", self.mean, 0.0)
        _refuse_other_scale(self.name, "std", self.std, _SMALLEST_STD)


def _refuse_other_scale(
    name: str, what: str, values: Sequence[float], smallest: float
) -> None:
    """Refuse a mean or standard deviation that no pixels scaled to 0..1 can have."""
    if len(values) == 3 and all(smallest <= value <= 1 for value in values):
        return
    reckoned = [value / 255 for value in values if value > 1]
    if len(reckoned) == 3 and all(smallest <= value <= 1 for value in reckoned):
        shown = ", ".join(f"{value:.4g}" for value in reckoned)
        advice = f"these look like those of pixels of 0 to 255, divide by 255: {shown}"
    else:
        advice = "pixels go to the model as (pixel / 255 - mean) / std"
    message = (
        f"{name}: {what} is {list(values)}, but of pixels scaled to 0..1 it has 3 "
        f"numbers from {smallest:g} to 1: {advice}"
    )
    raise ModelError(message)


def model_spec(model: object, *, allow_pickle: bool = False) -> ModelSpec:
    """The spec of whatever a user calls a model.

    Args:
        model: A ModelSpec, a model folder, `timm:NAME`, `hf-hub:REPO@REVISION`, a
            pickled module's file, a mapping with model.json's keys, or an nn.Module.
        allow_pickle: Allow the pickled module.

    Raises:
        ModelError: It is none of these, or the folder's model.json is wrong.
    """
    if isinstance(model, ModelSpec):
        return replace(model, allow_pickle=model.allow_pickle or allow_pickle)
    if isinstance(model, Mapping) and not is_state_dict(model):
        return _from_json(model, where="the model", folder=None)
    if isinstance(model, str | Path):
        return _from_path(str(model), allow_pickle=allow_pickle)
    if isinstance(model, nn.Module):
        name = type(model).__name__
        return ModelSpec(name=name, module=check_kind(model, name))
    message = f"the model is {no_module(model)}"
    raise ModelError(message)


def _from_path(path: str, *, allow_pickle: bool) -> ModelSpec:
    if path.startswith(_HUBS):
        name = path.split(":", 1)[1].rsplit("/", maxsplit=1)[-1]
        if not name:
            message = f"{path} names no model: timm:NAME or hf-hub:REPO@REVISION"
            raise ModelError(message)
        return ModelSpec(name=name, hub=path)
    location = absolute(path)
    store = Store(location)
    if store.exists(MODEL_JSON):
        return _from_folder(store)
    if store.exists("params.json"):
        message = (
            f"{path} is a Slideflow model folder: write a {MODEL_JSON} (factory, "
            "weights, tile_px, mean, std) beside its weights, saved as a state dict"
        )
        raise ModelError(message)
    if not is_uri(location) and Path(location).is_file():
        return _from_pickle(location, allow_pickle=allow_pickle)
    if not is_uri(location) and not Path(location).exists():
        message = f"no such model: {path}{_elsewhere(path, location)}"
        raise ModelError(message)
    message = f"{path} is no model folder: it has no {MODEL_JSON}"
    raise ModelError(message)


def _elsewhere(path: str, location: str) -> str:
    """Where a relative path was looked for: a job runs in another folder than its user."""
    if Path(path).is_absolute():
        return ""
    where = f" (looked for {location})"
    if _OF_A_JOB in os.environ:
        where += (
            ": a job of `ray job submit` runs there, not where you are, so give an "
            "absolute path or a URI that all nodes see"
        )
    return where


def _from_pickle(path: str, *, allow_pickle: bool) -> ModelSpec:
    what = foreign_file(path)
    if what is None and not path.endswith(_PICKLES):
        what = "no model"
    if what is not None:
        what += "" if ": " in what else f": give a folder with a {MODEL_JSON}"
        message = f"{path} is {what}"
        raise ModelError(message)
    if not allow_pickle:
        message = (
            f"{path} may be a pickled model, and loading one runs code from the file: "
            "--allow-pickle (allow_pickle=True) if you trust it, else make a folder "
            f"with a {MODEL_JSON}"
        )
        if (mapping := holds_mapping(path)) is not None:
            message = f"{path} holds {no_module(mapping)}"
        raise ModelError(message)
    return ModelSpec(name=Path(path).stem, pickle=path, allow_pickle=True)


def _from_folder(store: Store) -> ModelSpec:
    where = f"{store.uri}/{MODEL_JSON}"
    try:
        content = json.loads(store.read(MODEL_JSON))
    except ValueError as error:
        message = f"{where} is no JSON: {error}"
        raise ModelError(message) from error
    if not isinstance(content, dict):
        message = f"{where} must be an object with {', '.join(_REQUIRED)}"
        raise ModelError(message)
    return _from_json(content, where=where, folder=store.uri)


def _from_json(
    content: Mapping[str, Any], *, where: str, folder: str | None
) -> ModelSpec:
    missing = [key for key in _REQUIRED if key not in content]
    unknown = sorted(set(content) - set(_REQUIRED) - set(_OPTIONAL))
    if missing or unknown:
        what = [f"lacks {key!r}" for key in missing[:1]]
        what += [f"has unknown {key!r}" for key in unknown[:1]]
        message = (
            f"{where} {' and '.join(what)}: it must have {', '.join(_REQUIRED)} and may have "
            f"{', '.join(_OPTIONAL)}"
        )
        raise ModelError(message)
    name = PurePosixPath(folder or str(content["factory"]).split(":")[-1]).name
    try:
        return ModelSpec(
            name=name,
            factory=str(content["factory"]),
            kwargs=dict(content.get("kwargs") or {}),
            weights=_weights_path(content["weights"], where=where, folder=folder),
            folder=folder,
            outcome=content.get("outcome"),
            **{
                key: take(content[key])
                for key, take in _TAKES.items()
                if key in content
            },
        )
    except (TypeError, ValueError) as error:
        message = f"{where} has a value of the wrong kind: {error}"
        raise ModelError(message) from error


def _weights_path(weights: object, *, where: str, folder: str | None) -> str | None:
    if weights is None:
        return None
    if not isinstance(weights, str):
        message = f"{where}: weights must be a file's name"
        raise ModelError(message)
    if folder is None:
        return absolute(weights)
    parts = PurePosixPath(weights).parts
    if is_uri(weights) or PurePosixPath(weights).is_absolute() or ".." in parts:
        message = f"{where}: weights {weights!r} leaves the model folder"
        raise ModelError(message)
    return f"{folder}/{weights}"


def _text(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        message = f"weights_key takes a text, not {value!r}"
        raise ValueError(message)
    return value


def _whole(tile_px: Any) -> int:  # noqa: ANN401  (of any JSON)
    """A tile's side; of 224.7, true or [224] nobody knows what was meant."""
    if isinstance(tile_px, bool) or not hasattr(tile_px, "__index__"):
        message = f"tile_px takes one whole number, as 224, not {tile_px!r}"
        raise ValueError(message)
    return int(tile_px)


def _triple(values: object) -> Triple:
    """One number for all channels, or one for each of red, green, blue."""
    if isinstance(values, numbers.Real):
        return (float(values),) * 3
    given = list(values) if isinstance(values, Iterable) else []
    if len(given) != 3 or isinstance(values, str):
        message = f"mean and std take 3 numbers (red, green, blue), not {values!r}"
        raise ValueError(message)
    return (float(given[0]), float(given[1]), float(given[2]))


def _classes(classes: object) -> tuple[str, ...] | None:
    if classes is None:
        return None
    if isinstance(classes, int) and not isinstance(classes, bool) and classes > 0:
        return tuple(str(i) for i in range(classes))
    if isinstance(classes, Mapping):  # Slideflow's {"0": name, "1": name}
        return tuple(str(classes[key]) for key in sorted(classes, key=int))
    if isinstance(classes, list | tuple) and classes:
        return tuple(str(name) for name in classes)
    message = f"classes takes a list of names or their number, not {classes!r}"
    raise ValueError(message)


def _output(output: object) -> str | int | None:
    if output is None or (
        isinstance(output, str | int) and not isinstance(output, bool)
    ):
        return output
    message = f"output takes an index, or a key or attribute, not {output!r}"
    raise ValueError(message)


# What makes a spec's attribute of a value in JSON, or of an argument.
_TAKES: dict[str, Callable[[Any], Any]] = {
    "weights_key": _text,
    "tile_px": _whole,
    "mean": _triple,
    "std": _triple,
    "classes": _classes,
    "output": _output,
}


def with_overrides(spec: ModelSpec, **given: object) -> ModelSpec:
    """The spec with what a user gave as arguments (None: as it is), as in model.json.

    Raises:
        ModelError: A value is of the wrong kind.
    """
    there = {name: value for name, value in given.items() if value is not None}
    try:
        changes = {name: _TAKES[name](value) for name, value in there.items()}
    except (TypeError, ValueError) as error:
        message = f"{spec.name}: {error}"
        raise ModelError(message) from error
    return replace(spec, **changes, given=spec.given | changes.keys())


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


def failing_attribute(
    model: nn.Module, fails: Callable[[object], str | None]
) -> str | None:
    """The attribute of a module for which something fails, and why; None without one.

    Such as `encoder.lock (a lock): cannot pickle ...`. The function says why it fails
    for an object, or None.
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
