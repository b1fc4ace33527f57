"""Mosaic: a map drawn with the tiles themselves, and what it leaves behind."""

import copy
import csv
import inspect
import io
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from raylatent import notebook, schema
from raylatent.config import LAYOUTS, NUM_TILES_X, MosaicConfig
from raylatent.errors import MapError
from raylatent.mapping.fitted_map import library_versions
from raylatent.mapping.labels import (
    MOST_ENTRIES,
    Entries,
    in_order,
    make_legible,
    text_of,
)
from raylatent.montage import render
from raylatent.montage.cells import choose_cells, finish_cells, slide_shares
from raylatent.montage.compact import compacted
from raylatent.montage.even import trustworthiness
from raylatent.montage.grid import EvenGrid, Grid
from raylatent.montage.points import Labels, Rule, of_label, select_of
from raylatent.montage.render import Look
from raylatent.seal import DIGEST
from raylatent.storage import absolute
from raylatent.stored.manifest import put_listed, run_of_folder
from raylatent.stored.map_points import StoredPoints
from raylatent.stored.mosaic_inputs import TFRecords, from_any
from raylatent.stored.mosaics import (
    encoded,
    export_mosaic,
    picture_format,
    references_of,
)
from raylatent.tiles.fetch import Tile, array_tiles, stored_tiles

if TYPE_CHECKING:
    from matplotlib.axes import Axes

logger = logging.getLogger(__name__)

_FRAMES = "the label of most tiles of a cell; the one that is drawn may have another"
_MOST_SHOWN = 2_500  # tiles that a notebook reads to show a mosaic


