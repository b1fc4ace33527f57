"""What a verb says, in lines."""

import sys

from raylatent.terminal import write_line

PROG = "raylatent"


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
