"""Weights: reading a state dict without running code, and checking that it fits."""

import io
import warnings
from collections.abc import Mapping
from pickle import UnpicklingError

import safetensors
import safetensors.torch
import torch
from torch import nn

from raylatent.errors import ModelError, StorageError
from raylatent.storage import Store, reason

# What a broken or foreign file makes torch.load raise.
UNREADABLE = (
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    UnpicklingError,
    ValueError,
)
# Older weights lack this counter, which evaluation never reads.
_IGNORED_KEY = "num_batches_tracked"


def read_weights(uri: str) -> dict[str, torch.Tensor]:
    """A state dict from safetensors, or from torch's format without its pickles.

    Raises:
        ModelError: The file is not there, or is neither.
    """
    folder, _, name = uri.rpartition("/")
    try:
        data = Store(folder).read(name)
    except StorageError as error:
        message = f"weights {uri} cannot be read: {error}"
        raise ModelError(message) from error
    try:
        if name.endswith(".safetensors"):
            return dict(safetensors.torch.load(data))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks on foreign pickles
            state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except safetensors.SafetensorError as error:
        message = f"weights {uri} are no safetensors: {reason(error)}"
        raise ModelError(message) from error
    except UNREADABLE as error:
        message = (
            f"weights {uri} are no plain state dict: save model.state_dict(), best as "
            f"safetensors ({type(error).__name__})"
        )
        raise ModelError(message) from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(
        isinstance(value, torch.Tensor) for value in state.values()
    ):
        message = f"weights {uri} are no state dict: save model.state_dict()"
        raise ModelError(message)
    return dict(state)


def load_weights(model: nn.Module, uri: str) -> None:
    """Put weights into a model that has just their names and shapes.

    Raises:
        ModelError: They cannot be read, or do not fit: the message has what is missing,
            what is too much, and what has another shape.
    """
    state = read_weights(uri)
    own = model.state_dict()
    missing = [k for k in own if k not in state and not k.endswith(_IGNORED_KEY)]
    unexpected = sorted(key for key in state if key not in own)
    shapes = [
        f"{key} is {tuple(state[key].shape)}, the model has {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    complaints = [
        f"{text} {', '.join(keys[:3])}{f' and {len(keys) - 3} more' * (len(keys) > 3)}"
        for text, keys in (
            ("they lack", missing),
            ("they have, and the model has not,", unexpected),
            ("shapes differ:", shapes),
        )
        if keys
    ]
    if complaints:
        message = f"weights {uri} do not fit the model: {'; '.join(complaints)}"
        raise ModelError(message)
    model.load_state_dict(state, strict=False)
