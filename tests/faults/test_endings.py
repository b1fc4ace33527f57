"""Drivers that are told to end, refused, outlived by their actors, or left alone."""

import json
import signal
import time

import pytest

from raylatent import claim
from raylatent.claim import CLAIM, Claim
from raylatent.errors import ClaimError
from raylatent.storage import Store
from tests.engine.test_job_submit import RAY, head  # noqa: F401  (a fixture)
from tests.faults.jobs import LocalRun, assert_clean, parts_of, wait_until
from tests.faults.processes import kill

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def run(tmp_path):
    return LocalRun(tmp_path / "run")


@pytest.fixture
def start(cluster, arguments, campaign, run):
    """Start the job, with more options."""
    cluster.command("heal")

    def begin(*more):
        campaign.run()
        return cluster.start(*arguments, "--out", run.uri, *more)

    return begin


@pytest.fixture
def audit(campaign, run, expected_rows):
    """The run is as one that was never disturbed."""

    def check(expected=expected_rows):
        campaign.audit(run.uri, expected)
        assert_clean(run)

    return check


def said(process, timeout_s=240):
    """(exit code, all that it said)."""
    out, complaints = process.communicate(timeout=timeout_s)
    assert "Traceback" not in complaints, complaints
    return process.returncode, f"{out}\n{complaints}".strip()


@pytest.mark.campaign
@pytest.mark.parametrize("n_parts", [0, 2, 9])
@pytest.mark.parametrize(
    ("number", "kind"),
    [(signal.SIGTERM, "death: SIGTERM"), (signal.SIGINT, "death: Ctrl-C")],
)
def test_told_to_end(start, run, audit, campaign, number, kind, n_parts):
    process = start()
    assert wait_until(lambda: CLAIM in run.files(), process)
    assert wait_until(lambda: len(parts_of(run)) >= n_parts, process)
    campaign.fault(kind)
    kill(process.pid, number=number)
    code, printed = said(process)
    assert code == 130, printed
    last = printed.splitlines()[-1]
    assert last.endswith("interrupted: the same command again goes on from here")
    assert CLAIM not in run.files()
    assert said(start())[0] == 0
    audit()


@pytest.mark.campaign
def test_ray_job_stop(sandbox, head, run, audit, arguments, campaign):  # noqa: F811
    name, *given = arguments
    submit = (RAY, "job", "submit", "--address", head, "--working-dir", ".")
    job = ("--", "python", f"jobs/{name}.py", *given, "--out", run.uri)
    code, out, err = sandbox.run(
        *(*submit, "--no-wait", "--submission-id", "first"), *job
    )
    assert code == 0, out + err
    assert wait_until(lambda: len(parts_of(run)) >= 2)
    campaign.fault("death: ray job stop")
    campaign.run(2)
    code, out, err = sandbox.run(RAY, "job", "stop", "--address", head, "first")
    assert code == 0, out + err
    assert "was stopped" in out + err
    code, out, err = sandbox.run(*submit, *job)
    assert code == 0, out + err
    audit()


@pytest.mark.campaign
@pytest.mark.parametrize("order", [("kill", "add"), ("add", "kill first")])
def test_a_node_leaves_while_another_joins(start, run, audit, campaign, cluster, order):
    process = start()
    assert wait_until(lambda: len(parts_of(run)) >= 3, process)
    campaign.fault("death: node leaves, another joins")
    for command in order:
        cluster.command(command)
    code, printed = said(process)
    assert code == 0, printed
    audit()


@pytest.mark.campaign
def test_two_drivers_at_once(start, run, audit, campaign):
    first = start()
    assert wait_until(lambda: len(parts_of(run)) >= 1, first)
    campaign.fault("death: two drivers at once")
    kill(first.pid, number=signal.SIGSTOP)  # or it may be done before the other begins
    code, printed = said(start())
    kill(first.pid, number=signal.SIGCONT)
    assert code == 2, printed
    assert f"is being worked on by pid {first.pid}" in printed
    assert said(first)[0] == 0
    audit()


@pytest.mark.parametrize("where", ["local", "s3"])
def test_the_claim_of_another_host(tmp_path, bucket, campaign, monkeypatch, where):
    """It is taken when its lease is over, not before."""
    store = Store(tmp_path if where == "local" else f"s3://{bucket}/run")
    monkeypatch.setattr(claim, "LEASE_S", 2.0)
    monkeypatch.setattr(claim, "_WATCH_S", 0.5)
    with Claim(store, "abc"):
        left = {**json.loads(store.read(CLAIM)), "host": "node7/x", "token": "0ther"}
    store.write(CLAIM, json.dumps({**left, "heartbeat": time.time()}).encode())
    campaign.fault("death: claim of another host")
    with pytest.raises(ClaimError, match=r"on node7 .*its lease is 2 s"):
        Claim(store, "abc").__enter__()
    time.sleep(2)
    with Claim(store, "abc") as held:
        held.check()
    assert store.list() == []


@pytest.fixture
def expected_halves(plain_loop, small_model, slow_source):
    options = {"unit_tiles": 16, "batch_size": 16, "dtype": "float16"}
    return plain_loop(small_model, [slow_source], **options)


@pytest.mark.campaign
@pytest.mark.parametrize("n_parts", [1, 6])
def test_actors_outlive_their_driver(
    start, run, audit, campaign, expected_halves, n_parts
):
    """Rows of their configuration are not mixed into those of the next driver."""
    process = start()
    assert wait_until(lambda: len(parts_of(run)) >= n_parts, process)
    kill(process.pid)
    process.wait()
    campaign.fault("death: actors outlive their driver")
    code, printed = said(start("--dtype", "float16"))
    assert code == 2, printed
    assert 'dtype was "float32", now "float16"' in printed
    code, printed = said(start("--dtype", "float16", "--overwrite"))
    assert code == 0, printed
    audit(expected_halves)


@pytest.mark.campaign
def test_no_node_is_left(start, run, audit, campaign, cluster):
    # Ray takes 15 s to know that a node is gone.
    process = start("--stall-timeout-s", 30)
    assert wait_until(lambda: len(parts_of(run)) >= 2, process)
    campaign.fault("death: no progress")
    for _ in range(2):
        cluster.command("kill")
    killed = time.monotonic()
    code, printed = said(process)
    assert code == 1, printed
    assert "nothing was finished for" in printed.splitlines()[-1]
    assert "no node with" in printed.splitlines()[-1]
    assert time.monotonic() - killed < 60 + 30
    cluster.command("heal")
    assert said(start())[0] == 0
    audit()
