"""One unit of tiles to rows: the plain loop's numbers, and what becomes of bad tiles."""

import contextlib
import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from torch import nn

from raylatent import schema
from raylatent.errors import StorageError
from raylatent.model import Features
from raylatent.model.devices import CudaLane, lane_of
from raylatent.model.rows import RowOptions, unit_rows
from raylatent.source.index import index_tfrecord
from raylatent.source.protocol import Source
from raylatent.source.record import TileRecord
from raylatent.source.tfrecords import RecordUnit
from raylatent.source.write import write_tfrecord
from raylatent.storage import file_stat
from raylatent.tiles.decoders import Decoders
from raylatent.tiles.stream import Threads
from tests.model.fake_cuda import FakeCuda

PX = 16


def jpeg(seed=0, px=PX, kind="PNG"):
    pixels = np.random.default_rng(seed).integers(0, 256, (px, px, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind)
    return buffer.getvalue()


def pixels_of(image_raw):
    return np.asarray(Image.open(io.BytesIO(image_raw)).convert("RGB"))


class Net(nn.Module):
    """Scores of the mean color, and a layer that is scaled up."""

    def __init__(self, scale=1.0):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)
        self.scale = scale

    def forward(self, x):
        return self.head((self.conv(x) * self.scale).mean((2, 3)))


@pytest.fixture(scope="module")
def features():
    return Features(Net(), tile_px=PX, classes=2, include_preds=True)


@pytest.fixture(scope="module")
def threads():
    with ThreadPoolExecutor(2) as pool:
        yield Threads(pool, 2)


@pytest.fixture
def unit_of(tmp_path):
    """A file of records as one unit, or a part of it."""

    def write(records, first=0, last=None):
        path = tmp_path / "s1.tfrecords"
        write_tfrecord(path, records)
        index = index_tfrecord(str(path))
        source = Source(
            source=4,
            slide="s1",
            kind="tfrecords",
            uri=str(path),
            stat=file_stat(str(path)),
            n_indexed=len(index.offsets),
            tile_px=PX,
        )
        return RecordUnit(
            source=source,
            unit=0,
            first=first,
            offsets=index.offsets[first:last],
            lengths=index.lengths[first:last],
        )

    return write


def records(n, **changes):
    return [
        TileRecord(
            **{"image_raw": jpeg(i), "slide": "s1", "loc_x": i, "loc_y": 2 * i}
            | changes
        )
        for i in range(n)
    ]


def vectors(table, name):
    column = table[name].combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)


def run(unit, features, threads, **options):
    return unit_rows(
        unit, lane_of(features), RowOptions(**{"with_preds": True} | options), threads
    )


def test_rows_are_those_of_the_plain_loop(unit_of, features, threads):
    tiles = records(45)
    found = run(unit_of(tiles), features, threads)
    acts, preds = features(np.stack([pixels_of(t.image_raw) for t in tiles]))
    np.testing.assert_allclose(vectors(found.rows, "postconv"), acts, atol=1e-6)
    np.testing.assert_allclose(vectors(found.rows, "predictions"), preds, atol=1e-6)
    assert found.rows.schema.equals(
        schema.activations_schema({"postconv": 4}, n_classes=2)
    )
    assert found.rows["tile_index"].to_pylist() == list(range(45))
    assert found.rows["loc_y"].to_pylist() == [2 * i for i in range(45)]
    assert set(found.rows["source"].to_pylist()) == {4}
    assert len(found.quarantine) == 0
    assert found.quarantine.schema.equals(schema.QUARANTINE)
    assert found.counts["resized"] == found.counts["other_slide"] == 0
    seconds = found.seconds
    assert set(seconds) == {"read", "decode", "wait", "transfer", "forward"}
    assert min(seconds["read"], seconds["decode"], seconds["forward"]) > 0


@pytest.mark.parametrize("first", [0, 7, 40])
def test_a_row_does_not_depend_on_its_unit(unit_of, features, threads, first):
    tiles = records(45)
    whole = run(unit_of(tiles), features, threads).rows
    part = run(unit_of(tiles, first, first + 5), features, threads).rows
    assert part.equals(whole.slice(first, 5).combine_chunks())


def test_a_bad_tile_changes_no_other(unit_of, features, threads):
    tiles = records(20)
    good = run(unit_of(tiles), features, threads).rows
    tiles[3] = TileRecord(b"no picture", "s1", 3, 6)
    tiles[19] = TileRecord(tiles[19].image_raw[:90], "s1", 19, 38)
    found = run(unit_of(tiles), features, threads)
    kept = [i for i in range(20) if i not in {3, 19}]
    assert found.rows["tile_index"].to_pylist() == kept
    for name in ("postconv", "predictions"):
        np.testing.assert_array_equal(
            vectors(found.rows, name), vectors(good, name)[kept]
        )
    bad = found.quarantine.to_pylist()
    assert [row["tile_index"] for row in bad] == [3, 19]
    assert [row["loc_x"] for row in bad] == [3, 19]
    assert {row["stage"] for row in bad} == {"decode"}
    assert "neither JPEG nor PNG" in bad[0]["error"]


def test_a_checksum_that_does_not_match(unit_of, features, threads):
    unit = unit_of(records(4))
    with open(unit.source.uri, "r+b") as file:  # noqa: PTH123
        file.seek(int(unit.offsets[2]) + 40)
        file.write(b"\xff\x00\xff")
    found = run(unit, features, threads)
    assert found.rows["tile_index"].to_pylist() == [0, 1, 3]
    (bad,) = found.quarantine.to_pylist()
    assert bad["stage"] == "read"
    assert bad["loc_x"] is None
    assert bad["offset"] == unit.offsets[2]


