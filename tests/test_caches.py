"""Where nothing of the user's can be written, numba and matplotlib still work."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from raylatent import caches
from raylatent.caches import use_private_caches
from raylatent.errors import StorageError


@pytest.fixture
def made(monkeypatch, tmp_path):
    """A read-only environment whose home is the test's folder; what it registers."""
    found = []
    monkeypatch.setattr(
        caches.atexit, "register", lambda action, *given, **more: found.append(given[0])
    )
    for name in (
        "NUMBA_CACHE_DIR",
        "MPLCONFIGDIR",
        "XDG_CACHE_HOME",
        "XDG_CONFIG_HOME",
    ):
        monkeypatch.setenv(name, "")  # restored in the end, whatever is set meanwhile
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(caches, "_beside_sources", lambda: [Path("/dev/null/x")])
    monkeypatch.setattr(caches.sys, "modules", {})
    yield found
    for folder in found:
        shutil.rmtree(folder)


def variables():
    return os.environ.get("NUMBA_CACHE_DIR"), os.environ.get("MPLCONFIGDIR")


@pytest.mark.parametrize("home", ["/dev/null", "/proc"])
def test_without_a_home_the_folders_are_private(made, monkeypatch, home):
    monkeypatch.setenv("HOME", home)
    use_private_caches()
    (folder,) = map(Path, made)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert variables() == (str(folder / "numba"), str(folder / "mplconfigdir"))
    use_private_caches()  # what was set is kept
    assert made == [str(folder)]


def test_a_home_that_can_be_written_is_used(made):
    use_private_caches()
    assert variables() == (None, None)
    assert made == []


def test_a_full_home_is_no_home(made, monkeypatch, tmp_path):
    def full(*given, **more):
        raise OSError(122, "Disk quota exceeded")

    with monkeypatch.context() as no_space:
        no_space.setattr(caches.tempfile, "TemporaryFile", full)
        use_private_caches()
    assert None not in variables()


def test_beside_the_sources_numba_needs_no_folder(made, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/dev/null")
    monkeypatch.setattr(caches, "_beside_sources", lambda: [tmp_path / "__pycache__"])
    use_private_caches()
    assert variables()[0] is None
    assert variables()[1] is not None


def test_a_folder_of_the_users_that_cannot_be_written_is_replaced(made, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/dev/null/cache")
    monkeypatch.setenv("MPLCONFIGDIR", "/dev/null/own")
    use_private_caches()
    assert variables() == (f"{made[0]}/numba", "/dev/null/own")


def test_without_any_folder_it_is_said(made, monkeypatch):
    def refused(**given):
        raise FileNotFoundError

    monkeypatch.setenv("HOME", "/dev/null")
    monkeypatch.setattr(caches.tempfile, "mkdtemp", refused)
    with pytest.raises(StorageError, match="set TMPDIR"):
        use_private_caches()


def test_all_packages_that_numba_compiles_are_looked_at():
    names = {folder.parent.name for folder in caches._beside_sources()}
    assert names == {"umap", "pynndescent", "raylatent"}


@pytest.mark.slow
def test_umap_works_after_the_user_imported_numba(tmp_path):
    """With a home and packages that cannot be written, and nothing left behind."""
    program = (
        "import numba, pathlib\n"
        "from raylatent import caches\n"
        "caches._beside_sources = lambda: [pathlib.Path('/dev/null/x')]\n"
        "import numba.core.caching as caching\n"
        "first = caching.CacheImpl._locator_classes\n"
        "first[:] = [c for c in first if 'InTree' not in c.__name__]\n"
        "from raylatent.mapping.umap_learn import MapParameters, make_umap\n"
        "make_umap(MapParameters.of(n_neighbors=5))\n"
        "print('made')\n"
    )
    kept = {k: v for k, v in os.environ.items() if k not in {"NUMBA_CACHE_DIR"}}
    ended = subprocess.run(  # noqa: S603
        [sys.executable, "-W", "ignore", "-c", program],
        env={**kept, "HOME": "/dev/null", "TMPDIR": str(tmp_path)},
        check=False,
        capture_output=True,
        text=True,
    )
    assert ended.stdout == "made\n", ended.stderr
    assert list(tmp_path.iterdir()) == []
