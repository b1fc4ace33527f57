"""Lines for people on stdout and stderr."""

import errno
import os
import shutil
import sys
from contextlib import suppress
from typing import TextIO, TypeGuard
from unicodedata import category

from raylatent.errors import StorageError

_GONE = frozenset({errno.EPIPE, errno.EIO})  # `| head`, a terminal that was closed

_CLEAR = "\r\x1b[K"
_over: set[int] = set()  # streams whose last line is drawn over
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


def draw_over(text: str, stream: TextIO) -> None:
    """A line that the next one takes the place of, cut to the terminal's width.

    Args:
        text: Without its end.
        stream: A terminal.
    """
    _write(f"{_CLEAR}{visible(text)[: columns(stream) - 1]}", stream)
    _over.add(id(stream))


def columns(stream: TextIO) -> int:
    """How wide a terminal is, in characters."""
    try:
        found = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        found = 0
    return found or shutil.get_terminal_size().columns


def is_terminal(stream: TextIO | None) -> TypeGuard[TextIO]:
    """Whether lines can be drawn over."""
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"


def flush(stream: TextIO | None) -> None:
    """Write what is left, so that Python need not complain when it ends."""
    _write("", stream)


def _write(text: str, stream: TextIO | None) -> None:
    if stream is None:  # the program was started without it
        return
    if id(stream) in _over and not text.startswith(_CLEAR):
        text = f"{_CLEAR}{text}"
    _over.discard(id(stream))
    try:
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
