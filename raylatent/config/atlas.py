"""What `raylatent atlas` and `raylatent layers` take."""

from dataclasses import dataclass

from raylatent.config.activations import ActivationsConfig
from raylatent.config.maps import MapConfig, MosaicConfig
from raylatent.config.options import flag, option
from raylatent.errors import ConfigError


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
        if self.demo and (self.tfrecords or self.slides or self.model):
            message = "--demo brings its own tiles and model: leave yours out"
            raise ConfigError(message)


@dataclass(frozen=True, kw_only=True)
class LayersConfig:
    """A model's layers and their output shapes."""

    model: str = option("", "the model", metavar="SPEC", positional=True)
    allow_pickle: bool = flag("allow a pickled model, which runs code from its file")
