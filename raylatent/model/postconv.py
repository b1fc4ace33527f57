"""Which module a layer's name means; above all `postconv`, before the classifier.

The classifier is found by what flows from the tiles to the model's output.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from raylatent.errors import LayerError, ModelError
from raylatent.model.dataflow import Call, DataFlow, Operation
from raylatent.model.forward_pass import (
    Output,
    call_model,
    first_tensor,
    row_shape,
    watched,
)
from raylatent.model.pooling import Layout
from raylatent.storage import reason

POSTCONV = "postconv"
OUTPUT = "output"
"""The model's own output, where no module is called so."""

# Where Slideflow takes `postconv`, by the class of the model.
_OF_CLASS = {
    **dict.fromkeys(("ResNet", "Inception3", "GoogLeNet"), "avgpool"),
    "ViT": "to_latent",
    "DenseNet": "features.norm5",
    "ShuffleNetV2": "conv5.1",
    "Xception": "bn4",
}
_POOLED = frozenset({"DenseNet", "ShuffleNetV2", "Xception", "SqueezeNet"})
_CLASSIFIER = frozenset(
    {"AlexNet", "SqueezeNet", "VGG", "MobileNetV2", "MobileNetV3", "MNASNet"}
)
_NOTHING, _MAPS = Layout(), Layout(axes=(2, 3))
_N_LISTED = 6
_NO_WEIGHTS = "no layer with weights makes its output"


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where a layer's activations are taken.

    Attributes:
        layer: As the user calls it.
        module: Name in `named_modules()`; empty for the model itself.
        before: Take what goes into the module instead of what comes out.
        pooling: Of maps or tokens, where no other pooling is asked for.
        layout: What that pools.
        calls: Of the module's calls in a pass those whose mean is taken; empty for the
            last one.
        alone: The module has other names as well; only calls by this one count.
        note: What a user should know of the choice.
    """

    layer: str
    module: str
    before: bool = False
    pooling: str | None = None
    layout: Layout = _NOTHING
    calls: tuple[int, ...] = ()
    alone: bool = False
    note: str = field(default="", compare=False)


@dataclass(frozen=True, kw_only=True)
class NoHead:
    """There is no classifier, or it is not a layer whose input can be taken.

    Attributes:
        why: In words, to be read after "since".
        sure: The model surely has none: its output are features.
        index: How many operations had run before what makes the output, where known.
    """

    why: str
    sure: bool = False
    index: int | None = None


class HeadSearch:
    """Looks for the classifier of a model, by the flow of a pass.

    The classifier is what mixes a tile's numbers by weights last: a linear layer of any
    make or a convolution behind which no other one follows on the way to the output.
    Where the classes are not known, a model whose output is maps or tokens, or ends in a
    normalization with weights, in a sum of several layers' maps or tokens, or in the
    mean of a convolution of more than 1x1, gives features and has no classifier.

    Args:
        model: The model.
        sample: A standardized batch, (n, 3, h, w).
        flow: Of the pass over the sample.
        result: What the pass gave, (n, ...).
    """

    def __init__(
        self, model: nn.Module, sample: Tensor, flow: DataFlow, result: Tensor
    ) -> None:
        """See the class."""
        self._model = model
        self._sample = sample
        self._flow = flow
        self._result = result
        self._width = row_shape(result)[0]

    def find(self, classes: int | None) -> Target | NoHead:
        """What goes into the classifier of so many classes, None where not known."""
        shape = row_shape(self._result)
        if len(shape) != 1:
            why = f"its output is maps or tokens {tuple(self._result.shape[1:])}"
            return NoHead(why=why, sure=classes is None)
        if not self._flow.leads_from_tiles(self._result):
            return NoHead(why="how its output comes of the tiles cannot be followed")
        one_number = shape == (1,)
        operations, normed = self._flow.last_mixing(self._result, weighing=one_number)
        if classes is None and not one_number:
            why = self._gives_features(operations, normed=normed)
            if why:
                return NoHead(why=why, sure=True)
        if not operations:
            return NoHead(why=_NO_WEIGHTS)
        for operation in operations:
            of_maps = operation.convolution and not operation.gives_vectors
            if of_maps and operation.shape[1] != self._width:
                why = (
                    f"its last convolution gives {operation.shape[1]} maps, and its "
                    f"output is {self._width} numbers a tile"
                )
                return NoHead(why=why, index=operation.index)
        return self._located(operations)

    def _gives_features(self, operations: Sequence[Operation], *, normed: bool) -> str:
        """Why the output is features, empty where it may be scores."""
        if not operations:
            return _NO_WEIGHTS
        if normed:
            return "a normalization follows its last linear or convolution layer"
        vectors = [operation.gives_vectors for operation in operations]
        if all(vectors):
            return ""
        first, several = operations[0], len({_names(step) for step in operations}) > 1
        # They may all be heads, of the class token and of the patches.
        all_score = any(vectors) and all(
            not operation.convolution and operation.shape[-1:] == (self._width,)
            for operation in operations
        )
        if several and not all_score:
            return "its output is made by several layers' maps or tokens together"
        if not several and first.convolution and not first.pointwise:
            return "its last layer with weights is a convolution"
        return ""

    def _located(self, operations: Sequence[Operation]) -> Target | NoHead:
        """What goes into the module that the operations, which make the scores, are in."""
        scopes = [_names(operation) for operation in operations]
        levels = zip(*scopes, strict=False)
        shared = [names[0] for names in takewhile(lambda x: len(set(x)) == 1, levels)]
        found = self._before(operations, len(shared) - 1) if shared else None
        if found is not None:
            return found
        index = operations[-1].index
        if len(operations) == 1:
            module = self._source(operations[0])
            if module is not None:
                return self._target(module, "the output of")
            where = f"{shared[-1]!r}" if shared else "the model's own forward"
            why = (
                f"its scores are computed inside {where} ({operations[0].name}), where "
                "what goes in is no layer's output"
            )
            return NoHead(why=why, index=index)
        owners = dict.fromkeys(names[-1] if names else "" for names in reversed(scopes))
        makers = ", ".join(name or "the model's own forward" for name in owners)
        why = f"its output is made by several layers together ({makers})"
        return NoHead(why=why, index=index)

    def _before(
        self, operations: Sequence[Operation], depth: int
    ) -> Target | NoHead | None:
        """What goes into the calls at a depth, None if more than the head is in there."""
        n = len(self._result)
        inside: dict[Call, list[Operation]] = {}
        for operation in reversed(operations):
            inside.setdefault(operation.scope[depth], []).append(operation)
        for call, made in inside.items():
            if not any(self._flow.reaches(operation, call) for operation in made):
                return None
        call, (first, *_) = next(iter(inside.items()))
        row, read = _sides(call.shape), _sides(first.read[1])
        if len(row) > 1 and row != read and read != (prod(row),):
            return None  # the head pools by itself, which cannot be seen here
        rows = operations[0].scope[depth].shape[:1]
        if rows > (n,):
            why = f"{call.module!r} gets {rows[0]} rows for {n} tiles"
            return NoHead(why=why, index=operations[-1].index)
        maps = first.convolution and (first.pointwise or not first.gives_vectors)
        if len(row) > 1 and not maps and not first.gives_vectors:
            return self._of_each_token(call.module)
        calls = self._calls(list(inside))
        pooled = {"pooling": "avg", "layout": _MAPS} if len(row) > 1 and maps else {}
        return self._target(
            call.module, "what goes into", before=True, calls=calls, **pooled
        )

    def _target(self, module: str, goes: str, **taken: Any) -> Target:  # noqa: ANN401
        kind = type(self._model.get_submodule(module)).__name__
        calls = taken.get("calls", ())
        mean = f", the mean of {len(calls)} calls" if len(calls) > 1 else ""
        note = f"postconv is {goes} {module} ({kind}){mean}"
        return Target(layer=POSTCONV, module=module, note=note, **taken)

    def _calls(self, calls: Sequence[Call]) -> tuple[int, ...]:
        """Which of a module's calls these are; none stands for the last one."""
        own = [
            made.call
            for made in self._flow.returned
            if made.call.module == calls[0].module
        ]
        if calls[0].shape[:1] != (len(self._result),):  # pieces, which are joined
            return ()
        places = tuple(own.index(call) for call in calls)
        return () if places == (len(own) - 1,) else places

    def _source(self, operation: Operation) -> str | None:
        """The module whose output, unchanged, the operation reads."""
        identity, shape = operation.read
        for made in reversed(self._flow.returned):
            if made.index > operation.index or made.tensor != identity:
                continue
            between = self._flow.operations[made.index : operation.index]
            changed = any(identity in step.changes for step in between)
            same = made.shape[:1] == shape[:1] and _sides(made.shape) == _sides(shape)
            if same and not changed:
                return made.call.module
        return None

    def _of_each_token(self, module: str) -> Target | NoHead:
        """What goes into a head that scores each token, pooled as its scores are."""
        seen: list[Tensor] = []

        def keep(_layer: str, output: object) -> None:
            tensor = first_tensor(output)
            if tensor is not None:
                seen.append(tensor.clone())

        with watched({module: self._model.get_submodule(module)}, keep):
            _run(self._model, self._sample)
        scores, flat = seen[-1], self._result.reshape(len(self._result), -1)
        axes = tuple(range(1, scores.ndim - 1))
        with torch.inference_mode():
            ways = {"avg": scores.mean(axes)}
            if axes == (1,):
                ways["cls"] = scores[:, 0]
            found = [way for way, value in ways.items() if _leads_to(value, flat)]
        if len(found) != 1:
            why = f"{module!r} scores each token, and how the scores are pooled is not known"
            return NoHead(why=why)
        return Target(
            layer=POSTCONV,
            module=module,
            before=True,
            pooling=found[0],
            layout=Layout(axes=axes, class_token=True),
            note=f"postconv is what goes into {module}, pooled as its scores are",
        )


