"""Paths and URIs: which file system, reading, listing, and trying again."""

import contextlib
import errno
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.fs as pafs

from raylatent.errors import ConfigError, StorageError

logger = logging.getLogger(__name__)

# pyarrow's 3 s are few for a busy store; without any answer an attempt ends after this.
_ANSWER_S = 20.0
_CONNECT_S = 5.0
_ATTEMPTS = 5
RETRY_WAITS_S = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0)
# Waiting does not mend these.
_FINAL = (
    FileExistsError,
    FileNotFoundError,
    NotADirectoryError,
    IsADirectoryError,
    PermissionError,
)
_FINAL_ERRNO = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP}
)
# pyarrow gives what the store answered as text, without an errno.
_FINAL_TEXT = re.compile(
    r"ACCESS_DENIED|NO_SUCH_BUCKET|NO_SUCH_KEY|INVALID_ACCESS_KEY|SIGNATURE_DOES_NOT"
    r"|is a directory|Bucket '[^']*' not found"
)
_HINTS = {
    errno.ENOSPC: "make room and run again",
    errno.EDQUOT: "the quota is used up, make room and run again",
    errno.EROFS: "it is mounted read-only, choose another place",
    errno.EACCES: "give yourself access, or choose another place",
    errno.ENAMETOOLONG: "give it a shorter name",
}
# What fsspec's stores tell of a file that changes with its content, the surest first.
_MARKS = (
    *("ETag", "etag", "generation", "LastModified", "last_modified", "updated"),
    *("mtime", "modified", "created"),
)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")

T = TypeVar("T")


def s3_filesystem(bucket: str) -> pafs.FileSystem:
    """The file system of a bucket, as the environment's AWS variables say.

    Small objects are stored by one PUT, instead of an upload of one part.
    """
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get(
        "AWS_ENDPOINT_URL", ""
    )
    scheme, _, host = endpoint.rstrip("/").rpartition("://")
    return pafs.S3FileSystem(
        scheme=scheme or "https",
        endpoint_override=host or None,
        region=None if host else pafs.resolve_s3_region(bucket),
        request_timeout=_ANSWER_S,
        connect_timeout=_CONNECT_S,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
        allow_delayed_open=True,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class FileStat:
    """What tells whether a file has changed.

    Attributes:
        size: In bytes.
        mtime_ns: Modification time in ns since 1970 (UTC), None where not known.
        etag: The store's tag of the content, or its word for when that was written;
            None where it has none.
    """

    size: int
    mtime_ns: int | None
    etag: str | None = None

    @property
    def is_known(self) -> bool:
        """Whether the file could be looked at."""
        return self != NOT_SEEN


NOT_SEEN = FileStat(size=0, mtime_ns=None)
"""Stands for a file that could not be looked at."""


def is_uri(path: str | os.PathLike[str]) -> bool:
    """Whether `path` has a scheme, as `s3://bucket/key`.

    >>> is_uri("s3://bucket/key"), is_uri("/data/slide.tfrecords")
    (True, False)
    """
    return _SCHEME.match(os.fspath(path)) is not None


def absolute(path: str | os.PathLike[str]) -> str:
    """A URI as it is; a local path made absolute, `file://` taken off.

    Raises:
        ConfigError: It cannot be a path at all.

    >>> absolute("file:///data/a%20b"), absolute("s3://bucket/run/")
    ('/data/a b', 's3://bucket/run')
    """
    text = os.fspath(path)
    _check_text(text)
    if text.startswith("file://"):
        host, slash, rest = text.removeprefix("file://").partition("/")
        if host not in {"", "localhost"} or not slash:
            message = f"{text} names a host: a local file is file:///folder/file"
            raise ConfigError(message)
        text = unquote(f"/{rest}")
        _check_text(text)
    elif is_uri(text):
        scheme, rest = text.split("://", 1)
        return f"{scheme}://{rest.rstrip('/')}"
    elif text.startswith("~"):
        with contextlib.suppress(RuntimeError):  # no such user: a name that begins so
            text = str(Path(text).expanduser())
    # Not resolve(): a link is the user's choice and stays in what we record.
    return str(Path(text).absolute())


def _check_text(text: str) -> None:
    if not text.strip() or "\0" in text:
        message = f"{text!r} is no path: give a file, a folder or a URI"
        raise ConfigError(message)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        message = f"the path {text!r} is not in UTF-8: rename it"
        raise ConfigError(message) from error


@lru_cache(maxsize=64)
def _remote_filesystem(root: str) -> pafs.FileSystem:
    """The file system of `scheme://host`: pyarrow's, else fsspec's."""
    scheme, host = root.split("://", 1)
    try:
        if scheme == "s3":
            return s3_filesystem(host)
        return pafs.FileSystem.from_uri(root)[0]
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ImportError):
        pass  # not in every build of pyarrow
    import fsspec  # noqa: PLC0415  (only for schemes that pyarrow lacks)

    try:
        # A listing that is remembered would hide what other nodes write.
        handler = fsspec.filesystem(scheme, use_listings_cache=False)
    except (ValueError, ImportError) as error:
        message = f"cannot open {scheme}:// paths: {error}"
        raise StorageError(message) from error
    return pafs.PyFileSystem(pafs.FSSpecHandler(handler))


