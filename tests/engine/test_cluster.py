"""Shares of a cluster, its errors in a sentence, what its nodes see, and waiting."""

import logging
import pickle
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylatent.claim import new_token
from raylatent.engine import cluster, stream, visibility
from raylatent.engine.cluster import READ_CPUS, Pool, actor_cpus, pool
from raylatent.engine.visibility import (
    Sights,
    check_run,
    check_visibility,
    refuse_temporary_copy,
    unseen,
)
from raylatent.errors import (
    ConfigError,
    IncompleteError,
    ModelError,
    StorageError,
    VisibilityError,
)
from raylatent.model.load import file_digest
from raylatent.model.spec import model_spec
from raylatent.run import RunDirectory, remove_litter
from raylatent.source.tfrecords import TFRecordRequest
from raylatent.storage import FileStat, Store, file_stat

SHARE = Pool(smallest=1, largest=1, num_cpus=0.5, num_gpus=0, threads=1)


def nodes(*resources):
    return lambda: [{"Resources": node} for node in resources]


@given(
    cpus=st.lists(st.integers(1, 64), min_size=1, max_size=6),
    n_actors=st.integers(1, 40),
)
def test_with_the_largest_node_lost_all_actors_and_a_read_task_fit(cpus, n_actors):
    share = actor_cpus(cpus, n_actors)
    assert 0 < share <= 1
    surviving = sorted(cpus)[: max(1, len(cpus) - 1)]
    assert sum(int((n - READ_CPUS) / share + 1e-9) for n in surviving) >= n_actors


def test_defaults_follow_the_clusters_size(monkeypatch):
    monkeypatch.setattr(
        cluster, "alive_nodes", nodes({}, {"CPU": 16}, {"CPU": 2}, {"CPU": 9})
    )
    share = pool(None, None)
    assert (share.smallest, share.largest) == (4 + 1 + 2, 4 + 1 + 2)
    assert share.num_gpus == 0
    assert share.threads == 27 // 7
    monkeypatch.setattr(
        cluster, "alive_nodes", nodes({"CPU": 8, "GPU": 3}, {"CPU": 8, "GPU": 1})
    )
    assert pool(None, None).num_gpus == 1
    assert pool(None, None).largest == 4
    assert pool(None, 2).largest == 1
    assert pool(None, 0.5).largest == 8
    assert pool((2, 5), None).smallest == 2


def test_what_can_never_be_placed_is_refused(monkeypatch):
    monkeypatch.setattr(cluster, "alive_nodes", nodes({"CPU": 4}))
    with pytest.raises(ConfigError, match="--num-gpus is 1, but this machine has 0"):
        pool(None, 1, local=True)
    assert pool(None, 1).num_gpus == 1  # elsewhere a node with one may join
    monkeypatch.setattr(cluster, "alive_nodes", nodes({}))
    with pytest.raises(ConfigError, match="no node with CPUs"):
        pool(None, None)


def test_waiting_for_what_is_not_there_is_said(monkeypatch, caplog):
    caplog.set_level(logging.WARNING, "raylatent")
    logger = logging.getLogger("raylatent")
    monkeypatch.setattr(logger, "propagate", True)
    monkeypatch.setattr(stream, "alive_nodes", nodes({"CPU": 4}, {}))
    watch = stream.Watch(replace(SHARE, num_gpus=1), every_s=0.05)
    with watch, watch.waiting():
        ends = time.monotonic() + 10
        while len(caplog.records) < 2 and time.monotonic() < ends:
            time.sleep(0.01)
    assert len(caplog.records) >= 2  # again and again
    assert "no node has the 1 GPUs" in caplog.text
    monkeypatch.setattr(stream, "alive_nodes", nodes({}))
    assert "no node with 0.5 CPUs" in stream.obstacle(SHARE)
    monkeypatch.setattr(stream, "alive_nodes", nodes({"CPU": 1}))
    assert stream.obstacle(SHARE) is None


def test_a_few_calls_are_made_by_the_driver(monkeypatch):
    def connected():
        raise ConnectionError

    monkeypatch.setattr(cluster, "connect", connected)
    assert list(cluster.spread(max, [(1, 2), (4, 3)])) == [2, 4]
    assert list(cluster.spread(max, [])) == []
    with pytest.raises(ConnectionError):
        list(cluster.spread(max, [(1, 2)] * 3))


