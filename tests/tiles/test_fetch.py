"""Pixels by reference: the right tile, its right size, and a reason where there is none."""

import io

import numpy as np
import pytest
from PIL import Image

from raylatent.errors import MapError, StorageError
from raylatent.source import tfrecords
from raylatent.source.filebytes import read_records as real_read_records
from raylatent.source.index import index_tfrecord
from raylatent.source.record import TileRecord, parse_example
from raylatent.source.tfrecords import Frame, frame_of
from raylatent.source.write import write_tfrecord
from raylatent.tiles.fetch import array_tiles, check_array, fit_tile, stored_tiles
from raylatent.tiles.tile import decode_image


def png(pixels):
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


def noise(seed, size=12):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (size, size, 3), dtype=np.uint8)


@pytest.fixture
def tfrecord(tmp_path):
    """100 tiles of 12 px."""
    path = tmp_path / "s.tfrecords"
    write_tfrecord(path, [TileRecord(image_raw=png(noise(i))) for i in range(100)])
    return str(path)


def frames(uri, numbers):
    index = index_tfrecord(uri)
    return [frame_of(index, uri, number) for number in numbers]


def test_tiles_are_those_of_their_references(tfrecord):
    numbers = [99, 0, 50, 7, 0, *range(60, 98)]
    found = dict(stored_tiles(frames(tfrecord, numbers), 12))
    assert sorted(found) == list(range(len(numbers)))
    for position, number in enumerate(numbers):
        np.testing.assert_array_equal(np.asarray(found[position]), noise(number))


def test_records_without_offset_are_found_by_their_number(tfrecord):
    wanted = [Frame(uri=tfrecord, tile_index=i) for i in (3, 98, 100, -1)]
    found = dict(stored_tiles(wanted, 12))
    np.testing.assert_array_equal(np.asarray(found[0]), noise(3))
    np.testing.assert_array_equal(np.asarray(found[1]), noise(98))
    assert "there is no tile 100" in found[2]
    assert "there is no tile -1" in found[3]
    assert "100 records" in found[2]


def test_slideflows_own_tfrecords(small_tfrecords):
    uri = str(small_tfrecords / "g03.tfrecords")
    (frame,) = frames(uri, [63])
    (payload,) = real_read_records(uri, [frame.offset], [frame.length])
    expected = decode_image(parse_example(payload).image_raw)
    ((_, tile),) = stored_tiles([frame], 96)
    np.testing.assert_array_equal(np.asarray(tile), expected)


def test_a_file_is_read_by_range_and_once_a_group(tfrecord, monkeypatch):
    calls = []

    def reading(uri, offsets, lengths):
        calls.append(list(offsets))
        return real_read_records(uri, offsets, lengths)

    monkeypatch.setattr(tfrecords, "read_records", reading)
    wanted = frames(tfrecord, [9, 3, 6])
    assert len(dict(stored_tiles(wanted, 12))) == 3
    assert calls == [sorted(frame.offset for frame in wanted)]


def test_large_records_are_read_a_few_at_a_time(tfrecord, monkeypatch):
    calls = []

    def reading(uri, offsets, lengths):
        calls.append(list(lengths))
        return real_read_records(uri, offsets, lengths)

    monkeypatch.setattr(tfrecords, "read_records", reading)
    wanted = frames(tfrecord, range(20))
    most = 3 * max(frame.length for frame in wanted)
    monkeypatch.setattr(tfrecords, "_READ_BYTES", most)
    numbered = [Frame(uri=tfrecord, tile_index=i) for i in range(20, 24)]
    assert len(dict(stored_tiles([*wanted, *numbered], 12))) == 24
    assert max(map(sum, calls)) <= most
    assert max(map(len, calls)) >= 3
    monkeypatch.setattr(tfrecords, "_READ_BYTES", 1)
    calls.clear()
    assert len(dict(stored_tiles(wanted, 12))) == 20
    assert set(map(len, calls)) == {1}


