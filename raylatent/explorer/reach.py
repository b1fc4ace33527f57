"""How far an explorer goes, and the cells that it has."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
from PIL import Image

from raylatent import schema
from raylatent.explorer import pictures, pyramid
from raylatent.explorer.pictures import Shown
from raylatent.explorer.pyramid import SHOWN_SHARE, PartialLevel, Square
from raylatent.explorer.scripts import MOST_CLASSES
from raylatent.mapping.labels import MOST_ENTRIES
from raylatent.montage.cells import bounds_of
from raylatent.montage.grid import Bounds
from raylatent.montage.points import LABELS, PREDICTIONS, Parts, Rule, tile_hashes
from raylatent.montage.tally import label_points
from raylatent.source.protocol import Place
from raylatent.stored.mosaic_inputs import Located
from raylatent.tiles.fetch import stored_tiles

_SAMPLED_LEVELS = 4  # whose tiles tell how many bytes a tile takes
_SAMPLED_TILES = 256
_SHEET = pictures.SLOTS**2  # tiles at their own size in a picture
_CELL_BYTES = 70.0  # of a cell in scripts and Parquet
_POINT_BYTES = 18.0
_PAIR_BYTES = 6.0  # of a cell and a slide
_REST_BYTES = 1e6  # of the page and of the smallest pictures
SAMPLE_POINTS = 1_000_000
_MARGIN = 0.97  # of what may be written: a sample tells sizes to some hundredths

MOST_SIMILAR = 20_000
"""Cells of the level whose cells are compared with each other."""
N_SIMILAR = 12
_SIMILAR_LEVELS = 7  # the last one has 512 cells a side
_SIMILAR_BYTES = 1 << 30  # of activations that are held


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Bytes that parts of an explorer take, as a sample tells.

    Of a cell beyond its share of an empty block, of a block without any, a tile at its own
    size, a point, and of all that does not grow with these.
    """

    cell: float
    block: float
    tile: float
    point: float
    rest: float


@dataclass(frozen=True)
class Extent:
    """How far an explorer goes.

    Attributes:
        finest: The deepest level that is written.
        all_points: Whether all points are written, or a sample.
        sample: How many points a sample has, about.
        own: The levels below this one have their tiles at their own size as well.
        n_bytes: What it is to take, by the sizes of a sample.
    """

    finest: int
    all_points: bool
    sample: int
    own: int
    n_bytes: float


def extent(
    counts: Sequence[int], n_points: int, n_sample: int, sizes: Sizes, max_bytes: int
) -> Extent:
    """What of an explorer fits, by the cells of each level: the deepest ones go first.

    Then points, where all of them would take more than half, or level 0 would not fit
    beside them. Tiles at their own size take what is left, at most half.

    >>> sizes = Sizes(cell=1, block=0, tile=10, point=1, rest=0)
    >>> extent([4, 9, 12], 12, 5, sizes, 100)
    Extent(finest=2, all_points=True, sample=5, own=1, n_bytes=77.0)
    >>> extent([4, 9, 12], 12, 5, sizes, 20)
    Extent(finest=1, all_points=False, sample=5, own=0, n_bytes=18.0)
    """
    up_to = _up_to(counts, sizes)
    every, some = (sizes.rest + n * sizes.point for n in (n_points, n_sample))
    all_points = (
        n_points * sizes.point <= max_bytes / 2 and every + up_to[0] <= max_bytes
    )
    fixed = every if all_points else some
    finest = 0
    while (
        counts[finest] <= SHOWN_SHARE * n_points
        and finest + 1 < len(counts)
        and fixed + up_to[finest + 1] <= max_bytes
    ):
        finest += 1
    used = fixed + up_to[finest]
    left = min(max_bytes / 2, max_bytes - used)
    own = sum(counts[level] * sizes.tile <= left for level in range(finest + 1))
    drawn = counts[own - 1] if own else 0  # a level has the tiles of those above
    n_bytes = used + drawn * sizes.tile
    return Extent(finest, all_points, n_sample, own, n_bytes)


def _up_to(counts: Sequence[int], sizes: Sizes) -> list[float]:
    """Bytes of the cells and blocks of all levels up to each."""
    found, total = [], 0.0
    for level, n in enumerate(counts):
        # A block is a cell of the level at which 8 x 8 cells are one.
        above = level - pyramid.SIDE.bit_length() + 1
        blocks = counts[above] if above >= 0 else min(n, 4**level)
        total += n * sizes.cell + blocks * sizes.block
        found.append(total)
    return found


