"""Squares of blocks: the tiles of each are fetched once, and drawn at three levels."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylatent.explorer import pictures
from raylatent.explorer.blocks import morton
from raylatent.explorer.pictures import Shown
from raylatent.explorer.pyramid import SIDE, SINCE
from raylatent.explorer.reach import Found, Tiles
from raylatent.montage.cells import CELL
from raylatent.montage.points import split_ids
from raylatent.seal import content_digest
from raylatent.source.protocol import Place
from raylatent.storage import Store
from raylatent.tiles.fetch import stored_tiles


@dataclass(frozen=True, kw_only=True, eq=False)
class SquareWork:
    """A square of blocks to draw.

    Attributes:
        which: Cells of the explorer's finest level whose tiles are shown, shape (n,).
        finest: The level of its cells.
        root: The coarsest level that is drawn with it.
        shown: Its tiles.
        places: Of each, where it is; empty where `cells` has them.
        cells: Their pictures, shape (n, cell_px, cell_px, 3).
        own: Which of them are stored at their own size, in this order.
        first: The number of the first picture of these.
    """

    which: NDArray[np.int64]
    finest: int
    root: int
    shown: Shown
    places: Sequence[Place] = ()
    cells: NDArray[np.uint8] | None = None
    own: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    first: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class SquareDone:
    """What came of it: files, and the tiles that levels above show, with their pictures.

    `sizes` are of the tiles at their own size; `failed` says why tiles could not be read,
    by their place in the square.
    """

    above: NDArray[np.int64]
    cells: NDArray[np.uint8]
    sizes: NDArray[np.uint16]
    failed: dict[int, str]
    digests: dict[str, str]
    n_bytes: int


def draw_square(
    store: Store, work: SquareWork, cell_px: int, tile_px: int
) -> SquareDone:
    """Fetch the tiles of a square, and write its pictures: a task's work."""
    failed: dict[int, str] = {}
    sizes = np.zeros((len(work.own), 2), np.uint16)
    files: list[tuple[str, bytes]] = []
    cells = work.cells
    if cells is None:
        cells = np.empty((len(work.places), cell_px, cell_px, 3), np.uint8)
        files += _own_sizes(work, cells, sizes, failed, tile_px)
        others = np.setdiff1d(np.arange(len(cells)), work.own)
        for i, found in _tiles(work, others, cell_px, failed, own_size=False):
            cells[i] = pictures.thumbnail(found, cell_px)
    levels = range(work.root, work.finest + 1)
    files += pictures.draw(work.finest, work.shown, cells, levels)
    if work.root == 0:
        block = next(pictures.draw(work.finest, work.shown, cells, [0]), None)
        if block is not None:
            files += pictures.coarsest(pictures.decoded(block[1]))
    digests, n_bytes = {}, 0
    for name, data in files:
        store.write(name, data)
        digests[name], n_bytes = content_digest(data), n_bytes + len(data)
    above = np.flatnonzero(work.shown.since < work.root)
    return SquareDone(
        above=above,
        cells=cells[above],
        sizes=sizes,
        failed=failed,
        digests=digests,
        n_bytes=n_bytes,
    )


def _own_sizes(
    work: SquareWork,
    cells: NDArray[np.uint8],
    sizes: NDArray[np.uint16],
    failed: dict[int, str],
    tile_px: int,
) -> Iterator[tuple[str, bytes]]:
    """The pictures of tiles at their own size; their cells and sizes are filled in.

    The tiles of one picture are held at a time.
    """
    together = pictures.SLOTS**2
    for number, start in enumerate(range(0, len(work.own), together), work.first):
        which = work.own[start : start + together]
        slots = {int(i): slot for slot, i in enumerate(which)}
        whole: list[Any] = [None] * len(which)
        for i, found in _tiles(work, which, tile_px, failed, own_size=True):
            if found is None:
                cells[i] = pictures.thumbnail(None, cells.shape[1])
                continue
            whole[slots[i]], sizes[start + slots[i]] = found, found.size
            cells[i] = pictures.cell_of(found, cells.shape[1])
        data = pictures.encoded(pictures.sheet(whole), pictures.OWN_QUALITY)
        yield pictures.own_name(number), data


def _tiles(
    work: SquareWork,
    which: NDArray[np.int64],
    side: int,
    failed: dict[int, str],
    *,
    own_size: bool,
) -> Iterator[tuple[int, Any]]:
    """Some tiles of a square as they come; None, and why, where one cannot be read."""
    places = [work.places[i] for i in which]
    for at, found in stored_tiles(places, side, own_size=own_size):
        i = int(which[at])
        if isinstance(found, str):
            failed[i] = found
            yield i, None
        else:
            yield i, found


