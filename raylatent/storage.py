"""Files below one root, a local folder or any URI that pyarrow or fsspec opens.

Nothing is ever visible half-written: a file is put in place in one step, locally by
writing aside and renaming, on an object store by one PUT.
"""

import errno
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs

from raylatent.errors import StorageError

logger = logging.getLogger(__name__)

ASIDE_SUFFIX = ".aside"
_RETRY_WAITS_S = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0)
# Waiting does not mend these.
_FINAL = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)
_FINAL_ERRNO = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENAMETOOLONG})

T = TypeVar("T")
Names: TypeAlias = list[str]  # the class below has a method called list


@dataclass(frozen=True, kw_only=True)
class FileStat:
    """What tells whether a file has changed.

    Attributes:
        size: In bytes.
        mtime_ns: Modification time in ns since 1970 (UTC), None where not known.
        etag: The store's tag of the content, None where it has none.
    """

    size: int
    mtime_ns: int | None
    etag: str | None = None


def is_uri(path: str | os.PathLike[str]) -> bool:
    """Whether `path` has a scheme, as `s3://bucket/key`.

    >>> is_uri("s3://bucket/key"), is_uri("/data/slide.tfrecords")
    (True, False)
    """
    return "://" in os.fspath(path)


def absolute(path: str | os.PathLike[str]) -> str:
    """A URI as it is; a local path made absolute, `file://` taken off."""
    text = os.fspath(path)
    if text.startswith("file://"):
        return pafs.FileSystem.from_uri(text)[1]
    # Not resolve(): a link is the user's choice and stays in what we record.
    return text.rstrip("/") if is_uri(text) else str(Path(text).expanduser().absolute())


@lru_cache(maxsize=64)
def _remote_filesystem(scheme_and_host: str) -> tuple[pafs.FileSystem, bool]:
    """The file system of a URI's root, and whether it comes from fsspec."""
    try:
        return pafs.FileSystem.from_uri(scheme_and_host)[0], False
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return _fsspec_filesystem(scheme_and_host.split("://", 1)[0]), True


def _fsspec_filesystem(scheme: str) -> pafs.FileSystem:
    import fsspec  # noqa: PLC0415  (only for schemes that pyarrow lacks)

    try:
        return pafs.PyFileSystem(pafs.FSSpecHandler(fsspec.filesystem(scheme)))
    except (ValueError, ImportError) as error:
        message = f"cannot open {scheme}:// paths: {error}"
        raise StorageError(message) from error


def resolve(uri: str | os.PathLike[str]) -> tuple[pafs.FileSystem, str]:
    """The file system of a path or URI, and the path in it."""
    text = absolute(uri)
    if not is_uri(text):
        return pafs.LocalFileSystem(), text
    scheme, rest = text.split("://", 1)
    host = rest.split("/", 1)[0]
    filesystem, _ = _remote_filesystem(f"{scheme}://{host}")
    return filesystem, rest


def retry(action: Callable[[], T], what: str) -> T:
    """Call `action`, again after a while when I/O fails; at last a StorageError."""
    for wait_s in (*_RETRY_WAITS_S, None):
        try:
            return action()
        except OSError as error:
            final = isinstance(error, _FINAL) or error.errno in _FINAL_ERRNO
            if final or wait_s is None:
                message = f"cannot {what}: {reason(error)}"
                raise StorageError(message) from error
            logger.warning("retry in %g s: cannot %s: %s", wait_s, what, error)
            time.sleep(wait_s)
    raise AssertionError(what)  # pragma: no cover - the loop returns or raises


def reason(error: BaseException) -> str:
    """The first line of an error's text, never empty."""
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__


def open_input(uri: str | os.PathLike[str]) -> pa.NativeFile:
    """A file open for random access (`read_at(nbytes, offset)`, `size()`)."""
    filesystem, path = resolve(uri)
    return retry(lambda: filesystem.open_input_file(path), f"open {uri}")


def file_stat(uri: str | os.PathLike[str]) -> FileStat:
    """Size, time and tag of a file; StorageError when it is not there."""
    filesystem, path = resolve(uri)
    info = retry(lambda: filesystem.get_file_info(path), f"look at {uri}")
    if info.type != pafs.FileType.File:
        message = f"no such file: {uri}"
        raise StorageError(message)
    return FileStat(size=info.size, mtime_ns=info.mtime_ns, etag=_etag(uri))


