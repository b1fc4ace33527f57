"""Levels of an explorer that are deeper than were written: blocks, drawn when asked.

They show what would have been written: the cells of the deepest level that was written
keep their tiles, and the rule of the explorer chooses the others.
"""

import threading
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from raylatent import schema
from raylatent.explorer import pictures
from raylatent.explorer.members import MEMBERS, found_in_time, members
from raylatent.explorer.pyramid import DEEPEST, SIDE, Square, keep
from raylatent.montage.cells import CELL, partial_cells
from raylatent.montage.points import Points, Rule, split_ids
from raylatent.stored.map_points import StoredPoints
from raylatent.stored.mosaic_inputs import Located
from raylatent.tiles.fetch import stored_tiles

MOST_S = 60.0
"""That points are looked for, and that is waited for others who look."""
_HELD = 8  # blocks of the deepest written level whose points are kept


class DeeperLevels:
    """Draws blocks of levels below those that an explorer has; threads may ask at once.

    Of the explorer it knows cells.parquet, what explorer.json says, the square around all
    points, and what it calls a slide.
    """

    def __init__(
        self,
        stored: StoredPoints,
        cells: Path,
        about: Mapping[str, Any],
        square: Square,
        shown: Callable[[str], str] = str,
    ) -> None:
        """See the class."""
        self._stored, self._cells, self._square = stored, cells, square
        self._name = shown
        self._cell_px = int(about["cell_px"])
        self._finest = int(about["levels"][-1]["level"])
        self._rule = Rule(**about["rule"])
        self._lock = threading.Lock()
        self._held = lru_cache(maxsize=_HELD)(self._read)

    def jpeg(
        self, dzi: int, left: int, top: int, located: Mapping[int, Located]
    ) -> bytes | None:
        """A block as a JPEG, by DZI's numbers; None where no tile is, or no level is drawn.

        Raises:
            TimeoutError: Points were looked for longer than `MOST_S`.
        """
        level = dzi - pictures.dzi_level(0, self._cell_px)
        if not self._finest < level <= DEEPEST:
            return None
        last = (1 << level) - 1
        if left > last or top > last:
            return None
        rows = self.tiles(level, last - top, left)
        places = [located[row[schema.SOURCE]].place(row) for row in rows.to_pylist()]
        if not places:
            return None
        cells = np.empty((len(places), self._cell_px, self._cell_px, 3), np.uint8)
        for at, tile in stored_tiles(places, self._cell_px):
            found = None if isinstance(tile, str) else tile
            cells[at] = pictures.thumbnail(found, self._cell_px)
        row, col = split_ids(rows[CELL].to_numpy())
        shown = pictures.Shown(rows=row, cols=col, since=np.zeros_like(row))
        [(_, data)] = pictures.draw(level, shown, cells, [level])
        return data

    def tiles(self, level: int, row: int, col: int) -> pa.Table:
        """The cells of a block, row 0 the lowest, and the tile of each, by cell."""
        up = level - self._finest
        if not self._lock.acquire(timeout=MOST_S):
            raise TimeoutError
        try:  # not read twice
            points, chosen = self._held(row >> up, col >> up)
        finally:
            self._lock.release()
        if chosen is None:
            return pa.table({CELL: pa.array([], pa.int64())})
        for number in range(self._finest + 1, level + 1):
            grid = self._square.grid(number)
            chosen = keep(grid, chosen, partial_cells(points, grid, self._rule).best)
        rows, cols = split_ids(chosen[CELL].to_numpy())
        own = (rows // SIDE == row) & (cols // SIDE == col)
        return chosen.filter(pa.array(own))

    def _read(self, row: int, col: int) -> tuple[Points, pa.Table | None]:
        """The points of a block of the deepest written level, and its cells' tiles."""
        grid = self._square.grid(self._finest)

        def where(xy: NDArray[np.float64]) -> NDArray[np.int32]:
            rows, cols = grid.bin(xy)
            inside = (rows // SIDE == row) & (cols // SIDE == col)
            return np.where(inside, 0, -1).astype(np.int32)

        tables = found_in_time(members(self._stored, where), MOST_S)
        whole = pa.concat_tables([MEMBERS.empty_table(), *tables])
        points = Points.of(schema.places(whole), reference=whole)
        shown = self._shown(row, col)
        slides = map(self._name, whole[schema.SLIDE].to_pylist())
        tiles = zip(slides, whole[schema.TILE_INDEX].to_pylist(), strict=True)
        own = [i for i, tile in enumerate(tiles) if tile in shown]
        if not own:
            return points, None
        picks = points.take(np.array(own, np.int64))
        return points, partial_cells(picks, grid, self._rule).best

    def _shown(self, row: int, col: int) -> set[tuple[str, int]]:
        """The tiles that the cells of a block of the deepest written level show."""
        table = pq.read_table(
            self._cells,
            columns=[schema.SLIDE, schema.TILE_INDEX],
            filters=[
                (schema.LEVEL, "=", self._finest),
                *((schema.ROW, ">=", row * SIDE), (schema.ROW, "<", (row + 1) * SIDE)),
                *((schema.COL, ">=", col * SIDE), (schema.COL, "<", (col + 1) * SIDE)),
            ],
        )
        slides, tiles = (column.to_pylist() for column in table.columns)
        return set(zip(slides, tiles, strict=True))
