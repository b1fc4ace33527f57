"""How cores are shared, and that nothing of it changes a row."""

import os
import threading
from dataclasses import replace

import pyarrow as pa
import pytest

from raylatent.engine import activations, cluster
from raylatent.engine.cluster import Pool, threads_here, threads_of
from raylatent.engine.connection import usable_cores
from raylatent.engine.stream import stream


def test_affinity_and_quota_bound_the_cores(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)))
    assert usable_cores(tmp_path) == 6  # no control groups
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert usable_cores(tmp_path) == 6
    for quota, n in (("250000 100000", 2), ("900000 100000", 6), ("50000 100000", 1)):
        (tmp_path / "cpu.max").write_text(quota)
        assert usable_cores(tmp_path) == n


def test_older_control_groups_bound_them_too(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)))
    folder = tmp_path / "cpu"
    folder.mkdir()
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    for quota, n in (("-1", 6), ("300000", 3)):
        (folder / "cpu.cfs_quota_us").write_text(quota)
        assert usable_cores(tmp_path) == n


@pytest.mark.parametrize("older", [False, True])
def test_the_group_of_the_process_and_those_above_it_bound_them(
    tmp_path, monkeypatch, older
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)))
    slices = (tmp_path / "cpu" if older else tmp_path) / "user.slice"
    (slices / "job.scope").mkdir(parents=True)
    (slices / "beside.scope").mkdir()
    lines = tmp_path / "of process"
    number = "4:cpuacct,cpu" if older else "0:"
    lines.write_text(f"7:memory:/elsewhere\n{number}:/user.slice/job.scope\n")

    def limit(folder, n):
        if older:
            (folder / "cpu.cfs_period_us").write_text("100000\n")
            (folder / "cpu.cfs_quota_us").write_text(f"{n}00000\n")
        else:
            (folder / "cpu.max").write_text(f"{n}00000 100000\n")

    limit(slices / "beside.scope", 1)
    assert usable_cores(tmp_path, lines) == 6
    limit(slices, 4)
    assert usable_cores(tmp_path, lines) == 4
    limit(slices / "job.scope", 3)
    assert usable_cores(tmp_path, lines) == 3
    lines.write_text("0::/of/a/host/that/is/not/seen/here\n")
    assert usable_cores(tmp_path, lines) == 6


@pytest.mark.parametrize("cpus", [1, 2, 4, 16, 96])
@pytest.mark.parametrize("actors", [1, 2, 4, 24])
def test_actors_together_have_no_more_threads_than_cores(cpus, actors):
    threads = threads_of(cpus, actors)
    assert 1 <= threads <= cluster.MOST_THREADS
    assert threads == 1 or threads * actors <= cpus


def test_an_actor_with_a_gpu_follows_its_node(monkeypatch):
    class Here:
        def get_node_id(self):
            return "b"

    nodes = [
        {"NodeID": "a", "Resources": {"CPU": 2.0}},  # the head, all that was there
        {"NodeID": "b", "Resources": {"CPU": 48.0, "GPU": 4.0}},
    ]
    monkeypatch.setattr(cluster.ray, "nodes", lambda: nodes)
    monkeypatch.setattr(cluster.ray, "get_runtime_context", Here)
    assert threads_here(1, 1.0) == 12
    assert threads_here(1, 0.5) == 6
    assert threads_here(1, 4.0) == 16
    assert threads_here(3, 0) == 3


class Meeting:
    """Two items are done only if they are worked on together."""

    def __init__(self):
        self.both = threading.Barrier(2)

    def __call__(self, i):
        self.both.wait(60)
        return pa.table({"i": [i]})


@pytest.mark.ray
def test_an_actor_can_work_on_two_items_at_once(ray_session):
    share = Pool(smallest=1, largest=1, num_cpus=0.2, num_gpus=0, threads=1, at_once=2)
    rows = stream("items", range(4), Meeting, (), share)
    assert sorted(row["i"] for row in rows) == [0, 1, 2, 3]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(
    "changes",
    [
        {"threads": 1},
        {"threads": 2},
        {"threads": 2, "largest": 2, "smallest": 2, "num_cpus": 0.5},
        {"threads": 2, "at_once": 2},
    ],
)
def test_rows_are_those_of_the_plain_loop_however_cores_are_shared(
    tmp_path,
    tiles,
    write_slide,
    compute,
    assert_same,
    monkeypatch,
    changes,
):
    source = tmp_path / "tfrecords"
    source.mkdir()
    write_slide(source, "a", tiles, bad={21})
    write_slide(source, "b", tiles[:33])
    share_of = activations.pool

    def share(*arguments, **options):
        return replace(share_of(*arguments, **options), **changes)

    monkeypatch.setattr(activations, "pool", share)
    out = tmp_path / "run"
    report = compute(out, [source], batch_size=16, max_bad_fraction=0.1)
    assert not report.failed
    assert_same(out, [source], unit_tiles=20, batch_size=16)
