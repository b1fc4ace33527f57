"""From pixels to activations: load a model, name layers, run batches."""

from raylatent.model.features import Features as Features
from raylatent.model.spec import ModelSpec as ModelSpec

__all__ = ["Features", "ModelSpec"]
