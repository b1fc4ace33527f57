"""What `raylatent map` and `raylatent mosaic` take."""

from dataclasses import dataclass

from raylatent.config.options import (
    PatientConfig,
    at_least,
    number_from,
    one_of,
    option,
    plain_name,
)
from raylatent.errors import ConfigError

VECTORS = ("none", "pdf", "svg")
SELECTS = ("nearest", "medoid", "first")
GRIDS = ("square", "slideflow")
PLACEMENTS = ("rows", "umap-learn")


@dataclass(frozen=True, kw_only=True)
class NamedMapConfig(PatientConfig):
    """A map of a run, and the labels of its slides."""

    map: str = option("default", "name below maps/", metavar="NAME")
    annotations: str = option("", "CSV with a `slide` column and labels", metavar="CSV")
    label: str = option("", "column of the annotations to color by", metavar="COLUMN")

    def __post_init__(self) -> None:
        """Refuse nonsense."""
        super().__post_init__()
        plain_name("--map", self.map)
        if self.label and not self.annotations:
            message = f"--label {self.label} needs --annotations CSV"
            raise ConfigError(message)


@dataclass(frozen=True, kw_only=True)
class MapConfig(NamedMapConfig):
    """Stored activations to a map of every row."""

    layer: str = option(
        "", "the layer to map (default: the only or first one)", metavar="NAME"
    )
    sample: int = option(20_000, "rows that UMAP is fitted on", metavar="N")
    seed: int = option(42, "of the sample, the fit and ties", metavar="N")
    n_neighbors: int = option(50, "UMAP's n_neighbors, at least 2", metavar="N")
    min_dist: float = option(0.1, "UMAP's min_dist, from 0", metavar="F")
    metric: str = option("cosine", "UMAP's metric", metavar="NAME")
    umap: tuple[str, ...] = option(
        (), "any other UMAP argument, as KEY=VALUE", metavar="KEY=VALUE", many=True
    )
    placement: str = option(
        "rows",
        "rows: each by itself; umap-learn: by its own transform",
        choices=PLACEMENTS,
    )
    vector: str = option("none", "also write its pictures as these", choices=VECTORS)

    def __post_init__(self) -> None:
        """Refuse nonsense."""
        super().__post_init__()
        one_of("--placement", self.placement, PLACEMENTS)
        one_of("--vector", self.vector, VECTORS)
        at_least("--sample", self.sample, 1)
        at_least("--n-neighbors", self.n_neighbors, 2)
        if not 0 <= self.seed < 1 << 32:
            message = f"--seed is {self.seed}, not 0 to {(1 << 32) - 1}"
            raise ConfigError(message)
        number_from("--min-dist", self.min_dist, 0)
        for pair in self.umap:
            name, equals, _ = pair.partition("=")
            if not name or not equals:
                message = f"--umap is {pair!r}, not KEY=VALUE"
                raise ConfigError(message)


@dataclass(frozen=True, kw_only=True)
class MosaicConfig(NamedMapConfig):
    """A map to a mosaic of tiles."""

    mosaic: str = option("default", "name below mosaics/", metavar="NAME")
    num_tiles_x: int = option(50, "cells across the map", metavar="N")
    select: str = option("nearest", "which tile of a cell is drawn", choices=SELECTS)
    grid: str = option("square", "the grid of cells", choices=GRIDS)
    cell_px: int = option(100, "side of a cell in pixels", metavar="N")
    source_root: str = option(
        "", "where the TFRecords or slides are now, if they were moved", metavar="PATH"
    )

    def __post_init__(self) -> None:
        """Refuse nonsense."""
        super().__post_init__()
        one_of("--select", self.select, SELECTS)
        one_of("--grid", self.grid, GRIDS)
        at_least("--num-tiles-x", self.num_tiles_x, 1)
        at_least("--cell-px", self.cell_px, 1)
        plain_name("--mosaic", self.mosaic)
