"""Seconds by stage: of the clock, and of the CPU."""

import threading
import time

from raylatent.tiles.threads import Clock


def test_waiting_takes_no_cpu():
    clock = Clock("read", "decode")
    with clock.timed("read"):
        time.sleep(0.05)
    assert clock.seconds["read"] >= 0.05
    assert clock.cpu["read"] < 0.04


def test_only_the_thread_that_works_is_counted():
    clock, stop = Clock("read"), threading.Event()

    def busy():
        while not stop.is_set():
            sum(range(1000))

    other = threading.Thread(target=busy)
    other.start()
    try:
        with clock.timed("read"):
            time.sleep(0.1)
    finally:
        stop.set()
        other.join()
    assert clock.cpu["read"] < 0.05


def test_what_was_counted_elsewhere_adds_up():
    clock = Clock("decode")
    clock.add("decode", 2.0, 0.5)
    clock.add("decode", 1.0, 0.25)
    assert (clock.seconds["decode"], clock.cpu["decode"]) == (3.0, 0.75)
