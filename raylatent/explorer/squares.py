"""Squares of blocks: the tiles of each are fetched once, and drawn at three levels."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from raylatent import schema
from raylatent.explorer import pictures
from raylatent.explorer.pictures import Shown
from raylatent.explorer.pyramid import SIDE, morton
from raylatent.explorer.reach import Found, Tiles
from raylatent.montage.cells import CELL
from raylatent.montage.points import split_ids
from raylatent.seal import content_digest
from raylatent.source.protocol import Place
from raylatent.storage import Store
from raylatent.tiles.fetch import stored_tiles

_SHEET = pictures.SLOTS**2


@dataclass(frozen=True, kw_only=True, eq=False)
class SquareWork:
    """A square of blocks to draw, at a level and those that are drawn with it.

    Attributes:
        which: Cells of the explorer's finest level whose tiles are shown, shape (n,).
        level: The finest one that is drawn.
        shown: The tiles in its cells.
        places: Of each, where it is; empty where `cells` has them.
        cells: Their pictures, shape (n, cell_px, cell_px, 3).
        own: Which of them are stored at their own size, in this order.
        first: The number of the first picture of these.
    """

    which: NDArray[np.int64]
    level: int
    shown: Shown
    places: Sequence[Place] = ()
    cells: NDArray[np.uint8] | None = None
    own: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    first: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class SquareDone:
    """What came of a square, its tiles by cells as of `SquareWork.which`.

    Attributes:
        level: The finest one that was drawn.
        n: Tiles.
        above: Those that levels above show as well.
        cells: Their pictures.
        sizes: Width and height of those that are stored at their own size.
        failed: Why tiles could not be read.
        files: Digest of each file, and its bytes.
    """

    level: int
    n: int
    above: NDArray[np.int64]
    cells: NDArray[np.uint8]
    sizes: dict[int, tuple[int, int]] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    files: dict[str, tuple[str, int]] = field(default_factory=dict)


def draw_square(
    store: Store, work: SquareWork, cell_px: int, tile_px: int
) -> SquareDone:
    """Fetch the tiles of a square, and write its pictures: a task's work."""
    n, root = len(work.which), pictures.root_of(work.level)
    above = np.flatnonzero(work.shown.since < root)
    cells = work.cells
    if cells is None:
        cells = np.empty((n, cell_px, cell_px, 3), np.uint8)
    done = SquareDone(level=work.level, n=n, above=work.which[above], cells=cells)

    def put(name: str, data: bytes) -> None:
        store.write(name, data)
        done.files[name] = content_digest(data), len(data)

    if work.cells is None:
        _fetch(work, tile_px, done, put)
    top = pictures.block_name(pictures.dzi_level(0, cell_px), 0, 0)
    levels = range(root, work.level + 1)
    for name, data in pictures.draw(work.level, work.shown, cells, levels):
        put(name, data)
        if name == top:
            for smaller in pictures.coarsest(pictures.decoded(data)):
                put(*smaller)
    return replace(done, cells=cells[above])


def _fetch(
    work: SquareWork, tile_px: int, done: SquareDone, put: Callable[[str, bytes], None]
) -> None:
    """Fill in the cells, and write tiles at their own size: those of a picture at once."""

    def tiles(
        which: NDArray[np.int64], side: int, *, own_size: bool
    ) -> Iterator[tuple[int, Image.Image | None]]:
        places = [work.places[i] for i in which]
        for at, found in stored_tiles(places, side, own_size=own_size):
            if isinstance(found, str):
                done.failed[int(work.which[which[at]])] = found
            yield at, None if isinstance(found, str) else found

    cell_px = done.cells.shape[1]
    for number, start in enumerate(range(0, len(work.own), _SHEET), work.first):
        which = work.own[start : start + _SHEET]
        sheet: list[Image.Image | None] = [None] * len(which)
        for at, tile in tiles(which, tile_px, own_size=True):
            sheet[at], done.cells[which[at]] = tile, pictures.thumbnail(tile, cell_px)
            if tile is not None:
                done.sizes[int(work.which[which[at]])] = tile.size
        data = pictures.encoded(pictures.sheet(sheet), pictures.OWN_QUALITY)
        put(pictures.own_name(number), data)
    others = np.setdiff1d(np.arange(len(work.which)), work.own)
    for at, tile in tiles(others, cell_px, own_size=False):
        done.cells[others[at]] = pictures.thumbnail(tile, cell_px)


