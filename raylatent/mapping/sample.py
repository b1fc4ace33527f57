"""Which rows a map is fitted on: half of all tiles alike, half of all slides alike.

Each tile has a key, `stable_hash.tile_hash(seed, slide, tile_index)`. Two orders
follow from it: the *uniform* order (by key), and the *capped* order (first every
slide's smallest key, then every slide's second, ..., which is water-filling: a cap
per slide that rises until the sample is full). The sample takes from the two in
turn, after one tile of every slide. So it depends on no order of rows, files or
workers, a larger sample contains a smaller one, and no slide is left out as long as
there is room for one tile of each.

A `SampleSketch` keeps only what can still be chosen (the first `limit` rows of either
order), so sketches of parts are small and merge in any order. That this loses
nothing: a row only moves back in either order when rows are added.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from raylatent.errors import MapError
from raylatent.schema import SLIDE, TILE_INDEX
from raylatent.stable_hash import tile_hash

KEY = "key"
SAMPLE = pa.schema(
    [
        pa.field(SLIDE, pa.string(), nullable=False),
        pa.field(TILE_INDEX, pa.int64(), nullable=False),
        pa.field(KEY, pa.uint64(), nullable=False),
    ]
)
"""A sample: ascending by key, then slide, then tile index."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SampleSketch:
    """The rows of some tiles that a sample of up to `limit` rows may need.

    Attributes:
        seed: Of the keys.
        limit: Largest sample that can be taken.
        slides: Names, sorted, to which `slide` points.
        slide: int64 (n,), positions in `slides`.
        tile_index: int64 (n,).
        key: uint64 (n,).
    """

    seed: int
    limit: int
    slides: tuple[str, ...]
    slide: NDArray[np.int64]
    tile_index: NDArray[np.int64]
    key: NDArray[np.uint64]

    def __post_init__(self) -> None:
        """Refuse a limit that leaves nothing to sample."""
        if self.limit < 1:
            message = f"a sample of {self.limit} rows is empty: ask for at least 1"
            raise MapError(message)

    def __len__(self) -> int:
        """Rows kept, at most twice the limit."""
        return len(self.key)


def sketch(slide: str, tile_index: ArrayLike, *, seed: int, limit: int) -> SampleSketch:
    """The sketch of some tiles of one slide, of indices (n,) in any order.

    >>> len(sketch("a", range(100), seed=0, limit=10))
    10
    """
    tiles = np.asarray(tile_index, dtype=np.int64).ravel()
    whole = SampleSketch(
        seed=seed,
        limit=limit,
        slides=(slide,),
        slide=np.zeros(len(tiles), dtype=np.int64),
        tile_index=tiles,
        key=tile_hash(seed, slide, tiles),
    )
    return _trimmed(whole)


def merge(*sketches: SampleSketch) -> SampleSketch:
    """The sketch of the tiles of all given sketches, whatever their order.

    A tile that is in several counts once.

    Raises:
        MapError: Seeds or limits differ, or nothing was given.
    """
    if not sketches:
        message = "there is no sketch to merge: give at least 1"
        raise MapError(message)
    first = sketches[0]
    for other in sketches[1:]:
        if (other.seed, other.limit) != (first.seed, first.limit):
            message = (
                f"sketches of seed {first.seed}, limit {first.limit} and of seed "
                f"{other.seed}, limit {other.limit} do not merge: make them alike"
            )
            raise MapError(message)
    slides = tuple(sorted(set().union(*(part.slides for part in sketches))))
    position = {name: i for i, name in enumerate(slides)}
    codes = [
        np.array([position[name] for name in part.slides], dtype=np.int64)[part.slide]
        for part in sketches
    ]
    whole = SampleSketch(
        seed=first.seed,
        limit=first.limit,
        slides=slides,
        slide=np.concatenate(codes),
        tile_index=np.concatenate([part.tile_index for part in sketches]),
        key=np.concatenate([part.key for part in sketches]),
    )
    return _trimmed(whole)


def finish(whole: SampleSketch, n: int | None = None) -> pa.Table:
    """The sample, `SAMPLE`: min(n, rows) rows, ascending by key, of the sketch of all tiles.

    Raises:
        MapError: `n` is not in 1..limit, which is the default.

    >>> finish(sketch("a", range(100), seed=0, limit=10), 3).num_rows
    3
    """
    n = whole.limit if n is None else n
    if not 1 <= n <= whole.limit:
        message = f"a sample of {n} rows was asked of a sketch of 1 to {whole.limit}"
        raise MapError(message)
    uniform, capped, n_slides = _orders(whole)
    rows = _in_turn(uniform.tolist(), capped.tolist(), n_slides, n)
    rows = rows[
        np.lexsort((whole.tile_index[rows], whole.slide[rows], whole.key[rows]))
    ]
    names = pa.array(whole.slides, pa.string())
    return pa.table(
        [
            names.take(pa.array(whole.slide[rows])),
            pa.array(whole.tile_index[rows]),
            pa.array(whole.key[rows]),
        ],
        schema=SAMPLE,
    )


def _trimmed(whole: SampleSketch) -> SampleSketch:
    """Drop duplicates and what no sample up to the limit can take."""
    pairs = np.stack([whole.slide, whole.tile_index], axis=1)
    _, distinct = np.unique(pairs, axis=0, return_index=True)
    whole = _rows(whole, distinct)
    uniform, capped, _ = _orders(whole)
    keep = np.union1d(uniform[: whole.limit], capped[: whole.limit])
    return _rows(whole, keep)


def _rows(whole: SampleSketch, rows: NDArray[np.intp]) -> SampleSketch:
    used, slide = np.unique(whole.slide[rows], return_inverse=True)
    return SampleSketch(
        seed=whole.seed,
        limit=whole.limit,
        slides=tuple(whole.slides[i] for i in used),
        slide=slide.astype(np.int64),
        tile_index=whole.tile_index[rows],
        key=whole.key[rows],
    )


def _orders(
    whole: SampleSketch,
) -> tuple[NDArray[np.intp], NDArray[np.intp], int]:
    """Rows in uniform order, rows in capped order, and the number of slides."""
    uniform = np.lexsort((whole.tile_index, whole.slide, whole.key))
    by_slide = uniform[np.argsort(whole.slide[uniform], kind="stable")]
    codes = whole.slide[by_slide]
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    sizes = np.diff(np.append(starts, len(codes)))
    rank = np.empty(len(codes), dtype=np.int64)
    rank[by_slide] = np.arange(len(codes)) - np.repeat(starts, sizes)
    capped = uniform[np.argsort(rank[uniform], kind="stable")]
    return uniform, capped, len(starts)


def _in_turn(
    uniform: list[int], capped: list[int], n_slides: int, n: int
) -> NDArray[np.intp]:
    """The first `n` of: one row of every slide, then evenly from both orders.

    The uniform order first catches up with the `n_slides` rows that the capped
    order had in advance, then they take turns.
    """
    orders = (capped, uniform)
    at = [0, 0]
    given = [0, 0]
    chosen: list[int] = []
    seen: set[int] = set()
    while len(chosen) < min(n, len(uniform)):
        which = int(given[0] >= n_slides and given[1] < given[0])
        order = orders[which]
        while order[at[which]] in seen:
            at[which] += 1
        seen.add(order[at[which]])
        chosen.append(order[at[which]])
        given[which] += 1
    return np.array(chosen, dtype=np.intp)
