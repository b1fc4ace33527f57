"""Pooling of maps over h and w, and of tokens over the patches."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import isqrt

from torch import Tensor, nn

from raylatent.errors import LayerError

# Parameters of published models that are tokens put before the patches.
_CLASS_TOKENS = ("cls_token", "class_token", "class_embedding")
_OTHER_TOKENS = (
    *("dist_token", "reg_token", "reg_tokens"),
    *("register_tokens", "storage_tokens"),
)
_MOST_PREFIX_TOKENS = 32
_CHANNELS_FIRST = (
    *(nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm, nn.GroupNorm),
    nn.modules.instancenorm._InstanceNorm,
    *(nn.modules.pooling._AvgPoolNd, nn.modules.pooling._MaxPoolNd),
    *(nn.modules.pooling._AdaptiveAvgPoolNd, nn.modules.pooling._AdaptiveMaxPoolNd),
)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Which numbers of a layer's output are pooled.

    Attributes:
        axes: Of (n, ...), those that are pooled; empty for vectors, which stay.
        prefix: Tokens before the patches (class and registers), which are left out.
        class_token: The first of them is a class token.
        note: What a user should know.
    """

    axes: tuple[int, ...] = ()
    prefix: int = 0
    class_token: bool = False
    note: str = ""


def pool(output: Tensor, pooling: str | None, layout: Layout, *, layer: str) -> Tensor:
    """Each tile's activations (n, ...) pooled by `avg`, `max` or `cls`, the class token.

    Raises:
        LayerError: `cls` of what has no class token.

    >>> import torch
    >>> tokens = torch.tensor([[[9.0], [1.0], [3.0]]])  # a class token, two patches
    >>> layout = Layout(axes=(1,), prefix=1, class_token=True)
    >>> pool(tokens, "avg", layout, layer="x"), pool(tokens, "cls", layout, layer="x")
    (tensor([[2.]]), tensor([[9.]]))
    """
    if output.ndim == 4 and output.shape[2:] == (1, 1):
        return output[:, :, 0, 0]
    if pooling is None or output.ndim <= max(layout.axes, default=output.ndim):
        return output
    if pooling == "cls":
        if not layout.class_token:
            shape = tuple(output.shape[1:])
            message = (
                f"pooling 'cls' takes a class token, but layer {layer!r} gives {shape}, "
                "which has none: take pooling 'avg'"
            )
            raise LayerError(message)
        return output[:, 0]
    patches = output[:, layout.prefix :] if layout.axes == (1,) else output
    return patches.mean(layout.axes) if pooling == "avg" else patches.amax(layout.axes)


def find_layout(
    model: nn.Module,
    module: str,
    shape: tuple[int, ...],
    tile_px: int,
    *,
    layer: str,
) -> Layout | None:
    """What is pooled of a layer's output, None where only its change with the tile tells.

    The module gives (or gets) the output; empty stands for the model itself. The shape
    is of one tile's part.

    Raises:
        LayerError: What its numbers are cannot be told from model and shape.
    """
    if len(shape) < 2 or shape[1:] == (1, 1):
        return Layout()
    channels = _channel_axis(model.get_submodule(module), shape)
    if len(shape) == 3:
        return _of_maps(shape, channels, layer)
    if len(shape) == 2:
        if channels == 1:  # (n, c, length), as of a Conv1d
            return Layout(axes=(2,))
        return _of_tokens(model, module, shape[0], tile_px, layer=layer)
    message = (
        f"pooling is for maps and tokens, but layer {layer!r} gives {shape} a tile: "
        "take pooling 'none' or another layer"
    )
    raise LayerError(message)


def layout_by_growth(
    shape: tuple[int, ...], larger: tuple[int, ...], *, layer: str
) -> Layout:
    """The layout of maps whose sides are all equal, by those of a tile twice as large.

    Raises:
        LayerError: Not exactly h and w grew.
    """
    grown = [axis for axis in (1, 2, 3) if larger[axis - 1] != shape[axis - 1]]
    if grown == [2, 3]:
        return Layout(axes=(2, 3))
    if grown == [1, 2]:
        return _channels_last(layer, shape)
    raise _unclear(layer, shape)


