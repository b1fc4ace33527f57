"""What named layers gave in one pass: hooks, pooling, an early stop, and all of it compiled."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from raylatent.errors import ConfigError, LayerError, ModelError
from raylatent.model.forward_pass import (
    Output,
    StopForward,
    call_model,
    dotted,
    first_tensor,
    tensors_in,
)
from raylatent.model.pooling import Layout, find_layout, layout_by_growth, pool
from raylatent.model.postconv import POSTCONV, Target
from raylatent.schema import check_layer_names
from raylatent.storage import reason

_BACKEND = "inductor"
# On CPUs its own loops sum in as many pieces as there are threads, which rows must not
# depend on; convolutions and products go on using all threads.
_OPTIONS: dict[str, Any] = {"cpp.threads": 1}


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


class LayerRows:
    """What the layers gave in one pass so far.

    A module may run several times in a pass of n tiles. The last time counts, or the
    mean of those that the target names; where each time it gets a piece of the batch,
    the pieces are joined.
    """

    def __init__(self, n: int) -> None:
        """See the class."""
        self._n = n
        self.calls: dict[str, int] = {}
        self._rows: dict[str, Tensor] = {}
        self._pieces: dict[str, list[Tensor]] = {}

    def add(self, target: Target, rows: Tensor) -> None:
        """Rows that a layer gave.

        Raises:
            LayerError: They are more than there are tiles.
        """
        layer = target.layer
        call = self.calls.get(layer, 0)
        self.calls[layer] = call + 1
        if len(rows) > self._n:
            _refuse_shape(layer, tuple(rows.shape), self._n)
        if len(rows) < self._n:
            pieces = self._pieces.setdefault(layer, [])
            pieces.append(rows)
            if sum(map(len, pieces)) == self._n:
                self._rows[layer] = torch.cat(self._pieces.pop(layer))
        elif not target.calls or call == target.calls[0]:
            self._rows[layer] = rows
        elif call in target.calls:
            self._rows[layer] += rows

    def rows(self, target: Target) -> Tensor:
        """What a layer gave in the whole pass, (n, ...) float32.

        Raises:
            LayerError: It did not run, or did not give one row a tile.
        """
        layer = target.layer
        if layer in self._rows:
            rows = self._rows[layer]
            return rows / len(target.calls) if len(target.calls) > 1 else rows
        if layer in self._pieces:
            _refuse_shape(layer, tuple(self._pieces[layer][-1].shape), self._n)
        message = f"layer {layer!r} is not used when the model runs"
        raise LayerError(message)


class LayerCapture:
    """Runs a model and keeps the activations of some layers.

    Args:
        model: The model.
        targets: Where to take them.
        pooling: See `pool`.
        output: Which of the tensors that the model returns is its output.
        layouts: Of the layers that are pooled, by layer; see `find_layouts`.

    Attributes:
        own: Those targets that are the model's own output.
        inner: The others.
        notes: What a user should know of what the layers gave in the first pass.
        bits: Of the shortest numbers that a layer gave.
    """

    def __init__(
        self,
        model: nn.Module,
        targets: Sequence[Target],
        pooling: str | None,
        *,
        output: Output | None = None,
        layouts: Mapping[str, Layout] | None = None,
    ) -> None:
        """See the class."""
        self.model = model
        self.targets = list(targets)
        self.pooling = pooling
        self.output = output or Output()
        self.layouts = dict(layouts or {})
        self.notes: list[str] = []
        self.bits = 32
        self.own = [target for target in self.targets if not target.module]
        self.inner = [target for target in self.targets if target.module]
        # How often each is called in one pass of so many tiles.
        self._calls: dict[int, dict[str, int]] = {}

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
        n = len(batch)
        taken = LayerRows(n)

        def take(target: Target, value: object) -> None:
            taken.add(target, self.reduce(target, value, n))
            if not self._calls:
                self._say_several(target, value)
            if not with_output and taken.calls == self._calls.get(n):
                raise StopForward

        output = None
        try:
            with self.hooked(take):
                value = call_model(self.model, self.model, batch)
                for target in self.own:
                    take(target, value)
            output = self.output.of(value, n) if with_output else None
            if not self._calls:
                self.notes += self._repeated(taken.calls)
            self._calls[n] = taken.calls
        except StopForward:
            pass
        return {t.layer: taken.rows(t) for t in self.targets}, output

    def _say_several(self, target: Target, value: object) -> None:
        """Say which tensor is taken of several that a layer gives."""
        found = tensors_in(value)
        if len(found) < 2 or target.before or not target.module:
            return
        taken = first_tensor(value)
        listed = ", ".join(f"{dotted(p)} {tuple(t.shape[1:])}" for p, t in found)
        name = next(dotted(path) for path, tensor in found if tensor is taken)
        note = (
            f"layer {target.layer!r} gives several tensors ({listed}): {name} is taken"
        )
        self.notes += [] if note in self.notes else [note]

    def _repeated(self, calls: Mapping[str, int]) -> list[str]:
        return [
            f"layer {target.layer!r} runs {calls[target.layer]} times in a pass: what it "
            "gives the last time is kept"
            for target in self.targets
            if calls.get(target.layer, 0) > 1
            and not target.calls
            and target.layer != POSTCONV
        ]

    @contextmanager
    def hooked(self, take: Callable[[Target, object], None]) -> Iterator[None]:
        """While this lasts, call `take` with what the layers give."""
        alone = [target.module for target in self.targets if target.alone]
        before = separate(self.model, alone)
        handles: list[Any] = []
        try:
            handles += [self.hook(target, take) for target in self.inner]
            yield
        finally:
            for handle in handles:
                handle.remove()
            for parent, key, module in reversed(before):
                parent._modules[key] = module

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

    def tensor(self, target: Target, value: object, n: int) -> Tensor:
        """The tensor in what a layer gave for n tiles.

        Raises:
            LayerError: There is none, or it has no rows.
            ModelError: Which one is the model's output is not clear.
        """
        own = target in self.own
        tensor = self.output.of(value, n) if own else first_tensor(value)
        if tensor is None or tensor.ndim < 1:
            _refuse_shape(target.layer, None if tensor is None else (), n)
        return tensor

    def reduce(self, target: Target, value: object, n: int) -> Tensor:
        """What is kept of a layer's output: (rows, ...) float32, pooled.

        Raises:
            LayerError: It is no rows.
        """
        tensor = self.tensor(target, value, n)
        if tensor.ndim == 1:
            tensor = tensor[:, None]
        elif target.layer == POSTCONV and set(tensor.shape[2:]) <= {1}:
            tensor = tensor.flatten(1)
        self.bits = min(self.bits, tensor.dtype.itemsize * 8)
        pooling = self.pooling or target.pooling
        layout = self.layouts.get(target.layer, target.layout)
        pooled = pool(tensor, pooling, layout, layer=target.layer)
        # A copy: a later in-place module may write over what was seen.
        return pooled.detach().to(torch.float32, copy=True)

    def find_layouts(self, sample: Tensor) -> None:
        """Find what is pooled of each layer, by a standardized batch (n, 3, h, w).

        Raises:
            LayerError: It cannot be told of a layer.
            ModelError: The model fails.
        """
        if not self.pooling:
            return
        tile_px, larger = int(sample.shape[-1]), None
        shapes = self._shapes(sample)
        for target in self.targets:
            layer, shape = target.layer, shapes.get(target.layer, ())
            layout = find_layout(self.model, target.module, shape, tile_px, layer=layer)
            if layout is None:  # h, w and c are equal
                larger = larger or self._shapes_of_larger(sample)
                layout = layout_by_growth(shape, larger.get(layer, shape), layer=layer)
            self.layouts[layer] = layout
            if layout.note and self.pooling != "cls":
                self.notes.append(layout.note)

    def _shapes_of_larger(self, sample: Tensor) -> dict[str, tuple[int, ...]]:
        try:
            return self._shapes(
                nn.functional.interpolate(sample, scale_factor=2.0, mode="nearest")
            )
        except ModelError:  # it takes tiles of one size only
            return {}

    def _shapes(self, batch: Tensor) -> dict[str, tuple[int, ...]]:
        """Shapes of one tile's part, by layer, before they are pooled."""
        shapes: dict[str, tuple[int, ...]] = {}

        def take(target: Target, value: object) -> None:
            tensor = self.tensor(target, value, len(batch))
            shapes[target.layer] = tuple(tensor.shape[1:])

        with self.hooked(take):
            value = call_model(self.model, self.model, batch)
        for target in self.own:
            take(target, value)
        return shapes


