"""One configuration class for each verb: frozen, keyword-only, refusing nonsense.

The same classes serve `raylatent <verb>`, `jobs/*.py` and Python. `option` holds what
the command line needs to know of a field.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from raylatent.errors import ConfigError

POOLINGS = ("none", "avg", "max", "cls")
DTYPES = ("float32", "float16")
SELECTS = ("nearest", "medoid", "first")
GRIDS = ("square", "slideflow")
MIN_BATCH = 16
MAX_NAME_BYTES = 200


def option(default: Any, text: str, **extra: Any) -> Any:  # noqa: ANN401
    """A field with its help text.

    Args:
        default: The field's default.
        text: What it is, with its unit.
        **extra: `choices`, `metavar`, `many` (takes several values), `required`.
    """
    return field(default=default, metadata={"help": text, **extra})


def flag(text: str) -> Any:  # noqa: ANN401
    """A field that is off unless its option is given."""
    return field(default=False, metadata={"help": text})


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What every verb that works on a run takes."""

    out: str = option(
        "",
        "the run directory: a local path, s3://, gs://",
        metavar="RUN",
        required=True,
    )

    def __post_init__(self) -> None:
        """Refuse nonsense."""
        if not self.out:
            message = "--out RUN is missing: where the run directory is or shall be"
            raise ConfigError(message)


@dataclass(frozen=True, kw_only=True)
class ActivationsConfig(RunConfig):
    """TFRecords and a model to Parquet."""

    tfrecords: tuple[str, ...] = option(
        (), "TFRecord files, folders or URIs", metavar="PATH", many=True
    )
    model: str = option(
        "", "model folder, timm:NAME or hf-hub:REPO@REVISION", metavar="SPEC"
    )
    layers: tuple[str, ...] = option(
        ("postconv",), "layers by name in the model", metavar="NAME", many=True
    )
    pooling: str = option(
        "none", "of maps larger than 1x1 and of tokens", choices=POOLINGS
    )
    include_preds: bool | None = option(
        None, "store predictions (default: if the model has classes)", no="--no-preds"
    )
    dtype: str = option("float32", "of the stored activations", choices=DTYPES)
    actors: str = option(
        "", "actors N, or MIN:MAX (default: by the cluster's size)", metavar="N"
    )
    num_gpus: float | None = option(
        None, "GPUs for each actor (default: 1 if the cluster has any)", metavar="F"
    )
    batch_size: int = option(32, "tiles in one pass of the model", metavar="N")
    unit_tiles: int = option(2048, "tiles in one unit of work", metavar="N")
    mixed_precision: bool | None = option(
        None, "bfloat16 autocast (default: on GPUs)", no="--no-mixed-precision"
    )
    max_bad_fraction: float = option(
        0.01, "a slide with more bad tiles, and more than 10, fails", metavar="F"
    )
    overwrite: bool = flag("delete the rows of another configuration in RUN")
    allow_pickle: bool = flag("allow a pickled model, which runs code from its file")

    def __post_init__(self) -> None:
        """Refuse nonsense."""
        super().__post_init__()
        _one_of("--pooling", self.pooling, POOLINGS)
        _one_of("--dtype", self.dtype, DTYPES)
        _at_least("--batch-size", self.batch_size, MIN_BATCH)
        _at_least("--unit-tiles", self.unit_tiles, 1)
        if not 0 <= self.max_bad_fraction <= 1:
            message = f"--max-bad-fraction is {self.max_bad_fraction}, not 0 to 1"
            raise ConfigError(message)
        if self.num_gpus is not None and not 0 <= self.num_gpus < math.inf:
            message = f"--num-gpus is {self.num_gpus}, not 0 or more"
            raise ConfigError(message)
        _names("--layers", self.layers)
        self.actor_range()

    def actor_range(self) -> tuple[int, int] | None:
        """Smallest and largest number of actors, None for the default.

        >>> ActivationsConfig(out="run", actors="1:4").actor_range()
        (1, 4)
        """
        if not self.actors:
            return None
        low, colon, high = self.actors.partition(":")
        try:
            smallest, largest = int(low), int(high if colon else low)
        except ValueError:
            smallest, largest = 0, 0
        if not 1 <= smallest <= largest:
            message = f"--actors is {self.actors!r}, not N or MIN:MAX with MIN from 1"
            raise ConfigError(message)
        return smallest, largest


