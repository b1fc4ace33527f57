"""Progress in tiles: lines in a file, a bar on a terminal and in a notebook."""

import io
import logging
import os
import time

import pytest

from raylatent.engine import progress
from raylatent.engine.progress import Pace, Progress, still_working
from raylatent.terminal import write_line


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def _no_dumb_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def work(stream, clock):
    with Progress("activations", 1000, stream) as shown:
        clock[0] += 10  # actors start
        shown.add(100)
        clock[0] += 1
        shown.add(50)  # too soon for a line
        clock[0] += 1
        shown.add(150)
        clock[0] += 4
        shown.add(700)
        shown.add(0)


def test_lines_on_a_file(clock):
    stream = io.StringIO()
    work(stream, clock)
    assert stream.getvalue().splitlines() == [
        "activations  100/1,000 tiles  10%",
        "activations  300/1,000 tiles  30%  100 tiles/s  7 s left",
        "activations  1,000/1,000 tiles  100%  62 tiles/s",
    ]


def test_a_bar_on_a_terminal_then_a_line(clock):
    stream = Terminal()
    work(stream, clock)
    drawn = stream.getvalue()
    assert drawn.count("\n") == 1
    assert drawn.endswith("\ractivations  1,000/1,000 tiles  100%  62 tiles/s\n")
    assert "| 0/1000 [" in drawn


def test_lines_stand_above_the_bar():
    stream = Terminal()
    with Progress("map", 10, stream) as shown:
        write_line("warning", stream)
        shown.add(10)
    lines = [line.rpartition("\r")[2] for line in stream.getvalue().split("\n")]
    assert lines[0] == "warning"
    assert lines[1].startswith("map  10/10 tiles")


def test_a_terminal_that_was_closed_ends_no_work():
    leader, follower = os.openpty()
    with (
        open(follower, "w") as stream,  # noqa: PTH123
        Progress("map", 10, stream) as shown,
    ):
        os.close(leader)
        for _ in range(10):
            time.sleep(0.02)
            shown.add(1)
    assert shown._done == 10


def test_in_a_notebook_there_is_a_bar_on_any_stream(clock, monkeypatch):
    monkeypatch.setattr(progress, "is_notebook", lambda: True)
    stream = io.StringIO()
    work(stream, clock)
    assert "| 0/1000 [" in stream.getvalue()


def test_nothing_to_do_shows_nothing(clock):
    stream = io.StringIO()
    with Progress("activations", 0, stream):
        clock[0] += 10
    assert not stream.getvalue()


def test_an_error_still_shows_how_far_it_went(clock):
    stream = io.StringIO()
    shown = Progress("map", 10, stream)
    shown.__enter__()
    shown.add(4)
    shown.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert stream.getvalue().startswith("map  4/10 tiles  40%")


def test_work_without_known_progress_is_said_until_it_ends(caplog):
    with caplog.at_level(logging.INFO), still_working("fitting", every_s=0.01):
        while len(caplog.messages) < 3:
            time.sleep(0.01)
    assert all(line.startswith("fitting: for 0 s so far") for line in caplog.messages)
    said = len(caplog.messages)
    time.sleep(0.05)
    assert len(caplog.messages) == said


def test_start_up_is_no_part_of_the_pace(clock):
    """Two workers, each of 10 tiles/s once it has loaded for 30 s."""
    pace = Pace(seconds=4)
    pace.begin(workers=2)
    clock[0] += 32
    pace.add(20)
    assert pace.per_s is None
    pace.add(20)
    for _ in range(2):
        assert not pace.enough
        clock[0] += 2
        pace.add(20)
        pace.add(20)
    assert pace.enough
    assert pace.per_s == pytest.approx(20)
    assert pace.start_s == pytest.approx(30)


def test_to_the_end_the_last_two_items_come_together(clock):
    """One worker of 10 tiles/s, and five items of 20 tiles."""
    pace = Pace()
    pace.begin(workers=1)
    clock[0] += 4
    pace.add(20)
    for _ in range(3):
        clock[0] += 2
        pace.add(20)
    pace.add(20)
    assert pace.per_s == pytest.approx(10)


def test_items_that_are_handed_on_together_make_no_pace(clock):
    """Of two items the first comes with the last, however long each took."""
    pace = Pace()
    pace.begin(workers=1)
    clock[0] += 9
    pace.add(1000)
    pace.add(1000)
    assert pace.per_s is None


def test_without_end_a_pace_never_has_enough(clock):
    pace = Pace()
    pace.add(1)
    clock[0] += 1e9
    pace.add(1)
    assert not pace.enough
