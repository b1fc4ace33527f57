"""Lines for people on stdout and stderr."""

import errno
import os
import sys
from contextlib import nullcontext, suppress
from typing import TextIO, TypeGuard
from unicodedata import category

from raylatent.errors import StorageError

_GONE = frozenset({errno.EPIPE, errno.EIO})  # `| head`, a terminal that was closed

PROG = "raylatent"


def visible(text: str) -> str:
    r"""A text in one line, without what would move a terminal's cursor.

    >>> visible("maps/a\nverified \x1b[2K")
    'maps/a\\nverified \\x1b[2K'
    """
    return "".join(
        char if char.isprintable() or category(char) == "Zs" else ascii(char)[1:-1]
        for char in text
    )


def write_line(text: str, stream: TextIO | None = None) -> None:
    """A line, at once, and as `visible` makes it: names in it are not ours.

    That its reader has gone away, as `| head` does, ends no work.

    Args:
        text: Without its end.
        stream: Where to; default stderr.

    Raises:
        StorageError: Stdout cannot be written for another reason, as a full disk.
    """
    _write(f"{visible(text)}\n", sys.stderr if stream is None else stream)


def is_terminal(stream: TextIO | None) -> TypeGuard[TextIO]:
    """Whether a bar can be drawn on it."""
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"


def flush(stream: TextIO | None) -> None:
    """Write what is left, so that Python need not complain when it ends."""
    _write("", stream)


def _write(text: str, stream: TextIO | None) -> None:
    if stream is None:  # the program was started without it
        return
    bars = getattr(sys.modules.get("tqdm"), "tqdm", None)
    try:
        # Bars make room for the line, and are drawn again below it.
        with nullcontext() if bars is None else bars.external_write_mode(stream):
            stream.write(text)
            stream.flush()
    except OSError as error:
        _discard(stream)
        if stream is sys.stdout and error.errno not in _GONE:
            message = f"the standard output cannot be written: {error.strerror}"
            raise StorageError(message) from error


def _discard(stream: TextIO) -> None:
    """Send what is left in a stream, and all that follows, nowhere."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def fail(text: str, code: int) -> int:
    """Say in one line on stderr what is wrong; gives the exit code back."""
    write_line(f"{PROG}: {' '.join(text.split())}")
    return code


def say(text: str) -> None:
    """A line on stdout, at once.

    Raises:
        StorageError: Stdout cannot be written, and not for want of a reader.
    """
    if sys.stdout is not None:
        write_line(text, sys.stdout)
