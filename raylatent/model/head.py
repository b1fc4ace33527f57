"""The classifier of a model, found by what flows from the tiles to its output."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from torch import Tensor

from raylatent.model.flow import Call, Flow, Operation
from raylatent.model.outputs import row_shape


@dataclass(frozen=True, kw_only=True)
class Head:
    """What the classifier gets.

    Attributes:
        module: The module that it is, or that gives what it gets.
        before: What goes into the module, not what comes out.
        maps: The classifier is a convolution that gets maps (n, c, h, w).
        reduced: The classifier makes scores of each token or place of a map, which are
            reduced after it in a way that is not known here.
        calls: Of the calls of the module in a pass those whose mean is meant; empty for
            the last one.
    """

    module: str
    before: bool
    maps: bool = False
    reduced: bool = False
    calls: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class NoHead:
    """There is no classifier, or it is not a layer whose input can be taken.

    Attributes:
        why: In words, to be read after "since".
        sure: The model surely has none: its output are features.
        index: How many operations had run before what makes the output, where known.
    """

    why: str
    sure: bool
    index: int | None = None


def find_head(flow: Flow, result: Tensor, classes: int | None) -> Head | NoHead:
    """The classifier of a model.

    It is what mixes a tile's numbers by weights last: a linear layer of any make or a
    convolution behind which no other one follows on the way to the output. Where the
    classes are not known, a model whose output is maps or tokens, or ends in a
    normalization with weights, in a sum of several layers' maps or tokens, or in the
    mean of a convolution of more than 1x1, gives features and has no classifier.

    Args:
        flow: Of the pass.
        result: What the pass gave, (n, ...).
        classes: How many classes the model has, None where that is not known.
    """
    if len(row_shape(result)) != 1:
        why = f"its output is maps or tokens {tuple(result.shape[1:])}"
        return NoHead(why=why, sure=classes is None)
    if not flow.leads_from_tiles(result):
        why = "how its output comes of the tiles cannot be followed"
        return NoHead(why=why, sure=False)
    one_number = row_shape(result) == (1,)
    operations, normed = flow.last_mixing(result, weighing=one_number)
    if classes is None and not one_number:
        why = _gives_features(operations, row_shape(result)[0], normed=normed)
        if why:
            return NoHead(why=why, sure=True)
    if not operations:
        return NoHead(why="no layer with weights makes its output", sure=False)
    for operation in operations:
        if not operation.gives_vectors and operation.convolution:
            width = row_shape(result)[0]
            if operation.shape[1] != width:
                why = (
                    f"its last convolution gives {operation.shape[1]} maps, and its "
                    f"output is {width} numbers a tile"
                )
                return NoHead(why=why, sure=False, index=operation.index)
    return _located(flow, operations, len(result))


def _gives_features(
    operations: Sequence[Operation], width: int, *, normed: bool
) -> str:
    """Why the output is features, empty where it may be scores."""
    if not operations:
        return "no layer with weights makes its output"
    if normed:
        return "a normalization follows its last linear or convolution layer"
    if all(operation.gives_vectors for operation in operations):
        return ""
    first, several = operations[0], len({_names(step) for step in operations}) > 1
    if several and not _all_score(operations, width):
        return "its output is made by several layers' maps or tokens together"
    if not several and first.convolution and not first.pointwise:
        return "its last layer with weights is a convolution"
    return ""


def _all_score(operations: Sequence[Operation], width: int) -> bool:
    """Whether they may all be heads, of the class token and of the patches."""
    return any(operation.gives_vectors for operation in operations) and all(
        not operation.convolution and operation.shape[-1:] == (width,)
        for operation in operations
    )


def _names(operation: Operation) -> tuple[str, ...]:
    return tuple(call.module for call in operation.scope)


def _located(flow: Flow, operations: Sequence[Operation], n: int) -> Head | NoHead:
    """The module that the operations, which make the scores, are in."""
    scopes = [_names(operation) for operation in operations]
    shared = [
        names[0]
        for names in takewhile(
            lambda names: len(set(names)) == 1, zip(*scopes, strict=False)
        )
    ]
    if shared:
        head = _before(flow, operations, len(shared) - 1, n)
        rows = operations[0].scope[len(shared) - 1].shape[:1]
        if head is not None and rows > (n,):
            why = f"{head.module!r} gets {rows[0]} rows for {n} tiles"
            return NoHead(why=why, sure=False, index=operations[-1].index)
        if head is not None:
            return head
    if len(operations) == 1:
        module = _source(flow, operations[0])
        if module is not None:
            return Head(module=module, before=False)
        where = f"{shared[-1]!r}" if shared else "the model's own forward"
        why = (
            f"its scores are computed inside {where} ({operations[0].name}), where "
            "what goes in is no layer's output"
        )
        return NoHead(why=why, sure=False, index=operations[0].index)
    owners = dict.fromkeys(names[-1] if names else "" for names in reversed(scopes))
    makers = ", ".join(name or "the model's own forward" for name in owners)
    return NoHead(
        why=f"its output is made by several layers together ({makers})",
        sure=False,
        index=operations[-1].index,
    )


def _before(
    flow: Flow, operations: Sequence[Operation], depth: int, n: int
) -> Head | None:
    """What goes into the calls at a depth, None if more than the head is in there."""
    inside: dict[Call, list[Operation]] = {}
    for operation in reversed(operations):
        inside.setdefault(operation.scope[depth], []).append(operation)
    for call, made in inside.items():
        if not any(flow.reaches(operation, call) for operation in made):
            return None
    call, first = next((call, made[0]) for call, made in inside.items())
    row, read = _sides(call.shape), _sides(first.read[1])
    if len(row) > 1 and row != read and read != (_product(row),):
        return None  # the head pools by itself, which cannot be seen here
    maps = first.convolution and (first.pointwise or not first.gives_vectors)
    return Head(
        module=call.module,
        before=True,
        maps=len(row) > 1 and maps,
        reduced=len(row) > 1 and not maps and not first.gives_vectors,
        calls=_calls(flow, list(inside), n),
    )


def _calls(flow: Flow, calls: Sequence[Call], n: int) -> tuple[int, ...]:
    everyone = [made.call for made in flow.made if made.call.module == calls[0].module]
    if calls[0].shape[:1] != (n,):  # pieces of the batch, which are joined
        return ()
    places = tuple(everyone.index(call) for call in calls)
    return () if places == (len(everyone) - 1,) else places


def _sides(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(side for side in shape[1:] if side != 1)


def _product(sides: Sequence[int]) -> int:
    product = 1
    for side in sides:
        product *= side
    return product


def _source(flow: Flow, operation: Operation) -> str | None:
    """The module whose output, unchanged, the operation reads."""
    identity, shape = operation.read
    for made in reversed(flow.made):
        if made.index > operation.index or made.tensor != identity:
            continue
        between = flow.operations[made.index : operation.index]
        changed = any(identity in step.changes for step in between)
        same = made.shape[:1] == shape[:1] and _sides(made.shape) == _sides(shape)
        if same and not changed:
            return made.call.module
    return None
