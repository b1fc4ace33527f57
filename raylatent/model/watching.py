"""What runs and which files are read while a model is made or tried."""

import gc
import hashlib
import os
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from raylatent.model.reached_code import INSTALLED, Ran
from raylatent.model.values import FOREIGN, top_name

# Files that are no model's: code, which is compared by function, and weights, which
# are compared as tensors.
_NOT_FILES = (
    *(".py", ".pyc", ".pyi", ".so", ".pth", ".pt", ".ckpt", ".safetensors", ".bin"),
    *(".h5", ".nbi", ".nbc", ".lock"),
)
PART_BYTES = 128 * 2**20
"""Of a file of more than two such parts only the first and the last are read."""
_BLOCK = 2**20
_NOT_FOLDERS = ("/proc/", "/sys/", "/dev/", "/etc/")


class Watch:
    """Sees Python functions that run in this thread, and files that are opened.

    Attributes:
        ran: Code that ran, but for what an import runs: it runs only the first time.
        files: Absolute paths of files that were opened to be read, and not written.
    """

    def __init__(self) -> None:
        """See the class."""
        self.ran: Ran = {}
        self.files: set[str] = set()
        self._written: set[str] = set()
        self._importing = 0
        self._thread = 0

    @contextmanager
    def functions(self) -> Iterator[None]:
        """See what runs.

        Nothing is collected meanwhile: what a collection happens to call, such as
        finalizers of other objects, is no code of the model.
        """
        before, collects = sys.getprofile(), gc.isenabled()
        gc.disable()
        sys.setprofile(self._event)
        try:
            yield
        finally:
            sys.setprofile(None)
            if collects:
                gc.enable()
            self._importing = 0
            # cProfile gives itself here, and is no function.
            resume = getattr(before, "enable", lambda: sys.setprofile(before))
            resume()

    @contextmanager
    def opened_files(self) -> Iterator[None]:
        """See what is opened."""
        _add_hook()
        self._thread = threading.get_ident()
        _watches.append(self)
        try:
            yield
        finally:
            _watches.remove(self)

    def _event(self, frame: FrameType, event: str, _argument: object) -> None:
        code: CodeType = frame.f_code
        if code.co_name == "<module>":
            self._importing += {"call": 1, "return": -1}.get(event, 0)
        elif event == "call" and not self._importing and id(code) not in self.ran:
            scope: dict[str, Any] = frame.f_globals
            if top_name(str(scope.get("__name__"))) not in FOREIGN:
                self.ran[id(code)] = (code, scope)

    def opened(self, path: object, mode: object, flags: object) -> None:
        """Take an `open` of this thread."""
        if threading.get_ident() != self._thread or self._importing:
            return
        if not isinstance(path, str | bytes | os.PathLike):
            return
        name = os.path.realpath(os.fsdecode(path))
        access = flags if isinstance(flags, int) else 0
        writes = access & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes or (isinstance(mode, str) and set(mode) & set("wax+")):
            self._written.add(name)
            self.files.discard(name)
        elif name not in self._written and _counts(name):
            self.files.add(name)


_watches: list[Watch] = []
_hooked: list[bool] = []


def _add_hook() -> None:
    """Once: what is added here stays until Python ends."""
    if not _hooked:
        _hooked.append(True)
        sys.addaudithook(_hook)


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _watches and event == "open":
        for watch in tuple(_watches):
            watch.opened(*arguments)


def _counts(name: str) -> bool:
    if name.endswith(_NOT_FILES) or name.startswith(_NOT_FOLDERS):
        return False
    return not name.startswith((*_PYTHON, *INSTALLED)) and "/__pycache__/" not in name


def _python_folders() -> tuple[str, ...]:
    folders = {os.path.realpath(folder) for folder in (sys.prefix, sys.base_prefix)}
    library = str(Path(os.__file__).resolve().parent)
    # /usr holds data of others as well: of it only the library.
    kept = {f for f in folders if f not in {"/", "/usr", "/usr/local"}}
    return tuple(f"{folder}/" for folder in sorted(kept | {library}))


_PYTHON = _python_folders()


def content_digest(path: str) -> str | None:
    """A digest of a file's content, None where it is gone or cannot be read.

    Of a file above 256 MiB it is of the size and of the first and last 128 MiB.
    """
    hasher = hashlib.blake2b(digest_size=8)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116
            return None
        with Path(path).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            spans = [(0, size)]
            if size > 2 * PART_BYTES:
                hasher.update(f"{size} ".encode())
                spans = [(0, PART_BYTES), (size - PART_BYTES, size)]
            for first, last in spans:
                file.seek(first)
                while (left := last - file.tell()) > 0:
                    block = file.read(min(left, _BLOCK))
                    if not block:
                        break
                    hasher.update(block)
    except OSError:
        return None
    return hasher.hexdigest()
