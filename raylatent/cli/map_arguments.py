"""What `raylatent map` asks of a map: its own options, and UMAP's others."""

import json
from typing import Any

from raylatent.config import MapConfig
from raylatent.errors import ConfigError
from raylatent.mapping.parameters import MapParameters

# UMAP arguments with an option of their own.
_OWN_OPTIONS = {
    "metric": "--metric",
    "min_dist": "--min-dist",
    "n_neighbors": "--n-neighbors",
    "placement": "--placement",
    "random_state": "--seed",
    "sample": "--sample",
    "seed": "--seed",
}


def map_parameters(config: MapConfig) -> MapParameters:
    """What the map is asked to be; MapError names an argument that makes no sense."""
    values: dict[str, Any] = {}
    for pair in config.umap:
        name, _, text = pair.partition("=")
        try:
            values[name] = json.loads(text)
        except ValueError:
            values[name] = text
        if name in _OWN_OPTIONS:
            message = f"--umap {pair} is said as {_OWN_OPTIONS[name]} {values[name]}"
            raise ConfigError(message)
    return MapParameters.of(
        n_neighbors=config.n_neighbors,
        min_dist=config.min_dist,
        metric=config.metric,
        seed=config.seed,
        sample=config.sample,
        placement=config.placement,
        **values,
    )
