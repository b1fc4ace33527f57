"""Named layers of any model: which module they are, and what it gave."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from raylatent.errors import LayerError, ModelError
from raylatent.storage import reason

POSTCONV = "postconv"
POOLINGS = (None, "avg", "max", "cls")
_FORWARD_FAILURES = (RuntimeError, TypeError, ValueError, LookupError, AttributeError)

# Where Slideflow takes `postconv`, by the class of the model.
_AVGPOOL = {"ResNet": "avgpool", "Inception3": "avgpool", "GoogLeNet": "avgpool"}
_CLASSIFIER = {
    "AlexNet",
    "SqueezeNet",
    "VGG",
    "MobileNetV2",
    "MobileNetV3",
    "MNASNet",
}
_POOLED = {
    "DenseNet": "features.norm5",
    "ShuffleNetV2": "conv5.1",
    "Xception": "bn4",
}


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where a layer's activations are taken.

    Attributes:
        layer: As the user calls it.
        module: Name in `named_modules()`; empty for the model itself.
        before: Take what goes into the module instead of what comes out.
        pooled: Average over h and w, as Slideflow does for some models' postconv.
    """

    layer: str
    module: str
    before: bool = False
    pooled: bool = False


class _StopForward(Exception):  # noqa: N818  (a signal, not an error)
    """Everything that was wanted has been seen."""


def first_tensor(output: object) -> Tensor | None:
    """The tensor in what a module returns: itself, or the first inside."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        for key in ("logits", "last_hidden_state"):
            if isinstance(output.get(key), Tensor):
                return first_tensor(output[key])
        output = tuple(output.values())
    if isinstance(output, Sequence) and not isinstance(output, str):
        for item in output:
            tensor = first_tensor(item)
            if tensor is not None:
                return tensor
    return None


def find_targets(
    model: nn.Module, layers: Sequence[str], sample: Tensor
) -> list[Target]:
    """The modules of the layers, in the order asked.

    Args:
        model: In evaluation mode.
        layers: Names in `named_modules()`, or `postconv`.
        sample: A standardized batch, shape (n, 3, tile_px, tile_px).

    Raises:
        LayerError: There is no such layer; the message lists the near ones.
    """
    modules = dict(model.named_modules())
    return [
        _postconv(model, sample)
        if layer == POSTCONV and layer not in modules
        else _named(layer, modules)
        for layer in layers
    ]


def _named(layer: str, modules: Mapping[str, nn.Module]) -> Target:
    if layer and layer in modules:
        return Target(layer=layer, module=layer)
    names = [name for name in modules if name]
    near = difflib.get_close_matches(layer, names, n=5, cutoff=0.4)
    near = near or [name for name in names if "." not in name][:8]
    message = (
        f"the model has no layer {layer!r}; near ones: {', '.join(near)} "
        "(`raylatent layers MODEL` lists all)"
    )
    raise LayerError(message)


def _postconv(model: nn.Module, sample: Tensor) -> Target:
    """The layer before the classifier."""
    kind = type(model).__name__
    modules = dict(model.named_modules())
    name = _AVGPOOL.get(kind) or _POOLED.get(kind)
    if kind == "ViT" and "to_latent" in modules:
        name = "to_latent"
    if kind in _CLASSIFIER and "classifier" in modules:
        children = list(modules["classifier"].named_children())
        name = f"classifier.{children[0][0]}" if children else "classifier"
    if name in modules:
        pooled = kind in _POOLED or kind == "SqueezeNet"
        return Target(layer=POSTCONV, module=name, pooled=pooled)
    head = _classifier_head(model, sample)
    if head is None:
        return Target(layer=POSTCONV, module="")
    return Target(layer=POSTCONV, module=head, before=True)


def _classifier_head(model: nn.Module, sample: Tensor) -> str | None:
    """The linear layer whose output is what the model returns, or leads to it.

    None where the model ends in no linear layer: it gives features by itself.
    """
    seen: list[tuple[str, Tensor]] = []

    def record(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            tensor = first_tensor(output)
            if tensor is not None:
                seen.append((name, tensor))

        return hook

    linear = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    handles = [m.register_forward_hook(record(n)) for n, m in linear.items()]
    try:
        result = run_model(model, sample)
    finally:
        for handle in handles:
            handle.remove()
    if result is None or result.ndim != 2:
        return None
    same = [n for n, tensor in seen if tensor is result]
    wide = [n for n, tensor in seen if tensor.shape == result.shape]
    return (same or wide or [None])[-1]


def run_model(model: nn.Module, batch: Tensor) -> Tensor | None:
    """The model's output; ModelError with its first line when it fails."""
    try:
        with torch.inference_mode():
            return first_tensor(model(batch))
    except _FORWARD_FAILURES as error:
        message = (
            f"the model fails on a batch of shape {tuple(batch.shape)}: {reason(error)}"
        )
        raise ModelError(message) from error


