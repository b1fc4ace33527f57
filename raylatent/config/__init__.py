"""One configuration class for each verb: frozen, keyword-only, refusing nonsense.

The same classes serve `raylatent <verb>`, `jobs/*.py` and Python. `option` holds what
the command line needs to know of a field.
"""

from raylatent.config.map_verbs import (
    ClusterConfig,
    LabelConfig,
    SelectConfig,
    ServeConfig,
)
from raylatent.config.verbs import (
    GRIDS,
    LAYOUTS,
    MIN_BATCH,
    NUM_TILES_X,
    PLACEMENTS,
    POOLINGS,
    QCS,
    SELECTS,
    UNIT_TILES,
    ActivationsConfig,
    AtlasConfig,
    BenchConfig,
    ExploreConfig,
    ExtractTilesConfig,
    LayersConfig,
    MapConfig,
    MosaicConfig,
    NamedMapConfig,
    PageConfig,
    SlidesConfig,
    VerifyConfig,
)

__all__ = [
    "GRIDS",
    "LAYOUTS",
    "MIN_BATCH",
    "NUM_TILES_X",
    "PLACEMENTS",
    "POOLINGS",
    "QCS",
    "SELECTS",
    "UNIT_TILES",
    "ActivationsConfig",
    "AtlasConfig",
    "BenchConfig",
    "ClusterConfig",
    "ExploreConfig",
    "ExtractTilesConfig",
    "LabelConfig",
    "LayersConfig",
    "MapConfig",
    "MosaicConfig",
    "NamedMapConfig",
    "PageConfig",
    "SelectConfig",
    "ServeConfig",
    "SlidesConfig",
    "VerifyConfig",
]
