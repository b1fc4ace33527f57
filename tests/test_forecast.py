"""The arithmetic of a benchmark: forecast, and what to add."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylatent.engine.report import RunReport
from raylatent.engine.slide_report import SlideReport
from raylatent.forecast import (
    BenchReport,
    Cluster,
    MapRates,
    duration,
    forecast,
    what_to_add,
)

ON_CPUS = Cluster(
    nodes=2,
    cpus=32,
    gpus=0,
    cores_per_gpu=0,
    actors=8,
    threads=4,
    tiles_per_s=400,
    start_s=10,
)
ON_GPUS = replace(
    ON_CPUS, gpus=4, cores_per_gpu=8, actors=4, threads=8, tiles_per_s=20_000
)
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
        counts={"tiles": 1000},
        seconds=took | seconds,
        cpu=used,
        gpus=gpus,
    )


@given(
    tiles=st.integers(1, 10**9),
    rate=st.floats(1, 1e6),
    place=st.floats(1, 1e6),
    points=st.floats(1, 1e8),
)
def test_a_forecast_is_linear_in_tiles(tiles, rate, place, points):
    cluster = replace(ON_CPUS, tiles_per_s=rate)
    rates = replace(MAP, rows_per_s=place, points_per_s=points)
    once = forecast(tiles, 100, cluster, rates, 5_000.0)
    twice = forecast(2 * tiles, 100, cluster, rates, 5_000.0)
    assert once.activations_s == pytest.approx(tiles / rate)
    assert once.placement_s == pytest.approx(tiles / place)
    drawn = min(tiles, 2500) / 500
    assert once.mosaic_s == pytest.approx(2 + tiles / points + drawn)
    assert once.parquet_bytes == pytest.approx(tiles * 5_050)
    for name in ("activations_s", "placement_s", "parquet_bytes"):
        assert getattr(twice, name) == pytest.approx(2 * getattr(once, name))
    assert (twice.fit_s, twice.start_s) == (once.fit_s, once.start_s) == (30, 15)


def test_actors_without_a_unit_do_nothing():
    took = {n: forecast(2048, n, ON_CPUS, None, 0).activations_s for n in (1, 8, 90)}
    assert took[1] == pytest.approx(2048 / 50)
    assert took[8] == took[90] == pytest.approx(2048 / 400)


def test_what_was_not_measured_is_not_forecast():
    found = forecast(100, 1, ON_CPUS, None, 10.0)
    assert (found.fit_s, found.placement_s, found.mosaic_s) == (None, None, None)
    assert (found.start_s, found.parquet_bytes) == (10, 1000)


@pytest.mark.parametrize(
    ("cluster", "told", "said"),
    [
        (ON_CPUS, {"forward": 9}, "GPUs, or more cores: the model takes 97% of the"),
        # The model is what takes longest, and yet not half of the time.
        (
            ON_CPUS,
            {"forward": 4, "wait": 3, "write": 3},
            "more cores: the model takes 40% of the actors' time",
        ),
        (ON_CPUS, {"wait": 9, "decode": 9}, "more cores: the model waits 97% of"),
        (ON_CPUS, {"wait": 9, "read": 9}, "faster storage: the model waits 97% of"),
        (ON_CPUS, {"write": 9}, "faster storage: writing takes 97% of their time"),
        # 1,000 tiles took a GPU 0.2 s: 5,000 tiles/s, 62 CPU seconds for 100,000.
        (
            ON_GPUS,
            {"forward": 0.2, "wait": 2, "decode": 3, "cpu": {"decode": 2}},
            "cores: to read, decode and write for a GPU that never waits takes 10.6, "
            "and there are 8.0 for each",
        ),
        (
            ON_GPUS,
            {"forward": 0.2, "wait": 2, "decode": 3},
            "more --actors on each GPU (--num-gpus below 1): the model waits 83% of the "
            "actors' time, with 8.0 cores for each GPU where 3.1 would do",
        ),
        (
            ON_GPUS,
            {"forward": 0.19},
            "more GPUs: each could do 5,263 tiles/s, and the model runs for 95% of the",
        ),
        (
            ON_GPUS,
            {"transfer": 0.2},
            "a faster bus: pixels take longer to the GPU than",
        ),
        (ON_GPUS, {"wait": 9, "read": 9}, "faster storage: the model waits"),
    ],
)
def test_what_to_add(cluster, told, said):
    gpus = 1.0 if cluster.gpus else 0.0
    lines = what_to_add(run(gpus=gpus, **told), cluster, "float32")
    assert lines[0].startswith(said)


def test_what_is_stored_as_float16_already_is_not_halved():
    written = run(write=9)
    halved = ["or --dtype float16: half the bytes"]
    assert what_to_add(written, ON_CPUS, "float32")[1:] == halved
    assert what_to_add(written, ON_CPUS, "float16")[1:] == []


@pytest.mark.parametrize("cluster", [ON_CPUS, ON_GPUS])
def test_slides_whose_threads_wait_are_for_the_storage(cluster):
    """They are read while they are decoded; of TFRecords it would be for cores."""
    told = {"wait": 9, "decode": 10, "cpu": {"decode": 1.0}}
    gpus = 1.0 if cluster.gpus else 0.0
    of_slides = run(gpus=gpus, left_out={}, **told)
    lines = what_to_add(of_slides, cluster, "float32")
    assert lines[0].startswith("faster storage: the model waits")
    assert "whose threads wait 90% of theirs" in lines[0]
    assert "extract-tiles" in lines[1]
    of_files = what_to_add(run(gpus=gpus, **told), cluster, "float32")
    assert "storage" not in of_files[0]


def test_nothing_to_add_where_nothing_was_done():
    nothing = dict.fromkeys(("read", "decode", "wait", "transfer", "forward"), 0.0)
    assert what_to_add(run(**nothing, write=0.0), ON_CPUS, "float32") == []


def report(**more):
    found = BenchReport(
        cluster=ON_CPUS,
        run=run(forward=9),
        where="",
        dtype="float32",
        bytes_per_row=5_000.0,
        tiles=1_000_000,
        units=500,
        map=MAP,
    )
    return replace(found, **more)


def lines_of(found):
    return {line[:10].strip(): line[10:] for line in found.lines()}


def test_a_report():
    lines = lines_of(report())
    assert lines["measured"] == (
        "1,000 tiles; actors 8, threads of each 4; nodes 2, CPUs 32, GPUs 0"
    )
    assert lines["decode"] == "0.1 s of threads for 1,000 tiles, 2,000 tiles/s a core"
    assert lines["forward"] == "9 s of actors for 1,000 tiles"
    assert lines["write"].endswith("10,000 tiles/s a core, 5 KB a tile")
    assert lines["limit"] == "forward"
    assert lines["job"] == (
        "1,000,000 tiles: start 15 s, activations 42 min, fit 30 s, placement 100 s, "
        "mosaic 8.0 s; 5.05 GB of Parquet"
    )
    values = report().as_json()
    assert values["limit"] == "forward"
    assert values["cluster"]["tiles_per_s"] == 400
    assert values["tiles_per_s_by_core_or_gpu"]["decode"]["tiles_per_s"] == 2_000
    assert values["forecast"]["activations_s"] == 2_500


def test_a_report_says_what_is_lacking():
    lines = lines_of(report(map=None, no_map="too few rows", where="/x"))
    assert lines["map"] == "not measured: too few rows"
    assert "placement not measured, mosaic not measured" in lines["job"]
    assert lines["write"].endswith(", in /x: give --out RUN")
    assert "fit" not in lines


def test_rates_of_a_gpu():
    lines = lines_of(report(cluster=ON_GPUS, run=run(gpus=0.5, forward=0.4)))
    assert lines["forward"].endswith("for 1,000 tiles, 5,000 tiles/s a GPU")


@given(st.floats(0, 1e8), st.floats(0, 1e8))
def test_longer_durations_never_read_shorter(a, b):
    units = {"s": 1, "min": 60, "h": 3600, "days": 86400}

    def read(text):
        number, unit = text.split()
        return float(number) * units[unit]

    low, high = sorted((a, b))
    assert read(duration(low)) <= read(duration(high)) * 1.06 + 0.06
