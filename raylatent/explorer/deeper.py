"""Levels of an explorer that are deeper than were written: blocks, drawn when asked.

They show what would have been written: the cells of the deepest level that was written
keep their tiles, and the rule of the explorer chooses the others.
"""

import logging
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raylatent import schema
from raylatent.explorer import pictures
from raylatent.explorer.members import MEMBERS, Box, found_in_time, members, of_cells
from raylatent.explorer.pyramid import DEEPEST, SIDE, Square, keep
from raylatent.montage.cells import CELL, partial_cells
from raylatent.montage.points import Points, Rule, split_ids
from raylatent.stored.map_points import StoredPoints
from raylatent.stored.mosaic_inputs import Located
from raylatent.tiles.fetch import stored_tiles

logger = logging.getLogger(__name__)

MOST_S = 60.0
"""That points are looked for."""
MOST_POINTS = 2_000_000
"""Of a block of the deepest written level: below one with more nothing is drawn."""
_HELD = 4  # blocks of the deepest written level whose points are kept


class DeeperLevels:
    """Draws blocks of levels below those that an explorer has; for one thread at a time.

    Of the explorer it knows cells.parquet, what explorer.json says, the square around all
    points, and what it calls a slide; `boxes` are as of `members`.
    """

    def __init__(
        self,
        stored: StoredPoints,
        cells: Path,
        about: Mapping[str, Any],
        square: Square,
        shown: Callable[[str], str] = str,
        boxes: dict[str, Box] | None = None,
    ) -> None:
        self._stored, self._cells, self._square = stored, cells, square
        self._name, self._boxes = shown, {} if boxes is None else boxes
        self._cell_px = int(about["cell_px"])
        self._finest = int(about["levels"][-1]["level"])
        self._rule = Rule(**about["rule"])  # a seed that is not told is another one
        self._held = lru_cache(maxsize=_HELD)(self._read)

    def jpeg(
        self, dzi: int, left: int, top: int, located: Mapping[int, Located]
    ) -> bytes | None:
        """A block as a JPEG, by DZI's numbers; None where there is none, or none is drawn.

        One without a tile is white: a page would show the level above in its place.

        Raises:
            TimeoutError: Points were looked for longer than `MOST_S`.
        """
        level = dzi - pictures.dzi_level(0, self._cell_px)
        if not self._finest < level <= DEEPEST or max(left, top) >= 1 << level:
            return None
        rows = self.tiles(level, (1 << level) - 1 - top, left)
        if rows is None:
            return None
        if not len(rows):
            white = np.full((SIDE, SIDE, 3), pictures.WHITE, np.uint8)
            return pictures.encoded(white, pictures.QUALITY)
        places = [located[row[schema.SOURCE]].place(row) for row in rows.to_pylist()]
        cells = np.empty((len(places), self._cell_px, self._cell_px, 3), np.uint8)
        for at, tile in stored_tiles(places, self._cell_px):
            found = None if isinstance(tile, str) else tile
            cells[at] = pictures.thumbnail(found, self._cell_px)
        row, col = split_ids(rows[CELL].to_numpy())
        shown = pictures.Shown(rows=row, cols=col, since=np.zeros_like(row))
        [(_, data)] = pictures.draw(level, shown, cells, [level])
        return data

    def tiles(self, level: int, row: int, col: int) -> pa.Table | None:
        """The cells of a block, row 0 the lowest, and the tile of each, by cell.

        None where they are of too many points.
        """
        up = level - self._finest
        held = self._held(row >> up, col >> up)
        if held is None:
            return None
        points, chosen = held
        if not len(chosen):
            return chosen
        for number in range(self._finest + 1, level + 1):
            grid = self._square.grid(number)
            chosen = keep(grid, chosen, partial_cells(points, grid, self._rule).best)
        rows, cols = split_ids(chosen[CELL].to_numpy())
        own = (rows // SIDE == row) & (cols // SIDE == col)
        return chosen.filter(pa.array(own))

    def _read(self, row: int, col: int) -> tuple[Points, pa.Table] | None:
        """The points of a block of the deepest written level, and its cells' tiles.

        None where there are more than `MOST_POINTS`.
        """
        grid = self._square.grid(self._finest)
        where, box = of_cells(grid, row, col, SIDE)
        found = members(self._stored, where, within=box, boxes=self._boxes)
        tables, n = [MEMBERS.empty_table()], 0
        for table in found_in_time(found, MOST_S):
            tables.append(table)
            n += table.num_rows
            if n > MOST_POINTS:
                logger.warning(
                    "a part of the map has more than %d tiles, and nothing is drawn "
                    "below it: `raylatent explore` with a larger --max-size goes deeper",
                    MOST_POINTS,
                )
                return None
        whole = pa.concat_tables(tables)
        points = Points.of(schema.places(whole), reference=whole)
        shown = self._shown(row, col)
        tiles = [tile for _, tile in shown]
        near = np.flatnonzero(np.isin(whole[schema.TILE_INDEX].to_numpy(), tiles))
        told = whole.select([schema.SLIDE, schema.TILE_INDEX]).take(pa.array(near))
        own = [
            (self._name(one[schema.SLIDE]), one[schema.TILE_INDEX]) in shown
            for one in told.to_pylist()
        ]
        return points, partial_cells(points.take(near[own]), grid, self._rule).best

    def _shown(self, row: int, col: int) -> set[tuple[str, int]]:
        """The tiles that the cells of a block of the deepest written level show."""
        table = pq.read_table(
            self._cells,
            columns=[schema.SLIDE, schema.TILE_INDEX],
            filters=[
                (schema.LEVEL, "=", self._finest),
                (schema.ROW, "in", range(row * SIDE, (row + 1) * SIDE)),
                (schema.COL, "in", range(col * SIDE, (col + 1) * SIDE)),
            ],
        )
        slides, tiles = (column.to_pylist() for column in table.columns)
        return set(zip(slides, tiles, strict=True))
