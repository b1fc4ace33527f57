"""Rates of stages: what is counted, and that they are what the job would see."""

import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from raylatent.bench import map_stages, node, whole
from raylatent.bench.map_stages import place_rate
from raylatent.bench.node import Bench, measure_node
from raylatent.bench.stages import decode_rate, read_rate, records_of
from raylatent.bench.units import Sources, some_units
from raylatent.bench.whole import Actor, run_loop
from raylatent.mapping.parameters import MapParameters
from raylatent.model.features import Features
from raylatent.model.lanes import lane_of
from raylatent.model.rows import RowOptions
from raylatent.source.example import TileRecord
from raylatent.source.units import Unit
from raylatent.source.write import write_tfrecord
from raylatent.storage import Store
from raylatent.tiles.stream import Threads
from raylatent.tiles.tile import Side

PX = 96


def jpeg(seed, *, good=True):
    pixels = np.random.default_rng(seed).integers(0, 255, (PX, PX, 3), np.uint8)
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, "JPEG")
        return file.getvalue() if good else file.getvalue()[:300]


def unit_of(path, good):
    """One unit of tiles, of which these are good."""
    tiles = [TileRecord(jpeg(i, good=g), "a", i, i) for i, g in enumerate(good)]
    write_tfrecord(path, tiles)
    files = (("a", str(path)),)
    sources = Sources(files=files, slides=(), tile_px=PX, unit_tiles=2048)
    (unit,) = some_units(sources)
    return unit, sources


def test_bad_tiles_are_no_tiles(tmp_path):
    """They take next to no time, and would make a stage look fast."""
    unit, _ = unit_of(tmp_path / "a.tfrecords", [i % 4 == 0 for i in range(100)])
    read = read_rate([unit], 60.0)
    assert (read.tiles, read.note) == (100, "")  # as bytes they are good
    records = records_of([unit])
    decoded = decode_rate(records, Side(PX, resize=True), 0.1)
    assert "of the tiles that were tried are bad" in decoded.note
    good = [record for i, record in enumerate(records) if i % 4 == 0]
    alone = decode_rate(good, Side(PX, resize=True), 0.1)
    assert alone.note == ""
    assert decoded.tiles_per_s < 1.3 * alone.tiles_per_s


def test_records_with_a_bad_checksum_are_told(tmp_path):
    path = tmp_path / "a.tfrecords"
    unit, _ = unit_of(path, [True] * 4)
    content = bytearray(path.read_bytes())
    content[int(unit.offsets[1]) + 40] ^= 1
    path.write_bytes(content)
    found = read_rate([unit], 60.0)
    assert found.tiles == 3
    assert found.note == "25% of the tiles that were tried are bad"


@pytest.fixture
def fitted_and_placed(monkeypatch):
    """Rows that maps were fitted on, and rows that were placed."""
    seen = SimpleNamespace(fitted=[], placed=[])
    fit = map_stages.fit_map

    def fit_map(rows, params):
        seen.fitted.append(rows)
        result = fit(rows, params)

        def place(some):
            seen.placed.append(some)
            return result.place(some)

        return SimpleNamespace(place=place)

    monkeypatch.setattr(map_stages, "fit_map", fit_map)
    return seen


@pytest.mark.parametrize("n", [64, 150])
def test_rows_are_placed_on_a_map_of_others_as_large_as_the_jobs(fitted_and_placed, n):
    rows = np.random.default_rng(0).random((n, 8), np.float32)
    params = MapParameters.of(n_neighbors=5, sample=400)
    rate = place_rate(rows, params, 0.01)
    (sample,) = fitted_and_placed.fitted
    assert len(sample) == 400
    placed = fitted_and_placed.placed[-1]
    both = np.concatenate([sample, placed])
    assert len(np.unique(both, axis=0)) == len(both)
    assert rate.note == "on a map of 400 rows"
    assert not rate.at_best


def test_a_sample_that_would_not_fit_is_smaller_and_says_so(monkeypatch):
    monkeypatch.setattr(map_stages, "_MOST_BYTES", 100 * 8 * 4)
    rows = np.random.default_rng(0).random((90, 8), np.float32)
    rate = place_rate(rows, MapParameters.of(n_neighbors=5, sample=400), 0.01)
    assert rate.at_best
    assert rate.note.startswith("on a map of 100 rows, the job's by 400")


@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_what_is_under_way_at_the_end_counts(monkeypatch, at_once):
    """Units in turns on one device of 2,000 tiles/s, however many are begun."""
    device = threading.Lock()

    def unit_rows(unit, *_):
        for _ in range(8):
            with device:
                time.sleep(len(unit) / 8 / 2000)
        rows = pa.table({"a": [1] * len(unit)})
        return SimpleNamespace(rows=rows, seconds={}, cpu={})

    monkeypatch.setattr(whole, "unit_rows", unit_rows)
    actor = SimpleNamespace(
        lane=None,
        rows=None,
        store=None,
        at_once=at_once,
        threads=SimpleNamespace(decoders=None),
    )
    unit = some_unit(1600)
    rate = run_loop(actor, [unit], 200, 0.5).rate
    assert 1400 < rate.wall_per_s < 2100


def some_unit(n):
    made = object.__new__(Unit)
    values = {
        "source": SimpleNamespace(slide="a", uri="a"),
        "unit": 0,
        "first": 0,
        "offsets": np.zeros(n, np.int64),
        "lengths": np.ones(n, np.int64),
    }
    for name, value in values.items():
        object.__setattr__(made, name, value)
    return made


class SlowStore(Store):
    """Each file takes its time, however small it is."""

    def write(self, name, content):
        time.sleep(0.05)
        super().write(name, content)


@pytest.mark.parametrize("slow", [False, True])
def test_small_parts_of_a_slow_model_do_not_make_storage_look_slow(
    small_model, tmp_path, monkeypatch, slow
):
    unit, sources = unit_of(tmp_path / "a.tfrecords", [True] * 128)
    features = Features(small_model, batch_size=16, device="cpu")
    if slow:
        monkeypatch.setattr(node, "_together", lambda *_: 16)
    with ThreadPoolExecutor(1) as pool:
        actor = Actor(
            lane=lane_of(features),
            rows=RowOptions(),
            threads=Threads(pool, 1),
            store=SlowStore(str(tmp_path / "out")),
        )
        params = MapParameters.of(n_neighbors=5, sample=100)
        bench = Bench(sources=replace(sources), seconds=0.2, params=params)
        found = measure_node(bench, actor)
    parts = found.whole.tiles / len(unit)
    assert found.rates["write"].note == "parts of 128 rows"
    # One file for 128 tiles, not for 16.
    assert 0.05 * parts <= found.seconds["write"] < 3 * 0.05 * parts
    assert found.whole.wall_s > found.seconds["write"]
