"""Bags of features as Slideflow's multiple-instance models read them."""

import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from raylatent.model.stored import flat
from raylatent.parts import escape_partition
from raylatent.storage import Store

BAGS_CONFIG = "bags_config.json"


def write_bag(
    store: Store,
    slide: str,
    features: NDArray[np.floating[Any]],
    locations: NDArray[Any],
) -> None:
    """One slide's bag: `<slide>.index.npz`, then `<slide>.pt`.

    Args:
        store: Where.
        slide: Its name; escaped in the files' names where it would be a path.
        features: (n, ...), written as float32 (n, features).
        locations: (n, 2), `arr_0` of the index.
    """
    index = io.BytesIO()
    np.savez(index, locations)
    rows = np.ascontiguousarray(flat(features), np.float32)
    bag = io.BytesIO()
    torch.save(torch.from_numpy(rows), bag)
    plain = "/" not in slide and slide.strip(".") and "\0" not in slide
    stem = slide if plain else escape_partition(slide)
    store.write(f"{stem}.index.npz", index.getvalue())
    store.write(f"{stem}.pt", bag.getvalue())


def write_bags_config(
    store: Store, settings: Mapping[str, Any], num_features: int
) -> None:
    """What the bags are made with, from a run's settings."""
    fields = settings["fields"]
    config = {
        "extractor": {"model": settings["model"], "fields": fields},
        "num_features": num_features,
        "tile_px": fields["tile_px"],
    }
    store.write(BAGS_CONFIG, json.dumps(config, indent=1).encode())