def pool(output: Tensor, pooling: str | None, *, layer: str) -> Tensor:
    """One tile's activations pooled: maps over h and w, tokens over tokens.

    Args:
        output: (n, c), (n, c, h, w) or (n, tokens, c); other shapes stay.
        pooling: None, `avg`, `max` or `cls` (the first token).
        layer: For the error.

    Raises:
        LayerError: `cls` of a map.
    """
    if output.ndim == 4 and output.shape[2:] == (1, 1):
        return output[:, :, 0, 0]
    if pooling is None or output.ndim not in {3, 4}:
        return output
    axes = (2, 3) if output.ndim == 4 else (1,)
    if pooling == "avg":
        return output.mean(axes)
    if pooling == "max":
        return output.amax(axes)
    if output.ndim == 4:
        message = f"pooling 'cls' takes a token, but layer {layer!r} gives maps"
        raise LayerError(message)
    return output[:, 0]


class LayerCapture:
    """Runs a model and keeps the activations of some layers.

    Args:
        model: In evaluation mode.
        targets: Where to take them.
        pooling: See `pool`.
    """

    def __init__(
        self, model: nn.Module, targets: Sequence[Target], pooling: str | None
    ) -> None:
        """See the class."""
        self._model = model
        self._targets = list(targets)
        self._pooling = pooling
        # How often each is called in one pass: modules may be used several times,
        # and the last time counts.
        self._calls: dict[str, int] | None = None

    def __call__(
        self, batch: Tensor, *, with_output: bool
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Activations by layer, shape (n, ...), float32, and the model's output.

        Without `with_output` the pass ends after the last wanted layer.
        """
        calls: dict[str, int] = {}
        found: dict[str, Tensor] = {}

        def take(target: Target, value: object) -> None:
            found[target.layer] = self._reduce(target, value, len(batch))
            calls[target.layer] = calls.get(target.layer, 0) + 1
            if not with_output and calls == self._calls:
                raise _StopForward

        handles = [self._hook(target, take) for target in self._targets]
        output = None
        try:
            output = run_model(self._model, batch)
        except _StopForward:
            pass
        finally:
            for handle in handles:
                handle.remove()
        if output is not None:
            self._calls = calls
        for target in self._targets:
            if target.layer not in found:
                message = f"layer {target.layer!r} is not used when the model runs"
                raise LayerError(message)
        return {t.layer: found[t.layer] for t in self._targets}, output

    def _hook(
        self, target: Target, take: Callable[[Target, object], None]
    ) -> "torch.utils.hooks.RemovableHandle":
        module = self._model.get_submodule(target.module)

        def before(_module: nn.Module, args: tuple[Any, ...]) -> None:
            take(target, args)

        def after(_module: nn.Module, _args: object, output: object) -> None:
            take(target, output)

        if target.before:
            return module.register_forward_pre_hook(before)
        return module.register_forward_hook(after)

    def _reduce(self, target: Target, value: object, n: int) -> Tensor:
        tensor = first_tensor(value)
        if tensor is None or tensor.ndim < 1 or tensor.shape[0] != n:
            shape = None if tensor is None else tuple(tensor.shape)
            _refuse_shape(target.layer, shape, n)
        pooling = "avg" if target.pooled else self._pooling
        pooled = pool(tensor, pooling, layer=target.layer)
        # A copy: a later in-place module may write over what was seen.
        return pooled.detach().to(torch.float32, copy=True)


def _refuse_shape(layer: str, shape: tuple[int, ...] | None, n: int) -> NoReturn:
    what = "no tensor" if shape is None else f"shape {shape}"
    message = f"layer {layer!r} gives {what} for {n} tiles, not one row a tile"
    raise LayerError(message)


def layer_shapes(model: nn.Module, sample: Tensor) -> list[tuple[str, str, str]]:
    """Name, class and output shape of every module that runs, in order of execution."""
    rows: list[tuple[str, str, str]] = []

    def record(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(module: nn.Module, _inputs: object, output: object) -> None:
            tensor = first_tensor(output)
            shape = "-" if tensor is None else str(tuple(tensor.shape[1:]))
            rows.append((name, type(module).__name__, shape))

        return hook

    named = [(name, module) for name, module in model.named_modules() if name]
    handles = [module.register_forward_hook(record(name)) for name, module in named]
    try:
        run_model(model, sample)
    finally:
        for handle in handles:
            handle.remove()
    return rows