def test_all_bad(unit_of, features, threads):
    found = run(unit_of([TileRecord(b"x", "s1", 0, 0)] * 3), features, threads)
    assert len(found.rows) == 0
    assert len(found.quarantine) == 3


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_is_not_finite_is_quarantined(unit_of, threads, dtype):
    """float16 ends at 65,504, float32 at 3.4e38; a tile of zeros stays."""
    scale = 1e6 if dtype == "float16" else 3e38
    net = Net(scale)
    with torch.no_grad():
        net.conv.bias.zero_()
    features = Features(net, tile_px=PX, mean=0, std=1)
    black = io.BytesIO()
    Image.new("RGB", (PX, PX)).save(black, format="PNG")
    tiles = records(3)
    tiles[1] = TileRecord(black.getvalue(), "s1", 1, 2)
    found = run(unit_of(tiles), features, threads, dtype=dtype, with_preds=False)
    assert found.rows["tile_index"].to_pylist() == [1]
    assert found.rows.schema.field("postconv").type.value_type == pa.type_for_alias(
        dtype
    )
    assert [row["stage"] for row in found.quarantine.to_pylist()] == ["forward"] * 2
    assert f"not finite in {dtype}" in found.quarantine["error"][0].as_py()


def test_other_sizes_are_resized_and_counted(unit_of, features, threads):
    tiles = records(5)
    tiles[2] = TileRecord(jpeg(2, px=2 * PX), "s1", 2, 4)
    tiles[4] = TileRecord(jpeg(4, px=9), "s1", 4, 8)
    found = run(unit_of(tiles), features, threads)
    assert len(found.rows) == 5
    assert found.counts["resized"] == 2


def test_records_of_another_slide_are_counted(unit_of, features, threads):
    tiles = records(5)
    tiles[1] = TileRecord(tiles[1].image_raw, "s2", 1, 2)
    tiles[2] = TileRecord(tiles[2].image_raw, None, 2, 4)
    found = run(unit_of(tiles), features, threads)
    assert len(found.rows) == 5
    assert found.counts["other_slide"] == 1


def test_a_location_beyond_any_slide_is_quarantined(unit_of, features, threads):
    tiles = records(3)
    tiles[1] = TileRecord(tiles[1].image_raw, "s1", 1 << 40, 2)
    found = run(unit_of(tiles), features, threads)
    assert found.rows["tile_index"].to_pylist() == [0, 2]
    assert found.quarantine["stage"].to_pylist() == ["parse"]
    assert found.quarantine["loc_x"].to_pylist() == [None]


def test_without_locations(unit_of, features, threads):
    found = run(unit_of(records(3, loc_x=None, loc_y=None)), features, threads)
    assert found.rows["loc_x"].null_count == 3


def test_maps_are_stored_flattened(unit_of, threads):
    features = Features(Net(), layers=["conv", "head"], tile_px=PX)
    tiles = records(20)
    found = run(unit_of(tiles), features, threads, with_preds=False)
    side = PX - 2
    assert features.shapes == {"conv": (4, side, side), "head": (2,)}
    alone = Features(Net(), layers="conv", tile_px=PX)
    expected = alone(np.stack([pixels_of(t.image_raw) for t in tiles]))
    np.testing.assert_allclose(
        vectors(found.rows, "conv").reshape(20, 4, side, side), expected, atol=1e-6
    )
    assert "predictions" not in found.rows.column_names


@pytest.mark.parametrize("n_threads", [1, 2, 4])
def test_threads_do_not_change_bits(unit_of, features, threads, n_threads):
    unit = unit_of(records(45))
    expected = run(unit, features, threads).rows
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        with ThreadPoolExecutor(n_threads) as pool:
            assert run(unit, features, Threads(pool, n_threads)).rows.equals(expected)
    finally:
        torch.set_num_threads(before)


def test_processes_that_decode_do_not_change_bits(unit_of, features, threads):
    lane = CudaLane(features, FakeCuda())
    with contextlib.closing(Decoders(2)) as decoders:
        for n in (1, features.batch_size, 150):
            tiles = records(n)
            tiles[n // 2] = TileRecord(image_raw=b"no picture", slide="s1")
            unit = unit_of(tiles)
            expected = run(unit, features, threads)
            apart = replace(threads, decoders=decoders)
            found = unit_rows(unit, lane, RowOptions(with_preds=True), apart)
            assert found.rows.equals(expected.rows)
            assert found.quarantine.equals(expected.quarantine)
            assert found.counts == expected.counts
            assert len(expected.quarantine) == 1
    assert len(lane._free) <= 5


def test_buffers_are_free_again_after_a_failure(unit_of, features, threads):
    lane = CudaLane(features, FakeCuda())
    unit = unit_of(records(150))
    Path(unit.source.uri).unlink()
    with contextlib.closing(Decoders(1)) as decoders:
        for _ in range(3):
            with pytest.raises(StorageError):
                unit_rows(unit, lane, RowOptions(), replace(threads, decoders=decoders))
    assert len(lane._free) == 2


def test_a_dead_layer_is_told_of_the_good_tiles_alone(unit_of, threads):
    """A tile that is broken, and padding, are black: they make no layer vary."""
    net = Net()
    torch.nn.init.zeros_(net.conv.weight)
    torch.nn.init.constant_(net.conv.bias, 0.5)
    features = Features(net, layers=["conv", "head"], tile_px=PX)
    tiles = records(40)
    tiles[7] = replace(tiles[7], image_raw=b"broken")
    found = run(unit_of(tiles), features, threads, with_preds=False)
    assert len(found.quarantine) == 1
    assert set(found.constants) == {"conv", "head"}
    assert found.constants["conv"] == (0.5, 0.5)
    alive = Features(Net(), layers=["conv", "head"], tile_px=PX)
    assert not run(unit_of(tiles), alive, threads, with_preds=False).constants
