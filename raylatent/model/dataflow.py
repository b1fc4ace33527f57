"""What flows through a model in one pass: every operation, and the module it ran in.

Names of classes say little about a model: heads are subclasses, quantized, wrapped, or
no module at all. What was computed out of what is the same in all of them.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from raylatent.model.forward_pass import first_tensor

# Operations that mix all numbers of a tile by weights, if one of their inputs is weights.
_MIXING = re.compile(
    r"linear|conv\d|convolution|conv_transpose|mm(_|$)|matmul|einsum|tensordot|^dot"
    r"|^inner|(^|_)mv$|cdist|euclidean_dist|cosine_similarity|^lstm|^gru|^rnn_"
    r"|multi_head_attention|transformer_encoder"
)
# Those of them that do so by a single row of weights.
_PRODUCTS = frozenset(
    {"linear", "matmul", "mv", "einsum", "inner", "tensordot", "dot", "vdot"}
)
_BROADCASTING = frozenset({"add", "sub", "mul", "div"})
_NORM = re.compile(r"batch_norm|layer_norm|group_norm|instance_norm|rms_norm")


@dataclass(frozen=True, eq=False, kw_only=True)
class Call:
    """One call of a module, by its name: identities of what went in, the first's shape."""

    module: str
    inputs: frozenset[int]
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Operation:
    """One operation on what came of the tiles.

    Attributes:
        index: Its place among all.
        name: As torch calls it, without `aten::`.
        scope: The calls in which it ran, the innermost last.
        reads: Identities of the tensors that it read, of those that came of the tiles.
        writes: Identities of those that it made or changed.
        changes: Identities of those that it changed in place.
        mixing: It mixes a tile's numbers by weights, as a linear layer does.
        norm: It is a normalization with weights of its own.
        weights: Shape of the first tensor that it read and that is the same for all
            tiles; empty where there is none.
        read: Identity and shape of the first tensor that it read.
        shape: Of what it made.
    """

    index: int
    name: str
    scope: tuple[Call, ...]
    reads: frozenset[int]
    writes: frozenset[int]
    changes: frozenset[int]
    mixing: bool
    norm: bool
    weights: tuple[int, ...]
    read: tuple[int, tuple[int, ...]]
    shape: tuple[int, ...]

    @property
    def convolution(self) -> bool:
        """It is a convolution."""
        return "conv" in self.name

    @property
    def pointwise(self) -> bool:
        """It is a convolution of 1x1."""
        return self.convolution and set(self.weights[2:]) <= {1}

    @property
    def weighs(self) -> bool:
        """It multiplies a tile's numbers by several weights."""
        return self.name == "mul" and any(side > 1 for side in self.weights)

    @property
    def gives_vectors(self) -> bool:
        """It gives one vector, or one number, of each tile."""
        return sum(side != 1 for side in self.shape[1:]) <= 1


@dataclass(frozen=True, eq=False, kw_only=True)
class Returned:
    """What a call returned when `index` operations had run.

    The identity of the first tensor in it, None where there is none, and its shape.
    """

    call: Call
    index: int
    tensor: int | None
    shape: tuple[int, ...]


def _tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


@dataclass
class _Identities:
    """Numbers for tensors that share memory; none is given twice in a pass."""

    refs: dict[int, object] = field(default_factory=dict)

    def of(self, tensor: Tensor) -> int:
        try:
            ref: Any = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
        except (RuntimeError, NotImplementedError):  # a layout without such memory
            self.refs[id(tensor)] = tensor  # kept, so that its id is not used again
            return id(tensor)
        # Its address is not used again for as long as the reference is there.
        self.refs.setdefault(ref.cdata, ref)
        return int(ref.cdata)


def _uncompiled() -> AbstractContextManager[object]:
    """While this lasts, what torch.compile made of a model runs as it was written."""
    if "torch._dynamo" not in sys.modules:  # which takes seconds to import
        return nullcontext()
    stance: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return stance


