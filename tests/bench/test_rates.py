"""The arithmetic of a benchmark: limit, forecast, and what to add."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from raylatent.bench.advice import what_to_add
from raylatent.bench.forecast import forecast
from raylatent.bench.rates import (
    STAGES,
    Measured,
    Node,
    Rate,
    bound_by,
    core_s_per_tile,
    cores_per_gpu,
    most_by_part,
)
from raylatent.bench.report import BenchReport, duration

positive = st.floats(1e-3, 1e3)
seconds = st.dictionaries(st.sampled_from([*STAGES, "wait"]), positive, min_size=1)


def rate(tiles_per_s, **more):
    """One that does so many tiles in a second of a core and of the clock."""
    return Rate(tiles=int(tiles_per_s * 100), wall_s=100.0, cpu_s=100.0, **more)


def loop(wall_per_s, core_per_s):
    """The job's own, by the clock and of a core."""
    return Rate(tiles=1000, wall_s=1000 / wall_per_s, cpu_s=1000 / core_per_s)


def gpu(tiles_per_s):
    return replace(rate(tiles_per_s, per="gpu"), cpu_s=0.0)


def on(rates, limit, whole=100):
    """Measured so that a stage is the limit."""
    took = dict.fromkeys(rates, 1.0)
    took |= {"wait": 50.0 if limit in {"read", "decode"} else 0.5, limit: 60.0}
    found = Measured(host="a", rates=rates, whole=rate(whole), seconds=took)
    assert found.limit == limit
    return found


CPU_NODE = Node(cpus=16, gpus=0, count=2, actors=4)
GPU_NODE = Node(cpus=8, gpus=2, count=3, actors=2)
ON_CPUS = {"read": rate(50_000), "decode": rate(2_000), "forward": rate(100)}
ON_GPUS = {"read": rate(50_000), "decode": rate(2_000), "forward": gpu(10_000)}


@given(seconds, positive)
def test_the_limit_does_not_depend_on_the_unit_of_time(took, factor):
    apart = (b - a for a, b in pairwise(sorted(took.values())))
    assume(min(apart, default=1.0) > 1e-6)  # rounding may turn equals
    scaled = {stage: value * factor for stage, value in took.items()}
    assert bound_by(scaled) == bound_by(took)


@given(seconds, positive)
def test_the_limit_is_a_stage_that_took_time(took, wall):
    limit = bound_by({**took, "wall": wall, "rows": 1e9})
    assert limit in took
    if {"read", "decode"} & set(took):
        assert limit != "wait"
    if limit not in {"read", "decode"} and "wait" in took:
        others = {k: v for k, v in took.items() if k not in {"read", "decode"}}
        assert took[limit] == max(others.values())


def test_nothing_took_time():
    assert bound_by({}) is None
    assert bound_by({"wall": 3.0, "decode": 0.0}) is None


@given(
    tiles=st.integers(1, 10**9),
    count=st.integers(1, 100),
    actors=st.floats(0.5, 8),
    whole=st.floats(1, 1e5),
    place=st.floats(1, 1e5),
)
def test_a_forecast_is_linear_in_tiles_and_in_nodes(tiles, count, actors, whole, place):
    found = Measured(
        host="a",
        rates={"place": rate(place), "cells": rate(800), "draw": rate(500)},
        whole=rate(whole),
    )
    node = Node(cpus=4, gpus=0, count=count, actors=actors)
    once = forecast(tiles, [(node, found)])
    twice = forecast(2 * tiles, [(node, found)])
    assert twice.activations_s == pytest.approx(2 * once.activations_s)
    assert twice.map_s == pytest.approx(2 * once.map_s)
    drawn = min(tiles, 2500) / 500
    assert once.mosaic_s == pytest.approx(tiles / (count * 4 * 800) + drawn)
    more = forecast(tiles, [(node, found), (replace(node, count=3 * count), found)])
    assert more.activations_s == pytest.approx(once.activations_s / 4)
    assert more.map_s == pytest.approx(once.map_s / 4)


