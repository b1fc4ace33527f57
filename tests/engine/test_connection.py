"""Which Ray is used, what is said where there is none, and who is waited for."""

import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from raylatent.engine import connection
from raylatent.engine.connection import check_address, connect, in_one_line
from raylatent.errors import ConfigError

FREE = "127.0.0.1:1"  # nobody listens there


@pytest.fixture
def no_ray(monkeypatch):
    """As if this process had no Ray yet; what `ray.init` was asked for."""
    asked = []
    monkeypatch.setattr(connection.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(connection, "_own", "")
    monkeypatch.setattr(connection, "_ahead", None)
    monkeypatch.setattr(connection, "_watched", list)
    monkeypatch.setattr(connection, "_address", lambda: "here:1")
    monkeypatch.setattr(connection, "_watch", lambda watched: None)
    monkeypatch.setattr(connection.ray, "init", lambda **options: asked.append(options))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield asked
    for thread in threading.enumerate():
        if thread.name == "raylatent-ray":
            thread.join(20)


@pytest.fixture
def spoken(monkeypatch, caplog):
    caplog.set_level(logging.WARNING, "raylatent")
    monkeypatch.setattr(logging.getLogger("raylatent"), "propagate", True)
    return caplog


def failing(error):
    def init(**options):
        raise error

    return init


@pytest.mark.parametrize("address", ["", "local"])
def test_without_an_address_a_local_ray_is_started(no_ray, monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert connect()
    assert [one["address"] for one in no_ray] == ["local"]
    assert no_ray[0]["include_dashboard"] is False


def test_an_address_is_joined_as_soon_as_its_port_answers(no_ray, monkeypatch, spoken):
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(seconds / 10))
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        threading.Timer(0.3, server.listen).start()
        assert not connect()
    assert [one["address"] for one in no_ray] == [address]
    assert "num_cpus" not in no_ray[0]
    assert (
        f"waiting for Ray at RAY_ADDRESS={address} (Connection refused)" in spoken.text
    )


@pytest.mark.parametrize(
    "address", [FREE, f"ray://{FREE}", "no.such.host.invalid:6379"]
)
def test_a_port_that_does_not_answer_is_named_in_time(address, spoken):
    began = time.monotonic()
    with pytest.raises(ConfigError, match=r"no Ray answers at RAY_ADDRESS=.*unset it"):
        check_address(address, within_s=0.2)
    assert time.monotonic() - began < 30
    assert len(spoken.records) == 1


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://head:8265", "job server, which `ray job submit` takes.* as head:6379"),
        ("https://head", "job server"),
        ("head", "not HOST:PORT"),
        (":6379", "not HOST:PORT"),
        ("head:port", "not HOST:PORT"),
    ],
)
def test_addresses_of_another_kind_are_refused_at_once(address, words):
    with pytest.raises(ConfigError, match=words):
        check_address(address)


def test_all_of_rays_reason_is_said_in_one_line(no_ray, monkeypatch):
    reason = "Version mismatch: the cluster has\n    Ray: 2.40.0\n    Python: 3.12.1\n"
    monkeypatch.setattr(connection.ray, "init", failing(RuntimeError(reason)))
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(ConfigError) as caught:
        connect()
    assert str(caught.value) == (
        "cannot connect to Ray at RAY_ADDRESS=auto: Version mismatch: the cluster has "
        "Ray: 2.40.0 Python: 3.12.1"
    )
    assert (
        in_one_line(RuntimeError("a.\nTraceback (most recent call last):\n b")) == "a"
    )
    assert in_one_line(ValueError()) == "ValueError"
    assert len(in_one_line(ValueError("x" * 10_000))) < 1000
    too_large = RuntimeError("Package size (667MiB) exceeds the maximum size of 512MiB")
    assert "RAY_ENABLE_UV_RUN_RUNTIME_ENV=0" in in_one_line(too_large)


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left", "/a/x"), AssertionError(), KeyError("a")]
)
def test_whatever_a_local_ray_fails_with_is_one_sentence(no_ray, monkeypatch, error):
    monkeypatch.setattr(connection.ray, "init", failing(error))
    with pytest.raises(ConfigError, match="could not be started on this machine: "):
        connect()


def test_a_ray_that_does_not_answer_is_given_up(no_ray, monkeypatch, spoken):
    monkeypatch.setattr(connection, "_SAY_AFTER_S", 0.05)
    monkeypatch.setattr(connection, "_MOST_S", 0.2)
    over = threading.Event()
    monkeypatch.setattr(connection.ray, "init", lambda **options: over.wait(10))
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    try:
        with pytest.raises(
            ConfigError, match="nothing that answers at RAY_ADDRESS=auto"
        ):
            connect()
    finally:
        over.set()
    assert "waiting for Ray at RAY_ADDRESS=auto" in spoken.text


@pytest.mark.ray
def test_head_and_own_node_of_a_local_ray_are_watched(ray_session):
    watched = connection._watched()
    assert [one.what for one in watched] == ["head", "own node"]
    for one in watched:
        assert connection._unanswered(one.port) is None


