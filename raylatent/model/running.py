"""Torch in this process: its version, threads and GPU, and any model run on a batch."""

import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

import raylatent
from raylatent.errors import PassError, RaylatentError
from raylatent.model.outputs import first_tensor
from raylatent.model.spec import ModelSpec
from raylatent.model.torchvision_operators import missing_operator
from raylatent.storage import reason

T = TypeVar("T")

_SWITCH_S = 0.5e-3
_NOT_THE_MODELS = (
    "<",
    *(
        f"{Path(str(package.__file__)).parent}{os.sep}"
        for package in (torch, raylatent, importlib)
    ),
)


def torch_version() -> str:
    """Torch's version without its build, such as `2.9.0`."""
    return torch.__version__.split("+", 1)[0]


def set_threads(n: int) -> None:
    """Let torch use `n` threads."""
    torch.set_num_threads(n)


def feed_gpu(threads: int) -> None:
    """Let torch use `threads` threads, and its launches wait less for other threads.

    A pass asks for the interpreter dozens of times; whoever has it gives it up after this
    long (Python's own: 5 ms, half of a pass of a ResNet-50).
    """
    set_threads(threads)
    sys.setswitchinterval(_SWITCH_S)


def keep_float32() -> None:
    """Let GPUs of this process multiply float32 in float32, not in TF32.

    With TF32 in convolutions, reckoned on a CPU, rows of an EfficientNet-Lite0 have a
    cosine of 0.99989 and more: less than what is promised.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def has_gpu() -> bool:
    """Whether torch can use a GPU here."""
    return torch.cuda.is_available()


def default_device(spec: ModelSpec) -> torch.device:
    """Where the user's module is, else a GPU if there is one."""
    if spec.module is not None:
        tensor = next(iter(spec.module.state_dict().values()), None)
        if tensor is not None:
            return torch.device(tensor.device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class StopForward(Exception):  # noqa: N818  (a signal, not an error)
    """Everything that was wanted of a pass has been seen."""


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


def call_model(model: nn.Module, run: Callable[[Tensor], T], batch: Tensor) -> T:
    """What `run`, a way to run the model, gives for a standardized batch (n, 3, h, w).

    Raises:
        PassError: The model fails; the message has the failure's first line.
        torch.OutOfMemoryError: The device has no room for it.
    """
    try:
        with evaluating(model), torch.inference_mode():
            return run(batch)
    except (RaylatentError, StopForward, torch.OutOfMemoryError):
        raise
    except (Exception, SystemExit) as error:  # a model's code may raise anything
        why = missing_operator(error) or f"{type(error).__name__}: {reason(error)}"
        why += raised_at(error)
        message = f"the model fails on a batch of shape {tuple(batch.shape)}: {why}"
        raise PassError(message) from error


def raised_at(error: BaseException) -> str:
    """Where in a model's own code an exception arose: ` (net.py:22, in forward)`.

    Torch's own lines and ours, and those of an import, say nothing to its author.
    """
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith(_NOT_THE_MODELS):
            return f" ({Path(frame.filename).name}:{frame.lineno}, in {frame.name})"
    return ""


def layer_shapes(model: nn.Module, sample: Tensor) -> list[tuple[str, str, str]]:
    """Name, class and output shape of every module that runs, in order of execution.

    Of a module with several names all are given: `act1 = act2`.
    """
    rows: list[tuple[str, str, str]] = []

    def record(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(module: nn.Module, _inputs: object, output: object) -> None:
            tensor = first_tensor(output)
            shape = "-" if tensor is None else str(tuple(tensor.shape[1:]))
            rows.append((name, type(module).__name__, shape))

        return hook

    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if name:
            names.setdefault(module, []).append(name)
    handles = [
        module.register_forward_hook(record(" = ".join(called)))
        for module, called in names.items()
    ]
    try:
        call_model(model, model, sample)
    finally:
        for handle in handles:
            handle.remove()
    return rows
