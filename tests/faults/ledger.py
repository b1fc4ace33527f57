"""What the fault campaign did and found: faults by kind, runs, and the audit of tiles.

The audit reads a run's Parquet files alone, and compares every tile with what a run that
was never disturbed has: each exactly once, row or quarantine, bit for bit.
"""

from collections import Counter
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from raylatent import schema
from raylatent.parts import slide_of
from raylatent.storage import Store

KINDS = (
    "death: driver killed",
    "death: actor killed",
    "death: node killed",
    "death: SIGTERM",
    "death: Ctrl-C",
    "death: ray job stop",
    "death: node leaves, another joins",
    "death: two drivers at once",
    "death: claim of another host",
    "death: actors outlive their driver",
    "death: no progress",
    "storage: disk full during a part",
    "storage: disk full during the map",
    "storage: disk full during a picture",
    "storage: read-only run directory",
    "storage: part truncated",
    "storage: part bit-flipped",
    "storage: footer bit-flipped",
    "storage: part deleted",
    "storage: quarantine deleted",
    "storage: plan broken",
    "storage: map broken",
    "storage: picture broken",
    "storage: late answers",
    "storage: errors",
    "storage: stops for a minute",
    "storage: aside files left",
    "storage: driver killed, run on S3",
    "storage: actor killed, run on S3",
    "data: payload flipped",
    "data: length checksum flipped",
    "data: length flipped",
    "data: truncated tail",
    "data: empty file",
    "data: zero-length record",
    "data: trailing garbage",
    "data: broken JPEG",
    "data: 16-bit picture",
    "data: CMYK picture",
    "data: grey picture",
    "data: alpha picture",
    "data: another size, resized",
    "data: another size, refused",
    "data: decompression bomb",
    "data: EXIF-rotated JPEG",
    "data: NaN-producing tile",
    "data: TFRecord grows",
    "data: TFRecord shrinks",
    "model: factory raises",
    "model: device out of memory",
    "model: weights with NaN",
    "model: actor dies at start",
    "model: exits in a pass",
    "hostile: slide names",
    "hostile: name too long",
    "hostile: labels",
    "hostile: index with pickles",
    "hostile: index beyond the file",
    "hostile: model.json leaves its folder",
    "hostile: pickle in weights",
    "hostile: annotations bomb",
    "memory: 1x, 4x, 16x tiles",
)
"""All that the whole campaign injects."""

Tables = tuple[pa.Table, pa.Table]


@dataclass(frozen=True)
class Audit:
    """What a comparison with the undisturbed rows found."""

    tiles: int = 0
    lost: int = 0
    doubled: int = 0
    differing: int = 0


class Campaign:
    """Counts of the whole session."""

    def __init__(self):
        self.faults = Counter()
        self.runs = 0
        self.audits = []

    def fault(self, kind, n=1):
        """`n` faults of a kind were injected."""
        assert kind in KINDS, kind
        self.faults[kind] += n

    def run(self, n=1):
        """`n` jobs ran, or tried to, under faults."""
        self.runs += n

    def audit(self, out, expected):
        """Compare a run with {slide: (rows, quarantine)}; it must be all the same."""
        found = compare(stored(out), expected)
        self.audits.append(found)
        assert found.tiles > 0
        assert (found.lost, found.doubled, found.differing) == (0, 0, 0), found
        return found

    def lines(self):
        """The last lines of the campaign."""
        width = max(map(len, KINDS))
        yield from (f"{kind:<{width}}  {self.faults[kind]:>6}" for kind in KINDS)
        total = {
            name: sum(getattr(audit, name) for audit in self.audits)
            for name in ("tiles", "lost", "doubled", "differing")
        }
        yield (
            f"faults {sum(self.faults.values()):,} of {len(self.faults)} kinds "
            f"(of {len(KINDS)}), "
            f"runs {self.runs:,}, tiles checked {total['tiles']:,}, "
            f"lost {total['lost']}, doubled {total['doubled']}, "
            f"differing {total['differing']}"
        )


def stored(out):
    """{slide: (rows, quarantine)} of all files of a run, plan or not."""
    store = Store(str(out))
    found = {}
    for folder, position in (("activations", 0), ("quarantine", 1)):
        for name in store.list(folder):
            assert name.endswith(".parquet"), name
            with store.open(name) as file:
                table = pq.ParquetFile(file).read().replace_schema_metadata()
            found.setdefault(slide_of(name), ([], []))[position].append(table)
    return {
        slide: tuple(pa.concat_tables(tables) if tables else None for tables in pair)
        for slide, pair in found.items()
    }


def compare(found, expected):
    """An Audit of what is found against what is expected."""
    tiles = lost = doubled = differing = 0
    for slide in sorted({*found, *expected}):
        have = _contents(found.get(slide, (None, None)))
        want = _contents(expected.get(slide, (None, None)))
        tiles += len(want)
        lost += len(want.keys() - have.keys())
        doubled += sum(len(contents) - 1 for contents in have.values())
        doubled += len(have.keys() - want.keys())
        differing += sum(
            any(content != want[key][0] for content in contents)
            for key, contents in have.items()
            if key in want
        )
    return Audit(tiles, lost, doubled, differing)


def _contents(tables):
    """{tile index: what is stored of it, by bits}, each time that it is."""
    contents = {}
    for kind, table in zip(("row", "quarantine"), tables, strict=True):
        if table is None or not table.num_rows:
            continue
        columns = [_values(table[name]) for name in table.column_names]
        indices = table[schema.TILE_INDEX].to_pylist()
        for index, *values in zip(indices, *columns, strict=True):
            contents.setdefault(index, []).append((kind, *values))
    return contents


def _values(column):
    """Values of a column, of vectors their bytes: 0.0 is not -0.0 here."""
    array = column.combine_chunks()
    if pa.types.is_fixed_size_list(array.type):
        flat = array.flatten().to_numpy()
        return [row.tobytes() for row in flat.reshape(len(array), -1)]
    return array.to_pylist()