@pytest.mark.ray
def test_many_calls_are_tasks_whose_answers_keep_their_order(ray_session, monkeypatch):
    def square(i):
        return i**2

    monkeypatch.setattr(cluster, "_IN_FLIGHT", 4)
    calls = [(i,) for i in range(11)]
    assert list(cluster.spread(square, calls)) == [i**2 for i in range(11)]


def test_errors_of_tasks_come_as_they_were_raised(ray_session):
    def fail(error):
        raise error

    remote = ray_session.remote(num_cpus=0.1)(fail)
    for error in (ModelError("no such model"), StorageError("cannot write")):
        with pytest.raises(type(error)) as caught:
            list(cluster.gather([remote.remote(error)]))
        assert type(caught.value) is type(error)
        assert str(caught.value) == str(error)
    with pytest.raises(IncompleteError) as caught:
        list(cluster.gather([remote.remote(KeyError("odd\nthing"))]))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("a worker failed (KeyError: ")


def test_the_copy_of_the_working_directory_is_refused(monkeypatch, tmp_path):
    folder = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    with pytest.raises(VisibilityError, match="--out run lies in the temporary copy"):
        refuse_temporary_copy("--out", ["run"])
    refuse_temporary_copy("--out", [str(tmp_path / "run"), "s3://bucket/run"])


@pytest.fixture
def sights(tmp_path, small_model, tiles, write_slide):
    """What a node sees when all is well."""
    run, source = tmp_path / "run", tmp_path / "tfrecords"
    run.mkdir()
    source.mkdir()
    uri = str(write_slide(source, "a", tiles[:2]))
    (run / "probe").write_text("proof")
    spec = model_spec(small_model)
    return Sights(
        store=Store(run),
        name="probe",
        proof="proof",
        stats=((TFRecordRequest(uri=uri), file_stat(uri)),),
        model=(spec, file_digest(spec)),
    )


def test_a_node_says_what_it_does_not_see(sights, tmp_path):
    assert unseen(sights) is None
    (one, stat), spec = sights.stats[0], sights.model[0]
    uri, two = one.uri, TFRecordRequest(uri=f"{one.uri}2")
    elsewhere = Store(tmp_path / "elsewhere")
    other = FileStat(size=stat.size, mtime_ns=1)
    gone = replace(
        spec, folder=str(tmp_path / "gone"), weights=str(tmp_path / "gone/weights")
    )
    for change, complaint in (
        ({"store": elsewhere}, f"the run directory {elsewhere.uri}"),
        ({"proof": "another"}, f"the same run directory {sights.store.uri}"),
        ({"stats": ((one, other),)}, f"the same source {uri}"),
        ({"stats": ((two, stat),)}, f"the source {uri}2"),
        ({"model": (spec, "another")}, f"the same model {spec.name}"),
        ({"model": (gone, "")}, f"the model {tmp_path / 'gone'}"),
    ):
        assert unseen(replace(sights, **change)).startswith(complaint)


@pytest.mark.ray
def test_every_node_is_asked(ray_session, sights, monkeypatch):
    one = sights.stats[0][0]
    check_visibility(sights.store, [one], sights.model[0])
    assert sights.store.asides() == []
    blind = replace(sights, proof="another")
    monkeypatch.setattr(visibility, "unseen", lambda _: unseen(blind))
    with pytest.raises(VisibilityError, match=r"node [\d.]+ does not see the same run"):
        check_visibility(sights.store, [one], sights.model[0])
    assert sights.store.asides() == []


def test_the_proof_of_a_driver_that_was_killed_meanwhile_is_litter(
    tmp_path, monkeypatch
):
    run = RunDirectory(str(tmp_path / "run"), writer=new_token())
    monkeypatch.setattr(visibility, "on_each_node", lambda action: [])
    with monkeypatch.context() as killed:
        killed.setattr(Store, "delete", lambda self, name: None)
        check_visibility(run.store)
    assert len(run.store.asides()) == 1
    remove_litter(run)
    assert run.store.asides() == []


def test_a_node_that_joins_later_looks_by_itself(tmp_path):
    run = RunDirectory(str(tmp_path / "run"))
    with pytest.raises(VisibilityError, match="does not see the run directory"):
        check_run(run, "abc")
    run.begin({"a": 1}, {"layers": {}}, overwrite=False)
    fingerprint = run.settings()["fingerprint"]
    check_run(run, fingerprint)
    with pytest.raises(VisibilityError, match="does not see the same run"):
        check_run(run, "abc")


def test_what_travels_can_be_pickled(sights):
    assert pickle.loads(pickle.dumps(sights)).name == "probe"  # noqa: S301  (ours)