@dataclass(eq=False)
class Drawn:
    """The pictures of an explorer.

    Attributes:
        picture: Of each cell of the finest level, the picture of its tile at its own
            size, -1: none.
        slot: In that picture.
        sizes: Width and height of that tile, shape (n, 2), 0: none.
        failed: Why tiles could not be read, by cell.
        digests: Of the files.
        n_bytes: Of the files.
    """

    picture: NDArray[np.int64]
    slot: NDArray[np.int64]
    sizes: NDArray[np.uint16]
    failed: dict[int, str] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    n_bytes: int = 0


class Pictures:
    """The pictures of all levels, drawn from the finest up, a few levels at once.

    The squares of the finest levels are the work of tasks; what they hand on is drawn
    here as soon as all of a larger square is there, so that little of it is held.

    Args:
        store: The explorer's folder.
        found: Its cells.
        tiles: How their tiles are found.
    """

    def __init__(self, store: Store, found: Found, tiles: Tiles) -> None:
        """See the class."""
        table, n = found.chosen[-1], len(found.chosen[-1])
        rows, cols = split_ids(table[CELL].to_numpy())
        since = table[SINCE].to_numpy().astype(np.int64)
        self._shown = Shown(rows=rows, cols=cols, since=since)
        self._store, self._found, self._tiles = store, found, tiles
        self._held: dict[int, tuple[int, list[Any]]] = {}  # by finest level of a square
        self.drawn = Drawn(
            picture=np.full(n, -1),
            slot=np.zeros(n, np.int64),
            sizes=np.zeros((n, 2), np.uint16),
        )

    def works(self) -> Iterator[SquareWork]:
        """The squares of the finest levels.

        They are in the order of a curve that leaves a larger square when it is done.
        """
        finest = self._found.extent.finest
        root = pictures.root_of(finest)
        rows, cols = (at // (SIDE << (finest - root)) for at in self._places(finest))
        curve = morton(rows, cols)
        order = np.argsort(curve, kind="stable")
        edges = np.flatnonzero(np.diff(curve[order])) + 1
        first, together = 0, pictures.SLOTS**2
        for own in np.split(order, edges):
            shown = self._shown.take(own)
            stored = _stored(shown, self._found.extent.own)
            at = first * together + np.arange(len(stored))
            self.drawn.picture[own[stored]] = at // together
            self.drawn.slot[own[stored]] = at % together
            places = self._tiles.places(self._found.chosen[-1].take(pa.array(own)))
            yield SquareWork(
                which=own,
                finest=finest,
                root=root,
                shown=shown,
                places=places,
                own=stored,
                first=first,
            )
            first += -(-len(stored) // together)

    def _places(self, level: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        here = self._shown.above(self._found.extent.finest - level)
        return here.rows, here.cols

    def add(self, work: SquareWork, done: SquareDone) -> None:
        """Keep what came of a square, and draw the larger ones that are complete."""
        drawn, own = self.drawn, work.which
        drawn.sizes[own[work.own]] = done.sizes
        drawn.failed |= {int(own[i]): why for i, why in done.failed.items()}
        drawn.digests |= done.digests
        drawn.n_bytes += done.n_bytes
        level = work.root - 1
        if level < 0 or not len(done.above):
            return
        which, side = own[done.above], SIDE << (level - pictures.root_of(level))
        row, col = (int(at[which[0]]) // side for at in self._places(level))
        square = row << level | col
        if level in self._held and self._held[level][0] != square:
            self._draw(level)
        _, pieces = self._held.setdefault(level, (square, []))
        pieces.append((which, done.cells))

    def finish(self) -> Drawn:
        """Draw what is left; everything that was drawn."""
        for level in reversed(range(self._found.extent.finest)):
            if level in self._held:
                self._draw(level)
        return self.drawn

    def _draw(self, level: int) -> None:
        _, pieces = self._held.pop(level)
        which = np.concatenate([own for own, _ in pieces])
        here = self._shown.take(which).above(self._found.extent.finest - level)
        work = SquareWork(
            which=which,
            finest=level,
            root=pictures.root_of(level),
            shown=here,
            cells=np.concatenate([cells for _, cells in pieces]),
        )
        tiles = self._tiles
        done = draw_square(self._store, work, tiles.cell_px, tiles.tile_px)
        self.add(work, done)


def _stored(shown: Shown, n_levels: int) -> NDArray[np.int64]:
    """Which tiles are stored at their own size, those of coarse levels first."""
    order = np.lexsort((shown.cols, shown.rows, shown.since))
    return order[shown.since[order] < n_levels]
