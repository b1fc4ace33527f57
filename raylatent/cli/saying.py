"""What a verb says, in lines."""

import sys

PROG = "raylatent"


def fail(text: str, code: int) -> int:
    """Say in one line on stderr what is wrong; gives the exit code back."""
    sys.stderr.write(f"{PROG}: {' '.join(text.split())}\n")
    return code


def say(text: str) -> None:
    """A line on stdout, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
