"""One configuration class for each verb: frozen, keyword-only, refusing nonsense.

The same classes serve `raylatent <verb>`, `jobs/*.py` and Python. `option` holds what
the command line needs to know of a field.
"""

from raylatent.config.activations import (
    DTYPES,
    MIN_BATCH,
    POOLINGS,
    ActivationsConfig,
)
from raylatent.config.atlas import AtlasConfig, LayersConfig
from raylatent.config.bench import BenchConfig
from raylatent.config.extraction import IMAGE_FORMATS, ExtractTilesConfig
from raylatent.config.maps import GRIDS, PLACEMENTS, SELECTS, MapConfig, MosaicConfig
from raylatent.config.options import MAX_NAME_BYTES, RunConfig, flag, option
from raylatent.config.slides import QCS, SlidesConfig
from raylatent.config.verify import VerifyConfig
from raylatent.config.work import UNIT_TILES

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
