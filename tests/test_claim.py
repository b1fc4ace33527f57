"""One driver at a time."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from raylatent import claim
from raylatent.claim import (
    CLAIM,
    Claim,
    host_id,
    new_token,
    process_start,
    read_claim,
    refuse_taken,
)
from raylatent.errors import ClaimError, StorageError
from raylatent.storage import Store


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "run")


OTHER = {"token": "other"}


def dead_pid():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def leave_claim(store, **changes):
    """The claim of a driver that is gone."""
    left = {
        "token": "dead",
        "host": host_id(),
        "pid": dead_pid(),
        "process_start": "1",
        "heartbeat": time.time(),
        **changes,
    }
    store.write(CLAIM, json.dumps(left).encode())


def holder(store):
    return json.loads(store.read(CLAIM))


def driver_of(store):
    return holder(store)["token"]


def test_nothing_is_left_of_one_that_is_interrupted_as_it_is_taken(store, monkeypatch):
    create = store.create

    def interrupted(name, data):
        assert create(name, data)
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "create", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Claim(store, "a").__enter__()
    assert store.list() == []


def test_nothing_is_left(store):
    with Claim(store, "a") as held:
        held.check()
        found = holder(store)
        assert (found["token"], found["pid"]) == ("a", os.getpid())
        assert store.list() == [CLAIM]
    assert store.list() == []


def test_given_back_after_an_error(store):
    with pytest.raises(ZeroDivisionError), Claim(store, "a"):
        1 / 0  # noqa: B018
    assert store.list() == []


def test_the_second_is_refused_in_a_sentence(store):
    with Claim(store, "a"):
        with pytest.raises(ClaimError, match=rf"pid {os.getpid()} on .*: wait for it"):
            Claim(store, "b").__enter__()
        assert driver_of(store) == "a"
    with Claim(store, "b"):
        assert driver_of(store) == "b"


def test_of_a_dead_process_it_is_taken_at_once(store, monkeypatch):
    monkeypatch.setattr(claim.time, "sleep", pytest.fail)
    leave_claim(store)
    with Claim(store, "a"):
        assert store.list() == [CLAIM]
        assert driver_of(store) == "a"


def test_a_pid_used_again_is_not_the_same_process(store):
    leave_claim(store, pid=os.getpid(), process_start="1")
    with Claim(store, "a"):
        assert driver_of(store) == "a"


def test_a_zombie_is_dead():
    child = subprocess.Popen([sys.executable, "-c", ""])
    until = time.monotonic() + 20
    while process_start(child.pid) and time.monotonic() < until:
        time.sleep(0.01)
    assert process_start(child.pid) == ""
    child.wait()
    assert process_start(os.getpid()) != ""


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"{}", b"[]", b"null", b"\xff", b'{"token": "x", "pid": "y"}'),
        b"[" * 200_000,
        b'{"token": "x", "host": "h", "pid": Infinity}',
    ],
)
def test_what_is_no_claim_is_taken(store, text):
    store.write(CLAIM, text)
    with Claim(store, "a"):
        assert driver_of(store) == "a"
    assert store.list() == []


def test_another_host_has_its_lease(store, monkeypatch):
    monkeypatch.setattr(claim, "_WATCH_S", 0.05)
    leave_claim(store, host="node7/x", heartbeat=time.time() - claim.LEASE_S + 20)
    with pytest.raises(
        ClaimError, match=r"on node7 .*heartbeat 40 s ago, its lease is 60"
    ):
        Claim(store, "a").__enter__()
    leave_claim(store, host="node7/x", heartbeat=time.time() - claim.LEASE_S - 5)
    with Claim(store, "a"):
        assert driver_of(store) == "a"


@pytest.mark.parametrize("skew_s", [-3600, 3600])
def test_another_host_s_clock_may_be_wrong(store, monkeypatch, skew_s):
    monkeypatch.setattr(claim, "_WATCH_S", 2.0)
    leave_claim(store, host="node7/x", heartbeat=time.time() + skew_s)
    stop = threading.Event()

    def beat():
        while not stop.wait(0.05):
            leave = {**json.loads(store.read(CLAIM)), "heartbeat": time.time() + skew_s}
            store.write(CLAIM, json.dumps(leave).encode())

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(ClaimError, match="on node7"):
            Claim(store, "a").__enter__()
    finally:
        stop.set()
        thread.join()


def wait_for(condition):
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_it_beats(store, monkeypatch):
    monkeypatch.setattr(claim, "HEARTBEAT_S", 0.02)
    with Claim(store, "a"):
        first = holder(store)["heartbeat"]
        wait_for(lambda: holder(store)["heartbeat"] > first)
        store.delete(CLAIM)  # by somebody who tidies up
        wait_for(lambda: store.exists(CLAIM))


def test_a_lost_claim_is_noticed_and_not_given_back(store, monkeypatch):
    monkeypatch.setattr(claim, "HEARTBEAT_S", 0.02)
    with Claim(store, "a") as held:

        def lost():
            # Again and again: a beat under way may write over it once.
            leave_claim(store, **OTHER, host="node7/x", pid=5)
            try:
                held.check()
            except ClaimError as error:
                return "pid 5 on node7" in str(error)
            return False

        wait_for(lost)
    assert driver_of(store) == "other"


def test_failing_storage_is_not_a_dead_driver(store, monkeypatch):
    with Claim(store, "a"):

        def fail(name):
            message = "cannot read"
            raise StorageError(message)

        other = Store(store.uri)
        monkeypatch.setattr(other, "read", fail)
        with pytest.raises(StorageError):
            Claim(other, "b").__enter__()
        assert driver_of(store) == "a"


def compete(store, n=6):
    """Threads that want the claim at once; tokens of those that have it, and errors."""
    barrier = threading.Barrier(n)
    done = threading.Barrier(n)
    won, refused = [], []

    def drive():
        token = new_token()
        barrier.wait()
        try:
            with Claim(store, token) as held:
                won.append(token)
                done.wait(20)
                held.check()
        except ClaimError as error:
            refused.append(str(error))
            done.wait(20)

    threads = [threading.Thread(target=drive) for _ in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return won, refused


@pytest.mark.parametrize("attempt", range(5))
@pytest.mark.parametrize("before", ["none", "dead", "broken", "died while taking over"])
def test_of_many_exactly_one_has_it(store, before, attempt):
    if before != "none":
        leave_claim(store)
    if before == "broken":
        store.write(CLAIM, b"{}")
    if before == "died while taking over":
        successor = {**holder(store), "token": "dead2"}
        store.write("claim.dead.json", json.dumps(successor).encode())
    won, refused = compete(store)
    assert len(won) == 1
    assert len(refused) == 5
    assert store.list() == []


def test_a_slow_successor_sees_that_it_came_too_late(store, monkeypatch):
    """It found the claim dead, and another has finished taking over since."""
    leave_claim(store)
    slow = Claim(store, "slow")
    dead = read_claim(store)
    with Claim(store, "quick"):
        with pytest.raises(ClaimError, match="taken by another driver just now"):
            slow._take_over(dead)
        assert driver_of(store) == "quick"
        assert store.list() == [CLAIM]


DRIVER = """
import sys
from raylatent.claim import Claim, new_token
from raylatent.errors import ClaimError
from raylatent.storage import Store
print("ready", flush=True)
sys.stdin.readline()
try:
    with Claim(Store(sys.argv[1]), new_token()):
        print("won", flush=True)
        sys.stdin.readline()
