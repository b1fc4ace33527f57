"""Which module a layer's name means; above all `postconv`, before the classifier."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raylatent.errors import LayerError, ModelError
from raylatent.model.running import first_tensor, run_model
from raylatent.storage import reason

POSTCONV = "postconv"

# Where Slideflow takes `postconv`, by the class of the model.
_AVGPOOL = {"ResNet": "avgpool", "Inception3": "avgpool", "GoogLeNet": "avgpool"}
_CLASSIFIER = frozenset(
    {"AlexNet", "SqueezeNet", "VGG", "MobileNetV2", "MobileNetV3", "MNASNet"}
)
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
        pooled: Average maps over h and w where no other pooling is asked for.
    """

    layer: str
    module: str
    before: bool = False
    pooled: bool = False


def find_targets(
    model: nn.Module, layers: Sequence[str], sample: Tensor, *, headless: bool = False
) -> list[Target]:
    """The modules of the layers, in the order asked.

    Args:
        model: The model.
        layers: Names in `named_modules()`, or `postconv`.
        sample: A standardized batch, shape (n, 3, tile_px, tile_px).
        headless: The model is known to have no classifier: `postconv` is its output.

    Raises:
        LayerError: There is no such layer; the message lists the near ones.
    """
    modules = dict(model.named_modules())
    return [
        _named(layer, modules)
        if layer != POSTCONV or layer in modules
        else Target(layer=POSTCONV, module="")
        if headless
        else find_postconv(model, sample)
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


def find_postconv(model: nn.Module, sample: Tensor) -> Target:
    """The layer before the classifier.

    Where Slideflow takes it for the architectures that it knows, else what goes into
    the linear or 1x1 convolution layer that makes the scores. A model without either
    gives features by itself: its output.
    """
    modules = dict(model.named_modules())
    kind = type(model).__name__
    name = _by_class(kind, modules)
    if name is not None and name in modules:
        pooled = kind in _POOLED or kind == "SqueezeNet"
        return Target(layer=POSTCONV, module=name, pooled=pooled)
    head = _find_head(model, sample)
    if head is None:
        return Target(layer=POSTCONV, module="")
    convolution = isinstance(modules[head], nn.Conv2d)
    return Target(layer=POSTCONV, module=head, before=True, pooled=convolution)


def _by_class(kind: str, modules: Mapping[str, nn.Module]) -> str | None:
    """The module that Slideflow takes for a class of model, None where none is known."""
    if kind == "ViT":
        return "to_latent"
    if kind in _CLASSIFIER and "classifier" in modules:
        children = list(modules["classifier"].named_children())
        if not children:
            gone = isinstance(modules["classifier"], nn.Identity)
            return "classifier" if gone else None
        name, first = children[0]
        alone = len(children) == 1 and isinstance(first, nn.Linear)
        return None if alone else f"classifier.{name}"
    return _AVGPOOL.get(kind) or _POOLED.get(kind)


class _HeadSearch:
    """Watches a pass for the layer whose output becomes the model's.

    Of each linear and 1x1 convolution layer it keeps one vector a tile, as it was
    before a later in-place module could change it.
    """

    def __init__(self) -> None:
        self.seen: list[tuple[str, Tensor, Tensor]] = []
        self.last = ""  # the module with weights that ran last

    def hook(self, name: str) -> Callable[[nn.Module, object, object], None]:
        """For the module of this name."""

        def watch(module: nn.Module, _inputs: object, output: object) -> None:
            self.last = name
            tensor = first_tensor(output)
            if tensor is None:
                return
            if isinstance(module, nn.Linear) and tensor.ndim == 2:
                self.seen.append((name, tensor, tensor.clone()))
            elif (
                isinstance(module, nn.Conv2d)
                and module.kernel_size == (1, 1)
                and tensor.ndim == 4
            ):
                for vector in (tensor.mean((2, 3)), tensor.relu().mean((2, 3))):
                    self.seen.append((name, vector, vector))

        return watch

    def head(self, result: Tensor) -> str | None:
        """The layer that made the result (n, c), None where none did."""
        same = [name for name, tensor, _ in self.seen if tensor is result]
        made = [name for name, _, vector in self.seen if _leads_to(vector, result)]
        last = [
            name
            for name, tensor, _ in self.seen
            if name == self.last and tensor.shape == result.shape
        ]
        return next((names[-1] for names in (same, made, last) if names), None)


def _leads_to(vector: Tensor, result: Tensor) -> bool:
    """Whether the result is the vector, or a usual function of it."""
    if vector.shape != result.shape:
        return False
    functions = (vector, vector.softmax(1), vector.log_softmax(1), vector.sigmoid())
    return any(
        torch.allclose(value, result, rtol=1e-3, atol=1e-6) for value in functions
    )


def _find_head(model: nn.Module, sample: Tensor) -> str | None:
    search = _HeadSearch()
    handles = [
        module.register_forward_hook(search.hook(name))
        for name, module in model.named_modules()
        if name and next(module.parameters(recurse=False), None) is not None
    ]
    try:
        result = run_model(model, sample)
    except torch.OutOfMemoryError as error:
        message = f"the device has no memory for {len(sample)} tiles: {reason(error)}"
        raise ModelError(message) from error
    finally:
        for handle in handles:
            handle.remove()
    if result is None or result.ndim != 2:
        return None
    with torch.inference_mode():
        return search.head(result)