@dataclass(frozen=True, kw_only=True)
class MapConfig(RunConfig):
    """Stored activations to a map of every row."""

    layer: str = option(
        "", "the layer to map (default: the only or first one)", metavar="NAME"
    )
    map: str = option("default", "name below maps/", metavar="NAME")
    sample: int = option(20_000, "rows that UMAP is fitted on", metavar="N")
    seed: int = option(42, "of the sample, the fit and ties", metavar="N")
    n_neighbors: int = option(50, "UMAP's n_neighbors, at least 2", metavar="N")
    min_dist: float = option(0.1, "UMAP's min_dist, from 0", metavar="F")
    metric: str = option("cosine", "UMAP's metric", metavar="NAME")
    umap: tuple[str, ...] = option(
        (), "any other UMAP argument, as KEY=VALUE", metavar="KEY=VALUE", many=True
    )
    annotations: str = option("", "CSV with a `slide` column and labels", metavar="CSV")
    label: str = option("", "column of the annotations to color by", metavar="COLUMN")

    def __post_init__(self) -> None:
        """Refuse nonsense."""
        super().__post_init__()
        _at_least("--sample", self.sample, 1)
        _at_least("--n-neighbors", self.n_neighbors, 2)
        if not 0 <= self.seed < 1 << 32:
            message = f"--seed is {self.seed}, not 0 to {(1 << 32) - 1}"
            raise ConfigError(message)
        if not 0 <= self.min_dist < math.inf:
            message = f"--min-dist is {self.min_dist}, not 0 or more"
            raise ConfigError(message)
        for pair in self.umap:
            name, equals, _ = pair.partition("=")
            if not name or not equals:
                message = f"--umap is {pair!r}, not KEY=VALUE"
                raise ConfigError(message)
        _plain_name("--map", self.map)
        if self.label and not self.annotations:
            message = f"--label {self.label} needs --annotations CSV"
            raise ConfigError(message)


@dataclass(frozen=True, kw_only=True)
class MosaicConfig(RunConfig):
    """A map to a mosaic of tiles."""

    map: str = option("default", "name below maps/", metavar="NAME")
    mosaic: str = option("default", "name below mosaics/", metavar="NAME")
    num_tiles_x: int = option(50, "cells across the map", metavar="N")
    select: str = option("nearest", "which tile of a cell is drawn", choices=SELECTS)
    grid: str = option("square", "the grid of cells", choices=GRIDS)
    cell_px: int = option(100, "side of a cell in pixels", metavar="N")
    annotations: str = option("", "CSV with a `slide` column and labels", metavar="CSV")
    label: str = option("", "column of the annotations to color by", metavar="COLUMN")
    source_root: str = option(
        "", "where the TFRecords are now, if they were moved", metavar="PATH"
    )

    def __post_init__(self) -> None:
        """Refuse nonsense."""
        super().__post_init__()
        _one_of("--select", self.select, SELECTS)
        _one_of("--grid", self.grid, GRIDS)
        _at_least("--num-tiles-x", self.num_tiles_x, 1)
        _at_least("--cell-px", self.cell_px, 1)
        _plain_name("--mosaic", self.mosaic)
        _plain_name("--map", self.map)
        if self.label and not self.annotations:
            message = f"--label {self.label} needs --annotations CSV"
            raise ConfigError(message)


@dataclass(frozen=True, kw_only=True)
class AtlasConfig(ActivationsConfig, MapConfig, MosaicConfig):
    """Everything: activations, map, mosaic."""

    demo: bool = flag("run on the embedded demo: real tissue, real weights")

    def __post_init__(self) -> None:
        """Refuse nonsense."""
        super().__post_init__()
        if self.layer and self.layer not in self.layers:
            message = (
                f"--layer {self.layer} is not among --layers {' '.join(self.layers)}"
            )
            raise ConfigError(message)
        if self.demo and (self.tfrecords or self.model):
            message = "--demo brings its own TFRecords and model: leave yours out"
            raise ConfigError(message)


@dataclass(frozen=True, kw_only=True)
class LayersConfig:
    """A model's layers and their output shapes."""

    model: str = option("", "the model", metavar="SPEC", positional=True)
    allow_pickle: bool = flag("allow a pickled model, which runs code from its file")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        message = f"{name} is {value!r}, not {', '.join(allowed)}"
        raise ConfigError(message)


def _at_least(name: str, value: int, smallest: int) -> None:
    if value < smallest:
        message = f"{name} is {value}, less than {smallest}"
        raise ConfigError(message)


def _names(name: str, values: tuple[str, ...]) -> None:
    if not values or not all(values):
        message = f"{name} has an empty name: give at least one, none of them empty"
        raise ConfigError(message)
    for value in values:
        if values.count(value) > 1:
            message = f"{name} has {value} twice"
            raise ConfigError(message)


def _plain_name(option_name: str, value: str) -> None:
    plain = value.strip(".") and value.isprintable() and not {"/", "\\"} & set(value)
    if not plain or len(value.encode()) > MAX_NAME_BYTES:
        message = (
            f"{option_name} is {value[:40]!r}: it must be a plain folder name of at most "
            f"{MAX_NAME_BYTES} bytes"
        )
        raise ConfigError(message)