def test_the_thread_that_starts_ray_stays(no_ray, monkeypatch):
    """Ray's processes are killed with it."""
    stays, started_by = threading.Event(), []
    monkeypatch.setattr(connection, "_watch", lambda watched: stays.wait(10))
    monkeypatch.setattr(
        connection.ray,
        "init",
        lambda **options: started_by.append(threading.current_thread()),
    )
    job = threading.Thread(target=connect)
    job.start()
    job.join()
    assert started_by[0].is_alive()
    assert started_by[0].daemon
    stays.set()


def test_what_is_gone_is_said_before_ray_ends_the_process(monkeypatch, spoken):
    left = [False, *[True] * 30]
    monkeypatch.setattr(connection.ray, "is_initialized", left.pop)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        alive = connection._Watched("head", ("127.0.0.1", port), 0.02)
        gone = connection._Watched("own node", ("127.0.0.1", 1), 0.02)
        connection._watch([alive, gone], every_s=0.005)
    (said,) = [record.message for record in spoken.records]
    assert said.startswith(
        "Ray's own node (127.0.0.1:1) does not answer (Connection refused): it was killed"
    )
    assert said.endswith("the same command again goes on from here")


def test_sigterm_is_handled_as_before_whatever_c_code_does(monkeypatch):
    """From any thread: as Ray is started by one of ours."""
    handled = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: handled.append(number))

    def ignore():
        with connection._own_sigterm():
            libc = ctypes.CDLL(None)
            libc.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
            libc.signal(signal.SIGTERM, 1)  # SIG_IGN

    try:
        thread = threading.Thread(target=ignore)
        thread.start()
        thread.join()
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert handled == [signal.SIGTERM]


def test_a_local_ray_can_be_started_ahead(no_ray, monkeypatch):
    """Once, and not where a cluster is to be joined."""
    monkeypatch.setattr(connection.atexit, "register", lambda *given: None)
    connection.start_ahead()
    connection.start_ahead()
    assert connect()
    assert [one["address"] for one in no_ray] == ["local"]
    monkeypatch.setenv("RAY_ADDRESS", FREE)
    connection.start_ahead()
    assert len(no_ray) == 1


def test_threads_that_connect_at_once_start_one_ray(no_ray, monkeypatch):
    monkeypatch.setattr(connection.ray, "is_initialized", lambda: bool(no_ray))
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: connect(), range(4))) == [True] * 4
    assert len(no_ray) == 1


@pytest.mark.parametrize("soon", [True, False])
def test_a_process_that_ends_waits_for_ray_only_where_it_was_not_told(soon):
    code = f"""
import atexit, subprocess, sys
from raylatent.engine import connection
atexit.register(print, "Ray's own end", flush=True)
connection._begin = lambda **_: connection.Future()
connection._SAY_AFTER_S = 0.1
connection.start_ahead()
own = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
atexit.register(lambda: print("a folder is removed", flush=True))
if {soon}:
    connection.end_soon(3)
else:
    own.kill()
raise SystemExit(3)
"""
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    rays = [] if soon else ["Ray's own end"]
    assert done.stdout.splitlines() == ["a folder is removed", *rays]
    assert (done.stderr, done.returncode) == ("", 3)


def test_what_fails_ahead_is_said_when_ray_is_needed(no_ray, monkeypatch):
    monkeypatch.setattr(connection.atexit, "register", lambda *given: None)
    monkeypatch.setattr(connection.ray, "init", failing(OSError(28, "No space left")))
    connection.start_ahead()
    with pytest.raises(ConfigError, match=r"could not be started .*No space left"):
        connect()


def test_a_ray_of_our_own_is_known_again(no_ray, monkeypatch):
    assert connect()
    monkeypatch.setattr(connection.ray, "is_initialized", lambda: True)
    assert connect()
    monkeypatch.setattr(connection, "_address", lambda: "elsewhere:1")
    assert not connect()


def test_only_the_level_line_is_kept_from_stderr():
    """All else is passed on, also when the process is killed at once."""
    program = (
        "import os, signal\n"
        "from raylatent.engine.connection import without_level_line\n"
        "os.write(2, b'before\\n')\n"
        "with without_level_line():\n"
        "    os.write(2, b'[I] Set ray log level from environment variable X to 3\\n')\n"
        "    os.write(2, b'first\\n')\n"
        "os.write(2, b'between\\n')\n"
        "with without_level_line():\n"
        "    os.write(2, b'last words\\n')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run(  # noqa: S603
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )
    assert ended.returncode == -signal.SIGKILL
    assert sorted(ended.stderr.split("\n")) == sorted(
        ["", "before", "first", "between", "last words"]
    )


@pytest.mark.ray
def test_a_process_that_was_forked_from_one_that_uses_ray_is_told_so(ray_session):
    """Ray's client of the parent is there, and would wait for ever."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            connect()
        except ConfigError as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as said:
        assert "was forked from one that uses Ray" in said.read()
    os.waitpid(child, 0)
    assert connect() is False
