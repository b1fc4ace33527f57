"""Bags of features as Slideflow's multiple-instance models read them."""

import io

import numpy as np
import torch
from numpy.typing import NDArray


def bag_bytes(features: NDArray[np.floating]) -> bytes:
    """Features (n, d) as a float32 tensor in torch's format."""
    buffer = io.BytesIO()
    torch.save(torch.from_numpy(features.astype(np.float32)), buffer)
    return buffer.getvalue()
