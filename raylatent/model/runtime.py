"""Torch in this process: its version, threads, and whether it can use a GPU."""

import sys

import torch

from raylatent.model.spec import ModelSpec

_SWITCH_S = 0.5e-3


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