def fsspec_of(filesystem: pafs.FileSystem) -> Any:  # noqa: ANN401
    """The fsspec file system below pyarrow's, None where it is pyarrow's own."""
    if isinstance(filesystem, pafs.PyFileSystem):
        return getattr(filesystem.handler, "fs", None)
    return None


def resolve(uri: str | os.PathLike[str]) -> tuple[pafs.FileSystem, str]:
    """The file system of a path or URI, and the path in it."""
    text = absolute(uri)
    if not is_uri(text):
        return pafs.LocalFileSystem(), text
    scheme, rest = text.split("://", 1)
    host = rest.split("/", 1)[0]
    filesystem = retry(
        lambda: _remote_filesystem(f"{scheme}://{host}"), f"open {scheme}://{host}"
    )
    inner = fsspec_of(filesystem)
    # http's paths have their scheme, for one.
    return filesystem, rest if inner is None else str(inner._strip_protocol(text))


def retry(action: Callable[[], T], what: str) -> T:
    """Call `action`, again after a while when I/O fails; at last a StorageError."""
    for wait_s in (*RETRY_WAITS_S, None):
        try:
            return action()
        except OSError as error:
            if wait_s is None or _is_final(error):
                raise failure(what, error) from error
            logger.warning("retry in %g s: cannot %s: %s", wait_s, what, error)
            time.sleep(wait_s)
        except (ValueError, pa.ArrowException) as error:  # the request is wrong
            message = f"cannot {what}: {reason(error)}"
            raise StorageError(message) from error
    raise AssertionError(what)  # pragma: no cover - the loop returns or raises


def failure(what: str, error: OSError) -> StorageError:
    """That something cannot be done, and what to do about it where that is known."""
    hint = _HINTS.get(error.errno or 0)
    absent = isinstance(error, FileNotFoundError)  # whose text has the path again
    message = f"cannot {what}: {'no such file' if absent else reason(error)}"
    return StorageError(f"{message} ({hint})" if hint else message)


def _is_final(error: OSError) -> bool:
    if isinstance(error, _FINAL) or error.errno in _FINAL_ERRNO:
        return True
    return _FINAL_TEXT.search(str(error)) is not None


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
    inner = fsspec_of(filesystem)
    if inner is not None:
        told = retry(lambda: inner.info(path), f"look at {uri}")
        return _as_told(told, absolute(uri))
    # pyarrow's file info carries no tag; the time stands in
    return FileStat(size=info.size, mtime_ns=info.mtime_ns)


def _as_told(told: Mapping[str, Any], uri: str) -> FileStat:
    """What a store of fsspec tells of a file."""
    mark = next((told[key] for key in _MARKS if told.get(key) is not None), None)
    if mark is None:
        _say_no_mark("//".join(uri.split("/")[:3:2]))
    if isinstance(mark, datetime):  # in a listing it may be a number
        mark = mark.replace(tzinfo=mark.tzinfo or UTC).timestamp()
    tag = None if mark is None else str(mark)
    return FileStat(size=told.get("size") or 0, mtime_ns=None, etag=tag)


@lru_cache(maxsize=64)
def _say_no_mark(store: str) -> None:
    logger.warning(
        "%s tells neither when a file was written nor a tag of its content: that one was "
        "replaced is seen only where its size differs",
        store,
    )


def list_files(uri: str | os.PathLike[str]) -> list[str] | None:
    """All files below a folder, as full paths or URIs, sorted; None if absent.

    A file lists itself. Links are followed; a folder that is reached twice is listed
    once.
    """
    filesystem, path = resolve(uri)
    info = retry(lambda: filesystem.get_file_info(path), f"look at {uri}")
    if info.type == pafs.FileType.NotFound:
        return None
    root = absolute(uri)
    if info.type == pafs.FileType.File:
        return [root]
    return [f"{root}/{name}" for name in list_below(filesystem, path)]


def is_folder(uri: str | os.PathLike[str]) -> bool:
    """Whether there is such a folder."""
    filesystem, path = resolve(uri)
    info = retry(lambda: filesystem.get_file_info(path), f"look at {uri}")
    return bool(info.type == pafs.FileType.Directory)


def list_stats(
    uri: str | os.PathLike[str], within: str | None = None
) -> dict[str, FileStat] | None:
    """Files below a folder by their paths in it; None where there is no such folder.

    Links that lead out of `within` (by default the folder), or to nothing, are not
    followed: they are `NOT_SEEN`.
    """
    if not is_folder(uri):
        return None
    filesystem, path = resolve(uri)
    if isinstance(filesystem, pafs.LocalFileSystem):
        return retry(lambda: _stats_inside(path, within or path), f"list {uri}")
    inner = fsspec_of(filesystem)
    if inner is not None:
        every = retry(lambda: inner.find(path, detail=True), f"list {uri}")
        return {
            name.removeprefix(path).lstrip("/"): _as_told(told, absolute(uri))
            for name, told in every.items()
            if told["type"] == "file"
        }
    selector = pafs.FileSelector(path, recursive=True, allow_not_found=True)
    found = retry(lambda: filesystem.get_file_info(selector), f"list {uri}")
    return {
        item.path.removeprefix(path).lstrip("/"): FileStat(
            size=item.size, mtime_ns=item.mtime_ns
        )
        for item in found
        if item.type == pafs.FileType.File
    }


