"""raylatent: what a neural network has learned of histology slides, on Ray.

>>> import raylatent as sf
>>> sf.Mosaic.__name__
'Mosaic'
"""

import importlib
import os
import typing

# Read at MKL's first call: with AVX-512 its products of matrices otherwise depend on the
# number of threads (torch 2.13: a linear layer of 1,280 to 1,000), and rows must not.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

if typing.TYPE_CHECKING:
    from raylatent import errors as errors
    from raylatent import model as model
    from raylatent.dataset import Dataset as Dataset
    from raylatent.dataset_features import DatasetFeatures as DatasetFeatures
    from raylatent.main_job import atlas as atlas
    from raylatent.mosaic import Mosaic as Mosaic
    from raylatent.project import Project as Project
    from raylatent.run import read as read
    from raylatent.slide_map import SlideMap as SlideMap
    from raylatent.source.wsi import WSI as WSI

__version__ = "0.1.0"

# Imported when first used: torch, Ray and UMAP take seconds.
_WHERE = {
    "Dataset": "raylatent.dataset",
    "DatasetFeatures": "raylatent.dataset_features",
    "Mosaic": "raylatent.mosaic",
    "Project": "raylatent.project",
    "SlideMap": "raylatent.slide_map",
    "WSI": "raylatent.source.wsi",
    "atlas": "raylatent.main_job",
    "errors": "raylatent",
    "model": "raylatent",
    "read": "raylatent.run",
}

__all__ = [  # noqa: RUF022  (sorted as Python sorts)
    "Dataset",
    "DatasetFeatures",
    "Mosaic",
    "Project",
    "SlideMap",
    "WSI",
    "atlas",
    "errors",
    "model",
    "read",
]


def __getattr__(name: str) -> typing.Any:  # noqa: ANN401
    """A public name, imported now."""
    if name not in _WHERE:
        message = f"module 'raylatent' has no attribute {name!r}"
        raise AttributeError(message)
    if _WHERE[name] == "raylatent":
        return importlib.import_module(f"raylatent.{name}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    """Public names, also those not yet imported."""
    return sorted({*globals(), *__all__})