class Pictures:
    """The pictures of all levels, drawn from the finest up, a few levels at once.

    The squares of the finest levels are the work of tasks; what they hand on is drawn
    here as soon as all of a larger square is there, so that little of it is held.

    Attributes:
        picture: Of each cell of the finest level, the picture of its tile at its own
            size, -1: none; `slot`: in that picture.
        sizes: Width and height of that tile, shape (n, 2), 0: none.
        failed: Why tiles could not be read, by cell.
        files: Digest of each file, and its bytes.
    """

    def __init__(self, store: Store, found: Found, tiles: Tiles) -> None:
        """See the class."""
        table, n = found.chosen[-1], len(found.chosen[-1])
        rows, cols = split_ids(table[CELL].to_numpy())
        since = table[schema.SINCE].to_numpy().astype(np.int64)
        self._shown = Shown(rows=rows, cols=cols, since=since)
        self._store, self._found, self._tiles = store, found, tiles
        # By the finest level of a square: which, and the pieces of it that are there.
        self._held: dict[int, tuple[int, list[SquareDone]]] = {}
        self.picture = np.full(n, -1)
        self.slot = np.zeros(n, np.int64)
        self.sizes = np.zeros((n, 2), np.uint16)
        self.failed: dict[int, str] = {}
        self.files: dict[str, tuple[str, int]] = {}

    def works(self) -> Iterator[SquareWork]:
        """The squares of the finest levels.

        They are in the order of a curve that leaves a larger square when it is done.
        """
        finest, table = self._found.extent.finest, self._found.chosen[-1]
        root = pictures.root_of(finest)
        squares = self._shown.above(finest - root)
        curve = morton(squares.rows // SIDE, squares.cols // SIDE)
        order = np.argsort(curve, kind="stable")
        edges = np.flatnonzero(np.diff(curve[order])) + 1
        first = 0
        for which in np.split(order, edges):
            shown = self._shown.take(which)
            # Those of coarse levels first.
            own = np.lexsort((shown.cols, shown.rows, shown.since))
            own = own[shown.since[own] < self._found.extent.own]
            at = first * _SHEET + np.arange(len(own))
            self.picture[which[own]], self.slot[which[own]] = divmod(at, _SHEET)
            yield SquareWork(
                which=which,
                level=finest,
                shown=shown,
                places=self._tiles.places(table.take(pa.array(which))),
                own=own,
                first=first,
            )
            first += -(-len(own) // _SHEET)

    def add(self, done: SquareDone) -> None:
        """Keep what came of a square, and draw the larger ones that are complete."""
        for cell, size in done.sizes.items():
            self.sizes[cell] = size
        self.failed |= done.failed
        self.files |= done.files
        level = pictures.root_of(done.level) - 1
        if level < 0 or not len(done.above):
            return
        up = self._found.extent.finest - pictures.root_of(level)
        root = self._shown.take(done.above[:1]).above(up)
        square = int(morton(root.rows // SIDE, root.cols // SIDE)[0])
        if level in self._held and self._held[level][0] != square:
            self._draw(level)
        self._held.setdefault(level, (square, []))[1].append(done)

    def finish(self) -> None:
        """Draw what is left."""
        for level in reversed(range(self._found.extent.finest)):
            if level in self._held:
                self._draw(level)

    def _draw(self, level: int) -> None:
        _, pieces = self._held.pop(level)
        which = np.concatenate([piece.above for piece in pieces])
        work = SquareWork(
            which=which,
            level=level,
            shown=self._shown.take(which).above(self._found.extent.finest - level),
            cells=np.concatenate([piece.cells for piece in pieces]),
        )
        tiles = self._tiles
        self.add(draw_square(self._store, work, tiles.cell_px, tiles.tile_px))
