"""A unit's tiles as pixels: of slides and of TFRecords, ahead of who uses them."""

import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import fsspec
import numpy as np
import pytest

from raylatent.errors import ContentError, StorageError
from raylatent.source.record import TileRecord
from raylatent.source.tfrecords import index_source, load_unit, unit_plans
from raylatent.source.tissue import TissueOptions
from raylatent.source.whole_slides import (
    SlideRequest,
    SlideUnit,
    detect_tiles,
    open_slide,
    source_of_slide,
)
from raylatent.source.write import encode_tile, write_tfrecord
from raylatent.source.wsi import TileOptions
from raylatent.source.wsi.regions import SlideCache
from raylatent.source.wsi.selection import kept_tiles
from raylatent.tiles.stream import Threads, unit_tiles
from raylatent.tiles.tile import Side
from tests.engine import slide_files


@pytest.fixture(params=[1, 3])
def threads(request):
    with ThreadPoolExecutor(request.param) as pool:
        yield Threads(pool, request.param)


def unit_of(uri, *, slide="s", first=0, last=None, **options):
    """Tiles [first, last) of a slide as a unit."""
    tiles = TileOptions(**{"tile_px": 96, "tile_um": "48", **options})
    request = SlideRequest(uri=str(uri), tiles=tiles, tissue=TissueOptions())
    opened = open_slide(slide, request)
    rows, cols = kept_tiles(detect_tiles(opened, request))
    return SlideUnit(
        source=source_of_slide(slide, request, opened, len(rows)),
        unit=0,
        first=first,
        geometry=opened.geometry,
        rows=rows[first:last],
        cols=cols[first:last],
    )


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    path = tmp_path_factory.mktemp("slide") / "s.tif"
    return slide_files.write_slide(path, 1, width=1000, height=900)


def assert_tiles(found, path, first=0, last=None, **options):
    """Each tile once, with the pixels and the place that the slide has there."""
    plain = slide_files.plain_tiles(slide_files.plain_slide(path, **options))[
        first:last
    ]
    by_position = {tile.position: tile for tile in found}
    assert len(by_position) == len(found) == len(plain)
    for position, (place, pixels) in enumerate(plain):
        tile = by_position[position]
        assert (tile.loc_x, tile.loc_y) == place
        if isinstance(pixels, ContentError):
            assert tile.pixels is None
            assert str(tile.error) == str(pixels)
        else:
            assert tile.error is None
            assert np.array_equal(tile.pixels, pixels)


@pytest.mark.parametrize("part", [(0, None), (5, 21)])
def test_a_slides_tiles_come_once_each_in_whatever_order(slide, threads, part):
    unit = unit_of(slide, first=part[0], last=part[1])
    found = list(unit_tiles(unit, Side(96), threads, SlideCache()))
    assert_tiles(found, slide, *part)
    assert not any(tile.resized or tile.other_slide for tile in found)


def test_overlapping_tiles_that_are_resampled_are_those_of_the_slide(slide, threads):
    unit = unit_of(slide, tile_um="75", stride_div=2.0)
    found = list(unit_tiles(unit, Side(96), threads, SlideCache()))
    assert_tiles(found, slide, tile_um="75", stride_div=2.0)


def test_tiles_of_another_side_than_the_models_are_resized(slide, threads):
    found = list(unit_tiles(unit_of(slide, last=6), Side(64), threads, SlideCache()))
    assert {tile.pixels.shape for tile in found} == {(64, 64, 3)}
    assert all(tile.resized for tile in found)


def test_torn_tiles_come_with_their_error(tmp_path, threads):
    path = slide_files.write_slide(tmp_path / "s.tif", 1, jpeg=True)
    slide_files.harm(path, row=4, col=7)
    found = list(unit_tiles(unit_of(path), Side(96), threads, SlideCache()))
    assert_tiles(found, path)
    assert 0 < sum(tile.error is not None for tile in found) < 10


def test_a_slide_that_cannot_be_opened_any_more_is_no_fault_of_its_tiles(
    tmp_path, threads
):
    path = slide_files.write_slide(tmp_path / "s.tif", 1, width=700, height=600)
    unit = unit_of(path)
    path.write_bytes(b"no slide")
    with pytest.raises(StorageError, match="could be when it was planned: run again"):
        list(unit_tiles(unit, Side(96), threads, SlideCache()))


def test_a_slide_at_a_uri_is_copied_once_and_kept_while_it_is_held(
    tmp_path, slide, threads, monkeypatch
):
    scratch = tmp_path / "scratch"
    monkeypatch.setenv("RAYLATENT_SCRATCH", str(scratch))
    memory = fsspec.filesystem("memory")
    memory.pipe("/slides/s.tif", slide.read_bytes())
    try:
        unit = unit_of("memory://slides/s.tif")
        (copy,) = scratch.rglob("s.tif")
        made = copy.stat().st_mtime_ns
        slides = SlideCache()
        for _ in range(2):
            assert_tiles(list(unit_tiles(unit, Side(96), threads, slides)), slide)
        assert copy.stat().st_mtime_ns == made
        assert unit.source.stat.size == slide.stat().st_size
    finally:
        memory.rm("/slides", recursive=True)