def test_bad_tiles_are_reasons_and_the_rest_is_there(tmp_path, tfrecord):
    path = tmp_path / "bad.tfrecords"
    good = TileRecord(image_raw=png(noise(0)))
    broken = TileRecord(image_raw=png(noise(1))[:60])
    write_tfrecord(path, [good, broken, TileRecord(image_raw=b"no picture"), good])
    index = index_tfrecord(str(path))
    data = bytearray(path.read_bytes())
    data[index.offsets[3] + 40] ^= 1
    path.write_bytes(data)
    wanted = frames(str(path), range(4))
    gone = Frame(uri=str(tmp_path / "gone.tfrecords"), tile_index=0, offset=0, length=9)
    found = dict(stored_tiles([*wanted, gone, *frames(tfrecord, [5])], 12))
    assert isinstance(found[0], Image.Image)
    assert found[1].startswith("decode: broken picture")
    assert found[2] == "decode: the picture is neither JPEG nor PNG"
    assert found[3] == "read: wrong checksum of the record's payload"
    assert "gone.tfrecords" in found[4]
    assert isinstance(found[5], Image.Image)


def test_tiles_that_wait_are_few(tmp_path, monkeypatch):
    """However many tiles there are, only some groups are read ahead."""
    path = tmp_path / "s.tfrecords"
    write_tfrecord(path, [TileRecord(image_raw=png(noise(0, 4)))] * 1000)
    read = []

    def reading(uri, offsets, lengths):
        read.append(len(offsets))
        return real_read_records(uri, offsets, lengths)

    monkeypatch.setattr(tfrecords, "read_records", reading)
    tiles = stored_tiles(frames(str(path), range(1000)), 4, n_threads=1)
    next(tiles)
    assert max(read) <= 32
    assert sum(read) <= 32 * 4
    tiles.close()


def test_storage_that_fails_is_a_reason(tfrecord, monkeypatch):
    def failing(uri, offsets, lengths):
        message = f"cannot read {uri}: timeout"
        raise StorageError(message)

    monkeypatch.setattr(tfrecords, "read_records", failing)
    found = dict(stored_tiles(frames(tfrecord, [0, 1]), 12))
    assert found == dict.fromkeys([0, 1], f"cannot read {tfrecord}: timeout")


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((20, 20, 3), (10, 10)),
        ((40, 20, 3), (5, 10)),
        ((20, 40, 4), (10, 5)),
        ((300, 2), (1, 10)),
        ((5, 5, 1), (10, 10)),
    ],
)
def test_a_tile_fits_its_cell(shape, size):
    tile = fit_tile(np.full(shape, 77, np.uint8), 10)
    assert (tile.size, tile.mode) == (size, "RGB")
    assert tile.getpixel((0, 0)) == (77, 77, 77)


def test_shrinking_is_antialiased():
    stripes = np.zeros((200, 200, 3), np.uint8)
    stripes[:, ::2] = 255
    small = np.asarray(fit_tile(stripes, 20))[2:-2, 2:-2]
    assert np.abs(small.astype(int) - 127).max() < 8


def test_a_tile_of_the_right_size_is_not_touched():
    pixels = noise(4, 10)
    (found,) = array_tiles([pixels], [0], 10)
    np.testing.assert_array_equal(np.asarray(found[1]), pixels)


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (np.zeros((4, 4, 3)), r"images\[2\] is float64: give uint8"),
        (np.zeros((4, 4, 3), bool), "is bool"),
        (np.zeros((3, 4, 5), np.uint8), r"has shape \(3, 4, 5\)"),
        (np.zeros(4, np.uint8), r"has shape \(4,\)"),
        (np.zeros((0, 4, 3), np.uint8), r"has shape \(0, 4, 3\)"),
    ],
)
def test_what_is_no_picture_is_refused(image, sentence):
    with pytest.raises(MapError, match=sentence):
        check_array(image, 2)
