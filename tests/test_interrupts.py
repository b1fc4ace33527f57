"""Signals: ends in order, soon, and with the words and the code of an interruption."""

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import sys, time
from raylatent import cli
from raylatent.cli import interrupts
from raylatent.cli.verbs import VERBS
interrupts._ORDERLY_S = float(sys.argv[2])
def work(config):
    kind = sys.argv[1]
    try:
        {body}
    finally:
        print("in order", flush=True)
VERBS["layers"] = (VERBS["layers"][0], work)
code = cli.main(["layers", "x"])
print("code", code, flush=True)
raise SystemExit(code)
"""
WAITS = 'print("begun", flush=True); time.sleep(30)'
RAISES_ANOTHER = """
        try:
            print("begun", flush=True); time.sleep(30)
        except KeyboardInterrupt:
            raise RuntimeError("an actor died")
"""
DROPS_IT = """
        try:
            print("begun", flush=True); time.sleep(30)
        except KeyboardInterrupt:
            print("dropped", flush=True)
            time.sleep(30)
"""
SAID = "raylatent: interrupted: the same command again goes on from here"


@pytest.fixture
def started():
    """Start a verb with such a body; it has begun."""
    running = []

    def start(body, *before, orderly_s=3):
        program = PROGRAM.format(body=body.strip())
        process = subprocess.Popen(  # noqa: S603
            [*before, sys.executable, "-c", program, "x", str(orderly_s)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        assert process.stdout.readline() == "begun\n"
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("body", [WAITS, RAISES_ANOTHER])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_verb_in_order(started, number, body):
    process = started(body)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert out == "in order\ncode 130\n"
    assert err == f"{SAID}\n"
    assert process.returncode == 130


@pytest.mark.slow
def test_code_that_drops_the_interruption_does_not_keep_the_process(started):
    process = started(DROPS_IT)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=20)
    assert (out, err) == ("dropped\n", f"{SAID}\n")
    assert process.returncode == 130


def test_the_second_signal_is_answered_and_the_third_ends_at_once(started):
    process = started(DROPS_IT, orderly_s=60)
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "dropped\n"
    process.send_signal(signal.SIGINT)
    answer = process.stderr.readline()
    assert answer == "raylatent: already ending; once more: at once\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20) == ("", f"{SAID}\n")
    assert process.returncode == 130


def test_what_is_ignored_stays_ignored(started):
    process = started(WAITS.replace("30", "1"), "nohup")
    process.send_signal(signal.SIGHUP)
    out, err = process.communicate(timeout=30)
    assert out.startswith("in order\n")
    assert "interrupted" not in err


ENDS_SLOWLY = """
        import atexit
        def clean_up():
            print("cleaning up", flush=True); time.sleep(30)
        atexit.register(clean_up)
        print("begun", flush=True); time.sleep(30)
"""


def test_a_signal_while_the_program_cleans_up_leaves_no_trace(started):
    process = started(ENDS_SLOWLY)
    process.send_signal(signal.SIGINT)
    assert [process.stdout.readline() for _ in range(3)] == [
        *("in order\n", "code 130\n", "cleaning up\n")
    ]
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (out, err, process.returncode) == ("", f"{SAID}\n", 130)