def _names(operation: Operation) -> tuple[str, ...]:
    return tuple(call.module for call in operation.scope)


def _sides(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(side for side in shape[1:] if side != 1)


def _leads_to(vector: Tensor, result: Tensor) -> bool:
    """Whether the result is the vector, or a usual function of it."""
    if vector.shape != result.shape:
        return False
    functions = (vector, vector.softmax(1), vector.log_softmax(1), vector.sigmoid())
    return any(
        torch.allclose(value, result, rtol=1e-3, atol=1e-6) for value in functions
    )


def find_targets(
    model: nn.Module,
    layers: Sequence[str],
    sample: Tensor,
    *,
    headless: bool = False,
    output: Output | None = None,
) -> list[Target]:
    """The modules of the layers, in the order asked.

    Args:
        model: The model; the sample is a standardized batch (n, 3, h, w) for it.
        layers: Names in `named_modules()`, `postconv`, or `output`.
        sample: See the model.
        headless: The model is known to have no classifier: `postconv` is its output.
        output: Which of the tensors that the model returns is its output.

    Raises:
        LayerError: There is no such layer; the message lists the near ones.
        ModelError: The model fails, or which tensor is its output is not clear.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    return [
        _named(layer, modules)
        if layer in modules or layer not in {POSTCONV, OUTPUT}
        else Target(layer=layer, module="")
        if layer == OUTPUT or headless
        else find_postconv(model, sample, output)
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


def find_postconv(
    model: nn.Module, sample: Tensor, output: Output | None = None
) -> Target:
    """The layer before the classifier.

    Where Slideflow takes it for the architectures that it knows, else what goes into
    the classifier (`HeadSearch`). A model that surely has none gives features by itself:
    its output.

    Raises:
        LayerError: The classifier is not a layer whose input can be taken, or the model
            has classes and no classifier is seen; the message lists layers.
        ModelError: The model fails, or which tensor is its output is not clear.
    """
    output = output or Output()
    modules = dict(model.named_modules())
    kind = type(model).__name__
    name = _by_class(kind, modules)
    if name is not None and name in modules:
        target = Target(layer=POSTCONV, module=name)
        pooled = kind in _POOLED
        return replace(target, pooling="avg", layout=_MAPS) if pooled else target
    flow = DataFlow(model, sample)
    with flow.watching():
        result = output.of(_run(model, sample), len(sample))
    if result is None or result.shape[:1] != sample.shape[:1]:
        head: Target | NoHead = NoHead(why="it returns no row a tile")
    else:
        head = HeadSearch(model, sample, flow, result).find(output.classes)
    if isinstance(head, Target):
        return head
    if not head.sure:
        _refuse(output.name, head, flow, len(sample))
    shape = () if result is None else tuple(result.shape[1:])
    numbers = f"{shape[0]} numbers" if len(shape) == 1 else f"shape {shape}"
    note = (
        f"postconv is the model's own output ({numbers} a tile), since {head.why}: "
        "no classifier was found"
    )
    return Target(layer=POSTCONV, module="", note=note)


def _refuse(name: str, head: NoHead, flow: DataFlow, n: int) -> None:
    """Say that the user must choose, and between what.

    Raises:
        LayerError: Always.
    """
    end = len(flow) if head.index is None else head.index
    shapes = {
        made.call.module: made.shape[1:]
        for made in flow.returned
        if made.shape[:1] == (n,) and made.index <= end
    }
    listed = [f"{layer} {shape}" for layer, shape in shapes.items()][-_N_LISTED:]
    such = f", such as {', '.join(listed)}," if listed else ""
    message = (
        f"{name}: which layer is before the classifier (postconv) cannot be told, since "
        f"{head.why}; name a layer by --layers (layers=){such} or '{OUTPUT}' for the "
        "model's own output"
    )
    raise LayerError(message)


def _by_class(kind: str, modules: Mapping[str, nn.Module]) -> str | None:
    """The module that Slideflow takes for a class of model, None where none is known."""
    if kind in _CLASSIFIER and "classifier" in modules:
        children = list(modules["classifier"].named_children())
        if not children:
            gone = isinstance(modules["classifier"], nn.Identity)
            return "classifier" if gone else None
        name, first = children[0]
        alone = len(children) == 1 and isinstance(first, nn.Linear)
        return None if alone else f"classifier.{name}"
    return _OF_CLASS.get(kind)


def _run(model: nn.Module, sample: Tensor) -> object:
    try:
        return call_model(model, model, sample)
    except torch.OutOfMemoryError as error:
        message = f"the device has no memory for {len(sample)} tiles: {reason(error)}"
        raise ModelError(message) from error
