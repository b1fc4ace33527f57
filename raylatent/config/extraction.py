"""What `raylatent extract-tiles` takes."""

from dataclasses import dataclass

from raylatent.config.options import one_of, option
from raylatent.config.slides import SlidesConfig
from raylatent.errors import ConfigError

IMAGE_FORMATS = ("jpg", "png")


@dataclass(frozen=True, kw_only=True)
class ExtractTilesConfig(SlidesConfig):
    """Whole slides to TFRecords, as Slideflow writes them."""

    img_format: str = option("jpg", "of the tiles in TFRecords", choices=IMAGE_FORMATS)
    jpeg_quality: int = option(95, "of jpg tiles, 1 to 100", metavar="N")

    def __post_init__(self) -> None:
        """Refuse nonsense."""
        super().__post_init__()
        one_of("--img-format", self.img_format, IMAGE_FORMATS)
        if not 1 <= self.jpeg_quality <= 100:
            message = f"--jpeg-quality is {self.jpeg_quality}, not 1 to 100"
            raise ConfigError(message)
        if self.slides and self.tile_px is None:
            message = "extract-tiles needs --tile-px: a tile's side in pixels"
            raise ConfigError(message)
