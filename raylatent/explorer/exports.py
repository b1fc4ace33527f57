"""The tiles of a selection as files that other programs read.

Names of slides and regions are data: where they become names of files, what cannot be one
is escaped; in tables what a spreadsheet would take for a formula begins with `'`.
"""

import csv
import io
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from types import SimpleNamespace
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raylatent import schema
from raylatent.errors import IncompleteError
from raylatent.explorer.members import FIRST, MEMBERS, REGION
from raylatent.explorer.on_slides import Sheet, SlidePicture, card_of, png
from raylatent.explorer.tile_squares import TileSquare
from raylatent.mapping.labels import category_colors, entries_of
from raylatent.parts import escape_partition, unescape_partition
from raylatent.storage import Store, absolute
from raylatent.stored.mosaic_inputs import Located
from raylatent.tiles.fetch import stored_tiles

logger = logging.getLogger(__name__)

UNNAMED = "selection"
"""What the tiles of a polygon without name are called."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_TABLES, _ROWS = 16, 1 << 17  # that are held, and of a row group
_MOST_NAME_BYTES = 240

Members = Iterator[pa.Table]


@dataclass(frozen=True, kw_only=True)
class Export:
    """What is to be written, beside the tiles themselves; sources are told by id.

    `regions` are names, empty for one without; `pictures` are of slides.
    """

    fingerprint: str
    regions: Sequence[str]
    squares: Mapping[int, TileSquare] = field(default_factory=dict)
    located: Mapping[int, Located] = field(default_factory=dict)
    pictures: Callable[[str], SlidePicture | None] = lambda _: None

    def colors(self) -> dict[str, str]:
        """A color for each region, `#rrggbb`."""
        hues = category_colors(len(self.regions))
        return dict(zip(self.regions, hues, strict=True))


def write_csv(path: str, members: Members, _: Export) -> int:
    """A table of all tiles as RFC 4180 has it; the number of tiles."""
    store, name = _split(path)
    n = 0
    with store.writing(name) as append:
        append(_lines([FIRST]))
        for table in members:
            append(_lines(zip(*(_text(table, one) for one in FIRST), strict=True)))
            n += len(table)
    return n


def write_parquet(path: str, members: Members, _: Export) -> int:
    """A table of all tiles, their whole references among it; the number of tiles."""
    store, name = _split(path)
    n = 0
    with store.writing(name) as append:
        file = SimpleNamespace(write=append, close=lambda: None, closed=False)
        sink = pa.PythonFile(file, mode="w")
        about = {"compression": "zstd", "write_page_checksum": True}
        with pq.ParquetWriter(sink, MEMBERS, **about) as writer:
            # Tables of small slides make a row group together.
            while held := list(islice(members, _TABLES)):
                writer.write_table(pa.concat_tables(held), _ROWS)
                n += sum(map(len, held))
    return n


def write_geojson(folder: str, members: Members, export: Export) -> int:
    """A file for QuPath for each slide, `<slide>.geojson`; the number of tiles.

    Coordinates are level-0 pixels from the slide's bounds on, as QuPath has them. Tiles
    whose side is not known are points; those without location are left out, and counted.
    """
    colors = export.colors()
    n = 0
    for tables, writing in _files(folder, members, ".geojson"):
        with writing as append:
            append(b'{"type": "FeatureCollection", "features": [')
            comma = "\n"
            for table in tables:
                for row in table.to_pylist():
                    append(f"{comma}{_feature(row, export, colors)}".encode())
                    comma = ",\n"
                n += len(table)
            append(b"\n]}\n")
    return n


def write_rois(folder: str, members: Members, export: Export) -> int:
    """Regions of interest as Slideflow reads them, `<slide>.csv`; the number of tiles.

    Tiles beside each other in a row are one rectangle. Coordinates are level-0 pixels.
    """
    n = 0
    for tables, writing in _files(folder, members, ".csv"):
        with writing as append:
            append(_lines([("roi_name", "x_base", "y_base", "label")]))
            whole = pa.concat_tables(tables)
            n += len(whole)
            for number, (region, box) in enumerate(rectangles(whole, export), 1):
                x0, y0, x1, y1 = box
                label = guarded(region)
                corners = ((x0, y0), (x1, y0), (x1, y1), (x0, y1))
                append(_lines((f"ROI_{number}", *at, label) for at in corners))
    return n


def rectangles(
    table: pa.Table, export: Export
) -> Iterator[tuple[str, tuple[int, int, int, int]]]:
    """Regions and rectangles x0, y0, x1, y1 of tiles of a source that touch in a row."""
    if not table.num_rows:
        return
    square = export.squares.get(table[schema.SOURCE][0].as_py(), TileSquare())
    side = square.window_px or 0
    names = (schema.LOC_Y, schema.LOC_X)
    y, x = (table[name].to_numpy().astype(np.int64) for name in names)
    called = table[REGION].fill_null(UNNAMED).combine_chunks().dictionary_encode()
    region, regions = called.indices.to_numpy(), called.dictionary.to_pylist()
    order = np.lexsort((x, y, region))
    region, y, x = region[order], y[order], x[order]
    apart = (np.diff(region) != 0) | (np.diff(y) != 0) | (np.diff(x) > side)
    starts = np.concatenate([[0], np.flatnonzero(apart) + 1])
    ends = np.concatenate([starts[1:] - 1, [len(x) - 1]])
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        x0, y0 = square.corner(int(x[start]), int(y[start]))
        x1 = square.corner(int(x[end]), 0)[0] + side
        yield regions[region[start]], (x0, y0, x1, y0 + side)


def write_pictures(folder: str, members: Members, export: Export) -> int:
    """The tiles themselves, `<slide>/<tile index>.png`; how many there are.

    A tile that cannot be read any more is left out, and said with the reason.

    Raises:
        IncompleteError: At the end, where some were left out.
    """
    store = Store(folder)
    n = lost = 0
    for table in members:
        rows = table.to_pylist()
        located = export.located.get(rows[0][schema.SOURCE])  # a slide is one source
        if located is None:
            logger.warning("%d tiles are of no source", len(rows))
            lost += len(rows)
            continue
        places = [located.place(row) for row in rows]
        side = located.source.tile_px or 0  # known where tiles are cut out of slides
        for position, tile in stored_tiles(places, side, own_size=True):
            row = rows[position]
            if isinstance(tile, str):
                about = (row[schema.TILE_INDEX], row[schema.SLIDE], tile)
                logger.warning("tile %d of slide %s is left out: %s", *about)
                lost += 1
                continue
            slide = file_name(row[schema.SLIDE])
            store.write(f"{slide}/{row[schema.TILE_INDEX]}.png", png(tile))
            n += 1
    if lost:
        message = (
            f"{lost:,} of {n + lost:,} tiles could not be read and are missing in "
            f"{store.uri}; the others are there (--source-root PATH, if they were moved)"
        )
        raise IncompleteError(message)
    return n


def write_on_slides(folder: str, members: Members, export: Export) -> int:
    """The tiles on each slide, `slides/<slide>.png`, and `sheet.png`; how many there are."""
    colors = export.colors()
    whole, counts = Sheet(), Counter[str]()
    for tables, writing in _files(f"{folder}/slides", members, ".png", every=True):
        with writing as append:
            tiles = pa.concat_tables(tables)
            names = [name or "" for name in tiles[REGION].to_pylist()]
            counts.update(filter(None, names))
            own = [colors[name] for name in names]
            card = card_of(tiles, export.pictures, export.squares, own)
            append(png(card.image))
            whole.add(card)
    Store(folder).write("sheet.png", png(whole.picture(entries_of(counts, colors))))
    return whole.n_tiles


WRITERS: Mapping[str, Callable[[str, Members, Export], int]] = {
    "csv": write_csv,
    "geojson": write_geojson,
    "roi": write_rois,
    "parquet": write_parquet,
    "png": write_pictures,
    "slides": write_on_slides,
}


def file_name(slide: str) -> str:
    """A slide's name as that of a file: as it is, where it can be.

    >>> file_name("a'b<c>&=%20 ü"), file_name("../a"), file_name("..")
    ("a'b<c>&=%20 ü", '..%2Fa', '%2E%2E')
    >>> file_name("a/b"), file_name("a%2Fb")
    ('a%2Fb', 'a%252Fb')
    """
    plain = slide.isprintable() and not {"/", "\\"} & set(slide)
    if plain and slide.strip(".") and len(slide.encode()) <= _MOST_NAME_BYTES:
        other = unescape_partition(slide)
        if other == slide or file_name(other) != slide:  # else it would be the other's
            return slide
    return escape_partition(slide)


def guarded(text: str) -> str:
    """A text that no spreadsheet takes for a formula.

    >>> guarded("=1+1"), guarded("S-07")
    ("'=1+1", 'S-07')
    """
    return f"'{text}" if text.startswith(_FORMULA) else text


def _text(table: pa.Table, column: str) -> list[str]:
    """A column as text, empty for null and NaN; float32 in as few digits as tell it."""
    values: list[str] = table[column].cast(pa.string()).fill_null("").to_pylist()
    if table.schema.field(column).type == pa.string():
        return list(map(guarded, values))
    return ["" if value == "nan" else value for value in values]


def _lines(rows: Iterable[Sequence[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue().encode()


def _feature(row: Mapping[str, Any], export: Export, colors: Mapping[str, str]) -> str:
    square = export.squares.get(row[schema.SOURCE], TileSquare())
    region = row[REGION] or ""
    slide, tile = row[schema.SLIDE], row[schema.TILE_INDEX]
    color = bytes.fromhex(colors[region].removeprefix("#"))
    dx, dy = square.bounds or (0, 0)
    x, y = square.corner(row[schema.LOC_X] - dx, row[schema.LOC_Y] - dy)
    geometry: dict[str, Any] = {"type": "Point", "coordinates": [x, y]}
    if (side := square.window_px) is not None:
        ring = [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]
        geometry = {"type": "Polygon", "coordinates": [ring]}
    measured = {key: row[key] for key in (schema.X, schema.Y, schema.KNN_DISTANCE)}
    known = {k: v for k, v in measured.items() if v is not None and np.isfinite(v)}
    properties = {
        "objectType": "detection",
        "name": f"{slide} {tile}",
        "classification": {"name": region or UNNAMED, "color": [*color]},
        "measurements": known,
        "metadata": {schema.SLIDE: slide, schema.TILE_INDEX: str(tile)},
    }
    unique = f"raylatent:{export.fingerprint}:{slide}:{tile}"
    about = {"type": "Feature", "id": str(uuid5(NAMESPACE_URL, unique))}
    feature = {**about, "geometry": geometry, "properties": properties}
    return json.dumps(feature, ensure_ascii=False, allow_nan=False)


def _files(
    folder: str, members: Members, ending: str, *, every: bool = False
) -> Iterator[tuple[Iterator[pa.Table], Any]]:
    """The tiles of each slide, with a location if not `every`, and what writes its file."""
    store, lost = Store(folder), 0
    others = {name for name in store.root_files() if name.endswith(ending)}

    def located(tables: Members) -> Iterator[pa.Table]:
        nonlocal lost
        for table in tables:
            own = table if every else table.filter(pc.is_valid(table[schema.LOC_X]))
            lost += len(table) - len(own)
            yield own

    for slide, tables in groupby(members, lambda table: table[schema.SLIDE][0].as_py()):
        name = file_name(slide) + ending
        others.discard(name)
        yield located(tables), store.writing(name)
    if lost:
        logger.warning("%d tiles have no location on their slide: left out", lost)
    if others:
        logger.warning(
            "%s has %d other files %s, which were there before: they are of no tile of "
            "this selection",
            *(store.uri, len(others), ending),
        )


def _split(path: str) -> tuple[Store, str]:
    folder, name = absolute(path).rsplit("/", 1)
    return Store(folder or "/"), name
