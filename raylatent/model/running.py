"""Running any model on a batch: in evaluation mode, without gradients."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from raylatent.errors import PassError, RaylatentError
from raylatent.storage import reason

T = TypeVar("T")

_OUTPUT_KEYS = ("logits", "last_hidden_state")


class StopForward(Exception):  # noqa: N818  (a signal, not an error)
    """Everything that was wanted of a pass has been seen."""


def first_tensor(output: object) -> Tensor | None:
    """The tensor in what a module returns: itself, or the first inside.

    Of a mapping (as transformers' models return) first `logits`, then
    `last_hidden_state`, then the first value.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        named = [output[key] for key in _OUTPUT_KEYS if key in output]
        output = (*named, *output.values())
    if isinstance(output, Sequence) and not isinstance(output, str | bytes):
        for item in output:
            tensor = first_tensor(item)
            if tensor is not None:
                return tensor
    return None


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and afterwards every module as it was.

    A module from Python belongs to the user, who may be training it.
    """
    before = [(module, module.training) for module in model.modules()]
    if not any(training for _, training in before):
        yield
        return
    model.eval()
    try:
        yield
    finally:
        model.train()  # what a module's own train() undoes, it does again
        for module, training in before:
            module.training = training


def run_model(model: nn.Module, batch: Tensor) -> Tensor | None:
    """The model's output for a standardized batch (n, 3, h, w).

    Raises:
        PassError: The model fails; the message has the failure's first line.
        torch.OutOfMemoryError: The device has no room for it.
    """
    return first_tensor(call_model(model, model, batch))


def call_model(model: nn.Module, run: Callable[[Tensor], T], batch: Tensor) -> T:
    """What `run`, a way to run the model, gives for a batch; errors as in `run_model`."""
    try:
        with evaluating(model), torch.inference_mode():
            return run(batch)
    except (RaylatentError, StopForward, torch.OutOfMemoryError):
        raise
    except (Exception, SystemExit) as error:  # a model's code may raise anything
        message = (
            f"the model fails on a batch of shape {tuple(batch.shape)}: "
            f"{type(error).__name__}: {reason(error)}"
        )
        raise PassError(message) from error


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
