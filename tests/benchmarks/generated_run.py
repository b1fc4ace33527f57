"""A finished run of generated activations, as the library's own writer leaves it."""

import json

import numpy as np
import pyarrow as pa

WIDTH = 64
LAYER = "postconv"
CLASSES = 24
PICTURES = 64
TILE_PX = 32
LABELS = 6


def write_pictures(path):
    """Small pictures that all tiles share, and where their records are."""
    from raylatent.source.index import index_tfrecord
    from raylatent.source.record import TileRecord
    from raylatent.source.write import encode_tile, write_tfrecord

    shades = np.random.default_rng(0).integers(0, 256, (PICTURES, 1, 1, 3), np.uint8)
    pixels = np.broadcast_to(shades, (PICTURES, TILE_PX, TILE_PX, 3))
    tiles = (encode_tile(np.ascontiguousarray(tile), "png", 0) for tile in pixels)
    write_tfrecord(path, [TileRecord(tile, None, 0, 0) for tile in tiles])
    return index_tfrecord(str(path))


def vectors(n, seed):
    """Rows of some classes (n, 64) float16, each slide with a mixture of its own."""
    fixed = np.random.default_rng(7)
    centers = fixed.normal(size=(CLASSES, WIDTH)).astype(np.float32) * 0.7
    random = np.random.default_rng(seed)
    mixture = random.dirichlet(np.ones(CLASSES))
    rows = centers[random.choice(CLASSES, size=n, p=mixture)]
    rows += random.standard_normal((n, WIDTH), np.float32)
    return np.maximum(rows, 0).astype(np.float16)


def write_run(folder, n_rows, n_slides, unit_tiles):
    """A run of so many rows; a CSV of labels beside it."""
    from raylatent import schema
    from raylatent.run import RunDirectory
    from raylatent.source.protocol import Source, sources_table
    from raylatent.storage import file_stat

    folder.mkdir(parents=True)
    pictures = folder / "pictures.tfrecords"
    index = write_pictures(pictures)
    run = RunDirectory(str(folder / "run"))
    fields = {"model": "generated", "dtype": "float16", "unit_tiles": unit_tiles}
    run.begin(fields, {"layers": {LAYER: [WIDTH]}, "classes": None}, overwrite=False)
    stat, uri = file_stat(str(pictures)), str(pictures)
    sources = [
        Source(
            source=i,
            slide=f"slide{i:04d}",
            kind="tfrecords",
            uri=uri,
            stat=stat,
            n_indexed=n,
        )
        for i, n in enumerate(np.bincount(np.arange(n_rows) % n_slides).tolist())
    ]
    run.write_sources(sources_table(sources))
    kind = schema.activations_schema({LAYER: WIDTH}, dtype="float16", n_classes=None)
    for source in sources:
        for unit, first in enumerate(range(0, source.n_indexed, unit_tiles)):
            last = min(first + unit_tiles, source.n_indexed)
            _write_part(run, source, unit, (first, last), kind, index)
    lines = [f"{s.slide},{'ABCDEF'[s.source % LABELS]}" for s in sources]
    (folder / "labels.csv").write_text("\n".join(["slide,site", *lines, ""]))
    return folder / "run"


def _write_part(run, source, unit, extent, kind, index):
    from raylatent import schema
    from raylatent.parts import write_part

    first, last = extent
    tiles = np.arange(first, last)
    at = tiles % PICTURES
    values = vectors(len(tiles), [source.source, unit]).reshape(-1)
    flat = pa.FixedSizeListArray.from_arrays(
        pa.array(values), type=kind.field(LAYER).type
    )
    columns = {
        schema.TILE_INDEX: pa.array(tiles),
        schema.LOC_X: pa.array((tiles % 200 * TILE_PX).astype(np.int32)),
        schema.LOC_Y: pa.array((tiles // 200 * TILE_PX).astype(np.int32)),
        schema.SOURCE: pa.array(np.full(len(tiles), source.source, np.int32)),
        schema.OFFSET: pa.array(index.offsets[at]),
        schema.LENGTH: pa.array(index.lengths[at].astype(np.int32)),
        schema.NAME: pa.nulls(len(tiles), pa.string()),
        schema.LABEL: pa.nulls(len(tiles), pa.string()),
        LAYER: flat,
    }
    footer = {
        schema.FOOTER_FINGERPRINT: str(run.settings()["fingerprint"]),
        schema.FOOTER_SLIDE: source.slide,
        schema.FOOTER_UNIT: str(unit),
        schema.FOOTER_FIRST: str(first),
        schema.FOOTER_LAST: str(last),
        schema.FOOTER_QUARANTINED: "0",
        schema.FOOTER_LAYERS: json.dumps({LAYER: [WIDTH]}),
    }
    table = pa.Table.from_arrays([columns[name] for name in kind.names], schema=kind)
    write_part(run.store, run.part(source.slide, unit), table, footer)
