"""Points of a map in its folder: `points/slide=<name>/<part:06d>.parquet`.

They are read whole, in blocks, or as what a mosaic is made of.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raylatent import schema
from raylatent.errors import MapError
from raylatent.montage.points import (
    FEATURES,
    LABELS,
    PREDICTIONS,
    Label,
    Parts,
    Points,
    as_reference,
    knn_distances,
)
from raylatent.parts import (
    is_part,
    part_name,
    read_part,
    rows_digest,
    slide_of,
    write_part,
)
from raylatent.run import Part, RunDirectory
from raylatent.seal import DIGEST, content_digest
from raylatent.storage import Store
from raylatent.stored.maps import read_info
from raylatent.tiles.threads import in_order

if TYPE_CHECKING:
    import pandas as pd

POINTS_FOLDER = "points"
POINTS_DIGEST = "points_digest"
"""The key of map.json by which a map that Python saved tells its points from others."""
MAP_POINTS = pa.schema([pa.field(schema.SLIDE, pa.string()), *schema.POINTS])
"""Points of several slides: `schema.POINTS` after the slide."""

_TILE = (schema.SLIDE, schema.TILE_INDEX)
_ORDER = [(schema.SLIDE, "ascending"), (schema.TILE_INDEX, "ascending")]
_PART_ROWS = 1_000_000
_BLOCK_ROWS = 1 << 16
_BLOCK_FEATURE_BYTES = 64 << 20
_THREADS = 8  # a part is small: on an object store reading it is mostly waiting
_PART = re.compile(r"points/slide=[^/]+/\d+\.parquet")


def check_points(points: pa.Table) -> pa.Table:
    """Points as `MAP_POINTS`, by slide, then tile index; missing references are null.

    A tile without source has source -1.

    Raises:
        MapError: A column that every point needs is missing, or null, or a place is
            not finite.
    """
    needed = (schema.SLIDE, schema.TILE_INDEX, schema.X, schema.Y)
    for name in needed:
        if name not in points.column_names:
            message = f"points lack the column {name!r}: {', '.join(needed)} are needed"
            raise MapError(message)
        if points[name].null_count:
            message = f"{points[name].null_count} points have no {name}: leave them out"
            raise MapError(message)
    columns = []
    for field in MAP_POINTS:
        if field.name in points.column_names:
            columns.append(points[field.name].cast(field.type))
        elif field.name == schema.SOURCE:
            columns.append(pa.array(np.full(points.num_rows, -1), field.type))
        else:
            columns.append(pa.nulls(points.num_rows, field.type))
    table = pa.table(columns, schema=MAP_POINTS)
    for name in (schema.X, schema.Y):
        finite = pc.sum(pc.is_finite(table[name])).as_py() or 0
        if finite < table.num_rows:
            message = f"{table.num_rows - finite} points have no finite {name}"
            raise MapError(message)
    return table.take(pc.sort_indices(table, sort_keys=_ORDER))


def rows_of(points: pa.Table, data: "pd.DataFrame") -> NDArray[np.int64]:
    """Which of the points each row of a table is: by its index, else by its tile.

    The index says nothing any more once rows were sorted or merged without it.

    Raises:
        MapError: A row is of no point, or does not tell its tile.
    """
    import pandas as pd  # noqa: PLC0415  (slow)

    lost = [name for name in _TILE if name not in data.columns]
    if lost:
        message = f"data has no column {lost[0]!r} any more, which tells its tiles"
        raise MapError(message)
    known, given = points.select(_TILE).to_pandas(), data[[*_TILE]]
    rows = given.index
    if rows.dtype.kind == "i" and rows.isin(known.index).all():
        own = known.take(rows)
        if all(np.array_equal(own[name], given[name]) for name in _TILE):
            return np.asarray(rows, np.int64)
    row_of = pd.Series(known.index, pd.MultiIndex.from_frame(known))
    found = row_of[~row_of.index.duplicated()].reindex(pd.MultiIndex.from_frame(given))
    if n_lost := int(found.isna().sum()):
        message = f"{n_lost} rows of data are tiles that the map lacks"
        raise MapError(message)
    return np.asarray(found, np.int64)


def write_points(store: Store, points: pa.Table) -> str:
    """Write points in any order, each part in one step, after the old ones left.

    Returns:
        A digest of all of them.

    Raises:
        StorageError: A part could not be written.
    """
    for name in store.list(POINTS_FOLDER):
        if _PART.fullmatch(name):
            store.delete(name)
    seals = []
    for slide, rows in by_slide(check_points(points)):
        table = rows.select(schema.POINTS.names).cast(schema.POINTS)
        for unit, start in enumerate(range(0, table.num_rows, _PART_ROWS)):
            seals.append(
                write_part(
                    store,
                    part_name(POINTS_FOLDER, slide, unit),
                    table.slice(start, _PART_ROWS),
                    {schema.FOOTER_SLIDE: slide},
                )
            )
    return content_digest("".join(seals).encode())


def read_points(store: Store) -> pa.Table:
    """The points of a map's folder, as `MAP_POINTS`.

    Raises:
        MapError: There are none.
        StorageError: A part cannot be read.
    """
    return check_points(pa.concat_tables(list(_read_parts(store, points_parts(store)))))


def points_parts(store: Store) -> list[tuple[str, str]]:
    """Slide and name of each part of a map's folder, by slide, then tile index.

    Raises:
        MapError: There are none.
    """
    parts = [
        (slide, name)
        for name in store.list(POINTS_FOLDER)
        if (slide := slide_of(name)) is not None and is_part(name)
    ]
    if not parts:
        message = f"{store.uri}/{POINTS_FOLDER} holds no points: the map is unfinished"
        raise MapError(message)
    return sorted(parts)


def iter_points(
    store: Store, parts: Sequence[tuple[str, str]], block_rows: int
) -> Iterator[pa.Table]:
    """The points of a map's folder in blocks, together as `read_points` gives them.

    A block is full when it has so many rows; a part of `points_parts` is never divided.
    """
    tables: list[pa.Table] = []
    n = 0
    for table in _read_parts(store, parts):
        tables.append(table)
        n += table.num_rows
        if n >= block_rows:
            yield check_points(pa.concat_tables(tables))
            tables, n = [], 0
    if tables:
        yield check_points(pa.concat_tables(tables))


def tile_label_names(
    store: Store, parts: Sequence[tuple[str, str]], most: int
) -> list[str] | None:
    """All labels that tiles have of their own, sorted; None where they are too many.

    Args:
        store: The map's folder.
        parts: Of `points_parts`.
        most: Labels that are not too many.
    """
    found: set[str] = set()
    for labels in _columns_ahead(store, parts, (schema.LABEL,)):
        found.update(pc.unique(labels[schema.LABEL]).drop_null().to_pylist())
        if len(found) > most:
            return None
    return sorted(found)


def iter_tile_labels(
    store: Store, parts: Sequence[tuple[str, str]], label: Label
) -> Iterator[tuple[NDArray[np.float64], list[str | None]]]:
    """Where points lie (n, 2) and labels of their tiles, part by part.

    Args:
        store: The map's folder.
        parts: Of `points_parts`.
        label: Gives labels of points with slide, tile index, place and own label.

    Raises:
        MapError: A place is not finite.
    """
    columns = (schema.TILE_INDEX, schema.X, schema.Y, schema.LABEL)
    tables = _columns_ahead(store, parts, columns)
    for (slide, name), table in zip(parts, tables, strict=True):
        xy = _finite_places(store, name, table)
        if len(xy):
            slides = pa.repeat(pa.scalar(slide, pa.string()), len(xy))
            yield xy, label(table.append_column(schema.SLIDE, slides)).to_pylist()


def iter_places(
    store: Store, parts: Sequence[tuple[str, str]], block_rows: int
) -> Iterator[tuple[NDArray[np.float64], list[tuple[str, int]]]]:
    """Where points lie (n, 2) in blocks, and whose they are: runs of slides.

    Nothing else of them is read, and some parts ahead. Blocks are as of `iter_points`.

    Raises:
        MapError: A place is not finite.
    """
    blocks: list[NDArray[np.float64]] = []
    runs: list[tuple[str, int]] = []
    tables = _columns_ahead(store, parts, (schema.X, schema.Y))
    for (slide, name), table in zip(parts, tables, strict=True):
        xy = _finite_places(store, name, table)
        if len(xy):
            blocks.append(xy)
            runs.append((slide, len(xy)))
        if sum(map(len, blocks)) >= block_rows:
            yield np.concatenate(blocks), runs
            blocks, runs = [], []
    if blocks:
        yield np.concatenate(blocks), runs


def _finite_places(store: Store, name: str, table: pa.Table) -> NDArray[np.float64]:
    xy = schema.places(table)
    if not np.isfinite(xy).all():
        message = f"{store.uri}/{name} has points without a finite place"
        raise MapError(message)
    return xy


def _columns_ahead(
    store: Store, parts: Sequence[tuple[str, str]], columns: Sequence[str]
) -> Iterator[pa.Table]:
    with ThreadPoolExecutor(_THREADS) as pool:
        jobs = (partial(read_part, store, name, columns) for _, name in parts)
        yield from in_order(jobs, pool, _THREADS + 1)


def _read_parts(store: Store, parts: Sequence[tuple[str, str]]) -> Iterator[pa.Table]:
    for slide, name in parts:
        table = read_part(store, name, schema.POINTS.names).replace_schema_metadata()
        at = pa.array(np.zeros(table.num_rows, np.int32))
        slides = pa.array([slide], pa.string()).take(at)
        yield table.add_column(0, MAP_POINTS.field(0), slides)


def by_slide(points: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """Each slide of sorted points with its rows."""
    if not points.num_rows:
        return
    runs = pc.run_end_encode(points[schema.SLIDE].combine_chunks())
    chunks = runs.chunks if isinstance(runs, pa.ChunkedArray) else [runs]
    start = 0
    for chunk in chunks:
        offset = start
        ends = chunk.run_ends.to_pylist()
        for slide, end in zip(chunk.values.to_pylist(), ends, strict=True):
            yield slide, points.slice(start, offset + end - start)
            start = offset + end


def read_vectors(
    run: RunDirectory,
    points: pa.Table,
    column: str,
    parts_of: Callable[[str], list[Part]] | None = None,
) -> NDArray[np.floating]:
    """A vector column of a run for points (n, width), row for row, read part by part.

    A slide's parts are `run.parts_of`, unless the caller keeps them.

    Raises:
        MapError: The run has no such column, or lacks one of the tiles.
    """
    if column not in run.layers() and column != schema.PREDICTIONS:
        message = f"{run.uri} has no layer {column!r}: {sorted(run.layers())} are there"
        raise MapError(message)
    slides = list(by_slide(points))
    if not _is_sorted(slides):
        order = pc.sort_indices(points, sort_keys=_ORDER).to_numpy()
        vectors = read_vectors(run, points.take(pa.array(order)), column, parts_of)
        as_given = np.empty_like(vectors)
        as_given[order] = vectors
        return as_given
    blocks = []
    for slide, tiles in slides:
        parts = (parts_of or run.parts_of)(slide)
        if not parts:
            message = f"{run.uri} lacks slide {slide!r}, which the map has"
            raise MapError(message)
        wanted = tiles[schema.TILE_INDEX].to_numpy()
        found = [_vectors_of(run, part, wanted, column) for part in parts]
        there = np.concatenate([tiles for tiles, _ in found])
        if len(there) < len(wanted):
            message = (
                f"{run.uri} lacks tile {np.setdiff1d(wanted, there)[0]} of slide "
                f"{slide!r}, which the map has: map the run again"
            )
            raise MapError(message)
        blocks += [vectors for tiles, vectors in found if len(tiles)]
    return np.concatenate(blocks)


def _is_sorted(slides: Sequence[tuple[str, pa.Table]]) -> bool:
    """Whether the points of `by_slide` are by slide, then tile index."""
    names = [slide for slide, _ in slides]
    if any(a >= b for a, b in pairwise(names)):
        return False
    tiles = (table[schema.TILE_INDEX].to_numpy() for _, table in slides)
    return all(bool((own[1:] >= own[:-1]).all()) for own in tiles)


def _vectors_of(
    run: RunDirectory, part: Part, wanted: NDArray[np.int64], column: str
) -> tuple[NDArray[np.int64], NDArray[np.floating]]:
    """Those of the wanted tiles that a part has (n,), and their vectors (n, width)."""
    first = int(part.footer.get(schema.FOOTER_FIRST, 0))
    last = int(part.footer.get(schema.FOOTER_LAST, wanted[-1] + 1))
    here = wanted[(wanted >= first) & (wanted < last)]
    if not len(here) or not part.rows:
        return here[:0], np.zeros((0, 0), np.float32)
    rows = read_part(run.store, part.name, [schema.TILE_INDEX, column])
    known = rows[schema.TILE_INDEX].to_numpy()
    at = np.minimum(np.searchsorted(known, here), len(known) - 1)
    there = known[at] == here
    return here[there], schema.vectors(rows, column)[at[there]]


class StoredPoints:
    """A map of a run as what a mosaic is made of, however many points it has.

    Args:
        folder: The map's, local or a URI.
        run: The run that it belongs to.
        layer: The layer that was mapped; by default map.json tells it.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        run: RunDirectory,
        layer: str | None = None,
    ) -> None:
        """See the class."""
        self.store = Store(folder)
        self.run = run
        self._layer = layer

    @property
    def name(self) -> str:
        """The map's name, which is that of its folder."""
        return self.store.uri.rpartition("/")[2]

    def __reduce__(self) -> tuple[type["StoredPoints"], tuple[object, ...]]:
        """The same points, whatever was kept of them, for another process."""
        given = (self.store.uri, RunDirectory(self.run.uri), self._layer)
        return StoredPoints, given

    @cached_property
    def info(self) -> dict[str, Any]:
        """What map.json said when it was first read."""
        return read_info(self.store)

    @property
    def n_points(self) -> int | None:
        """Points of the map, None where map.json does not say."""
        rows: int | None = (self.info.get("points") or {}).get("rows")
        return rows

    def is_same(self) -> bool:
        """Whether the map that is there now is still the one that `info` tells of."""
        try:
            return bool(read_info(self.store)[DIGEST] == self.info[DIGEST])
        except MapError:  # there is none any more
            return False

    def same(self) -> Store:
        """The folder; MapError if another map has taken the place of this one."""
        if not self.is_same():
            message = (
                f"the map {self.store.uri} was replaced since it was opened: open it "
                "again"
            )
            raise MapError(message)
        return self.store

    def check_rows(self) -> None:
        """Refuse a map of rows that the run no longer has; the parts' footers are read.

        A map that does not tell its rows is let pass.

        Raises:
            MapError: The map is of other rows.
        """
        told = self.info.get("rows")
        if told is None:
            return
        parts = [part for part in self.run.footers(self.run.slides()) if part.rows]
        if told != rows_digest(parts):
            message = (
                f"the map {self.store.uri} is of other rows than the run has now: run "
                "`raylatent map` again"
            )
            raise MapError(message)

    @cached_property
    def part_names(self) -> list[tuple[str, str]]:
        """Slide and name of each part, in order."""
        return points_parts(self.store)

    @cached_property
    def _parts_of_run(self) -> Callable[[str], list[Part]]:
        # Blocks in turn are of one slide: its footers are read once.
        return lru_cache(maxsize=8)(self.run.parts_of)

    @cached_property
    def layer(self) -> str:
        """The layer that was mapped; MapError as of `only_layer`."""
        return str(self._layer or self.info.get("layer") or only_layer(self.run))

    @property
    def slides(self) -> list[str]:
        """Names of the slides on the map, sorted."""
        return sorted({slide for slide, _ in self.part_names})

    def labeled(self, label: Label | None) -> Parts:
        """As parts of a mosaic's, with these labels."""
        return StoredParts(stored=self, label=label)

    def blocks(self, names: Sequence[tuple[str, str]], rows: int) -> Iterator[pa.Table]:
        """Points of some parts, as `MAP_POINTS`, about as many rows."""
        for table in iter_points(self.store, names, rows):
            # Larger ones are cut, since activations are read with them.
            for start in range(0, table.num_rows, 2 * rows):
                yield table.slice(start, 2 * rows)

    def vectors(self, table: pa.Table, column: str) -> NDArray[np.floating]:
        """Activations or predictions (n, width) of a block's points."""
        return read_vectors(self.run, table, column, self._parts_of_run)

    @cached_property
    def feature_rows(self) -> int:
        """Rows of a block, if their activations are read with it."""
        width = int(np.prod(self.run.layers().get(self.layer, (1,))))
        return max(1, min(_BLOCK_ROWS, _BLOCK_FEATURE_BYTES // (4 * max(1, width))))


@dataclass(frozen=True, kw_only=True)
class StoredParts(Parts):
    """Stored points as parts of a mosaic's; may be gone through again and again.

    Attributes:
        stored: The points.
        label: Of a block; None: points have no labels.
    """

    stored: StoredPoints
    label: Label | None = None

    @property
    def labels_of_tiles(self) -> bool:
        """See `Parts`."""
        return self.label is tile_labels

    def read(self, *columns: str) -> Iterator[Points]:
        """All points, see `Parts`.

        Raises:
            MapError: Another map has taken the place of this one, before or meanwhile.
        """
        self.stored.same()
        yield from self.some(self.stored.part_names, columns)
        self.stored.same()

    def some(
        self, names: Sequence[tuple[str, str]], columns: Iterable[str], first: int = 0
    ) -> Iterator[Points]:
        """Points of some parts in blocks.

        Args:
            names: Of `StoredPoints.part_names`.
            columns: What is wanted beside places and references.
            first: Number of the first point.
        """
        stored, wanted = self.stored, set(columns)
        label = self.label if LABELS in wanted else None
        predicted = PREDICTIONS in wanted and has_predictions(stored.run)
        rows = stored.feature_rows if FEATURES in wanted else _BLOCK_ROWS
        for table in stored.blocks(names, rows):
            n = table.num_rows
            yield Points(
                xy=schema.places(table),
                index=np.arange(first, first + n, dtype=np.int64),
                reference=as_reference(table),
                labels=None if label is None else label(table),
                features=stored.vectors(table, stored.layer)
                if FEATURES in wanted
                else None,
                predictions=stored.vectors(table, schema.PREDICTIONS)
                if predicted
                else None,
                knn_distance=knn_distances(table),
            )
            first += n


def only_layer(run: RunDirectory) -> str:
    """The layer of a run; MapError where it has several, of which none was told."""
    layers = list(run.layers())
    if len(layers) != 1:
        message = f"say which layer was mapped, layer=: the run has {layers}"
        raise MapError(message)
    return layers[0]


def tile_labels(points: pa.Table) -> pa.StringArray:
    """The labels that tiles have of their own."""
    return points[schema.LABEL].combine_chunks()


def has_predictions(run: RunDirectory) -> bool:
    """Whether predictions are stored beside the activations."""
    return bool(run.settings().get("fields", {}).get("predictions"))
