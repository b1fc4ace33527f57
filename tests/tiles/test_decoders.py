"""Tiles decoded by other processes: what threads decode, also when processes die."""

import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from raylatent.errors import StorageError
from raylatent.source.tfrecords import index_source, load_unit, unit_plans
from raylatent.source.write import encode_tile
from raylatent.source.wsi.regions import SlideCache
from raylatent.tiles import decoders as module
from raylatent.tiles.decoders import Decoders, SharedPixels, decode_into
from raylatent.tiles.stream import Threads, unit_tiles
from raylatent.tiles.threads import Clock
from raylatent.tiles.tile import Side
from tests.tiles.test_stream import records_unit

PX = 96
BATCH = 7


@pytest.fixture(scope="module")
def decoders():
    made = Decoders(2)
    yield made
    made.close()


def apart(unit, decoders, side=None, n_memories=4):
    """Tiles and their pixels."""
    memories = [SharedPixels((BATCH, PX, PX, 3)) for _ in range(n_memories)]
    for memory in memories:
        memory.array[:] = 77  # of what was there before
    asked = 0

    def taken():
        nonlocal asked
        while True:
            asked += 1
            yield memories[(asked - 1) % n_memories]

    clock = Clock("read", "decode")
    found, pixels = [], []
    for i, batch in enumerate(
        decode_into(unit, side or Side(PX), decoders, taken(), clock)
    ):
        array = memories[i % n_memories].array
        assert not array[len(batch) :].any()
        found += batch
        pixels += [tile.copy() for tile in array[: len(batch)]]
    assert asked == -(-len(unit) // BATCH)
    assert clock.seconds["decode"] > 0
    assert clock.cpu["decode"] > 0  # theirs: it is not in this process's
    return found, pixels


def assert_as_threads(unit, decoders, side=None):
    found, pixels = apart(unit, decoders, side)
    with ThreadPoolExecutor(2) as pool:
        threads = Threads(pool, 2)
        expected = list(unit_tiles(unit, side or Side(PX), threads, SlideCache()))
    assert len(found) == len(expected)
    for tile, picture, wanted in zip(found, pixels, expected, strict=True):
        assert tile.pixels is None
        for name in ("position", "loc_x", "loc_y", "resized", "other_slide"):
            assert getattr(tile, name) == getattr(wanted, name)
        if wanted.pixels is None:
            assert str(tile.error) == str(wanted.error)
            assert tile.error.stage == wanted.error.stage
            assert not picture.any()
        else:
            assert tile.error is None
            assert np.array_equal(picture, wanted.pixels)


def noise(n, side=PX):
    random = np.random.default_rng(n)
    pictures = random.integers(0, 256, (n, side, side, 3), np.uint8)
    return [encode_tile(picture, "jpg", 90) for picture in pictures]


@pytest.mark.parametrize("n", [1, BATCH, 40])
def test_tiles_are_those_that_threads_decode(tmp_path, decoders, n):
    assert_as_threads(records_unit(tmp_path, noise(n)), decoders)


def test_tiles_of_another_size_are_resized_or_bad(tmp_path, decoders):
    unit = records_unit(tmp_path, [*noise(5), *noise(4, 50)])
    assert_as_threads(unit, decoders)
    assert_as_threads(unit, decoders, Side(PX, resize=False))


def test_bad_tiles_are_black_and_say_why(tmp_path, decoders):
    unit = records_unit(tmp_path, noise(20))
    path = Path(unit.source.uri)
    content = bytearray(path.read_bytes())
    for i in (0, 6, 13):
        content[int(unit.offsets[i]) + 60] ^= 255
    path.write_bytes(content)
    assert_as_threads(unit, decoders)


def test_goldens_are_those_that_threads_decode(small_tfrecords, decoders):
    source, index = index_source("g00", str(small_tfrecords / "g00.tfrecords"), PX)
    assert_as_threads(load_unit(unit_plans(source, index, 100)[0]), decoders)


def test_a_process_that_dies_is_replaced(tmp_path):
    mine = Decoders(1)
    try:
        unit = records_unit(tmp_path, noise(20))
        assert_as_threads(unit, mine)
        process = mine._idle.get()
        mine._idle.put(process)
        process._process.kill()
        process._process.wait()
        assert_as_threads(unit, mine)
    finally:
        mine.close()


def test_a_file_that_is_gone_is_said_and_the_processes_go_on(tmp_path, decoders):
    unit = records_unit(tmp_path, noise(9))
    Path(unit.source.uri).rename(tmp_path / "away")
    with pytest.raises(StorageError, match="tfrecords"):
        apart(unit, decoders)
    (tmp_path / "away").rename(unit.source.uri)
    assert_as_threads(unit, decoders)


def test_processes_that_die_again_and_again_are_said(tmp_path, monkeypatch):
    monkeypatch.setattr(
        module, "_PROGRAM", "import os, sys; os.close(int(sys.argv[1]))"
    )
    mine = Decoders(1)
    try:
        with pytest.raises(StorageError, match="died twice of the 7 tiles from 0 on"):
            apart(records_unit(tmp_path, noise(9)), mine)
    finally:
        mine.close()


def test_leaving_early_writes_into_no_memory_later(tmp_path, decoders):
    unit = records_unit(tmp_path, noise(60))
    memories = [SharedPixels((BATCH, PX, PX, 3)) for _ in range(9)]
    batches = decode_into(
        unit, Side(PX), decoders, iter(memories), Clock("read", "decode")
    )
    next(batches)
    batches.close()
    for memory in memories:
        memory.array[:] = 5
    time.sleep(0.2)
    assert all((memory.array == 5).all() for memory in memories)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_processes_end_with_who_made_them(how):
    program = (
        "import time; from raylatent.tiles.decoders import _Process\n"
        "made = [_Process() for _ in range(2)]\n"
        "print(*(one._process.pid for one in made), flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(  # noqa: S603  (our own)
        command, stdout=subprocess.PIPE, text=True
    ) as parent:
        ids = [int(word) for word in parent.stdout.readline().split()]
        time.sleep(0.5)
        assert all(is_running(i) for i in ids)
        parent.send_signal(how)
    until = time.monotonic() + 20
    while any(is_running(i) for i in ids):
        assert time.monotonic() < until
        time.sleep(0.05)


def is_running(process_id):
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rsplit(")")[-1].split()[0]
    except OSError:
        return False
    return state != "Z"


def n_open():
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_memory_is_gone_with_its_pixels():
    before = n_open()
    pixels = SharedPixels((2, 4, 4, 3))
    other = pixels.name.open()
    other[0] = 9
    assert (pixels.array[0] == 9).all()
    del pixels
    assert n_open() <= before + 1  # the map's own
    del other
    assert n_open() == before


def test_memory_that_cannot_be_opened_is_said(tmp_path, decoders):
    """A process says why, and does not merely die of it."""
    unit = records_unit(tmp_path, noise(3))
    memory = SharedPixels((BATCH, PX, PX, 3))
    memory.name = replace(memory.name, path=str(tmp_path / "none"), number=-1)
    batches = decode_into(
        unit, Side(PX), decoders, iter([memory]), Clock("read", "decode")
    )
    with pytest.raises(StorageError, match=r"cannot be decoded: .*none"):
        list(batches)
    assert_as_threads(unit, decoders)
