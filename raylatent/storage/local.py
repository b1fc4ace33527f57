"""Files of a local folder, put in place in one step."""

import errno
import os
import uuid
from pathlib import Path

import pyarrow as pa

ASIDE_SUFFIX = ".aside"
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS})


def aside(target: Path, writer: str) -> Path:
    """Where to write a file before it shows, a name of its own; its folder is made."""
    target.parent.mkdir(parents=True, exist_ok=True)
    return target.parent / f".{writer}-{uuid.uuid4().hex}{ASIDE_SUFFIX}"


def put(target: Path, writer: str, data: bytes | pa.Buffer) -> None:
    """Write a file, replacing what is there."""
    being_written = aside(target, writer)
    try:
        with being_written.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        being_written.replace(target)
    except BaseException:
        being_written.unlink(missing_ok=True)
        raise


def create(target: Path, writer: str, data: bytes) -> bool:
    """Write a file unless there is one; False where there is."""
    being_written = aside(target, writer)
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
