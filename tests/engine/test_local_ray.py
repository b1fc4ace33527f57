"""Surroundings that Ray does not like: long names, homes and folders, `uv run`."""

import logging
import os
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray._private import ray_constants
from ray._private.node import Node

from raylatent.engine import connection
from raylatent.engine.connection import (
    start_for_one_machine,
    temporary_folder,
    token,
    warn_of_few_files,
)
from raylatent.errors import ConfigError

SESSION = "session_2026-11-29_20-22-26_701977_4194304/sockets/plasma_store"


@pytest.fixture
def registered(monkeypatch):
    """What is to be done when the process ends; done at the end of the test."""
    found = []
    monkeypatch.setattr(
        connection.atexit,
        "register",
        lambda action, *given, **more: found.append((action, given, more)),
    )
    yield found
    for action, given, more in found:
        action(*given, **more)


@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
@pytest.mark.parametrize("n_bytes", [39, 40, 90, 220])
def test_names_are_short_enough_for_sockets(monkeypatch, registered, variable, n_bytes):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    base = connection.tempfile.mkdtemp(prefix="t", dir="/tmp")  # noqa: S108
    given = Path(base) / ("x" * (n_bytes - len(base) - 1))
    monkeypatch.setenv(variable, str(given))
    folder = Path(temporary_folder())
    assert len(os.fsencode(folder / SESSION)) <= 107
    assert (
        folder.resolve() == given.resolve() / "ray"
    )  # the files are where they belong
    linked = n_bytes > 39
    assert bool(registered) == linked
    assert (folder == given / "ray") != linked
    if linked:  # nobody else can put a folder of his in its place
        assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
    connection.shutil.rmtree(base)


def test_a_folder_that_cannot_be_written_is_named(monkeypatch, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setenv("TMPDIR", str(file / "scratch"))
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    with pytest.raises(
        ConfigError, match=r"file/scratch/ray .* set RAY_TMPDIR .*TMPDIR"
    ):
        temporary_folder()


def test_without_tmp_the_variable_to_set_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path / ("x" * 100)))
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr(connection, "_SHORT", tmp_path / "missing")
    with pytest.raises(ConfigError, match=r"TMPDIR=.* too long .* set RAY_TMPDIR"):
        temporary_folder()


@pytest.fixture
def auth(monkeypatch):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")  # restored in the end, whatever is set meanwhile
        monkeypatch.delenv(name)
    return monkeypatch


def test_a_home_that_cannot_be_written_needs_no_file_for_the_token(auth, tmp_path):
    (tmp_path / "file").write_text("")
    tokens = set()
    for home in ("/dev/null", str(tmp_path / "file"), "/proc"):
        auth.delenv("RAY_AUTH_TOKEN", raising=False)
        auth.setenv("HOME", home)
        token()
        tokens.add(os.environ["RAY_AUTH_TOKEN"])
        assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert len(tokens) == 3  # nobody can know it


def test_what_is_there_already_is_used(auth, tmp_path):
    auth.setenv("HOME", str(tmp_path))
    token()
    assert "RAY_AUTH_TOKEN" not in os.environ
    assert os.listdir(tmp_path / ".ray") == []  # noqa: PTH208
    auth.setenv("HOME", "/dev/null")
    auth.setenv("RAY_AUTH_TOKEN_PATH", "/a/file")
    token()
    auth.delenv("RAY_AUTH_TOKEN_PATH")
    auth.setenv("RAY_AUTH_MODE", "disabled")
    token()
    assert "RAY_AUTH_TOKEN" not in os.environ


def test_few_open_files_are_said(monkeypatch, caplog):
    caplog.set_level("WARNING", "raylatent")
    monkeypatch.setattr(logging.getLogger("raylatent"), "propagate", True)
    limit = connection.resource.RLIM_INFINITY
    for most in (limit, 65536, 64):
        monkeypatch.setattr(connection.resource, "getrlimit", lambda _, n=most: (32, n))
        warn_of_few_files()
    (said,) = caplog.messages
    assert said.startswith("at most 64 files may be open at once (ulimit -n)")


def test_a_ray_of_one_machine_has_none_of_the_processes_that_clusters_need():
    names = ("start_api_server", "start_monitor", "start_log_monitor")
    before = {name: getattr(Node, name) for name in names}  # Ray still calls them so
    node = SimpleNamespace()
    with start_for_one_machine():
        assert Node.start_api_server(node, include_dashboard=False) is None
        assert Node.start_monitor(node) is Node.start_log_monitor(node) is None
    assert node._webui_url == ""
    assert {name: getattr(Node, name) for name in names} == before


def test_uv_is_ignored_for_a_local_ray_only(monkeypatch):
    from ray._private.runtime_env import uv_runtime_env_hook
    from ray._private.worker import _maybe_modify_runtime_env

    monkeypatch.setattr(
        uv_runtime_env_hook, "_get_uv_run_cmdline", lambda: ["uv", "run", "python"]
    )
    monkeypatch.setattr(uv_runtime_env_hook, "hook", lambda env: {"working_dir": "."})
    monkeypatch.setattr(ray_constants, "RAY_ENABLE_UV_RUN_RUNTIME_ENV", True)
    with start_for_one_machine():
        assert _maybe_modify_runtime_env(None, False) is None
    assert _maybe_modify_runtime_env(None, False) == {"working_dir": "."}
