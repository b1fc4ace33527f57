"""Fixtures: one cluster and one object store for all jobs that are disturbed."""

import itertools
import tempfile

import pytest

from tests.faults.death import ACTOR, DRIVER, NODE, Disturbed
from tests.faults.jobs import (
    OPTIONS,
    UNIT_TILES,
    LocalRun,
    SmallCluster,
    copy_slow_model,
)
from tests.faults.s3_server import S3Server

N_UNITS = 13
IN_FLIGHT = 2 * 4  # actors, and what Ray Data sends to each ahead
KINDS = {
    DRIVER: "death: driver killed",
    ACTOR: "death: actor killed",
    NODE: "death: node killed",
}
_numbers = itertools.count()


@pytest.fixture(scope="session")
def s3():
    """An S3 server on loopback."""
    server = S3Server()
    yield server
    server.close()


@pytest.fixture
def bucket(s3, monkeypatch):
    """A new bucket, which this process reaches as all others do: by the environment."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    name = f"bucket{next(_numbers)}"
    s3.create(name)
    yield name
    s3.before = s3.nothing


@pytest.fixture(scope="session")
def cluster(beside, s3):
    """Two worker nodes of one CPU, which reach the object store."""
    sandbox = beside("sandbox").Sandbox(tempfile.mkdtemp(prefix="rlf", dir="/tmp"))
    yield SmallCluster(sandbox, **s3.environment)
    sandbox.close()


@pytest.fixture(scope="session")
def slow_source(tmp_path_factory, tiles, write_slide):
    """194 tiles in 13 units, three of them no pictures (see OPTIONS)."""
    folder = tmp_path_factory.mktemp("tfrecords")
    write_slide(folder, "a", tiles)
    write_slide(folder, "b c", tiles, bad={5, 40})
    write_slide(folder, "007", tiles[:50], bad={49})
    write_slide(folder, "one", tiles[:16])
    return folder


@pytest.fixture(scope="session")
def slow_model(tmp_path_factory, small_model):
    """small_net, slower for each pass."""
    folder = tmp_path_factory.mktemp("models") / "slow"
    return copy_slow_model(folder, small_model)


@pytest.fixture(scope="session")
def expected_rows(slow_source, small_model, plain_loop):
    """What a run of slow_source has if nothing disturbs it."""
    return plain_loop(small_model, [slow_source], unit_tiles=UNIT_TILES, batch_size=16)


@pytest.fixture
def arguments(slow_source, slow_model):
    """Of a job over slow_source, all but --out."""
    given = ("activations", "--tfrecords", slow_source, "--model", slow_model)
    return (*given, *OPTIONS)


@pytest.fixture
def disturb(tmp_path, cluster, arguments, expected_rows, campaign):
    """Run a job that is disturbed as a seed says, and audit what it leaves."""

    def play(seed, kind=None, *, run=None, expected=None, kinds=KINDS):
        run = run or LocalRun(tmp_path / f"run {seed}")
        job = (*arguments, "--out", run.uri)
        cluster.command("heal")
        disturbed = Disturbed(cluster, job, run, N_UNITS, seed, kind)
        campaign.fault(kinds[disturbed.kind])
        disturbed.play()
        campaign.run(disturbed.jobs)
        campaign.audit(run.uri, expected or expected_rows)
        assert disturbed.redone <= IN_FLIGHT
        return disturbed

    return play


@pytest.fixture
def impatient(monkeypatch):
    """Storage is asked again as often as ever, after a hundredth of the time."""
    from raylatent.storage import paths

    waits = tuple(wait_s / 100 for wait_s in paths.RETRY_WAITS_S)
    monkeypatch.setattr(paths, "RETRY_WAITS_S", waits)
