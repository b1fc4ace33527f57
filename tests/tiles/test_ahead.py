"""Work done ahead, its results in order."""

import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from raylatent.errors import StorageError
from raylatent.tiles.threads import in_order


def test_results_come_in_order_and_only_so_many_jobs_are_under_way():
    started, taken, most = [], [], 0
    lock = threading.Lock()

    def job(i):
        def work():
            with lock:
                started.append(i)
            time.sleep(0.001 * (i % 3))
            return i

        return work

    with ThreadPoolExecutor(4) as pool:
        for value in in_order(map(job, range(40)), pool, 5):
            taken.append(value)
            with lock:
                most = max(most, max(started) - value)
    assert taken == list(range(40))
    assert most <= 5


def test_what_is_not_asked_for_any_more_is_not_read():
    gate, started = threading.Event(), []

    def job(i):
        def work():
            started.append(i)
            if i:
                gate.wait(30)
            return i

        return work

    with ThreadPoolExecutor(1) as pool:
        results = in_order(map(job, range(40)), pool, 6)
        assert next(results) == 0
        results.close()
        gate.set()
    assert started in ([0], [0, 1])


def test_an_error_of_a_job_comes_out_and_ends_the_others():
    def fail():
        message = "the disk is gone"
        raise StorageError(message)

    with ThreadPoolExecutor(2) as pool:
        results = in_order(iter([lambda: 1, fail, lambda: 2]), pool, 2)
        assert next(results) == 1
        with pytest.raises(StorageError, match="the disk is gone"):
            list(results)
    gc.collect()
