"""Passes through a compiled model: the layers are outputs of the compiled function."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.exc import BackendCompilerFailed

from raylatent.errors import ModelError
from raylatent.model.layers import LayerCapture, Taken, separate
from raylatent.model.outputs import Output
from raylatent.model.pooling import Layout
from raylatent.model.postconv import Target
from raylatent.model.running import call_model
from raylatent.storage import reason

_BACKEND = "inductor"
# On CPUs its own loops sum in as many pieces as there are threads, which rows must not
# depend on; convolutions and products go on using all threads.
_OPTIONS: dict[str, Any] = {"cpp.threads": 1}


class CompiledCapture(LayerCapture):
    """As LayerCapture, compiled at the first pass for that batch's shape.

    The model keeps hooks, since what is compiled is the model with them. What no layer
    depends on is not computed unless the output is asked for.
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
        """See LayerCapture."""
        super().__init__(model, targets, pooling, output=output, layouts=layouts)
        self._taken = Taken(0)
        self._rows = 0
        options = _OPTIONS if _BACKEND == "inductor" else None
        self._compiled = torch.compile(
            self._pass, dynamic=False, backend=_BACKEND, options=options
        )
        separate(model, [target.module for target in self.targets if target.alone])
        for target in self.inner:
            self.hook(target, self._take)

    def __call__(
        self, batch: Tensor, *, with_output: bool
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """See LayerCapture.

        Raises:
            ModelError: The model fails, or cannot be compiled.
        """
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
        self._taken = Taken(0)
        names = [target.layer for target in self.targets]
        return dict(zip(names, values, strict=True)), output

    def _pass(
        self, batch: Tensor, *, with_output: bool
    ) -> tuple[list[Tensor], Tensor | None]:
        self._taken = Taken(self._rows)
        value = self.model(batch)
        for target in self.own:
            self._take(target, value)
        values = [self._taken.rows(target) for target in self.targets]
        return values, self.output.of(value, self._rows) if with_output else None

    def _take(self, target: Target, value: object) -> None:
        self._taken.add(target, self.reduce(target, value, self._rows))