def _etag(uri: str | os.PathLike[str]) -> str | None:
    if not is_uri(absolute(uri)):
        return None
    scheme = os.fspath(uri).split("://", 1)[0]
    filesystem, from_fsspec = _remote_filesystem(scheme + "://")
    if not from_fsspec:
        return None  # pyarrow's file info carries no tag; the time stands in
    tag = filesystem.handler.fs.info(os.fspath(uri)).get("ETag")
    return None if tag is None else str(tag)


def list_files(uri: str | os.PathLike[str]) -> list[str] | None:
    """All files below a folder, as full paths or URIs, sorted; None if absent.

    A file lists itself.
    """
    filesystem, path = resolve(uri)
    info = retry(lambda: filesystem.get_file_info(path), f"look at {uri}")
    if info.type == pafs.FileType.NotFound:
        return None
    if info.type == pafs.FileType.File:
        return [absolute(uri)]
    selector = pafs.FileSelector(path, recursive=True)
    found = retry(lambda: filesystem.get_file_info(selector), f"list {uri}")
    root = absolute(uri)
    scheme = root.split("://", 1)[0] + "://" if is_uri(root) else ""
    return sorted(
        scheme + item.path for item in found if item.type == pafs.FileType.File
    )


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
        """Put a file in place in one step, replacing what is there."""
        put = self._put_local if self.is_local else self._put_remote
        retry(lambda: put(name, data), f"write {self.uri}/{name}")

    def _put_local(self, name: str, data: bytes | pa.Buffer) -> None:
        target = Path(self.path(name))
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.parent / f".{self.writer}-{uuid.uuid4().hex}{ASIDE_SUFFIX}"
        try:
            with aside.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(target)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise

    def _put_remote(self, name: str, data: bytes | pa.Buffer) -> None:
        with self._filesystem.open_output_stream(self.path(name)) as stream:
            stream.write(data)

    def create(self, name: str, data: bytes) -> bool:
        """Write a file unless there is one; False where there is.

        In one step locally; on an object store look, then write.
        """
        if not self.is_local:
            if self.exists(name):
                return False
            self.write(name, data)
            return True
        target = Path(self.path(name))
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.parent / f".{self.writer}-{uuid.uuid4().hex}{ASIDE_SUFFIX}"
        try:
            aside.write_bytes(data)
            os.link(aside, target)  # fails where the target is, and only then shows
        except FileExistsError:
            return False
        finally:
            aside.unlink(missing_ok=True)
        return True

    def list(self, name: str = "") -> Names:
        """Names of all files below a folder, sorted; empty if it is absent."""
        return [file for file in self._list(name) if not file.endswith(ASIDE_SUFFIX)]

    def asides(self) -> Names:
        """Names of files that are, or were, being written."""
        return [file for file in self._list("") if file.endswith(ASIDE_SUFFIX)]

    def _list(self, name: str) -> Iterable[str]:
        selector = pafs.FileSelector(
            self.path(name), recursive=True, allow_not_found=True
        )
        found = retry(
            lambda: self._filesystem.get_file_info(selector), f"list {self.uri}/{name}"
        )
        skip = len(self._root) + 1
        return sorted(
            item.path[skip:] for item in found if item.type == pafs.FileType.File
        )

    def delete(self, name: str) -> None:
        """Delete a file; nothing happens if it is not there."""
        if self.exists(name):
            retry(
                lambda: self._filesystem.delete_file(self.path(name)),
                f"delete {self.uri}/{name}",
            )

    def delete_folder(self, name: str) -> None:
        """Delete a folder and all below it; nothing happens if it is not there."""
        info = self._filesystem.get_file_info(self.path(name))
        if info.type == pafs.FileType.Directory:
            retry(
                lambda: self._filesystem.delete_dir(self.path(name)),
                f"delete {self.uri}/{name}",
            )

    def move(self, name: str, to: str) -> None:
        """Move a file (on an object store: copy, then delete)."""
        folder = self.path(to).rsplit("/", 1)[0]
        self._filesystem.create_dir(folder, recursive=True)
        retry(
            lambda: self._filesystem.move(self.path(name), self.path(to)),
            f"move {self.uri}/{name}",
        )
