"""WSI: a slide, its grid of tiles, and what of it is tissue."""

import logging
import os
from collections.abc import Callable, Sequence
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from raylatent import notebook
from raylatent.errors import ConfigError
from raylatent.source import tissue
from raylatent.source.slides import local_slide, slide_name
from raylatent.source.tissue import TissueOptions
from raylatent.source.wsi.geometry import (
    Geometry,
    TileOptions,
    geometry_of,
    mpp_of,
    remarks_on_mpp,
)
from raylatent.source.wsi.handle import SlideHandle
from raylatent.source.wsi.regions import TileReader
from raylatent.source.wsi.selection import (
    filter_tiles,
    fractions_of,
    select_tiles,
    thumbnail,
)

logger = logging.getLogger(__name__)

_MOST_PIXELS = 100_000_000  # of a level that is read whole to show a slide

QCMethod = str | Callable[["WSI"], NDArray[np.bool_]]


class Level(TypedDict):
    """One level of a slide's pyramid, as Slideflow describes it."""

    level: int
    dimensions: tuple[int, int]
    width: int
    height: int
    downsample: float


class WSI:
    """A whole-slide image with a grid of tiles.

    Args:
        path: A slide that OpenSlide opens: a file, for DICOM its folder.
        tile_px: Side of a tile in pixels.
        tile_um: Side of its window in µm, or a magnification as `10x`.
        stride_div: Tiles are window / stride_div apart.
        mpp: µm a pixel of level 0; it overrules what the slide's file says, with a
            line where that differs.
        origin: Top left of the first tile, level-0 pixels.
        use_edge_tiles: Also tiles that reach beyond the slide, white there.
        allow_upsampling: Also where the finest level is coarser than the tiles.
        icc: Convert colors to sRGB by the slide's ICC profile.

    Attributes:
        grid: Whether each tile is kept, (rows, cols) bool, rows along y. All are, until
            `qc` and `filter` leave some out.

    Raises:
        SourceError: The slide cannot be opened, or has no such tiles.
        MissingMPPError: It does not say how large its pixels are, nor does `mpp`.
    """

    def __init__(  # noqa: PLR0913  (Slideflow's signature)
        self,
        path: str | os.PathLike[str],
        tile_px: int,
        tile_um: float | str,
        stride_div: float = 1,
        mpp: float | None = None,
        *,
        origin: tuple[int, int] = (0, 0),
        use_edge_tiles: bool = False,
        allow_upsampling: bool = False,
        icc: bool = False,
    ) -> None:
        """See the class."""
        self.options = TileOptions(
            tile_px=tile_px,
            tile_um=tile_um,
            stride_div=stride_div,
            mpp_of_slide=mpp,
            origin=origin,
            use_edge_tiles=use_edge_tiles,
            allow_upsampling=allow_upsampling,
            icc=icc,
        )
        self.path = os.fspath(path)
        self.name = slide_name(self.path)
        self._open()
        own = self.handle.file_size
        for remark in remarks_on_mpp(self.name, own, self.options.given_mpp):
            logger.warning("%s", remark)
        self.grid: NDArray[np.bool_] = np.ones(self.geometry.shape, bool)

    def _open(self) -> None:
        self.handle, self.geometry = open_grid(self.path, self.name, self.options)
        self.reader = TileReader(self.handle, self.geometry)

    def __getstate__(self) -> dict[str, Any]:
        """Without the open file."""
        names = ("options", "path", "name", "grid")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the slide in another process."""
        vars(self).update(state)
        self._open()

    def __repr__(self) -> str:
        """Slide, tiles, grid."""
        rows, cols = self.grid.shape
        return (
            f"WSI({self.path!r}, tile_px={self.tile_px}, tile_um={self.tile_um:g}, "
            f"grid={rows}x{cols}, tiles={self.num_tiles})"
        )

    def _repr_html_(self) -> str:
        """The slide in numbers, and in small with its tiles."""

        def rows() -> dict[str, object]:
            um = f"{self.tile_px} px = {self.tile_um:g} µm"
            size = "{:,} x {:,} px".format(*self.dimensions)
            return {
                "slide": self.path,
                "size": f"{size}, {self.mpp:g} µm a pixel",
                "tiles": f"{self.num_tiles:,} of {self.grid.size:,}, {um}",
            }

        def small() -> Image.Image | None:
            pixels = self.levels[-1]["width"] * self.levels[-1]["height"]
            return self.thumb(grid=True) if pixels <= _MOST_PIXELS else None

        return notebook.card(f"WSI {self.name}", rows, small)

    @property
    def tile_px(self) -> int:
        """Side of a tile in pixels."""
        return self.geometry.tile_px

    @property
    def tile_um(self) -> float:
        """Side of a tile in µm, as it is: its window has whole pixels."""
        return self.geometry.tile_um

    @property
    def mpp(self) -> float:
        """µm a pixel of level 0."""
        return self.geometry.mpp

    @property
    def dimensions(self) -> tuple[int, int]:
        """Width and height of level 0 in pixels."""
        return self.handle.dimensions

    @property
    def full_extract_px(self) -> int:
        """Side of a tile's window in level-0 pixels."""
        return self.geometry.window_px

    @property
    def full_stride(self) -> int:
        """Distance of tiles in level-0 pixels."""
        return self.geometry.stride_px

    @property
    def downsample_level(self) -> int:
        """The level that tiles are read from."""
        return self.reader.level

    @property
    def levels(self) -> list[Level]:
        """The pyramid, finest first."""
        pairs = zip(self.handle.level_dimensions, self.handle.downsamples, strict=True)
        return [
            Level(
                level=i,
                dimensions=size,
                width=size[0],
                height=size[1],
                downsample=downsample,
            )
            for i, (size, downsample) in enumerate(pairs)
        ]

    @property
    def properties(self) -> dict[str, str]:
        """What the file says of itself, in OpenSlide's names."""
        return dict(self.handle.properties)

    @property
    def coord(self) -> NDArray[np.int64]:
        """Every tile of the grid row by row, (n, 4): x, y, column, row.

        x and y are the top left of its window, level-0 pixels; `grid[row, column]` says
        whether it is kept.
        """
        return self.geometry.coord()

    @property
    def locations(self) -> NDArray[np.int64]:
        """Centers (x, y) of the kept tiles row by row, (num_tiles, 2), level-0 pixels."""
        return np.stack(self.geometry.centers(*np.nonzero(self.grid)), axis=1)

    @property
    def num_tiles(self) -> int:
        """Tiles that are kept."""
        return int(self.grid.sum())

    def __getitem__(self, index: tuple[int, int]) -> NDArray[np.uint8] | None:
        """The tile at (row, column) of the grid; None if it is left out.

        Returns:
            (tile_px, tile_px, 3) uint8, RGB.

        Raises:
            IndexError: There is no such place.
            ContentError: Its part of the file is broken.
        """
        row, col = index
        if not self.grid[row, col]:
            return None
        x, y = self.geometry.xs[col], self.geometry.ys[row]
        return self.reader.at(int(x), int(y))

    def qc(
        self, method: QCMethod | Sequence[QCMethod], *, filter_threshold: float = 0.6
    ) -> Image.Image:
        """Leave out tiles without tissue, or out of focus.

        Args:
            method: `otsu`, `blur`, `both`; or a function of this WSI that gives a mask
                of the whole slide at any resolution, (h, w) bool, True where nothing is
                to be kept; or several of them.
            filter_threshold: A tile goes if more of it than this is masked.

        Returns:
            A thumbnail with the kept tiles drawn on it.

        Raises:
            ConfigError: There is no such method.
        """
        methods = [method] if isinstance(method, str) or callable(method) else method
        for one in methods:
            self.grid &= self._passing(one, filter_threshold)
        return self.thumb(grid=True)

    def _passing(self, method: QCMethod, threshold: float) -> NDArray[np.bool_]:
        if isinstance(method, str):
            options = TissueOptions(
                qc=method, filter_threshold=threshold, grayspace_fraction=1.0
            )
            reasons = select_tiles(self.handle, self.geometry, options)
            return np.asarray(reasons == tissue.KEPT)
        mask = np.asarray(method(self), bool)
        if mask.ndim != 2 or not mask.size:
            message = f"a QC method gave a mask of shape {mask.shape}, not (h, w)"
            raise ConfigError(message)
        return np.asarray(fractions_of(mask, self.geometry) <= threshold)

    def filter(
        self,
        *,
        grayspace_fraction: float = 0.6,
        grayspace_threshold: float = 0.05,
        whitespace_fraction: float = 1.0,
        whitespace_threshold: float = 230,
    ) -> None:
        """Leave out tiles that are mostly gray or white; a fraction of 1 is off.

        See `TissueOptions`, whose defaults are Slideflow's.
        """
        options = TissueOptions(
            grayspace_fraction=grayspace_fraction,
            grayspace_threshold=grayspace_threshold,
            whitespace_fraction=whitespace_fraction,
            whitespace_threshold=whitespace_threshold,
        )
        reasons = np.where(self.grid, tissue.KEPT, tissue.CUSTOM).astype(np.uint8)
        filter_tiles(self.handle, self.geometry, options, reasons)
        self.grid &= reasons == tissue.KEPT

    def remove_qc(self) -> None:
        """Keep every tile of the grid again."""
        self.grid[:] = True

    def thumb(
        self, mpp: float | None = None, width: int | None = None, *, grid: bool = False
    ) -> Image.Image:
        """A picture of the slide.

        Args:
            mpp: µm a pixel of the picture; or
            width: its width in pixels, default that of a longer side of 1,024.
            grid: Draw the kept tiles on it.
        """
        if mpp is not None:
            width = round(self.dimensions[0] * self.mpp / mpp)
        kept = self.grid if grid else None
        return thumbnail(self.handle, width, self.geometry, kept)


def open_grid(
    path: str, slide: str, options: TileOptions
) -> tuple[SlideHandle, Geometry]:
    """A slide opened, and the grid that the options make on it; errors as of WSI."""
    handle = SlideHandle(local_slide(path), slide=slide, icc=options.icc)
    geometry = geometry_of(
        slide,
        options,
        mpp=mpp_of(slide, handle.file_size, options.given_mpp),
        dimensions=handle.dimensions,
        downsamples=handle.downsamples,
    )
    TileReader(handle, geometry)  # refuses tiles that are too large to be read
    return handle, geometry
