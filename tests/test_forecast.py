"""The arithmetic of a benchmark: forecast, and what to add."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylatent import bench
from raylatent.bench import BenchReport, MapRates, what_to_add
from raylatent.engine.cluster import Pool
from raylatent.engine.report import RunReport, SlideReport

CPUS = {
    "nodes": 2,
    "cpus": 32,
    "gpus": 0,
    "cores_per_gpu": 0,
    "actors": 8,
    "threads": 4,
}
GPUS = CPUS | {"gpus": 4, "cores_per_gpu": 8, "actors": 4, "threads": 8}
MAP = MapRates(
    sample=20_000,
    fit_s=30,
    start_s=5,
    rows_per_s=10_000,
    cells_s=2,
    points_per_s=1_000_000,
    drawn_per_s=500,
    bytes_per_row=50,
)


def run(*, gpus=0.0, cpu=None, left_out=None, **seconds):
    """A run of 1,000 tiles whose stages took so many seconds; others a little."""
    took = dict.fromkeys(
        ("read", "decode", "wait", "transfer", "forward", "write"), 0.1
    )
    used = {"read": 0.02, "decode": 0.5, "write": 0.1} | (cpu or {})
    slide = SlideReport(
        slide="a",
        n_indexed=1000,
        rows=1000,
        quarantined=0,
        reasons={},
        error=None,
        left_out=left_out,
    )
    return RunReport(
        run="run",
        slides=[slide],
        removed=[],
        counts={"tiles": 1000, "quarantined": 0},
        seconds=took | seconds,
        cpu=used,
        gpus=gpus,
    )


def report(**more):
    found = BenchReport(
        tiles=1_000_000,
        units=500,
        cluster=CPUS,
        run=run(forward=9),
        tiles_per_s=400.0,
        start_s=10.0,
        dtype="float32",
        bytes_per_row=5_000.0,
        map=MAP,
    )
    return replace(found, **more)


def on_gpus(**more):
    return report(cluster=GPUS, tiles_per_s=20_000.0, **more)


@given(
    tiles=st.integers(1, 10**9),
    rate=st.floats(1, 1e6),
    place=st.floats(1, 1e6),
    points=st.floats(1, 1e8),
)
def test_a_forecast_is_linear_in_tiles(tiles, rate, place, points):
    rates = replace(MAP, rows_per_s=place, points_per_s=points)
    once = report(tiles=tiles, tiles_per_s=rate, map=rates)
    twice = replace(once, tiles=2 * tiles)
    drawn = min(tiles, 2500) / 500
    assert once.forecast == pytest.approx(
        {
            "start": 15,
            "activations": tiles / rate,
            "fit": 30,
            "placement": tiles / place,
            "mosaic": 2 + tiles / points + drawn,
        }
    )
    assert once.parquet_bytes == pytest.approx(tiles * 5_050)
    assert twice.parquet_bytes == pytest.approx(2 * once.parquet_bytes)
    for name in ("activations", "placement"):
        assert twice.forecast[name] == pytest.approx(2 * once.forecast[name])


def test_actors_without_a_unit_do_nothing():
    found = {n: report(tiles=2048, units=n).forecast["activations"] for n in (1, 8, 90)}
    assert found[1] == pytest.approx(2048 / 50)
    assert found[8] == found[90] == pytest.approx(2048 / 400)


def test_bad_tiles_are_told():
    assert not [line for line in report().lines() if line.startswith("bad")]
    counts = {"tiles": 1000, "quarantined": 14}
    found = report(run=replace(run(forward=9), counts=counts))
    (line,) = (line for line in found.lines() if line.startswith("bad"))
    assert line == "bad       14 of these tiles, which the rates count too"
    assert found.as_json()["bad_tiles"] == 14


@pytest.mark.parametrize(("gpus", "wait", "forward"), [(0, 15, 5), (1, 15, 20)])
def test_no_actor_is_faster_than_its_own_clocks(monkeypatch, gpus, wait, forward):
    """1,000 tiles take an actor 20 s: two of them do 100 tiles/s, whatever the pace says.

    With a GPU units share the device, and the time of the model alone counts.
    """
    node = {"CPU": 2.0, "GPU": 2.0 * gpus}
    monkeypatch.setattr(bench, "alive_nodes", lambda: [{"Resources": node}])
    done = run(wait=wait, forward=forward, transfer=0, write=0, wall=30)
    pool = Pool(smallest=2, largest=2, num_cpus=1, num_gpus=gpus, threads=1)
    job = SimpleNamespace(
        inputs=SimpleNamespace(unit_tiles=10), config=SimpleNamespace(dtype="float32")
    )
    for pace, per_s in ((10_000, 100), (80, 80), (None, 100)):
        found = bench._found(done, SimpleNamespace(per_s=pace), pool, job, 5000)
        assert found.tiles_per_s == pytest.approx(per_s)


def test_what_was_not_measured_is_not_forecast():
    found = report(tiles=100, map=None)
    assert list(found.forecast) == ["start", "activations"]
    assert found.forecast["start"] == 10
    assert found.parquet_bytes == 100 * 5_000


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (
            {"forward": 9},
            "GPUs, or more cores: the model takes 97% of the actors' time",
        ),
        # The model is what takes longest, and yet not half of the time.
        (
            {"forward": 4, "wait": 3, "write": 3},
            "more cores: the model takes 40% of the actors' time",
        ),
        ({"wait": 9, "decode": 9}, "more cores: the model waits 97% of"),
        ({"wait": 9, "read": 9}, "faster storage: the model waits 97% of"),
        ({"write": 9}, "faster storage: writing takes 97% of their time"),
    ],
)
def test_what_to_add_to_cores(told, said):
    assert what_to_add(report(run=run(**told)))[0].startswith(said)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        # 1,000 tiles took a GPU 0.2 s, so that it could do 5,000 in a second.
        (
            {"forward": 0.2, "wait": 2, "decode": 3, "cpu": {"decode": 2}},
            "cores: to read, decode and write for a GPU that never waits takes 10.6, "
            "and there are 8.0 for each",
        ),
        (
            {"forward": 0.2, "wait": 2, "decode": 3},
            "more --actors on each GPU (--num-gpus below 1): the model waits 83% of the "
            "actors' time, with 8.0 cores for each where 3.1 would do",
        ),
        ({"forward": 0.19}, "more GPUs: each could do 5,263 tiles/s, and is busy 95%"),
        ({"transfer": 0.2}, "a faster bus: pixels take longer to the GPU than"),
        ({"wait": 9, "read": 9}, "faster storage: the model waits"),
    ],
)
def test_what_to_add_to_gpus(told, said):
    assert what_to_add(on_gpus(run=run(gpus=1.0, **told)))[0].startswith(said)


def test_what_is_stored_as_float16_already_is_not_halved():
    written = report(run=run(write=9))
    assert what_to_add(written)[1:] == ["or --dtype float16: half the bytes"]
    assert what_to_add(replace(written, dtype="float16"))[1:] == []


@pytest.mark.parametrize(("made", "gpus"), [(report, 0.0), (on_gpus, 1.0)])
def test_slides_whose_threads_wait_are_for_the_storage(made, gpus):
    """They are read while they are decoded; of TFRecords it would be for cores."""
    told = {"wait": 9, "decode": 10, "cpu": {"decode": 1.0}, "gpus": gpus}
    first, second = what_to_add(made(run=run(left_out={}, **told)))
    assert first.startswith("faster storage: the model waits")
    assert "whose threads wait 90% of theirs" in first
    assert "extract-tiles" in second
    assert "storage" not in what_to_add(made(run=run(**told)))[0]


def test_nothing_to_add_where_nothing_was_done():
    nothing = dict.fromkeys(("read", "decode", "wait", "transfer", "forward"), 0.0)
    assert what_to_add(report(run=run(**nothing, write=0.0))) == []


def lines_of(found):
    return {line[:10].strip(): line[10:] for line in found.lines()}


def test_a_report():
    lines = lines_of(report())
    assert lines["measured"] == (
        "1,000 tiles; actors 8, threads of each 4; nodes 2, CPUs 32, GPUs 0"
    )
    assert lines["decode"] == "0.1 s of threads for 1,000 tiles, 2,000 tiles/s a core"
    assert lines["forward"] == "9 s of actors for 1,000 tiles"
    assert lines["actors"] == "400 tiles/s, all together"
    assert lines["limit"] == "forward"
    assert lines["job"] == (
        "1,000,000 tiles: start 15 s, activations 41 min 40 s, fit 30 s, placement "
        "1 min 40 s, mosaic 8 s; 5.05 GB of Parquet"
    )
    values = report().as_json()
    assert values["limit"] == "forward"
    assert values["cluster"]["actors"] == 8
    assert values["tiles_per_s_by_core_or_gpu"]["decode"]["tiles_per_s"] == 2_000
    assert values["forecast_s"]["activations"] == 2_500


def test_a_report_says_what_is_lacking():
    lines = lines_of(report(map=None, no_map="too few rows"))
    assert lines["map"] == "not measured: too few rows"
    assert "placement" not in lines["job"]
    assert "fit" not in lines


def test_slides_that_cannot_be_read_are_told():
    """They are in no forecast."""
    assert "without" not in lines_of(report())
    of = run(forward=9)
    lost = SlideReport(slide="b", n_indexed=0, rows=0, quarantined=0, error="torn")
    # What was left undone when enough was measured is no failure.
    cut = SlideReport(slide="c", n_indexed=9, rows=1, quarantined=0, error="not all")
    found = report(run=replace(of, slides=[*of.slides, lost, cut]))
    without = "1 of 3 slides cannot be read, as 'b': torn"
    assert lines_of(found)["without"] == without
    assert found.as_json()["unreadable"] == {"b": "torn"}


def test_rates_of_a_gpu():
    lines = lines_of(on_gpus(run=run(gpus=0.5, forward=0.4)))
    assert lines["forward"].endswith("for 1,000 tiles, 5,000 tiles/s a GPU")
