"""Stages measured on tiny data: what is counted, what is told, what is left behind."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from raylatent.bench.node import Bench, measure_node
from raylatent.bench.rates import Node, most_by_part
from raylatent.bench.units import Sources, pieces, some_units
from raylatent.bench.whole import Actor, run_loop
from raylatent.config import ActivationsConfig
from raylatent.engine.requests import slide_requests
from raylatent.errors import IncompleteError
from raylatent.mapping.parameters import MapParameters
from raylatent.model.features import Features
from raylatent.model.lanes import lane_of
from raylatent.model.rows import RowOptions, unit_rows
from raylatent.source.find import find_tfrecords
from raylatent.storage import Store
from raylatent.tiles.stream import Threads

ALL = {"read", "decode", "forward", "write", "load", "place", "cells", "draw"}


def sources_of(folder, unit_tiles=16, slides=()):
    files = tuple(find_tfrecords([str(folder)]).items()) if folder else ()
    return Sources(files=files, slides=slides, tile_px=96, unit_tiles=unit_tiles)


def bench_of(sources, seconds=0.05):
    params = MapParameters.of(n_neighbors=5, n_epochs=5, sample=200)
    return Bench(sources=sources, seconds=seconds, params=params)


@pytest.fixture
def actor(small_model):
    features = Features(small_model, batch_size=16, device="cpu")
    with ThreadPoolExecutor(2) as pool:
        yield Actor(
            lane=lane_of(features),
            rows=RowOptions(with_preds=True),
            threads=Threads(pool, 2),
            store=None,
        )


def stored(actor, folder):
    return Actor(**{**vars(actor), "store": Store(str(folder))})


def test_units_are_taken_of_all_sources_in_turn(small_tfrecords):
    units = some_units(sources_of(small_tfrecords))
    assert [(u.source.slide, u.unit) for u in units[:6]] == [
        *((f"g0{i}", 0) for i in range(5)),
        ("g02", 1),
    ]
    assert sum(map(len, units)) == 146


def test_pieces_are_the_unit(small_tfrecords):
    unit = max(some_units(sources_of(small_tfrecords, 64)), key=len)
    cut = list(pieces(unit, 10))
    assert [len(piece) for piece in cut] == [10] * 6 + [4]
    assert [piece.first for piece in cut] == list(range(0, 64, 10))
    assert [o for piece in cut for o in piece.offsets] == list(unit.offsets)


def test_every_stage_is_measured_or_says_why_not(small_tfrecords, actor, tmp_path):
    bench = bench_of(sources_of(small_tfrecords), seconds=0.4)
    found = measure_node(bench, stored(actor, tmp_path / "out"))
    assert set(found.rates) == ALL
    assert found.lacking == {"transfer": "there is no GPU"}
    assert found.rates["read"].tiles == 146
    size = sum(f.stat().st_size for f in small_tfrecords.glob("*.tfrecords"))
    assert found.rates["read"].n_bytes == size
    for rate in (*found.rates.values(), found.whole):
        assert rate.tiles > 0
        assert rate.tiles_per_s > 0
    assert found.rates["place"].note == "on a map of 200 rows"
    assert not found.rates["place"].at_best
    assert found.rates["cells"].tiles >= 32 * 8
    # No stage does more with a core than all of them together do with all cores.
    most = most_by_part(Node(cpus=2, gpus=0, count=1, actors=1), found)
    assert found.whole.wall_per_s <= 1.05 * most["cores"]
    assert found.limit in {"read", "decode", "forward", "write"}
    for stage in ("read", "decode", "wait", "forward", "write"):
        assert found.seconds[stage] > 0


def test_without_a_place_to_write_nothing_is_written(small_tfrecords, actor):
    found = measure_node(bench_of(sources_of(small_tfrecords)), actor)
    for stage in ("write", "load", "cells"):
        assert stage not in found.rates
        assert "--out" in found.lacking[stage]
    assert found.seconds.get("write", 0.0) == 0.0


def test_a_node_without_actors_reads_and_decodes(small_tfrecords):
    found = measure_node(bench_of(sources_of(small_tfrecords)), None)
    assert set(found.rates) == {"read", "decode"}
    assert "no actor" in found.lacking["forward"]
    assert found.whole is None
    assert found.limit is None


def test_whole_slides(goldens, actor):
    config = ActivationsConfig(
        out="run", slides=("x",), tile_px=96, tile_um="96", mpp=1.0, qc="none"
    )
    requests = slide_requests(config, {"a": str(goldens / "wsi_a.tif")}, 96)
    sources = sources_of(None, slides=tuple(requests.items()))
    found = measure_node(bench_of(sources, seconds=0.4), actor)
    assert "read and decoded in one" in found.lacking["read"]
    assert found.rates["decode"].tiles > 0
    assert found.rates["draw"].tiles > 0


def test_no_tile_can_be_read(tmp_path, actor):
    (tmp_path / "a.tfrecords").write_bytes(b"nothing of the kind" * 10)
    with pytest.raises(IncompleteError, match=r"no tile can be read: .*a\.tfrecords"):
        measure_node(bench_of(sources_of(tmp_path)), actor)


def test_no_thread_stays(small_tfrecords, actor):
    before = threading.active_count()
    measure_node(bench_of(sources_of(small_tfrecords)), actor)
    assert threading.active_count() <= before + actor.threads.count


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_the_loop_is_the_jobs_own_work(small_tfrecords, actor, tmp_path, at_once):
    """Rows of each unit, whatever is worked on at once, and files that stay few."""
    units = some_units(sources_of(small_tfrecords, 64))
    several = Actor(**{**vars(stored(actor, tmp_path)), "at_once": at_once})
    loop = run_loop(several, units, 32, 0.2)
    assert loop.rate.tiles >= 64
    assert set(loop.seconds) >= {"read", "decode", "wait", "forward", "write"}
    for unit, table in loop.tables:
        alone = unit_rows(unit, actor.lane, actor.rows, actor.threads)
        assert table.equals(alone.rows)
    written = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert 1 <= len(written) <= 4 * 5