def _unclear(layer: str, shape: tuple[int, ...]) -> LayerError:
    message = (
        f"layer {layer!r} gives {shape} a tile, and which of these sides are h and w "
        "cannot be told: take pooling 'none' or a neighboring layer"
    )
    return LayerError(message)


def _channels_last(layer: str, shape: tuple[int, ...]) -> Layout:
    note = (
        f"layer {layer!r} gives maps with the channels last {shape}: h and w are pooled"
    )
    return Layout(axes=(1, 2), note=note)


def _channel_axis(module: nn.Module, shape: tuple[int, ...]) -> int | None:
    """Which axis of (n, ...) has the channels, by the module's class."""
    if isinstance(module, nn.Linear | nn.MultiheadAttention):
        return len(shape)
    if isinstance(module, _CHANNELS_FIRST) or "2d" in type(module).__name__:
        return 1
    if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) == 1:
        return len(shape)
    return None


def _of_maps(shape: tuple[int, ...], channels: int | None, layer: str) -> Layout | None:
    first, middle, last = shape
    if channels == 1 or (channels is None and middle == last != first):
        return Layout(axes=(2, 3))
    if channels == 3 or (channels is None and first == middle != last):
        return _channels_last(layer, shape)
    if first == middle == last:
        return None
    raise _unclear(layer, shape)


def _of_tokens(
    model: nn.Module, module: str, tokens: int, tile_px: int, *, layer: str
) -> Layout:
    known, class_token = _known_prefix(model, module)
    patches = _patches(model, tile_px)
    prefix = _prefix(tokens, known, patches)
    if prefix is None:
        message = (
            f"layer {layer!r} gives {tokens} tokens a tile, and which of them are "
            "patches cannot be told: their number is no square with or without a class "
            "token; take pooling 'none' or another layer"
        )
        raise LayerError(message)
    if not prefix:
        return Layout(axes=(1,))
    guessed = "" if known is not None else ", as their number tells"
    note = (
        f"layer {layer!r} gives {tokens} tokens a tile: {prefix} before the patches "
        f"(class or register tokens{guessed}) are left out by pooling avg and max"
    )
    # Where the model does not name its tokens, the first is the class token as usual.
    first = known is None or class_token
    return Layout(axes=(1,), prefix=prefix, class_token=first, note=note)


def _prefix(tokens: int, known: int | None, patches: int | None) -> int | None:
    """How many tokens are before the patches, None where that cannot be told."""
    if patches is not None and 0 <= tokens - patches <= _MOST_PREFIX_TOKENS:
        return tokens - patches
    without = _is_square(tokens)
    if known and _is_square(tokens - known):
        return None if without else known
    if without:
        return 0
    return 1 if not known and _is_square(tokens - 1) else None


def _is_square(number: int) -> bool:
    return number > 0 and isqrt(number) ** 2 == number


def _known_prefix(model: nn.Module, module: str) -> tuple[int | None, bool]:
    """Tokens before the patches, and whether there is a class token, as the model says."""
    named = [*model.named_parameters(), *model.named_buffers()]
    own = {name.rsplit(".", 1)[-1]: tensor for name, tensor in named}
    class_token = not own.keys().isdisjoint(_CLASS_TOKENS)
    for owner in _around(model, module):
        number = getattr(owner, "num_prefix_tokens", None)
        if isinstance(number, int):
            return number, class_token
    others = [own[name] for name in _OTHER_TOKENS if name in own]
    if not class_token and not others:
        return None, False
    counts = [1 if tensor.ndim < 2 else tensor.shape[-2] for tensor in others]
    return class_token + sum(counts), class_token


def _around(model: nn.Module, module: str) -> Iterator[nn.Module]:
    """The modules around one, from the inside, then all others."""
    names = module.split(".")
    for end in range(len(names), 0, -1):
        yield model.get_submodule(".".join(names[:end]))
    yield from model.modules()


def _patches(model: nn.Module, tile_px: int) -> int | None:
    """Patches of a tile, by the convolution that cuts them out; None without one."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            cuts = module.kernel_size == module.stride and module.in_channels == 3
            side = tile_px // int(module.kernel_size[0])
            return side**2 if cuts and module.kernel_size[0] > 1 else None
    return None