def separate(
    model: nn.Module, names: Sequence[str]
) -> list[tuple[nn.Module, str, nn.Module]]:
    """Make names, of modules that have others as well, modules of their own.

    They keep the weights that they had. Returns what was where: parent, key and module.
    """
    before: list[tuple[nn.Module, str, nn.Module]] = []
    for name in names:
        parent = model
        for key in name.split("."):
            module = parent.get_submodule(key)
            before.append((parent, key, module))
            parent._modules[key] = _twin(module)
            parent = parent.get_submodule(key)
    return before


def _twin(module: nn.Module) -> nn.Module:
    """A module that shares weights and children, but neither their list nor hooks."""
    twin = copy.copy(module)
    for name, value in vars(module).items():
        if name == "_modules" or ("_hooks" in name and isinstance(value, dict)):
            vars(twin)[name] = type(value)(value)
    return twin


def by_own_names(
    model: nn.Module, targets: Sequence[Target], sample: Tensor
) -> list[Target]:
    """The targets, those of modules with several names by their own name where it runs.

    The sample is a standardized batch (n, 3, h, w).
    """
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    # `postconv` was found among all calls of a module, whatever its name.
    named = {t.module for t in targets if t.module and t.layer == t.module}
    of = {name: names[model.get_submodule(name)] for name in named}
    shared = {name for called in of.values() if len(called) > 1 for name in called}
    if not shared:
        return list(targets)
    ran: list[str] = []
    each = [Target(layer=name, module=name, alone=True) for name in sorted(shared)]
    probe = LayerCapture(model, each, None)
    with probe.hooked(lambda target, _value: ran.append(target.layer)):
        call_model(model, model, sample)
    return [_by_own_name(t, of.get(t.module, []), ran) for t in targets]