def look_at(uris: Sequence[str]) -> list[FileStat]:
    """Size, time and tag of files in one store; `NOT_SEEN` for one that is not there."""
    filesystem = resolve(uris[0])[0] if uris else pafs.LocalFileSystem()
    local = isinstance(filesystem, pafs.LocalFileSystem)
    if not local and fsspec_of(filesystem) is None:  # many at a time
        paths = [resolve(uri)[1] for uri in uris]
        infos = retry(lambda: filesystem.get_file_info(paths), f"look at {uris[0]}")
        return [
            FileStat(size=info.size, mtime_ns=info.mtime_ns)
            if info.type == pafs.FileType.File
            else NOT_SEEN
            for info in infos
        ]
    found = []
    for uri in uris:
        try:
            found.append(file_stat(uri))
        except StorageError as error:
            if error.__cause__ is not None:  # storage failed
                raise
            found.append(NOT_SEEN)
    return found


def is_inside(path: str, folder: str) -> bool:
    """Whether a local path lies in a folder, or is it, once links are followed."""
    real, inside = os.path.realpath(path), os.path.realpath(folder)
    return f"{real}/".startswith(f"{inside.rstrip('/')}/")


def _stats_inside(root: str, within: str) -> dict[str, FileStat]:
    """See `list_stats`; what a folder holds is the same from whichever it is listed.

    Links to folders are followed, but those in what a link leads to, or to a folder that
    the link lies in.
    """
    found: dict[str, FileStat] = {}
    start, inside = os.path.realpath(root), os.path.realpath(within)
    ahead = [("", start, start != inside and Path(root).is_symlink())]
    while ahead and is_inside(start, inside):
        folder, real, linked = ahead.pop()
        try:
            entries = list(os.scandir(real))
        except FileNotFoundError:  # deleted since it was listed
            continue
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            target = entry.path
            if entry.is_symlink():
                target = os.path.realpath(target)
                if not is_inside(target, inside):
                    found[name] = NOT_SEEN
                elif not Path(target).is_dir():
                    found[name] = _stat_of(target)
                elif not linked and not f"{real}/".startswith(f"{target}/"):
                    ahead.append((name, target, True))
            elif entry.is_dir():
                ahead.append((name, target, linked))
            elif entry.is_file():
                found[name] = _stat_of(target)
    return found


def _stat_of(path: str) -> FileStat:
    try:
        status = Path(path).stat()
    except OSError as error:
        if error.errno not in {errno.ENOENT, errno.ELOOP}:
            raise
        return NOT_SEEN  # a link to nothing, or deleted since
    return FileStat(size=status.st_size, mtime_ns=status.st_mtime_ns)


def list_below(filesystem: pafs.FileSystem, root: str) -> list[str]:
    """Names of all files below a folder, relative to it, sorted; empty if absent."""
    if isinstance(filesystem, pafs.LocalFileSystem):
        # pyarrow would go round in linked folders, and stop at names not in UTF-8.
        return sorted(retry(lambda: list(_walk(root)), f"list {root}"))
    return sorted(sizes_below(filesystem, root))


def sizes_below(filesystem: pafs.FileSystem, root: str) -> dict[str, int]:
    """The same names with the files' sizes in bytes."""
    if isinstance(filesystem, pafs.LocalFileSystem):
        sizes = {}
        for name in list_below(filesystem, root):
            with contextlib.suppress(
                FileNotFoundError
            ):  # a link to nothing, or deleted since
                sizes[name] = Path(root, name).stat().st_size
        return sizes
    selector = pafs.FileSelector(root, recursive=True, allow_not_found=True)
    found = retry(lambda: filesystem.get_file_info(selector), f"list {root}")
    return {
        item.path.removeprefix(root).lstrip("/"): item.size
        for item in found
        if item.type == pafs.FileType.File
    }


def _walk(root: str) -> Iterator[str]:
    """Files below a local folder; each folder once, whatever links lead to it."""
    seen: set[tuple[int, int]] = set()
    ahead = [""]
    while ahead:
        folder = ahead.pop()
        try:
            status = Path(root, folder).stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(f"{root}/{folder}") as entries:
                for entry in sorted(entries, key=lambda e: e.name, reverse=True):
                    name = f"{folder}/{entry.name}" if folder else entry.name
                    if _is_folder(entry):
                        ahead.append(name)
                    elif entry.is_symlink() or entry.is_file():
                        yield name  # also a link to nothing: opening it says so
        except FileNotFoundError:  # deleted since it was listed
            continue


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