@given(
    cpus=st.integers(1, 64),
    gpus=st.sampled_from([0, 1, 4]),
    actors=st.floats(0.5, 64),
    wall=st.floats(1, 1e5),
    core=st.floats(1, 1e5),
    on_gpu=st.floats(1, 1e5),
)
def test_no_forecast_is_faster_than_cores_and_gpus(
    cpus, gpus, actors, wall, core, on_gpu
):
    """One actor alone uses more of a node than each of many can."""
    rates = {"forward": gpu(on_gpu)} if gpus else {}
    found = Measured(host="a", rates=rates, whole=loop(wall, core))
    node = Node(cpus=cpus, gpus=gpus, count=3, actors=actors)
    most = most_by_part(node, found)
    got = 10**6 / forecast(10**6, [(node, found)]).activations_s / 3
    assert most["cores"] == pytest.approx(cpus * core)
    bounds = [
        actors * wall,
        cpus * core,
        *([gpus * gpu(on_gpu).tiles_per_s] if gpus else []),
    ]
    assert got == pytest.approx(min(bounds))


def test_actors_without_a_unit_do_nothing():
    node = Node(cpus=64, gpus=0, count=4, actors=16)
    found = Measured(host="a", rates={}, whole=loop(100, 100))
    took = {n: forecast(2048, [(node, found)], n).activations_s for n in (1, 64, 900)}
    assert took[1] == pytest.approx(2048 / 100)
    assert took[64] == took[900] == pytest.approx(2048 / (64 * 100))


def test_reading_back_is_part_of_a_map_and_all_points_are_of_a_mosaic():
    """Storage takes its time by the clock; cells are a question to every point."""
    load = Rate(tiles=1000, wall_s=2.0, cpu_s=0.1)
    rates = {"load": load, "place": rate(1_000), "cells": rate(500), "draw": rate(250)}
    node = Node(cpus=4, gpus=0, count=2, actors=1)
    cells = replace(rates["cells"], cpu_s=5.0)  # the rest was waiting
    for own in (rates, {**rates, "cells": cells}):
        found = forecast(10**6, [(node, Measured(host="a", rates=own))])
        assert found.mosaic_s == pytest.approx(10**6 / 500 / 8 + 10)
    assert found.map_s == pytest.approx(10**6 * (0.002 + 0.001) / 8)
    del rates["cells"]
    lacking = forecast(10**6, [(node, Measured(host="a", rates=rates))])
    assert lacking.mosaic_s is None


def test_what_was_not_measured_is_not_forecast():
    found = forecast(100, [(CPU_NODE, Measured(host="a", rates={}))])
    assert (found.activations_s, found.map_s, found.mosaic_s) == (None, None, None)


def test_nodes_without_actors_place_and_do_nothing_else():
    gpus = on({**ON_GPUS, "place": rate(1_000)}, "forward", whole=500)
    cpus = Measured(host="b", rates={"place": rate(1_000)})
    idle = replace(CPU_NODE, actors=0.0)
    found = forecast(300_000, [(GPU_NODE, gpus), (idle, cpus)])
    assert found.activations_s == pytest.approx(300_000 / (3 * 2 * 500))
    assert found.map_s == 300_000 / ((3 * 8 + 2 * 16) * 1_000)


@given(st.floats(1, 1e5), st.floats(1, 1e5), st.floats(1, 1e5))
def test_cores_add_up(read, decode, write):
    rates = {"read": rate(read), "decode": rate(decode), "write": rate(write)}
    each = core_s_per_tile(rates)
    assert each == pytest.approx(1 / read + 1 / decode + 1 / write, rel=0.02)
    most = most_by_part(CPU_NODE, Measured(host="a", rates=rates))
    assert most["cores"] == pytest.approx(16 / each)
    assert most["reading"] == pytest.approx(4 * rates["read"].wall_per_s)
    assert cores_per_gpu(rates) is None


