"""torchvision beside a torch for which its compiled operators were not built."""

import functools
import importlib.util
import sys
from pathlib import Path
from typing import Any

import torch

# What torchvision registers shapes and gradients for when it is imported.
_OPERATORS = (
    *("nms", "qnms", "deform_conv2d", "_deform_conv2d_backward"),
    *("roi_align", "qroi_align", "_roi_align_backward"),
    *("roi_pool", "_roi_pool_backward"),
    *("ps_roi_align", "_ps_roi_align_backward"),
    *("ps_roi_pool", "_ps_roi_pool_backward"),
)
# How torchvision, and torch, say that an operator cannot be called.
_SAID = ("Couldn't load custom C++ ops", "torchvision::")


@functools.cache
def declare_missing_operators() -> torch.library.Library | None:
    """Let torchvision be imported where its compiled operators cannot be loaded.

    PyPI's torchvision is built for CUDA. Beside a CPU torch its library does not load,
    and its import fails because its operators have no names, and with it the imports of
    timm and of transformers' image models, though hardly a model calls an operator of
    detection. Here the names are given; a call of one still fails.

    Returns:
        What keeps the names alive; None where torchvision is whole, or not there.
    """
    spec = None
    if "torchvision" not in sys.modules:
        spec = importlib.util.find_spec("torchvision")
    if spec is None:
        return None
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    try:
        for path in (path for folder in folders for path in folder.glob("_C*.*")):
            torch.ops.load_library(path)  # type: ignore[no-untyped-call]
            return None
    except OSError:
        pass  # it was built for another torch
    library: Any = torch.library.Library  # which has no types
    names: torch.library.Library = library("torchvision", "FRAGMENT")
    for name in _OPERATORS:
        if not hasattr(torch.ops.torchvision, name):
            names.define(f"{name}(Tensor x) -> Tensor")  # type: ignore[no-untyped-call]
    return names


def missing_operator(error: BaseException) -> str | None:
    """What to do where an error is the call of such an operator; else None."""
    if not any(text in str(error) for text in _SAID):
        return None
    return (
        "torchvision's compiled operators are not installed for this torch "
        f"({torch.__version__}): install the torchvision that fits, without a GPU by "
        "pip install torchvision --index-url https://download.pytorch.org/whl/cpu"
    )