def _by_own_name(target: Target, called: Sequence[str], ran: Sequence[str]) -> Target:
    """The target by its own name if it ran so, else by the name that ran last."""
    if target.module in ran and called:
        return replace(target, alone=True)
    others = [name for name in ran if name in called]
    if not others:
        return target
    note = target.note
    if len(set(others)) > 1:
        note = (
            f"layer {target.layer!r} runs as {', '.join(dict.fromkeys(others))} in a "
            f"pass: what {others[-1]} gives is kept"
        )
    return replace(target, module=others[-1], alone=True, note=note)


def _refuse_shape(layer: str, shape: tuple[int, ...] | None, n: int) -> NoReturn:
    what = "no tensor" if shape is None else f"shape {shape}"
    message = f"layer {layer!r} gives {what} for {n} tiles, not one row a tile"
    raise LayerError(message)


class CompiledCapture(LayerCapture):
    """As another LayerCapture, compiled at the first pass for that batch's shape.

    The model keeps hooks, since what is compiled is the model with them. What no layer
    depends on is not computed unless the output is asked for.
    """

    def __init__(self, plain: LayerCapture) -> None:
        """See the class."""
        super().__init__(
            plain.model,
            plain.targets,
            plain.pooling,
            output=plain.output,
            layouts=plain.layouts,
        )
        self._taken = LayerRows(0)
        self._rows = 0
        options = _OPTIONS if _BACKEND == "inductor" else None
        self._compiled = torch.compile(
            self._pass, dynamic=False, backend=_BACKEND, options=options
        )
        separate(self.model, [target.module for target in self.targets if target.alone])
        for target in self.inner:
            self.hook(target, self._take)

    def __call__(
        self, batch: Tensor, *, with_output: bool
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """See LayerCapture.

        Raises:
            ModelError: The model fails, or cannot be compiled.
        """
        from torch._dynamo.exc import BackendCompilerFailed  # noqa: PLC0415  (slow)

        self._rows = len(batch)

        def run(batch: Tensor) -> tuple[list[Tensor], Tensor | None]:
            found: tuple[list[Tensor], Tensor | None]
            try:
                found = self._compiled(batch, with_output=with_output)
            except BackendCompilerFailed as error:
                cause = error.inner_exception
                message = (
                    f"the model cannot be compiled ({type(cause).__name__}: "
                    f"{reason(cause)}): leave --compile out, or install what "
                    "torch.compile needs: a C++ compiler, for GPUs triton"
                )
                raise ModelError(message) from error
            return found

        values, output = call_model(self.model, run, batch)
        self._taken = LayerRows(0)
        names = [target.layer for target in self.targets]
        return dict(zip(names, values, strict=True)), output

    def _pass(
        self, batch: Tensor, *, with_output: bool
    ) -> tuple[list[Tensor], Tensor | None]:
        self._taken = LayerRows(self._rows)
        value = self.model(batch)
        for target in self.own:
            self._take(target, value)
        values = [self._taken.rows(target) for target in self.targets]
        return values, self.output.of(value, self._rows) if with_output else None

    def _take(self, target: Target, value: object) -> None:
        self._taken.add(target, self.reduce(target, value, self._rows))
