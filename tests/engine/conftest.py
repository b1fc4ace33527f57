"""Small slides, a small model, the plain loop, and processes that end with a test."""

import importlib.util
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from raylatent import schema
from tests.small_data import make_model_folder

CLASSES = ["adeno", "squamous", "other"]


@pytest.fixture(scope="session")
def small_model(tmp_path_factory):
    """A model folder: the small network with its weights, 96 px, 3 classes."""
    folder = tmp_path_factory.mktemp("model") / "small"
    changes = {"factory": "small_net:build", "classes": CLASSES, "outcome": ...}
    return str(make_model_folder(folder, **changes))


def _tiles(path):
    from raylatent.source.filebytes import iter_records
    from raylatent.source.index import index_tfrecord
    from raylatent.source.record import parse_example

    index = index_tfrecord(str(path))
    records = iter_records(str(path), index.offsets, index.lengths)
    return [parse_example(payload) for payload in records]


@pytest.fixture(scope="session")
def tiles(small_tfrecords):
    """The 64 tiles of the small slide g03."""
    return _tiles(small_tfrecords / "g03.tfrecords")


@pytest.fixture(scope="session")
def write_slide():
    """Write (folder, slide, tiles, bad): one TFRecord; `bad` tiles are no pictures."""
    from raylatent.source.write import write_tfrecord

    def write(folder, slide, tiles, bad=()):
        records = [
            replace(tile, slide=slide, image_raw=b"no picture" if i in bad else raw)
            for i, tile in enumerate(tiles)
            for raw in [tile.image_raw]
        ]
        path = Path(folder) / f"{slide}.tfrecords"
        write_tfrecord(path, records)
        return path

    return write


@pytest.fixture(scope="session")
def plain_loop():
    """Rows and quarantine of each slide by the plain loop: one process, no Ray."""
    from raylatent.config import UNIT_TILES, ActivationsConfig
    from raylatent.model.devices import lane_of
    from raylatent.model.features import Features
    from raylatent.model.rows import RowOptions, unit_rows
    from raylatent.model.spec import model_spec
    from raylatent.source.find import find_tfrecords
    from raylatent.source.protocol import number_sources
    from raylatent.source.tfrecords import index_source, load_unit, unit_plans
    from raylatent.tiles.stream import Threads

    def run(model, tfrecords, *, threads=1, tile_px=96, ids=None, **options):
        config = ActivationsConfig(
            out="unused", tfrecords=tuple(map(str, tfrecords)), **options
        )
        features = Features(
            replace(model_spec(model), tile_px=tile_px),
            layers=config.layers,
            pooling=config.pooling,
            batch_size=config.batch_size,
            device="cpu",
        )
        lane = lane_of(features)
        with_preds = features.classes is not None
        row_options = RowOptions(dtype=config.dtype, with_preds=with_preds)
        found = {}
        with ThreadPoolExecutor(threads) as pool:
            for number, (slide, uri) in enumerate(
                find_tfrecords(config.tfrecords).items()
            ):
                source, index = index_source(slide, uri, tile_px)
                known = {slide: number if ids is None else ids[slide]}
                (source,) = number_sources([source], known)
                units = [
                    unit_rows(
                        load_unit(plan), lane, row_options, Threads(pool, threads)
                    )
                    for plan in unit_plans(
                        source, index, config.unit_tiles or UNIT_TILES
                    )
                ]
                found[slide] = (
                    pa.concat_tables(unit.rows for unit in units),
                    pa.concat_tables(unit.quarantine for unit in units),
                )
        return found

    return run


def bits(column):
    """Bytes of a column's values, and where it is null: 0.0 is not -0.0 here."""
    array = column.combine_chunks()
    flat = array.flatten() if pa.types.is_fixed_size_list(array.type) else array
    if pa.types.is_string(flat.type):
        return flat.to_pylist()
    values = flat.fill_null(0).to_numpy(zero_copy_only=False)
    return values.tobytes(), array.is_null().to_pylist()


def quarantine_of(run, slide):
    """All quarantine rows of a slide, read from the files alone."""
    import pyarrow.parquet as pq

    from raylatent.parts import partition_folder

    folder = Path(run.uri) / "quarantine" / partition_folder(slide)
    tables = [
        pq.ParquetFile(file).read().replace_schema_metadata(None)
        for file in sorted(folder.glob("*.parquet"))
    ]
    return pa.concat_tables([schema.QUARANTINE.empty_table(), *tables])