except ClaimError:
    print("refused", flush=True)
"""


def test_of_two_processes_exactly_one_has_it(store):
    leave_claim(store)
    drivers = [
        subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", DRIVER, store.uri],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        assert [driver.stdout.readline() for driver in drivers] == ["ready\n"] * 2
        for driver in drivers:
            driver.stdin.write("\n")
            driver.stdin.flush()
        outcomes = [driver.stdout.readline() for driver in drivers]
        assert sorted(outcomes) == ["refused\n", "won\n"]
        drivers[outcomes.index("won\n")].kill()
    finally:
        for driver in drivers:
            driver.kill()
            driver.communicate()
    with Claim(store, "next"):
        assert driver_of(store) == "next"


def test_in_an_object_store():
    store = Store("memory://claims/run")
    leave_claim(store)
    with Claim(store, "a"), pytest.raises(ClaimError):
        Claim(store, "b").__enter__()
    assert store.list() == []


@pytest.mark.parametrize("uri", ["local", "memory://lost/run"])
def test_actors_of_a_driver_that_lost_the_claim_write_nothing(tmp_path, uri):
    folder = tmp_path if uri == "local" else uri
    store, other = Store(folder, writer="mine"), Store(folder, writer="another")
    with pytest.raises(ClaimError, match="nothing more is written"):
        refuse_taken(store)  # given back
    with Claim(store, "mine"):
        refuse_taken(store)
        with pytest.raises(ClaimError, match="nothing more is written"):
            refuse_taken(other)
