"""Squares of blocks: the tiles of each are fetched once, and drawn at three levels."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylatent.explorer import pictures
from raylatent.explorer.pictures import Shown
from raylatent.explorer.reach import Found, Tiles
from raylatent.seal import content_digest
from raylatent.source.protocol import Place
from raylatent.storage import Store
from raylatent.tiles.fetch import stored_tiles


@dataclass(frozen=True, kw_only=True, eq=False)
class SquareWork:
    """A square of blocks to draw.

    Attributes:
        finest: The level of its cells.
        root: The coarsest level that is drawn with it.
        shown: Its tiles.
        places: Of each, where it is; empty where `cells` has them.
        cells: Their pictures, shape (n, cell_px, cell_px, 3).
        own: Which of them are stored at their own size, in this order.
        first: The number of the first picture of these.
    """

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
    cells, failed = work.cells, {}
    sizes = np.zeros((len(work.own), 2), np.uint16)
    files: list[tuple[str, bytes]] = []
    if cells is None:
        cells, own, failed = _fetched(work, cell_px, tile_px)
        for start in range(0, len(own), pictures.SLOTS**2):
            some = own[start : start + pictures.SLOTS**2]
            number = work.first + start // pictures.SLOTS**2
            data = pictures.encoded(pictures.sheet(some), pictures.OWN_QUALITY)
            files.append((pictures.own_name(number), data))
        for i, one in enumerate(own):
            sizes[i] = (0, 0) if one is None else one.size
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


def _fetched(
    work: SquareWork, cell_px: int, tile_px: int
) -> tuple[NDArray[np.uint8], list[Any], dict[int, str]]:
    """Cells (n, cell_px, cell_px, 3), tiles at their own size, and why some lack."""
    n = len(work.places)
    cells = np.empty((n, cell_px, cell_px, 3), np.uint8)
    failed: dict[int, str] = {}
    whole: dict[int, Any] = dict.fromkeys(work.own.tolist())
    others = np.setdiff1d(np.arange(n), work.own)
    for which, own_size in ((work.own, True), (others, False)):
        places = [work.places[i] for i in which]
        side = tile_px if own_size else cell_px
        for at, found in stored_tiles(places, side, own_size=own_size):
            i = int(which[at])
            if isinstance(found, str):
                failed[i] = found
                cells[i] = pictures.thumbnail(None, cell_px)
            elif own_size:
                whole[i] = found
                cells[i] = pictures.cell_of(found, cell_px)
            else:
                cells[i] = pictures.thumbnail(found, cell_px)
    return cells, [whole[i] for i in work.own.tolist()], failed


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


@dataclass(frozen=True, kw_only=True, eq=False)
class Stage:
    """Levels that are drawn at once, from the finest of them up.

    They show the tiles of the cells `which` of the explorer's finest level, whose
    pictures are `cells`, if they were fetched already.
    """

    level: int
    which: NDArray[np.int64]
    cells: NDArray[np.uint8] | None = None

    @property
    def root(self) -> int:
        """The coarsest of them."""
        return pictures.root_of(self.level)


def works(
    stage: Stage, shown: Shown, found: Found, tiles: Tiles, drawn: Drawn
) -> Iterator[tuple[NDArray[np.int64], SquareWork]]:
    """The squares of a stage: which cells of the finest level they have, and the work."""
    level, root, which, cells = stage.level, stage.root, stage.which, stage.cells
    here = shown.take(which).above(found.extent.finest - level)
    squares = pictures.squares(level, here, root)
    order = np.argsort(squares, kind="stable")
    edges = np.flatnonzero(np.diff(squares[order])) + 1
    first = 0
    for some in np.split(order, edges) if len(order) else ():
        own = which[some]
        work = SquareWork(finest=level, root=root, shown=here.take(some))
        if cells is not None:
            yield own, replace(work, cells=cells[some])
            continue
        stored = _stored(shown.take(own), found.extent.own)
        at = first * pictures.SLOTS**2 + np.arange(len(stored))
        drawn.picture[own[stored]] = at // pictures.SLOTS**2
        drawn.slot[own[stored]] = at % pictures.SLOTS**2
        places = tiles.places(found.chosen[-1].take(pa.array(own)))
        yield own, replace(work, places=places, own=stored, first=first)
        first += -(-len(stored) // pictures.SLOTS**2)


def _stored(shown: Shown, n_levels: int) -> NDArray[np.int64]:
    """Which tiles are stored at their own size, those of coarse levels first."""
    order = np.lexsort((shown.cols, shown.rows, shown.since))
    return order[shown.since[order] < n_levels]
