"""What named layers gave in one pass: hooks, pooling, and an early stop."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from raylatent.errors import ConfigError, LayerError
from raylatent.model.postconv import POSTCONV, Target
from raylatent.model.running import StopForward, first_tensor, run_model
from raylatent.schema import check_layer_names


def layer_names(
    layers: str | Sequence[str] | None, layer: str | Sequence[str] | None = None
) -> list[str]:
    """The layers asked for, in order; `postconv` where none is.

    Raises:
        ConfigError: Both arguments are given.
        LayerError: None is named, or a name cannot be a column.

    >>> layer_names(None, "conv1"), layer_names(None)
    (['conv1'], ['postconv'])
    """
    if layers is not None and layer is not None:
        message = "give layers= or layer=, not both"
        raise ConfigError(message)
    asked = layers if layers is not None else layer
    asked = POSTCONV if asked is None else asked
    names = [asked] if isinstance(asked, str) else [str(name) for name in asked]
    if not names:
        message = "no layer was asked for"
        raise LayerError(message)
    check_layer_names(names)
    return names


def pool(output: Tensor, pooling: str | None, *, layer: str) -> Tensor:
    """One tile's activations pooled: maps over h and w, tokens over tokens.

    Args:
        output: (n, c), (n, c, h, w) or (n, tokens, c); other shapes stay. Maps with
            the channels last, (n, h, w, c) as in Swin, are not recognized: all with
            four dimensions are taken as (n, c, h, w).
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
        model: The model.
        targets: Where to take them.
        pooling: See `pool`.

    Attributes:
        model: The model.
        targets: Likewise.
        pooling: Likewise.
    """

    def __init__(
        self, model: nn.Module, targets: Sequence[Target], pooling: str | None
    ) -> None:
        """See the class."""
        self.model = model
        self.targets = list(targets)
        self.pooling = pooling
        # How often each is called in one pass: modules may be used several times,
        # and the last time counts.
        self._calls: dict[str, int] | None = None

    def __call__(
        self, batch: Tensor, *, with_output: bool
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Activations by layer, shape (n, ...), float32, and the model's output.

        Without `with_output` the pass ends after the last wanted layer, once a whole
        pass has shown which that is.

        Raises:
            LayerError: A layer does not run, or does not give one row a tile.
            ModelError: The model fails.
        """
        calls: dict[str, int] = {}
        found: dict[str, Tensor] = {}

        def take(target: Target, value: object) -> None:
            found[target.layer] = self.reduce(target, value, len(batch))
            calls[target.layer] = calls.get(target.layer, 0) + 1
            if not with_output and calls == self._calls:
                raise StopForward

        handles = [self.hook(target, take) for target in self.targets]
        output = None
        try:
            output = run_model(self.model, batch)
            self._calls = calls
        except StopForward:
            pass
        finally:
            for handle in handles:
                handle.remove()
        for target in self.targets:
            if target.layer not in found:
                message = f"layer {target.layer!r} is not used when the model runs"
                raise LayerError(message)
        return {t.layer: found[t.layer] for t in self.targets}, output

    def hook(
        self, target: Target, take: Callable[[Target, object], None]
    ) -> "torch.utils.hooks.RemovableHandle":
        """Call `take` with what a layer gives, whenever the model runs."""
        module = self.model.get_submodule(target.module)

        def before(
            _module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
        ) -> None:
            take(target, (*args, *kwargs.values()))

        def after(_module: nn.Module, _args: object, output: object) -> None:
            take(target, output)

        if target.before:
            return module.register_forward_pre_hook(before, with_kwargs=True)
        return module.register_forward_hook(after)

    def reduce(self, target: Target, value: object, n: int) -> Tensor:
        """What is kept of a layer's output: (n, ...) float32, pooled.

        Raises:
            LayerError: It is not one row a tile.
        """
        tensor = first_tensor(value)
        if tensor is None or tensor.ndim < 1 or tensor.shape[0] != n:
            shape = None if tensor is None else tuple(tensor.shape)
            _refuse_shape(target.layer, shape, n)
        tensor = tensor[:, None] if tensor.ndim == 1 else tensor
        pooling = self.pooling or ("avg" if target.pooled else None)
        pooled = pool(tensor, pooling, layer=target.layer)
        # A copy: a later in-place module may write over what was seen.
        return pooled.detach().to(torch.float32, copy=True)


def _refuse_shape(layer: str, shape: tuple[int, ...] | None, n: int) -> NoReturn:
    what = "no tensor" if shape is None else f"shape {shape}"
    message = f"layer {layer!r} gives {what} for {n} tiles, not one row a tile"
    raise LayerError(message)
