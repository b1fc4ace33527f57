"""What every verb that reads whole slides takes."""

import math
from dataclasses import dataclass

from raylatent.config.options import at_least, flag, one_of, option
from raylatent.config.work import WorkConfig
from raylatent.errors import ConfigError
from raylatent.pixel_size import why_not_mpp

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
        if not 0 < self.stride_div < math.inf:
            message = f"--stride-div is {self.stride_div}, not above 0"
            raise ConfigError(message)
        why_not = None if self.mpp is None else why_not_mpp(self.mpp)
        if why_not is not None:
            message = f"--mpp is {self.mpp:g} micrometers a pixel, {why_not}"
            raise ConfigError(message)
        for name in ("grayspace_fraction", "whitespace_fraction"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                message = f"--{name.replace('_', '-')} is {value}, not 0 to 1"
                raise ConfigError(message)
        if self.slides and not self.tile_um:
            message = (
                "--slides needs --tile-um: a tile's side in micrometers, as 302, or a "
                "magnification, as 10x"
            )
            raise ConfigError(message)