def test_cores_that_keep_a_gpu_busy():
    assert cores_per_gpu(ON_GPUS) == pytest.approx(10_000 / 2_000 + 10_000 / 50_000)
    assert most_by_part(GPU_NODE, on(ON_GPUS, "forward"))["gpus"] == 20_000


@pytest.mark.parametrize(
    ("node", "rates", "limit", "said"),
    [
        (CPU_NODE, ON_CPUS, "forward", "GPUs: the model takes 95% of the cores' time"),
        (CPU_NODE, {**ON_CPUS, "forward": rate(9_000)}, "decode", "more cores"),
        (CPU_NODE, {**ON_CPUS, "forward": rate(9_000)}, "read", "faster storage"),
        (
            GPU_NODE,
            ON_GPUS,
            "decode",
            "cores: 5.2 for each GPU keep it busy, and there",
        ),
        (GPU_NODE, ON_GPUS, "forward", "more GPUs: each does 10,000 tiles/s"),
        (GPU_NODE, ON_GPUS, "transfer", "more GPUs"),
        (GPU_NODE, ON_GPUS, "read", "one reader gets 50,000 tiles/s"),
        (replace(GPU_NODE, cpus=64), ON_GPUS, "decode", "more --actors on each GPU"),
    ],
)
def test_what_to_add(node, rates, limit, said):
    lines = what_to_add(node, on(rates, limit))
    assert lines[0].startswith(said) or said in lines[0]


def test_the_model_must_take_most_of_the_cores_time_for_gpus():
    """The limit is where actors wait: 5 % of the cores' time are not worth a GPU."""
    rates = {"decode": rate(1_000), "forward": rate(9_000), "write": rate(5_000)}
    assert what_to_add(CPU_NODE, on(rates, "forward")) == [
        "more cores: time falls in proportion to them"
    ]


@pytest.mark.parametrize("node", [CPU_NODE, GPU_NODE])
def test_what_is_stored_as_float16_already_is_not_halved(node):
    rates = dict(ON_GPUS if node.gpus else ON_CPUS, write=rate(100, n_bytes=10**6))
    found = on(rates, "write")
    storage = what_to_add(node, found)
    assert storage[0].startswith("faster storage: one writer puts 100 tiles/s")
    assert "--dtype float16" in storage[1]
    assert what_to_add(node, replace(found, dtype="float16")) == storage[:1]


@pytest.mark.parametrize("node", [CPU_NODE, GPU_NODE])
def test_decoding_that_waits_is_for_the_storage(node):
    """Slides are read while they are decoded."""
    slow = Rate(tiles=1000, wall_s=10.0, cpu_s=1.0)
    model = gpu(9_000) if node.gpus else rate(9_000)
    lines = what_to_add(node, on({"decode": slow, "forward": model}, "decode"))
    assert lines[0].startswith("faster storage: slides are read")
    assert "90% of that time" in lines[0]


def test_nothing_to_add_where_nothing_was_measured():
    assert what_to_add(CPU_NODE, Measured(host="a", rates={})) == []


def test_a_report_says_what_is_lacking():
    found = replace(on(ON_CPUS, "forward"), lacking={"transfer": "there is no GPU"})
    report = BenchReport(kinds=((CPU_NODE, found),), tiles=1_000_000)
    lines = report.lines()
    assert "transfer  not measured: there is no GPU" in lines
    assert any(line.startswith("limit     forward") for line in lines)
    assert any("activations 21 min" in line for line in lines)
    values = report.as_json()
    assert values["nodes"][0]["limit"] == "forward"
    assert values["nodes"][0]["stages"]["decode"]["tiles_per_s"] == 2_000
    assert values["forecast"]["activations_s"] == 1_000_000 / (2 * 4 * 100)


@given(st.floats(0, 1e8), st.floats(0, 1e8))
def test_longer_durations_never_read_shorter(a, b):
    units = {"s": 1, "min": 60, "h": 3600, "days": 86400}

    def read(text):
        number, unit = text.split()
        return float(number) * units[unit]

    low, high = sorted((a, b))
    assert read(duration(low)) <= read(duration(high)) * 1.06 + 0.06
