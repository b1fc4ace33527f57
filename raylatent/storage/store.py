"""Files below one root; what is written is put in place in one step."""

import errno
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeAlias, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs

from raylatent.errors import RunError, StorageError
from raylatent.storage.paths import (
    absolute,
    failure,
    fsspec_of,
    is_uri,
    list_below,
    resolve,
    retry,
    sizes_below,
)

_NO_FOLDER = (FileExistsError, NotADirectoryError)
_SETTLE_S = 0.3  # between writing a file that others may write too and reading it

T = TypeVar("T")
Names: TypeAlias = list[str]  # the class below has a method called list
ASIDE_SUFFIX = ".aside"
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS})


class Store:
    """Files below one root. Names are relative and use `/`.

    Args:
        uri: A local folder or a URI; it need not exist yet.
        writer: Marks the aside files of this writer, so that they can be told apart.
    """

    def __init__(
        self, uri: str | os.PathLike[str], *, writer: str | None = None
    ) -> None:
        """See the class."""
        self.uri = absolute(uri)
        self.writer = writer or f"pid{os.getpid()}"
        self._connect()

    def _connect(self) -> None:
        self._filesystem, self._root = resolve(self.uri)

    def __getstate__(self) -> dict[str, str]:
        """What a worker needs to open the same files."""
        return {"uri": self.uri, "writer": self.writer}

    def __setstate__(self, state: dict[str, str]) -> None:
        """Open the same files in another process."""
        self.uri, self.writer = state["uri"], state["writer"]
        self._connect()

    def __repr__(self) -> str:
        """The root."""
        return f"Store({self.uri!r})"

    @property
    def is_local(self) -> bool:
        """Whether the root is a folder of this host (or a mounted one)."""
        return not is_uri(self.uri)

    @property
    def filesystem(self) -> pafs.FileSystem:
        """For readers that take pyarrow's file systems."""
        return self._filesystem

    def path(self, name: str = "") -> str:
        """The path of a name in `filesystem`."""
        return f"{self._root}/{name}" if name else self._root

    def child(self, name: str) -> "Store":
        """The store of a folder below."""
        return Store(f"{self.uri}/{name}", writer=self.writer)

    def exists(self, name: str) -> bool:
        """Whether there is a file of this name."""
        info = retry(
            lambda: self._filesystem.get_file_info(self.path(name)), f"look at {name}"
        )
        return bool(info.type == pafs.FileType.File)

    def size(self, name: str) -> int | None:
        """A file's size in bytes, None where there is none."""
        info = retry(
            lambda: self._filesystem.get_file_info(self.path(name)), f"look at {name}"
        )
        return info.size if info.type == pafs.FileType.File else None

    def read(self, name: str) -> bytes:
        """A file's content; StorageError if it cannot be read."""

        def action() -> bytes:
            with self._filesystem.open_input_file(self.path(name)) as file:
                return bytes(file.read())

        return retry(action, f"read {self.uri}/{name}")

    def open(self, name: str) -> pa.NativeFile:
        """A file open for random access."""
        return retry(
            lambda: self._filesystem.open_input_file(self.path(name)),
            f"open {self.uri}/{name}",
        )

    def write(self, name: str, data: bytes | pa.Buffer) -> None:
        """Put a file in place in one step, replacing what is there.

        Raises:
            RunError: The root is a file, or below one.
            StorageError: It cannot be written, after retries.
        """
        put = self._put_local if self.is_local else self._put_remote
        self._below_root(lambda: put(name, data), f"write {self.uri}/{name}")

    def _below_root(self, action: Callable[[], T], what: str) -> T:
        """Call `action` as `retry` does; RunError where the root cannot be a folder."""
        try:
            return retry(action, what)
        except StorageError as error:
            cause = error.__cause__
            if self.is_local and isinstance(cause, IsADirectoryError):
                message = (
                    f"cannot {what}: there is a folder of this name: move it away and "
                    "run again"
                )
                raise RunError(message) from error
            if self.is_local and isinstance(cause, _NO_FOLDER):
                root = Path(self._root)
                for path in (root, *root.parents):
                    if path.is_file():
                        message = (
                            f"{path} is a file, not a folder: choose another place"
                        )
                        raise RunError(message) from error
            raise

    def _put_local(self, name: str, data: bytes | pa.Buffer) -> None:
        _put(Path(self.path(name)), self.writer, data)

    @contextmanager
    def writing(self, name: str) -> Iterator[Callable[[bytes], None]]:
        """What appends to a new file, which shows when the block ends well.

        For what is too large to be held: bytes go to a file aside, for an object store
        to a temporary one that is sent whole.

        Raises:
            StorageError: It cannot be written.
        """
        what = f"write {self.uri}/{name}"
        if self.is_local:
            target = Path(self.path(name))
            aside = self._below_root(lambda: _aside(target, self.writer), what)
            put: Callable[[], object] = partial(aside.replace, target)
        else:
            aside = Path(tempfile.mkdtemp(prefix="raylatent-")) / "content"
            put = partial(self._put_file, name, aside)
        try:
            with retry(lambda: aside.open("xb"), what) as file:
                yield partial(_append, file, what)
                retry(file.flush, what)
                retry(lambda: os.fsync(file.fileno()), what)
            retry(put, what)
        finally:
            aside.unlink(missing_ok=True)
            if not self.is_local:
                aside.parent.rmdir()

    def _put_file(self, name: str, file: Path) -> None:
        inner = fsspec_of(self._filesystem)
        if inner is not None:
            path = self.path(name)
            inner.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
            inner.put_file(str(file), path)
            return
        with pa.memory_map(str(file)) as mapped:
            self._put_remote(name, mapped.read_buffer())

    def _put_remote(self, name: str, data: bytes | pa.Buffer) -> None:
        path = self.path(name)
        inner = fsspec_of(self._filesystem)
        if inner is None:
            with self._filesystem.open_output_stream(path) as stream:
                stream.write(data)
            return
        # Not through a stream: closed after an error, it would store what it has.
        inner.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        inner.pipe_file(path, bytes(memoryview(data)))

    def create(self, name: str, data: bytes) -> bool:
        """Write a file unless there is one; False where there is.

        In one step locally. On an object store look, write, and look again after a
        moment: of several that write at once, all with content of their own, the last
        has it.
        """
        if not self.is_local:
            if self.exists(name):
                return False
            self.write(name, data)
            time.sleep(_SETTLE_S)
            return self.read(name) == data
        return self._below_root(
            lambda: _create(Path(self.path(name)), self.writer, data),
            f"write {self.uri}/{name}",
        )

    def list(self, name: str = "") -> Names:
        """Names of all files below a folder, sorted; empty if it is absent."""
        return [file for file in self._list(name) if not file.endswith(ASIDE_SUFFIX)]

    def sizes(self, name: str) -> dict[str, int]:
        """Names of all files below a folder, as of `list`, with their sizes in bytes."""
        found = self._below_root(
            lambda: sizes_below(self._filesystem, self.path(name)), f"list {self.uri}"
        )
        return {
            f"{name}/{file}": size
            for file, size in sorted(found.items())
            if not file.endswith(ASIDE_SUFFIX)
        }

    def asides(self) -> Names:
        """Names of files that are, or were, being written."""
        return [file for file in self._list("") if file.endswith(ASIDE_SUFFIX)]

    def root_files(self) -> Names:
        """Names of the files at the root itself, those being written too, sorted."""
        return self._at_root(pafs.FileType.File)

    def root_folders(self) -> Names:
        """Names of the folders at the root itself, sorted."""
        return self._at_root(pafs.FileType.Directory)

    def _at_root(self, kind: pafs.FileType) -> Names:
        here = pafs.FileSelector(self.path(), recursive=False, allow_not_found=True)
        found = self._below_root(
            lambda: self._filesystem.get_file_info(here), f"list {self.uri}"
        )
        return sorted(info.base_name for info in found if info.type == kind)

    def _list(self, name: str) -> Names:
        found = self._below_root(
            lambda: list_below(self._filesystem, self.path(name)), f"list {self.uri}"
        )
        return [f"{name}/{file}" if name else file for file in found]

    def delete(self, name: str) -> None:
        """Delete a file; nothing happens if it is not there."""

        def action() -> None:
            # Another's turn, or ours that was not answered, may have deleted it.
            with suppress(FileNotFoundError):
                self._filesystem.delete_file(self.path(name))

        if self.exists(name):
            retry(action, f"delete {self.uri}/{name}")

    def delete_folder(self, name: str) -> None:
        """Delete a folder and all below it; nothing happens if it is not there."""
        path = self.path(name)
        what = f"delete {self.uri}/{name}"

        def action() -> None:
            with suppress(FileNotFoundError):
                self._filesystem.delete_dir(path)

        info = retry(lambda: self._filesystem.get_file_info(path), what)
        if info.type == pafs.FileType.Directory:
            retry(action, what)

    def move(self, name: str, to: str) -> None:
        """Move a file (on an object store: copy, then delete)."""
        folder = self.path(to).rsplit("/", 1)[0]
        what = f"move {self.uri}/{name}"
        retry(lambda: self._filesystem.create_dir(folder, recursive=True), what)

        def action() -> None:
            try:
                self._filesystem.move(self.path(name), self.path(to))
            except OSError:
                # The answer to a move may have been lost: it is done all the same.
                if self.exists(name) or not self.exists(to):
                    raise

        retry(action, what)


