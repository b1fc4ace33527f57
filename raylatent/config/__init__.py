"""One configuration class for each verb: frozen, keyword-only, refusing nonsense.

The same classes serve `raylatent <verb>`, `jobs/*.py` and Python. `option` holds what
the command line needs to know of a field.
"""

from raylatent.config.options import MAX_NAME_BYTES, RunConfig, flag, option
from raylatent.config.verbs import (
    DTYPES,
    GRIDS,
    IMAGE_FORMATS,
    MIN_BATCH,
    PLACEMENTS,
    POOLINGS,
    QCS,
    SELECTS,
    UNIT_TILES,
    ActivationsConfig,
    AtlasConfig,
    BenchConfig,
    ExtractTilesConfig,
    LayersConfig,
    MapConfig,
    MosaicConfig,
    SlidesConfig,
    VerifyConfig,
)

__all__ = [
    "DTYPES",
    "GRIDS",
    "IMAGE_FORMATS",
    "MAX_NAME_BYTES",
    "MIN_BATCH",
    "PLACEMENTS",
    "POOLINGS",
    "QCS",
    "SELECTS",
    "UNIT_TILES",
    "ActivationsConfig",
    "AtlasConfig",
    "BenchConfig",
    "ExtractTilesConfig",
    "LayersConfig",
    "MapConfig",
    "MosaicConfig",
    "RunConfig",
    "SlidesConfig",
    "VerifyConfig",
    "flag",
    "option",
]