class DataFlow(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Watches one pass of a model: `with flow.watching(): result = run(batch)`.

    Attributes:
        operations: Those on what came of the batch's tiles, in order.
        made: What modules returned, in order.
    """

    def __init__(self, model: nn.Module, batch: Tensor) -> None:
        """See the class."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._model = model
        self._identities = _Identities()
        self._from_tiles = {self._identities.of(batch)}
        self._scope: list[Call] = []
        self.operations: list[Operation] = []
        self.returned: list[Returned] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Else torch imports its compiler, which takes seconds, to skip what is here."""
        return False

    @contextmanager
    def watching(self) -> Iterator[Self]:
        """While this lasts, operations and calls are written down."""
        handles = []
        for name, module in self._model.named_modules():
            if name:
                before, after = self._hooks(name)
                handles.append(
                    module.register_forward_pre_hook(before, with_kwargs=True)
                )
                handles.append(module.register_forward_hook(after))
        try:
            with _uncompiled(), self:
                yield self
        finally:
            for handle in handles:
                handle.remove()

    def _hooks(self, name: str) -> tuple[Any, Any]:
        def before(_module: nn.Module, args: Any, kwargs: Any) -> None:  # noqa: ANN401
            tensors = _tensors((args, kwargs))
            ids = frozenset(map(self._identities.of, tensors))
            shape = tuple(tensors[0].shape) if tensors else ()
            self._scope.append(Call(module=name, inputs=ids, shape=shape))

        def after(_module: nn.Module, _args: object, output: object) -> None:
            call = self._scope.pop()
            while call.module != name:  # a call that ended by an error, caught inside
                call = self._scope.pop()
            tensor = first_tensor(output)
            identity = None if tensor is None else self._identities.of(tensor)
            shape = () if tensor is None else tuple(tensor.shape)
            index = len(self.operations)
            self.returned.append(
                Returned(call=call, index=index, tensor=identity, shape=shape)
            )

        return before, after

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        """Run the operation, and write it down if it is on what came of the tiles."""
        del types
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        read = [(self._identities.of(x), x) for x in _tensors((args, kwargs))]
        ours = [(i, x) for i, x in read if i in self._from_tiles]
        if ours:
            others = [x for i, x in read if i not in self._from_tiles]
            changed = frozenset(self._changed(func, args, kwargs))
            self._note(func, ours, others, changed, _tensors(result))
        return result

    def _note(
        self,
        func: Any,  # noqa: ANN401
        ours: Sequence[tuple[int, Tensor]],
        others: Sequence[Tensor],
        changed: frozenset[int],
        made: Sequence[Tensor],
    ) -> None:
        """Write an operation down: what it read that came of the tiles, and what not."""
        space, _, name = func._schema.name.partition("::")
        writes = changed | {self._identities.of(tensor) for tensor in made}
        weights = any(tensor.ndim > (name not in _PRODUCTS) for tensor in others)
        # Packed weights, as of quantized layers, are no tensors.
        mixes = bool(_MIXING.search(name)) and (weights or space != "aten")
        # What compares each tile with all rows of the weights.
        grown = bool(made) and made[0].numel() > max(x.numel() for _, x in ours)
        compares = name in _BROADCASTING and weights and grown
        self.operations.append(
            Operation(
                index=len(self.operations),
                name=name,
                scope=tuple(self._scope),
                reads=frozenset(identity for identity, _ in ours),
                writes=writes,
                changes=changed,
                mixing=mixes or compares,
                norm=bool(_NORM.search(name)) and bool(others),
                weights=tuple(others[0].shape) if others else (),
                read=(ours[0][0], tuple(ours[0][1].shape)),
                shape=tuple(made[0].shape) if made else (),
            )
        )
        self._from_tiles |= writes

    def _changed(
        self,
        func: Any,  # noqa: ANN401
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Iterator[int]:
        """Identities of the tensors that an operation changes in place."""
        for i, argument in enumerate(func._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                value = args[i] if i < len(args) else kwargs.get(argument.name)
                yield from map(self._identities.of, _tensors(value))

    def leads_from_tiles(self, tensor: Tensor) -> bool:
        """Whether the tensor was computed out of the tiles, as far as torch sees it."""
        return self._identities.of(tensor) in self._from_tiles

    def last_mixing(
        self, tensor: Tensor, *, weighing: bool = False
    ) -> tuple[list[Operation], bool]:
        """The mixing operations behind which none follows on the way to the tensor.

        The latest first; and whether a normalization with weights follows. Weighing
        counts as mixing if all is summed after it.
        """
        found, normed = [], False
        needed = {self._identities.of(tensor)}
        for operation in self._backwards(needed, len(self), weighing=weighing):
            if operation.mixing or (weighing and operation.weighs):
                found.append(operation)
            normed = normed or operation.norm
        return found, normed

    def reaches(self, operation: Operation, call: Call) -> bool:
        """Whether what the operation read is what went into the call, unmixed."""
        needed = set(operation.reads)
        for _ in self._backwards(needed, operation.index):
            pass
        return bool(needed & call.inputs)

    def __len__(self) -> int:
        """How many operations there were."""
        return len(self.operations)

    def _backwards(
        self, needed: set[int], end: int, *, weighing: bool = False
    ) -> Iterator[Operation]:
        """Operations on the way to the tensors, from the last; none before mixing."""
        for operation in reversed(self.operations[:end]):
            if operation.writes & needed:
                if not (operation.mixing or (weighing and operation.weighs)):
                    needed |= operation.reads
                yield operation