def _append(file: BinaryIO, what: str, data: bytes) -> None:
    try:
        file.write(data)
    except OSError as error:  # how much was written is not known: not again
        raise failure(what, error) from error


def write_file(uri: str, data: bytes | pa.Buffer) -> None:
    """Put one file in place in one step.

    Args:
        uri: An absolute path or a URI, as `absolute` gives it.
        data: Its content.

    Raises:
        RunError: Its folder is a file, or below one.
        StorageError: It cannot be written, after retries.
    """
    folder, name = uri.rsplit("/", 1)
    Store(folder or "/").write(name, data)


def _aside(target: Path, writer: str) -> Path:
    """Where to write a file before it shows, a name of its own; its folder is made."""
    target.parent.mkdir(parents=True, exist_ok=True)
    return target.parent / f".{writer}-{uuid.uuid4().hex}{ASIDE_SUFFIX}"


def _put(target: Path, writer: str, data: bytes | pa.Buffer) -> None:
    """Write a file, replacing what is there."""
    being_written = _aside(target, writer)
    try:
        with being_written.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        being_written.replace(target)
    except BaseException:
        being_written.unlink(missing_ok=True)
        raise


def _create(target: Path, writer: str, data: bytes) -> bool:
    """Write a file unless there is one; False where there is."""
    being_written = _aside(target, writer)
    try:
        being_written.write_bytes(data)
        os.link(being_written, target)  # fails where there is one; only then it shows
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _create_exclusive(target, data)
    finally:
        being_written.unlink(missing_ok=True)
    return True


def _create_exclusive(target: Path, data: bytes) -> bool:
    """For file systems without links; a reader may see the file before its content."""
    try:
        with target.open("xb") as file:
            file.write(data)
    except FileExistsError:
        return False
    return True
