"""The plan over a file, and its units."""

import io

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from raylatent import schema
from raylatent.errors import StorageError
from raylatent.source.protocol import (
    Source,
    number_sources,
    sources_from_table,
    sources_table,
)
from raylatent.source.record import TileRecord, frame
from raylatent.source.tfrecords import index_source, load_unit, unit_plans
from raylatent.source.write import example, write_tfrecord
from raylatent.storage import FileStat
from tests.source.frames import write_sidecar


def tiles(n):
    return [
        TileRecord(image_raw=bytes(i), slide="s", loc_x=i, loc_y=0) for i in range(n)
    ]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(n=st.integers(0, 40), unit_tiles=st.integers(1, 45), beside=st.booleans())
def test_units_tile_the_file(tmp_path, n, unit_tiles, beside):
    path = tmp_path / "s.tfrecords"
    write_tfrecord(path, tiles(n))
    if not beside:
        (tmp_path / "s.index.npz").unlink()
    source, index = index_source("s", str(path), 96)
    assert (source.n_indexed, source.error) == (n, None)
    plans = unit_plans(source, index, unit_tiles)
    assert [plan.unit for plan in plans] == list(range(-(-n // unit_tiles)))
    units = [load_unit(plan) for plan in plans]
    offsets = [unit.offsets for unit in units]
    assert np.array_equal(np.concatenate([*offsets, np.empty(0, int)]), index.offsets)
    for unit, plan in zip(units, plans, strict=True):
        assert (unit.first, unit.last) == (plan.first, plan.last)
        assert unit.first == plan.unit * unit_tiles
        assert len(unit) == plan.count <= unit_tiles


def test_a_file_that_grows_renames_nothing(tmp_path):
    path = tmp_path / "s.tfrecords"
    plans = []
    for n in (10, 17):
        write_tfrecord(path, tiles(n))
        source, index = index_source("s", str(path), None)
        plans.append(unit_plans(source, index, 4))
    before, after = ([(p.unit, p.first, p.start) for p in plan] for plan in plans)
    assert after[: len(before)] == before
    write_tfrecord(path, tiles(2))
    with pytest.raises(StorageError, match="run again"):
        load_unit(plans[1][-1])


@pytest.mark.parametrize(
    ("content", "n", "says"),
    [
        (b"", 0, None),
        (b"no TFRecord at all", 0, "is no TFRecord"),
        (frame(b"no example \xff"), 0, "not a tf.train.Example"),
        (frame(b""), 0, "no image_raw"),
        (frame(b"abc")[:-1] + b"x", 1, None),  # a bad tile, not a bad file
        (frame(b"abc")[:-3], 1, "breaks off in record 0"),
    ],
)
def test_what_a_file_can_be(tmp_path, content, n, says):
    path = tmp_path / "s.tfrecords"
    path.write_bytes(content)
    source, index = index_source("s", str(path), None)
    assert source.n_indexed == len(index) == n
    assert source.stat.size == len(content)
    assert (source.error is None) == (says is None)
    if says:
        assert says in source.error
        assert str(path) in source.error


@pytest.mark.parametrize("n_good", [0, 1])
def test_a_file_is_given_up_only_if_no_record_is_a_tile(tmp_path, n_good):
    """The first, middle and last are looked at; are they bad, so are others."""
    path = tmp_path / "s.tfrecords"
    contents = [b"", b"", b"", b"", b""]
    if n_good:
        contents[1] = example(tiles(1)[0])
    path.write_bytes(b"".join(map(frame, contents)))
    source, index = index_source("s", str(path), None)
    assert source.n_indexed == len(index) == 5 * n_good
    assert (source.error is None) == bool(n_good)


def test_an_index_replaced_since_the_plan_is_noticed(tmp_path):
    path = tmp_path / "s.tfrecords"
    write_tfrecord(path, tiles(6))
    plan = unit_plans(*index_source("s", str(path), 96), 4)[1]
    frames = np.load(tmp_path / "s.index.npz")["arr_0"]
    shifts = [[0, 0], [0, 1], [1, -1], [0, 1], [1, -1], [0, 0]]
    moved = frames + np.array(shifts)
    write_sidecar(path, moved)
    with pytest.raises(StorageError, match="has changed since it was read"):
        load_unit(plan)


def test_a_file_that_is_gone(tmp_path):
    source, index = index_source("s", str(tmp_path / "s.tfrecords"), None)
    assert "no such file" in source.error
    assert len(index) == 0


def source_of(slide, **changes):
    stat = FileStat(size=5, mtime_ns=1_700_000_000_123_456_789, etag='"e"')
    values = {
        "source": 0,
        "slide": slide,
        "kind": "slides",
        "uri": f"/é/{slide}",
        "stat": stat,
        "n_indexed": 3,
    }
    return Source(**{**values, **changes})


def test_ids_are_kept_and_never_given_again():
    numbered = number_sources([source_of(s) for s in "cab"], {"a": 4, "gone": 7})
    assert {s.slide: s.source for s in numbered} == {"c": 8, "a": 4, "b": 9}


def test_sources_as_a_table_and_back():
    no_time = FileStat(size=0, mtime_ns=None)
    sources = [source_of("007"), source_of("b ✓", stat=no_time, tile_px=96, error="x")]
    table = sources_table(sources)
    assert table.schema == schema.SOURCES
    assert sources_from_table(table) == sources
    assert sources_from_table(sources_table([])) == []
    assert table["slide"].type == pa.string()


def test_the_tiles_own_side_and_what_their_folder_tells(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40)).save(buffer, "JPEG")
    folder = tmp_path / "40px_302um"
    folder.mkdir()
    good = TileRecord(image_raw=buffer.getvalue())
    broken = TileRecord(image_raw=b"no picture")
    found = []
    for name, records in (("a", [good] * 3), ("b", [broken, good]), ("c", [broken])):
        write_tfrecord(folder / f"{name}.tfrecords", records)
        found.append(index_source(name, str(folder / f"{name}.tfrecords"), 224)[0])
    table = sources_table(found)
    assert table[schema.TILE_PX].to_pylist() == [40, 40, 224]
    assert table[schema.TILE_UM].to_pylist() == [302.0] * 3
    assert table[schema.ERROR].to_pylist() == [None] * 3
