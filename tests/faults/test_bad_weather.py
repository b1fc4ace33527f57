"""A store that is late, fails or stops: it is asked again, and nothing is lost."""

import random
import time

import pytest

from raylatent.errors import StorageError
from raylatent.storage import Store, paths
from tests.faults.bad_weather import BadWeather

NAMES = [f"slide={i % 3}/{i:06d}.parquet" for i in range(9)]


def play(store, seed, n_actions):
    """Do things at random; what is there afterwards has to be what was done."""
    draw = random.Random(f"actions {seed}")  # noqa: S311
    known = {}
    for _ in range(n_actions):
        name = draw.choice(NAMES)
        action = draw.choice(("write", "write", "read", "delete", "move", "list"))
        if action == "write":
            known[name] = draw.randbytes(draw.choice((10, 100_000)))
            store.write(name, known[name])
        elif action == "read" and name in known:
            assert store.read(name) == known[name]
        elif action == "delete":
            known.pop(name, None)
            store.delete(name)
        elif action == "move" and name in known:
            to = f"removed/{draw.choice(NAMES)}"
            store.move(name, to)
            known[to] = known.pop(name)
        else:
            assert store.list() == sorted(known)
    assert {name: store.read(name) for name in store.list()} == known


@pytest.mark.slow
@pytest.mark.parametrize(
    "seed",
    [
        pytest.param(0),
        *(pytest.param(n, marks=pytest.mark.campaign) for n in range(1, 10)),
    ],
)
def test_what_is_there_is_what_was_done(s3, bucket, impatient, campaign, seed):
    weather = s3.before = BadWeather(seed, often=0.15, late_s=0.2)
    play(Store(f"s3://{bucket}/run"), seed, 40)
    for kind, n in weather.faults.items():
        campaign.fault(kind, n)
    assert weather.faults


@pytest.fixture
def hurried(monkeypatch):
    """An answer is waited for less long, and asked for less often."""
    monkeypatch.setattr(paths, "_ANSWER_S", 1.0)
    monkeypatch.setattr(paths, "_ATTEMPTS", 2)
    monkeypatch.setattr(paths, "RETRY_WAITS_S", (0.1, 0.1))
    paths._remote_filesystem.cache_clear()
    yield
    paths._remote_filesystem.cache_clear()


@pytest.mark.slow
def test_a_store_that_stops_for_a_while(s3, bucket, hurried, campaign):
    store = Store(f"s3://{bucket}/run")
    store.write("a", b"x")
    weather = s3.before = BadWeather(0, often=0)
    weather.stop(2)
    assert store.read("a") == b"x"
    weather.stop(2)
    store.write("a", b"y")
    assert store.read("a") == b"y"


@pytest.mark.slow
def test_nothing_is_waited_for_without_end(s3, bucket, hurried):
    store = Store(f"s3://{bucket}/run")
    weather = s3.before = BadWeather(0, often=0)
    weather.stop(60)
    started = time.monotonic()
    with pytest.raises(StorageError, match=r"cannot read s3://.*(slow|Timeout)"):
        store.read("a")
    assert time.monotonic() - started < 30
    weather.stop(0)
