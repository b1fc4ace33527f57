"""From pixels to activations: load a model, name layers, run batches."""

import importlib
import typing

if typing.TYPE_CHECKING:
    from raylatent.model.features import Features as Features
    from raylatent.model.spec import ModelSpec as ModelSpec

__all__ = ["Features", "ModelSpec"]

_WHERE = {"Features": "raylatent.model.features", "ModelSpec": "raylatent.model.spec"}


def __getattr__(name: str) -> typing.Any:  # noqa: ANN401
    """A public name, imported when it is first used: torch takes seconds."""
    if name not in _WHERE:
        message = f"module 'raylatent.model' has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(importlib.import_module(_WHERE[name]), name)
