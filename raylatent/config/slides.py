"""What every verb that reads whole slides takes."""

from dataclasses import dataclass

from raylatent.config.options import (
    above_zero,
    at_least,
    flag,
    one_of,
    option,
    pixel_size,
    share,
)
from raylatent.config.work import WorkConfig
from raylatent.errors import ConfigError

QCS = ("otsu", "blur", "both", "none")


@dataclass(frozen=True, kw_only=True)
class SlidesConfig(WorkConfig):
    """Whole slides, and the tiles to cut them into."""

    slides: tuple[str, ...] = option(
        (),
        "whole slides, folders of them or URIs (DICOM: the slide's folder)",
        metavar="PATH",
        many=True,
    )
    tile_px: int | None = option(
        None,
        "with --slides: side of a tile in pixels (default: the model's, if any)",
        metavar="N",
    )
    tile_um: str = option(
        "",
        "with --slides: side of a tile in micrometers, or a magnification as 10x",
        metavar="UM",
    )
    stride_div: float = option(
        1.0, "tiles are tile_um / F apart: 2 for half overlaps", metavar="F"
    )
    mpp: float | None = option(
        None,
        "micrometers a pixel of slides that do not say (a column mpp of --annotations "
        "is that of one slide, whatever its file says)",
        metavar="F",
    )
    allow_upsampling: bool = flag("take slides that are coarser than the tiles as well")
    qc: str = option(
        "otsu",
        "which tiles are left out: background, out of focus, both; none keeps all",
        choices=QCS,
    )
    grayspace_fraction: float = option(
        0.6, "tiles with more gray pixels than this are left out, 1: off", metavar="F"
    )
    whitespace_fraction: float = option(
        1.0, "tiles with more white pixels than this are left out, 1: off", metavar="F"
    )
    icc: bool = flag("convert colors to sRGB by the slides' ICC profiles")
    annotations: str = option(
        "",
        "CSV with a `slide` column, labels, and `mpp`, which overrules a slide's own",
        metavar="CSV",
    )

    def __post_init__(self) -> None:
        """Refuse nonsense."""
        super().__post_init__()
        one_of("--qc", self.qc, QCS)
        if self.tile_px is not None:
            at_least("--tile-px", self.tile_px, 1)
        above_zero("--stride-div", self.stride_div)
        if self.mpp is not None:
            pixel_size("--mpp", self.mpp)
        share("--grayspace-fraction", self.grayspace_fraction)
        share("--whitespace-fraction", self.whitespace_fraction)
        if self.slides and not self.tile_um:
            message = (
                "--slides needs --tile-um: a tile's side in micrometers, as 302, or a "
                "magnification, as 10x"
            )
            raise ConfigError(message)