def test_a_worker_holds_two_slides_at_most_and_opens_one_that_changed_again(slide):
    cache = SlideCache()
    unit = unit_of(slide, last=1)
    sources = [
        replace(unit.source, stat=replace(unit.source.stat, size=i)) for i in range(3)
    ]

    def handle(source):
        return cache.reader(source, unit.geometry, icc=False).handle

    first, second = handle(sources[0]), handle(sources[1])
    assert first is not second  # its files are others
    assert handle(sources[0]) is first
    assert handle(sources[2]) not in {first, second}
    assert handle(sources[0]) is first  # the one that was not used for longest is gone
    assert handle(sources[1]) is not second


def test_records_come_in_order_with_what_is_wrong_with_them(tmp_path, threads):
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 255, (20, 96, 96, 3), np.uint8)
    records = [
        TileRecord(encode_tile(one, "png", 95), "s", i, 2 * i)
        for i, one in enumerate(pixels)
    ]
    records[3] = replace(records[3], image_raw=b"no picture")
    records[11] = replace(records[11], slide="t")
    write_tfrecord(tmp_path / "s.tfrecords", records)
    source, index = index_source("s", str(tmp_path / "s.tfrecords"), 96)
    unit = load_unit(unit_plans(source, index, 100)[0])
    found = list(unit_tiles(unit, Side(96), threads, SlideCache()))
    assert [tile.position for tile in found] == list(range(20))
    assert [(tile.loc_x, tile.loc_y) for tile in found] == [
        (i, 2 * i) for i in range(20)
    ]
    assert [tile.position for tile in found if tile.error is not None] == [3]
    assert [tile.position for tile in found if tile.other_slide] == [11]
    good = [tile for tile in found if tile.error is None]
    assert all(np.array_equal(tile.pixels, pixels[tile.position]) for tile in good)


def records_unit(folder, pictures, unit_tiles=100):
    """A unit of a TFRecord of pictures."""
    path = folder / "s.tfrecords"
    write_tfrecord(path, [TileRecord(p, "s", i, 0) for i, p in enumerate(pictures)])
    source, index = index_source("s", str(path), 96)
    return load_unit(unit_plans(source, index, unit_tiles)[0])


def test_tiles_of_another_size_are_resized_or_refused(tmp_path, threads):
    sizes = [(96, 96), (64, 64), (96, 95), (200, 96)]
    pixels = [np.full((h, w, 3), 9, np.uint8) for w, h in sizes]
    unit = records_unit(tmp_path, [encode_tile(one, "png", 95) for one in pixels])
    found = list(unit_tiles(unit, Side(96), threads, SlideCache()))
    assert [tile.resized for tile in found] == [False, True, True, True]
    assert {tile.pixels.shape for tile in found} == {(96, 96, 3)}
    found = list(unit_tiles(unit, Side(96, resize=False), threads, SlideCache()))
    assert [tile.error is None for tile in found] == [True, False, False, False]
    assert [tile.resized for tile in found] == [False] * 4
    for tile, (width, height) in zip(found[1:], sizes[1:], strict=True):
        assert tile.error.stage == "decode"
        assert f"picture of {width} x {height} px, not 96 x 96" in str(tile.error)
        assert (tile.loc_x, tile.loc_y) == (tile.position, 0)


def test_a_slides_tiles_of_another_side_are_refused(slide, threads):
    unit = unit_of(slide, last=6)
    found = list(unit_tiles(unit, Side(64, resize=False), threads, SlideCache()))
    assert all("96 x 96 px, not 64 x 64" in str(tile.error) for tile in found)


def test_large_records_are_not_all_held(tmp_path, threads, monkeypatch):
    """Records of megabytes wait for their turn, however many there are."""
    tile = encode_tile(np.full((96, 96, 3), 9, np.uint8), "jpg", 95)
    unit = records_unit(tmp_path, [tile + bytes(2 << 20)] * 40)
    monkeypatch.setattr("raylatent.tiles.stream._AHEAD_BYTES", 5 << 20)
    monkeypatch.setattr("raylatent.source.tfrecords._CHUNK_BYTES", 1 << 20)
    monkeypatch.setattr("raylatent.source.filebytes._TOGETHER_BYTES", 1 << 20)
    tracemalloc.start()
    n = sum(t.error is None for t in unit_tiles(unit, Side(96), threads, SlideCache()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert n == 40
    assert peak < 40 << 20
