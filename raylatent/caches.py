"""Folders in which numba and matplotlib keep things, where their own cannot be written.

So it is in containers and read-only environments: numba, and with it umap-learn, refuses
to be imported there, and matplotlib warns. Inner loops are compiled with it: `kernel`.
"""

import atexit
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from raylatent.errors import StorageError

F = TypeVar("F", bound=Callable[..., object])

_COMPILED = ("umap", "pynndescent", "raylatent")  # packages that numba compiles
_PROBE_BYTES = 1 << 20  # a quota may be used up

NUMBA = "NUMBA_CACHE_DIR"
MATPLOTLIB = "MPLCONFIGDIR"


def use_private_caches() -> None:
    """Set what is missing of NUMBA_CACHE_DIR and MPLCONFIGDIR, for children as well.

    To be called before numba is imported. The folder is this process's own: machine
    code that others could put there would be run. It goes when the process ends.

    Raises:
        StorageError: Not even a temporary folder can be made.
    """
    missing = []
    own = os.environ.get(NUMBA) or _user_folder("CACHE", "numba")
    if not _writable(own) and not all(map(_writable, _beside_sources())):
        missing.append(NUMBA)
    if MATPLOTLIB not in os.environ and not all(
        _writable(_user_folder(kind, "matplotlib")) for kind in ("CACHE", "CONFIG")
    ):
        missing.append(MATPLOTLIB)
    if not missing:
        return
    try:
        made = tempfile.mkdtemp(prefix="raylatent-caches-")
    except OSError as error:
        message = (
            "no folder for temporary files can be written, nor one in the user's home: "
            "set TMPDIR to one that can"
        )
        raise StorageError(message) from error
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    for variable in missing:
        os.environ[variable] = str(Path(made) / variable.partition("_")[0].lower())
    if NUMBA in missing and "numba" in sys.modules:  # it has read its variables
        sys.modules["numba"].config.CACHE_DIR = os.environ[NUMBA]


def _user_folder(kind: str, name: str) -> Path | None:
    """A folder of the user's by the XDG convention, None where there is no home."""
    above = os.environ.get(f"XDG_{kind}_HOME")
    try:
        return Path(above or Path.home() / f".{kind.lower()}") / name
    except RuntimeError:
        return None


def _beside_sources() -> list[Path]:
    """Where numba keeps what it compiles beside the sources."""
    specs = (importlib.util.find_spec(name) for name in _COMPILED)
    return [
        Path(folder) / "__pycache__"
        for spec in specs
        if spec is not None
        for folder in spec.submodule_search_locations or ()
    ]


def _writable(folder: str | Path | None) -> bool:
    """Whether files can be written there, tried as numba does."""
    if folder is None:
        return False
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(_PROBE_BYTES))
    except OSError:
        return False
    return True


def kernel(function: F) -> F:
    """Compile for use without the interpreter's lock, and keep the machine code.

    It is kept beside the source or in the user's cache; where neither can be written,
    for as long as the process lasts. Importing numba takes a while.
    """
    use_private_caches()
    import numba  # noqa: PLC0415  (slow)

    compiled: Any = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    return cast("F", compiled)