class Mosaic:
    """A map drawn with the tiles themselves: one in each cell of a grid.

    Args:
        images: Pictures (H x W x C, uint8; sizes may differ), or tuples of a TFRecord's
            path or a slide's name and the record's number, or a SlideMap, or a table
            of points with `slide` and the columns of `schema.POINTS`, whose records are
            fetched by `offset` and `length` where it has them, else by `tile_index`.
        coords: An (x, y) for each image; not with a SlideMap, which has them.
        tfrecords: Where slides' names are found: files, folders or URIs, or a dict of
            slide to file (or of source id to file). Of a map of a run, its sources.
        num_tiles_x: Columns of cells over the range of x; None: as many as suit.
        select: Which point stands for a cell: `nearest` to its center, `medoid`: nearest
            to its mean in feature space, `first`: smallest (slide, index). No choice
            depends on the order of points; ties go to the smallest hash of (seed, slide,
            index), for arrays to the lowest index.
        grid: `square`, or `slideflow` for Slideflow's own cells, numbers and choices
            (there `first` is the first row, and ties go to the lowest).
        tile_select: Slideflow's word for `select`; its `centroid` is `medoid`.
        cell_px: Side of a cell in pixels.
        labels: A label for each point, or a dict of slide to label; of a map by default
            those set on it, False for none.
        features: Activations, shape (n, d), for `medoid`. Of a map of a run, its own.
        seed: Of the hash for ties.
        max_dist: Leave cells empty that have no point nearer to their center than this,
            in cells.
        layout: `plain`: cells are where they are on the map; `compact`: islands of cells
            are moved together; `even`: as many tiles as fill a rectangle are drawn by
            lot, each for the points nearest to it, and snapped to its cells.

    Attributes:
        cells: Table `schema.CELLS`, by row (0 at the bottom), then column; `index` says
            which of the given points was chosen. With `compact`, `picture_row` and
            `picture_col` say where it is drawn.
        grid: The grid, `SquareGrid`, `SlideflowGrid` or `EvenGrid`.
        layout: As given.
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
        num_tiles_x: int | None = NUM_TILES_X,
        select: str = MosaicConfig.select,
        grid: str = MosaicConfig.grid,
        *,
        tile_select: str | None = None,
        cell_px: int = MosaicConfig.cell_px,
        labels: Labels | Literal[False] | None = None,
        features: ArrayLike | None = None,
        seed: int = Rule.seed,
        max_dist: float | None = None,
        layout: str = MosaicConfig.layout,
    ) -> None:
        """Choose the tiles; pictures of TFRecords are read only to draw them."""
        select = select_of(tile_select or select)
        # (Statically: a map reads its points when they are asked for.)
        of_map = inspect.getattr_static(images, "points", None) is not None
        self.slide_map: Any = images if of_map else None
        own = isinstance(images, StoredPoints)
        self._map: StoredPoints | None = (
            images if own else getattr(images, "_stored", None)
        )
        if hasattr(images, "_for_mosaic"):
            images, labels, features = images._for_mosaic(labels, features, select)
        given = from_any(images, coords, tfrecords)
        self._look = Look(cell_px=cell_px)
        without = given.reference is None and given.stored is None
        self._rule = Rule(
            select=select,
            ties="row" if grid == "slideflow" or without else "hash",
            seed=seed,
            max_dist=max_dist,
        )
        self.layout, self._kind = layout, _kind_of_grid(layout, grid)
        self._asked_x = num_tiles_x
        self._parts = given.parts(None if labels is False else labels, features)
        self._arrays, self._find = given.arrays, given.frames
        self._of_label: str | None = None
        self._choose()

    def _choose(self, coloring: render.Coloring | None = None) -> None:
        """Choose the tiles of all cells, and where each goes."""
        chosen = choose_cells(self._parts, self._kind, self._asked_x, self._rule)
        self.grid, self._bounds, self._chosen = chosen.grid, chosen.bounds, chosen.cells
        self.cells = finish_cells(self.grid, self._chosen)
        self._labeled = self._chosen.tally.labels is not None
        self.failed: dict[int, str] = {}
        self._check_chosen()
        if self.layout == "compact":
            at = (self.cells[name].to_numpy() for name in (schema.ROW, schema.COL))
            names = (schema.PICTURE_ROW, schema.PICTURE_COL)
            for name, own in zip(names, compacted(*at), strict=True):
                self.cells = self.cells.append_column(name, pa.array(own, pa.int32()))
        self._coloring = coloring or render.Coloring.of(self._chosen)
        self._layout = render.make_layout(self.grid, self.cells, self._coloring)
        self._trusted: float | None = None
        if self.layout != "plain":
            places = (self._layout.cols, self._layout.rows)
            xy = schema.places(self.cells)
            self._trusted = trustworthiness(xy, np.stack(places, 1).astype(float))
        # Only the chosen tiles need a file.
        self._frames = None if self._find is None else self._find(self.cells)

    def by_label(self) -> dict[str, "Mosaic"]:
        """A mosaic of the points of each label, made as this one; at most 24 of them.

        Colors are those of this one. Where there are more labels, the ones of the most
        points are drawn, and that is said.

        Raises:
            MapError: There are no labels, or they are numbers on a scale.
        """
        points = self._coloring.points
        if not points or self._coloring.scale is not None:
            which = "are numbers on a scale" if points else "are not there"
            message = f"labels {which}: a mosaic for each needs some that are words"
            raise MapError(message)
        most = sorted(in_order(points), key=lambda name: -points[name])[:MOST_ENTRIES]
        if len(most) < len(points):
            logger.warning(
                "of %d labels the %d with the most tiles have a mosaic of their own",
                *(len(points), len(most)),
            )
        made = {}
        for name in in_order(most):
            one = made[name] = copy.copy(self)
            one._of_label, one._parts = name, of_label(self._parts, name)
            one._choose(self._coloring)
        return made

    def __repr__(self) -> str:
        """How much it shows."""
        return f"Mosaic({self.summary()})"

    def _repr_html_(self) -> str:
        """How much it shows, and the picture in small where it is soon drawn."""
        rows = {"cells": self.summary(), **self.notes}
        fitting = notebook.MOST_PX // max(self.grid.n_cols, self.grid.n_rows)
        small = partial(self.picture, cell_px=min(max(4, fitting), self._look.cell_px))
        few = len(self.cells) <= _MOST_SHOWN
        return notebook.card("Mosaic", lambda: rows, small if few else lambda: None)

    @property
    def notes(self) -> dict[str, str]:
        """What is to be known of the picture: its layout, what its frames say."""
        told = {"layout": self._remark, "frames": _FRAMES if self._labeled else ""}
        return {name: text for name, text in told.items() if text}

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

    def plot(  # noqa: PLR0913  (of the look)
        self,
        figsize: tuple[float, float] = (10.0, 10.0),
        *,
        ax: "Axes | None" = None,
        cell_px: int | None = None,
        background: str = Look.background,
        label_style: str | None = Look.label_style,
        legend: bool = Look.legend,
        focus_slide: str | None = None,
        gap_px: int = Look.gap_px,
        title: str = Look.title,
        scale_bar: bool = Look.scale_bar,
    ) -> "Axes":
        """Show it through matplotlib, in the map's coordinates where they are `plain`.

        Args:
            figsize: Inches, of a new figure.
            ax: Draw here instead.
            cell_px: Side of a cell in pixels; by default no more than the figure shows.
            background: Of empty cells, any CSS color.
            label_style: Color of the cell's majority label as a `border` around the
                tile, or as a wider `backdrop` behind it; None for neither.
            legend: Whether the labels have a legend at the right side.
            focus_slide: Tiles are as opaque as this slide's share of the cell's points.
            gap_px: Pixels between cells, of pictures.
            title: Above the mosaic.
            scale_bar: Whether pictures have one below, where the run knows the side of
                the tiles in µm.
        """
        style = self._styled(locals())
        if cell_px is None:
            n_cells = max(self.grid.n_cols, self.grid.n_rows)
            fitting = render.shown_cell_px(n_cells, figsize, style.cell_px)
            style = replace(style, cell_px=fitting)
        raster, _ = self._draw(replace(style, gap_px=0))
        x, y, cell = 0.0, 0.0, 1.0
        if self.layout == "plain":
            x, y, cell = self._bounds.xmin, self._bounds.ymin, self.grid.cell
        right, top = x + self._layout.n_cols * cell, y + self._layout.n_rows * cell
        extent, entries = (x, right, y, top), self._entries(style)
        ax = render.show_raster(raster, extent, entries, figsize=figsize, ax=ax)
        if self.layout != "plain":
            ax.set(xticks=[], yticks=[], xlabel=self._remark, ylabel="")
        if style.title:
            ax.set_title(style.title, parse_math=False)
            make_legible(ax)
        return ax

    def picture(  # noqa: PLR0913  (of the look)
        self,
        *,
        cell_px: int | None = None,
        background: str = Look.background,
        label_style: str | None = Look.label_style,
        legend: bool = Look.legend,
        focus_slide: str | None = None,
        gap_px: int = Look.gap_px,
        title: str = Look.title,
        scale_bar: bool = Look.scale_bar,
    ) -> Image.Image:
        """The mosaic with its legend as a Pillow image; arguments as of `plot`.

        Cells have the mosaic's own `cell_px` by default.
        """
        return self._picture(self._styled(locals()))[0]

    def save(  # noqa: PLR0913  (of the look)
        self,
        path: str | os.PathLike[str],
        *,
        cell_px: int | None = None,
        background: str = Look.background,
        label_style: str | None = Look.label_style,
        legend: bool = Look.legend,
        focus_slide: str | None = None,
        gap_px: int = Look.gap_px,
        title: str = Look.title,
        scale_bar: bool = Look.scale_bar,
    ) -> None:
        """Write the picture (`.png`, `.jpg`, `.pdf`), or all into a folder.

        A PNG tells in a text chunk, `raylatent.mosaic`, which tiles are where in it.
        A folder gets `cells.parquet`, `mosaic.png` and `mosaic.json`. Each file is put
        in place in one step. `path` is a file or a folder, local or a URI; the other
        arguments are those of `picture`.
        """
        uri, look = absolute(path), self._styled(locals())
        kind = picture_format(uri)
        if kind is None:
            self.export(uri, look)
        else:
            picture, _, references = self._picture(look)
            put_listed(uri, encoded(picture, kind, references))
            logger.info("mosaic of %d tiles: %s", len(self.cells), uri)

    def export(
        self,
        folder: str | os.PathLike[str],
        look: Look | None = None,
        *,
        pdf: bool = False,
    ) -> None:
        """Write `mosaic.png`, `cells.parquet` and `mosaic.json` into a folder.

        Args:
            folder: A folder or URI, whatever it is called.
            look: How it is drawn; by default with cells of the mosaic's own `cell_px`.
            pdf: Whether to write `mosaic.pdf` as well.
        """
        uri = absolute(folder)
        picture, drawn, references = self._picture(look or self._look)
        about = {**self._described(drawn), **self._of_map(uri)}
        pictures = {
            f"mosaic.{kind.lower()}": encoded(picture, kind, references)
            for kind in (("PNG", "PDF") if pdf else ("PNG",))
        }
        export_mosaic(uri, pictures, self.cells, about)

    def _of_map(self, uri: str) -> dict[str, object]:
        """Which map was drawn, for a folder in the run that has this map."""
        folder, of_map = run_of_folder(uri), self._map
        if folder is None or of_map is None or folder[0].uri != of_map.run.uri:
            return {}
        return {"map": {"name": of_map.name, DIGEST: of_map.info[DIGEST]}}

    def _described(self, look: Look) -> dict[str, object]:
        """What mosaic.json holds: parameters, counts, failures, grid, versions."""
        chosen, cells, bounds = self._chosen, self.cells, self._bounds
        names = (schema.ROW, schema.COL, schema.SLIDE, schema.TILE_INDEX)
        return {
            "schema": schema.SCHEMA_VERSION,
            "parameters": {
                "num_tiles_x": self.grid.n_cols,
                "grid": self.grid.kind,
                **asdict(chosen.rule),
                "labels": chosen.tally.labels is not None,
                **asdict(look),
            },
            "layout": {
                "kind": self.layout,
                "rows": self._layout.n_rows,
                "columns": self._layout.n_cols,
                "filled": self._layout.filled,
                "trustworthiness": self._trusted,  # None where they are plain
            },
            **({} if self._of_label is None else {"label": self._of_label}),
            "counts": {
                "points": chosen.n_points,
                "dropped_not_finite": chosen.n_dropped,
                "cells_of_grid": _cells_of(self.grid),
                "cells": len(chosen.best),
                "cells_without_tile": len(chosen.best) - len(cells),
                "drawn": len(cells) - len(self.failed),
                "failed": len(self.failed),
            },
            "shares": self._shares(),
            "failed": [
                {**{n: cells[n][i].as_py() for n in names}, "reason": reason}
                for i, reason in sorted(self.failed.items())
            ],
            "grid": {
                "cell_size": self.grid.cell,
                "columns": self.grid.n_cols,
                "rows": self.grid.n_rows,
                "xmin": bounds.xmin,
                "xmax": bounds.xmax,
                "ymin": bounds.ymin,
                "ymax": bounds.ymax,
            },
            "versions": library_versions(("raylatent", "numpy", "pillow", "pyarrow")),
        }

    def _shares(self) -> dict[str, float]:
        """How much of the map and of its points the mosaic shows, each 0 to 1.

        Returns:
            `cells`: of the grid's cells, those with a tile; `rows_in_cells`: of the
            points, those in these cells; `rows_drawn`: of the points, those that stand
            for a cell.
        """
        n_points = max(1, self._chosen.n_points)
        return {
            "cells": len(self.cells) / _cells_of(self.grid),
            "rows_in_cells": int(self.cells[schema.N].to_numpy().sum()) / n_points,
            "rows_drawn": len(self.cells) / n_points,
        }

    def summary(self) -> str:
        """How much of the map and of its points it shows, in a line."""
        of, n_dropped = self._shares(), self._chosen.n_dropped
        lost = f", {n_dropped:,} without a place" if n_dropped else ""
        return (
            f"{len(self.cells):,} of {_cells_of(self.grid):,} cells filled, with "
            f"{100 * of['rows_in_cells']:.3g} % of {self._chosen.n_points:,} rows{lost}; "
            f"{100 * of['rows_drawn']:.3g} % of the rows are drawn"
        )

    def save_report(self, path: str | os.PathLike[str]) -> None:
        """Write a CSV of the chosen tiles: `slide`, `index`.

        For arrays `slide` is empty, and `index` is the picture's number.
        """
        number = schema.INDEX if self._arrays is not None else schema.TILE_INDEX
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(["slide", "index"])
        columns = (self.cells[name].to_pylist() for name in (schema.SLIDE, number))
        writer.writerows(zip(*columns, strict=True))
        data = text.getvalue().encode("utf-8", "surrogateescape")
        put_listed(absolute(path), data)

    def _styled(self, given: Mapping[str, Any]) -> Look:
        """The look that a method's arguments ask for."""
        look = {name: given[name] for name in vars(self._look)}
        if look["cell_px"] is None:
            look["cell_px"] = self._look.cell_px
        return Look(**look)

    def _entries(self, look: Look) -> Entries:
        """Names and colors of the legend."""
        if not look.legend or look.label_style is None:
            return []
        if self._of_label is not None:
            return [(text_of(self._of_label), self._coloring.colors[self._of_label])]
        counts = self.cells[schema.LABEL_COUNTS].to_pylist()
        return self._coloring.entries(counts)

    def _picture(self, look: Look) -> tuple[Image.Image, Look, str]:
        """The picture, how it was drawn, and which tiles are where in it."""
        raster, look = self._draw(look)
        ground, entries = look.background, self._entries(look)
        picture = render.add_legend(raster, entries, ground)
        above = picture.height - raster.height
        bar = self._um_per_px(look) if look.scale_bar else None
        texts = {"title": look.title, "remark": self._remark}
        picture, more = render.add_caption(
            picture, ground, look.cell_px, **texts, um_per_px=bar
        )
        told = references_of(self.cells, self._layout, look, above + more)
        return picture, look, told

    @property
    def _remark(self) -> str:
        """What is said of the layout below the picture; nothing of a plain one."""
        now, before = self._layout.filled, self._shares()["cells"]
        text = {
            "plain": "",
            "compact": f"{now:.0%} of the picture is tiles, {before:.0%} of the map",
            "even": f"{len(self.cells):,} of {self._chosen.n_points:,} tiles",
        }[self.layout]
        trusted = (
            "" if self._trusted is None else f", trustworthiness {self._trusted:.3f}"
        )
        return f"{self.layout}: {text}{trusted}" if text else ""

    def _um_per_px(self, look: Look) -> float | None:
        """Of the tiles that are drawn; None where it is not known of all, or differs."""
        run = self._map.run if self._map else getattr(self.slide_map, "run", None)
        known: list[float] = [0.0]
        if run is not None:
            drawn, sources = set(self.cells[schema.SLIDE].to_pylist()), run.sources()
            sides = (sources[n].to_pylist() for n in (schema.SLIDE, schema.TILE_UM))
            known = [
                um or 0.0 for slide, um in zip(*sides, strict=True) if slide in drawn
            ]
        if not min(known) or max(known) > 1.01 * min(known):
            logger.warning(
                "no scale bar: the side of the tiles in µm is not known, or differs"
            )
            return None
        return known[0] / self._room(look)

    def _room(self, look: Look) -> int:
        """Side of a tile in pixels."""
        framed, style = self._labeled, look.label_style
        return render.tile_room_px(look.cell_px, framed=framed, label_style=style)

    def _draw(self, look: Look) -> tuple[Image.Image, Look]:
        """The raster without legend, and how it was drawn; fills `failed`."""
        layout = self._layout
        if look.focus_slide is not None:
            parts = self._parts.read()
            shares = slide_shares(self.grid, parts, self.cells, look.focus_slide)
            layout = replace(layout, alphas=shares)
        fitting = render.bounded_cell_px(layout, look.cell_px, look.gap_px)
        look = replace(look, cell_px=fitting)
        tiles = self._tiles(self._room(look))
        raster, self.failed = render.draw_raster(layout, look, tiles)
        render.say_failed(self.failed, len(self.cells))
        return raster, look

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


def _kind_of_grid(layout: str, grid: str) -> str:
    """The grid that a layout needs; MapError where it is unknown, or has no choice."""
    if layout not in LAYOUTS:
        message = f"unknown layout {layout!r}: choose {', '.join(LAYOUTS)}"
        raise MapError(message)
    even = layout == EvenGrid.kind
    if even and grid != MosaicConfig.grid:
        message = f"layout='even' has cells of its own: leave out grid={grid!r}"
        raise MapError(message)
    return layout if even else grid


def _cells_of(grid: Grid) -> int:
    """Slideflow's grid of a flat map has no row, and yet a row of cells."""
    return grid.n_cols * max(1, grid.n_rows)
