"""Mosaic: a map drawn with the tiles themselves."""

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from raylatent import schema
from raylatent.errors import MapError
from raylatent.mapping.labels import Entries
from raylatent.montage import inputs, output, render
from raylatent.montage.cells import choose_cells, finish_cells, slide_shares
from raylatent.montage.inputs import Labels
from raylatent.montage.points import Rule, select_of
from raylatent.montage.render import Look
from raylatent.montage.sources import TFRecords
from raylatent.run.manifest import relisted
from raylatent.storage import absolute
from raylatent.tiles.fetch import Tile, array_tiles, stored_tiles

if TYPE_CHECKING:
    from matplotlib.axes import Axes

logger = logging.getLogger(__name__)


class Mosaic:
    """A map drawn with the tiles themselves: one in each cell of a grid.

    Args:
        images: Pictures (H x W x C, uint8; sizes may differ), or tuples of a TFRecord's
            path or a slide's name and the record's number, or a SlideMap, or a table
            of points (see `from_points`).
        coords: An (x, y) for each image; not with a SlideMap, which has them.
        tfrecords: Where slides' names are found: files, folders or URIs, or a dict of
            slide to file (or of source id to file).
        num_tiles_x: Columns of cells over the range of x.
        select: Which point stands for a cell: `nearest` to its center, `medoid`: nearest
            to its mean in feature space, `first`: smallest (slide, index). No choice
            depends on the order of points; ties go to the smallest hash of (seed, slide,
            index), for arrays to the lowest index.
        grid: `square`, or `slideflow` for Slideflow's own cells, numbers and choices
            (there `first` is the first row, and ties go to the lowest).
        tile_select: Slideflow's word for `select`; its `centroid` is `medoid`.
        cell_px: Side of a cell in pixels.
        labels: A label for each point, or a dict of slide to label.
        features: Activations, shape (n, d), for `medoid`.
        seed: Of the hash for ties.
        max_dist: Leave cells empty that have no point nearer to their center than this,
            in cells.

    Attributes:
        cells: Table `schema.CELLS`, by row (0 at the bottom), then column; `index` says
            which of the given points was chosen.
        grid: The grid, `SquareGrid` or `SlideflowGrid`.
        slide_map: The SlideMap that it was made of, or None.
        failed: After drawing, why a cell (position in `cells`) has no picture.

    Raises:
        MapError: The arguments do not fit together.

    >>> images = [np.full((8, 8, 3), 40 * i, np.uint8) for i in range(4)]
    >>> mosaic = Mosaic(images, [(0, 0), (0, 1), (1, 0), (1, 1)], num_tiles_x=2)
    >>> mosaic.cells.select(["row", "col", "n", "index"]).to_pylist()[1]
    {'row': 0, 'col': 1, 'n': 1, 'index': 2}
    """

    def __init__(  # noqa: PLR0913  (Slideflow's signature)
        self,
        images: Any,  # noqa: ANN401  (arrays, tuples, a SlideMap or a table)
        coords: ArrayLike | None = None,
        tfrecords: TFRecords | None = None,
        num_tiles_x: int = 50,
        select: str = "nearest",
        grid: str = "square",
        *,
        tile_select: str | None = None,
        cell_px: int = 100,
        labels: Labels | None = None,
        features: ArrayLike | None = None,
        seed: int = 0,
        max_dist: float | None = None,
    ) -> None:
        """Choose the tiles; pictures of TFRecords are read only to draw them."""
        self.slide_map = images if hasattr(images, "points") else None
        given = inputs.from_any(images, coords, tfrecords)
        self._look = Look(cell_px=cell_px)
        without = given.reference is None and given.stored is None
        self._rule = Rule(
            select=select_of(tile_select or select),
            ties="row" if grid == "slideflow" or without else "hash",
            seed=seed,
            max_dist=max_dist,
        )
        self._labeled = labels is not None
        self._parts = given.parts(labels, features)
        chosen = choose_cells(self._parts, grid, num_tiles_x, self._rule)
        self.grid, self._bounds, self._chosen = chosen.grid, chosen.bounds, chosen.cells
        self.cells = finish_cells(self.grid, self._chosen)
        self._coloring = render.Coloring.of(self._chosen)
        self.failed: dict[int, str] = {}
        self._check_chosen()
        self._arrays = given.arrays
        # Only the chosen tiles need a file.
        self._frames = None if given.frames is None else given.frames(self.cells)

    def __repr__(self) -> str:
        """How large."""
        return f"Mosaic({self._chosen.n_points} points, {self.cells.num_rows} cells)"

    @classmethod
    def from_points(
        cls,
        points: pa.Table,
        *,
        tfrecords: TFRecords | None = None,
        **options: Any,  # noqa: ANN401
    ) -> "Mosaic":
        """Of a table with `slide` and the columns of `schema.POINTS`.

        Args:
            points: Records are fetched by `offset` and `length` where it has them, else
                by `tile_index`.
            tfrecords: Slide or source id to file, or files and folders; needed to draw.
            **options: As of the class.
        """
        return cls(points, tfrecords=tfrecords, **options)

    @property
    def num_tiles_x(self) -> int:
        """Columns."""
        return self.grid.n_cols

    @property
    def num_tiles_y(self) -> int:
        """Rows of the grid."""
        return self.grid.n_rows

    @property
    def tile_size(self) -> float:
        """Side of a cell, in units of the map."""
        return self.grid.cell

    def points_in_cell(self, row: int, col: int) -> NDArray[np.int64]:
        """Which of the given points fall in a cell."""
        found = []
        for points in self._parts.read():
            rows, cols = self.grid.bin(points.xy)
            found.append(points.index[(rows == row) & (cols == col)])
        return np.concatenate(found)

    def plot(
        self,
        figsize: tuple[float, float] = (10.0, 10.0),
        *,
        ax: "Axes | None" = None,
        **look: Any,  # noqa: ANN401
    ) -> "Axes":
        """Show it through matplotlib, in the map's coordinates.

        Args:
            figsize: Inches, of a new figure.
            ax: Draw here instead.
            **look: `background`, `label_style`, `legend`, `focus_slide`, as of
                `raylatent.montage.render.Look`, and `cell_px`: by default no more than
                the figure shows.
        """
        style = self._styled(look)
        if "cell_px" not in look:
            n_cells = max(self.grid.n_cols, self.grid.n_rows)
            fitting = render.shown_cell_px(n_cells, figsize, style.cell_px)
            style = replace(style, cell_px=fitting)
        raster, layout, _ = self._draw(style)
        grid = self.grid
        right = grid.xmin + layout.n_cols * grid.cell
        top = grid.ymin + layout.n_rows * grid.cell
        extent = (grid.xmin, right, grid.ymin, top)
        entries = self._entries(style)
        return render.show_raster(raster, extent, entries, figsize=figsize, ax=ax)

    def picture(self, **look: Any) -> Image.Image:  # noqa: ANN401
        """The mosaic with its legend as a Pillow image; arguments as of `plot`."""
        return self._picture(self._styled(look))[0]

    def save(self, path: str | os.PathLike[str], **look: Any) -> None:  # noqa: ANN401
        """Write the picture (`.png`, `.jpg`), or all into a folder.

        A folder gets `cells.parquet`, `mosaic.png` and `mosaic.json`. Each file is put
        in place in one step.

        Args:
            path: A file or a folder, local or a URI.
            **look: As of `plot`.
        """
        uri = absolute(path)
        kind = output.picture_format(uri)
        if kind is None:
            self.export(uri, **look)
        else:
            picture, _ = self._picture(self._styled(look))
            output.write_file(uri, output.encode_picture(picture, kind))
            logger.info("mosaic of %d tiles: %s", len(self.cells), uri)

    def export(
        self,
        folder: str | os.PathLike[str],
        *,
        of_map: Mapping[str, object] | None = None,
        **look: Any,  # noqa: ANN401
    ) -> None:
        """Write `mosaic.png`, `cells.parquet` and `mosaic.json` into a folder.

        Args:
            folder: A folder or URI.
            of_map: What mosaic.json says of the map that was drawn.
            **look: As of `plot`.
        """
        uri = absolute(folder)
        picture, drawn = self._picture(self._styled(look))
        description = output.describe(
            self._chosen,
            self.cells,
            grid=self.grid,
            bounds=self._bounds,
            look=drawn,
            failed=self.failed,
        )
        png = output.encode_picture(picture, "PNG")
        cells_file = output.encode_cells(self.cells)
        about = {**description, **({} if of_map is None else {"map": of_map})}
        with relisted(uri) as digests:
            digests.update(output.write_mosaic(uri, png, cells_file, about))

    def summary(self) -> str:
        """How much of the map and of its points it shows, in a line."""
        return output.in_words(self._chosen, self.cells, self.grid)

    def save_report(self, path: str | os.PathLike[str]) -> None:
        """Write a CSV of the chosen tiles: `slide`, `index`.

        For arrays `slide` is empty, and `index` is the picture's number.
        """
        number = schema.INDEX if self._arrays is not None else schema.TILE_INDEX
        report = output.encode_report(self.cells, number)
        output.write_file(os.fspath(path), report)

    def _styled(self, look: dict[str, Any]) -> Look:
        known = vars(self._look)
        unknown = sorted(set(look) - set(known))
        if unknown:
            message = f"unknown option {unknown[0]!r}: there are {', '.join(known)}"
            raise MapError(message)
        return replace(self._look, **look)

    def _entries(self, look: Look) -> Entries:
        """Names and colors of the legend."""
        if not look.legend or look.label_style is None:
            return []
        counts = self.cells[schema.LABEL_COUNTS].to_pylist()
        return self._coloring.entries(counts)

    def _picture(self, look: Look) -> tuple[Image.Image, Look]:
        raster, _, drawn = self._draw(look)
        entries = self._entries(look)
        return render.add_legend(raster, entries, look.background), drawn

    def _draw(self, look: Look) -> tuple[Image.Image, render.Layout, Look]:
        """The raster without legend, and how it was drawn; fills `failed`."""
        shares = None
        if look.focus_slide is not None:
            parts = self._parts.read()
            shares = slide_shares(self.grid, parts, self.cells, look.focus_slide)
        layout = render.make_layout(self.grid, self.cells, self._coloring, shares)
        look = replace(look, cell_px=render.bounded_cell_px(layout, look.cell_px))
        room = render.tile_room_px(
            look.cell_px, framed=self._labeled, label_style=look.label_style
        )
        raster, self.failed = render.draw_raster(layout, look, self._tiles(room))
        render.say_failed(self.failed, len(self.cells))
        return raster, layout, look

    def _tiles(self, tile_px: int) -> Iterator[tuple[int, Tile]]:
        if self._arrays is not None:
            picks = self.cells[schema.INDEX].to_pylist()
            return array_tiles(self._arrays, picks, tile_px)
        if self._frames is None:
            message = (
                "the tiles cannot be found: give tfrecords=, the files or folders that "
                "hold the slides"
            )
            raise MapError(message)
        return stored_tiles(self._frames, tile_px)

    def _check_chosen(self) -> None:
        if n_dropped := self._chosen.n_dropped:
            logger.warning(
                "%d of %d points are left out: their x or y is not finite",
                *(n_dropped, self._chosen.n_points),
            )
        if not len(self.cells):
            message = (
                "no cell has a tile that may be chosen: raise max_dist, or use "
                "grid='square'"
            )
            raise MapError(message)
