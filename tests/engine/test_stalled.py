"""Nothing waits for ever: a stall ends with the reason, a death with what it was at."""

import logging
import os
import threading
import time

import pyarrow as pa
import pytest

from raylatent.engine import cluster
from raylatent.engine import stream as module
from raylatent.engine.cluster import Pool, gather
from raylatent.engine.stream import stream
from raylatent.errors import IncompleteError

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def share(**options):
    given = {"num_cpus": 0.2, "num_gpus": 0, "threads": 1, **options}
    return Pool(smallest=1, largest=1, **given)


class Sleeping:
    def __call__(self, i):
        if i == 1:
            time.sleep(600)
        return pa.table({"unit": [i]})


class Quick:
    def __call__(self, i):
        return pa.table({"unit": [i]})


class Dying:
    def __init__(self, when):
        if when == "start":
            os._exit(1)

    def on_unit(self, slide, unit):
        """Set by who made the actor."""

    def __call__(self, i):
        self.on_unit(f"s{i}", i)
        if i == 2:
            os._exit(1)
        return pa.table({"unit": [i]})


def test_a_unit_that_never_ends(ray_session):
    with pytest.raises(IncompleteError, match=r"nothing was finished for .*may take"):
        list(stream("items", (0, 1), Sleeping, (), share(), stall_timeout_s=4))


def test_an_actor_that_finds_no_place(ray_session):
    with pytest.raises(IncompleteError, match="no node has the 3 GPUs"):
        list(
            stream(
                "items",
                [0],
                Sleeping,
                (),
                share(num_gpus=3),
                stall_timeout_s=4,
            )
        )


@pytest.mark.parametrize("answer", ["error", "never"])
def test_a_cluster_that_does_not_answer_holds_nothing_up(monkeypatch, answer):
    over = threading.Event()

    def asked(_):
        if answer == "error":
            raise ConnectionError
        over.wait(60)

    monkeypatch.setattr(module, "obstacle", asked)
    monkeypatch.setattr(module, "_ANSWER_S", 0.1)
    with module.Watch(share(), 0.5, every_s=0.05) as watch:
        assert "the cluster does not answer" in watch.stalled("")
    over.set()


def test_a_consumer_that_fails_leaves_nothing_behind(ray_session):
    from contextlib import closing

    names = {thread.name for thread in threading.enumerate()}
    found = stream("items", [0, 2], Quick, (), share())
    with closing(found):
        assert next(found)["unit"] in {0, 2}
    left = {thread.name for thread in threading.enumerate()} - names
    assert not [name for name in left if "_look" in name]
    handlers = logging.getLogger("ray.data").handlers
    assert [h.level for h in handlers if h.name == "console"] == [logging.INFO]


@pytest.mark.parametrize(
    ("when", "said"),
    [("start", "last at its start on"), ("unit", "last at slide 's2', unit 2 on")],
)
def test_what_an_actor_was_at_when_it_died_is_said_once(
    ray_session, monkeypatch, when, said
):
    monkeypatch.setattr(module, "_RESTARTS", 1)
    with pytest.raises(IncompleteError, match=said) as caught:
        list(stream("items", [2], Dying, (when,), share()))
    assert str(caught.value).startswith("actors died and were started again 2 times")


def test_a_task_that_never_ends(ray_session, monkeypatch, caplog):
    monkeypatch.setattr(cluster, "_SAY_EVERY_S", 1)

    def sleep(seconds):
        time.sleep(seconds)

    remote = ray_session.remote(num_cpus=0.1)(sleep)
    tasks = [remote.remote(600), remote.remote(0)]
    with pytest.raises(IncompleteError, match="nothing was finished for"):
        list(gather(tasks, stall_timeout_s=3))
    ray_session.cancel(tasks[0], force=True)