def similar_level(n_cells: Sequence[int], n_features: int) -> int | None:
    """The deepest level whose cells can be compared; None where there is none.

    >>> similar_level([60, 240, 21_000], 64), similar_level([60] * 9, 64)
    (1, 6)
    """
    most = min(MOST_SIMILAR, _SIMILAR_BYTES // (4 * max(1, n_features)))
    levels = enumerate(n_cells[:_SIMILAR_LEVELS])
    return max((level for level, n in levels if n <= most), default=None)


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """The cells of an explorer: of each level what the points say, and the tiles chosen."""

    square: Square
    bounds: Bounds
    levels: Sequence[PartialLevel]
    chosen: Sequence[pa.Table]
    extent: Extent
    rule: Rule


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """How tiles are found again, by the number of their source, and drawn."""

    sources: dict[int, Located]
    cell_px: int
    tile_px: int

    def places(self, table: pa.Table) -> list[Place]:
        """Where the pixels of a table of references are."""
        rows = table.select([*schema.REFERENCE.names]).to_pylist()
        return [self.sources[row[schema.SOURCE]].place(row) for row in rows]


def find_cells(
    parts: Parts, rule: Rule, tiles: Tiles, max_bytes: int, of_slides: float
) -> Found:
    """The levels that fit into so many bytes of all files, and the tile of each cell.

    Pictures of slides take `of_slides` bytes.
    """
    bounds = parts.fold(bounds_of, Bounds.merge)
    square = Square.around(bounds)
    look = partial(pyramid.occupied, square=square)
    counts = pyramid.count_cells(parts.fold(look, pyramid.merge_occupied))
    some = _levels(parts, square, _SAMPLED_LEVELS, rule)
    chosen, told = pyramid.choose_nested(square, some)[-1], _bytes_told(some[-1])
    pairs = sum(len(level.slides) for level in some)
    more = 4 * (1 + N_SIMILAR) * min(MOST_SIMILAR, bounds.n) + _PAIR_BYTES * 3 * pairs
    sizes = _sizes(chosen, tiles, rule, told, _REST_BYTES + more + of_slides)
    most = min(SAMPLE_POINTS, bounds.n, int(max_bytes / 2 / _POINT_BYTES))
    reach = extent(counts, bounds.n, most, sizes, int(_MARGIN * max_bytes))
    levels = _levels(parts, square, reach.finest + 1, rule)
    return Found(
        square=square,
        bounds=bounds,
        levels=levels,
        chosen=pyramid.choose_nested(square, levels),
        extent=reach,
        rule=rule,
    )


def _levels(
    parts: Parts, square: Square, n_levels: int, rule: Rule
) -> list[PartialLevel]:
    work = partial(pyramid.partial_levels, square=square, n_levels=n_levels, rule=rule)
    return parts.fold(work, pyramid.merge_levels, [PREDICTIONS, LABELS])


def _bytes_told(level: PartialLevel) -> float:
    """What scripts and Parquet take for a cell: more where there are labels, classes."""
    tally = level.cells.tally
    n_classes = 0 if tally.predictions is None else tally.predictions.digits.shape[2]
    n_labels = min(len(label_points(tally.labels)), MOST_ENTRIES + 1)
    in_page = n_classes if n_classes <= MOST_CLASSES else 1
    return _CELL_BYTES + 8 * n_classes + 5 * in_page + 2 * n_labels


def _sizes(
    chosen: pa.Table, tiles: Tiles, rule: Rule, told: float, rest: float
) -> Sizes:
    """By some tiles of cells all over the map; `told` of a cell beside its picture."""
    order = np.argsort(tile_hashes(chosen, rule.seed), kind="stable")
    some = chosen.take(pa.array(order[:_SAMPLED_TILES]))
    fetched = dict(stored_tiles(tiles.places(some), tiles.tile_px, own_size=True))
    found = [fetched[i] for i in sorted(fetched)]
    whole = [one for one in found if not isinstance(one, str)]
    side, cell_px = pyramid.SIDE, tiles.cell_px
    white = np.full((side * cell_px, side * cell_px, 3), pictures.WHITE, np.uint8)
    block = float(len(pictures.encoded(white, pictures.QUALITY)))
    if not whole:
        whole = [Image.new("RGB", (1, 1))]
    cells = np.stack([pictures.thumbnail(one, cell_px) for one in whole])
    at = np.arange(len(whole))
    shown = Shown(rows=at // side, cols=at % side, since=np.zeros_like(at))
    n, level = len(whole), math.ceil(math.log2(max(1, len(whole) / side**2)))
    drawn = [
        len(data) - block for _, data in pictures.draw(level, shown, cells, [level])
    ]
    own = [
        len(pictures.encoded(pictures.sheet(together), pictures.OWN_QUALITY))
        for together in (whole[i : i + _SHEET] for i in range(0, n, _SHEET))
    ]
    return Sizes(
        cell=sum(drawn) / n + told,
        block=block,
        tile=sum(own) / n,
        point=_POINT_BYTES,
        rest=rest,
    )