@pytest.fixture(scope="session")
def assert_rows():
    """Assert that a run's rows and quarantine are, bit for bit, what is expected."""
    from raylatent.run import RunDirectory

    def check(out, expected):
        run = RunDirectory.open(str(out))
        have = {s for s in expected if expected[s][0].num_rows}
        assert set(run.slides()) >= have
        for slide, (rows, quarantine) in expected.items():
            stored = run.read_rows(slide).replace_schema_metadata(None)
            assert stored.schema.equals(rows.schema), slide
            assert stored.num_rows == rows.num_rows, slide
            for name in rows.column_names:
                same = bits(stored[name]) == bits(rows[name])
                assert same, f"{name} of {slide} differs"
            assert quarantine_of(run, slide).equals(quarantine), slide
        indexed = dict(
            zip(*run.sources().select([schema.SLIDE, schema.N_INDEXED]), strict=True)
        )
        for slide, n in indexed.items():
            name = slide.as_py()
            n_rows = sum(
                part.rows for part in run.footers([name])
            )  # as their footers say
            assert n_rows + len(quarantine_of(run, name)) == n.as_py()
        litter = [
            file.name
            for file in Path(run.uri).rglob("*")
            if file.name == "claim.json" or file.suffix == ".aside"
        ]
        assert not litter

    return check


@pytest.fixture(scope="session")
def assert_same(small_model, plain_loop, assert_rows):
    """Assert that a run's rows are those of the plain loop over the same files."""

    def check(out, tfrecords, *, model=small_model, unit_tiles=20, **options):
        expected = plain_loop(model, tfrecords, unit_tiles=unit_tiles, **options)
        assert_rows(out, expected)

    return check


@pytest.fixture
def in_process(ray_session, monkeypatch):
    """Actors run in the driver, one unit after another: what the driver does is real."""
    from raylatent.engine import activations, extraction, map_rows

    def stream(name, items, actor, arguments, share, **options):
        if items:
            worker = actor(*arguments)
            for item in items:
                yield from worker(item).to_pylist()

    for module in (activations, extraction, map_rows):
        monkeypatch.setattr(module, "stream", stream)


@pytest.fixture
def compute(small_model):
    """Compute activations with options of ActivationsConfig; the report."""
    from raylatent.config import ActivationsConfig
    from raylatent.engine.activations import compute_activations
    from raylatent.model.spec import model_spec

    def run(out, tfrecords, *, model=small_model, **options):
        options.setdefault("unit_tiles", 20)
        config = ActivationsConfig(
            out=str(out), tfrecords=tuple(map(str, tfrecords)), **options
        )
        return compute_activations(config, model_spec(model))

    return run


@pytest.fixture(scope="session")
def beside():
    """Import a file of this folder, which is no package, by its name."""

    def load(name):
        path = Path(__file__).with_name(f"{name}.py")
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def sandbox(beside):
    """Starts processes that have a Ray of their own, all of which end with the test."""
    # Sockets below it may have 107 bytes.
    box = beside("sandbox").Sandbox(tempfile.mkdtemp(prefix="rls", dir="/tmp"))
    yield box
    box.close()


@pytest.fixture
def source(tmp_path, tiles, write_slide):
    """A folder with slides a (64 tiles), b (30), c (5)."""
    folder = tmp_path / "tfrecords"
    folder.mkdir()
    write_slide(folder, "a", tiles)
    write_slide(folder, "b", tiles[:30])
    write_slide(folder, "c", tiles[:5])
    return folder


@pytest.fixture
def parts_of():
    """Name -> inode and time of each activations part: the same where not redone."""

    def look(out):
        return {
            file.relative_to(out).as_posix(): (
                file.stat().st_ino,
                file.stat().st_mtime_ns,
            )
            for file in sorted(Path(out).glob("activations/*/*.parquet"))
        }

    return look


@pytest.fixture
def compute_slides(compute):
    """Compute activations of whole slides, tiles of 96 pixels and 48 µm; the report."""

    def run(out, slides, *, tfrecords=(), **options):
        options.setdefault("tile_um", "48")
        return compute(out, tfrecords, slides=tuple(map(str, slides)), **options)

    return run


@pytest.fixture
def extract():
    """Extract such tiles to TFRecords; the report."""
    from raylatent.config import ExtractTilesConfig
    from raylatent.engine.extraction import extract_tiles

    def run(out, slides, **options):
        given = {"tile_px": 96, "tile_um": "48", "unit_tiles": 20, **options}
        paths = tuple(map(str, slides))
        return extract_tiles(ExtractTilesConfig(out=str(out), slides=paths, **given))

    return run
