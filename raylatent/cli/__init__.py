"""`raylatent <verb>`: the same configurations as the jobs.

Exit codes: 0, the promises hold and no slide failed; 1, some slide failed or the run
could not be finished; 2, bad arguments or a refused run directory; 130, interrupted.
"""

import io
import logging
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from types import FrameType
from typing import TypeVar

from raylatent import __version__, annotations
from raylatent.arguments import parse
from raylatent.cli.saying import PROG, fail, say
from raylatent.cli.verbs import VERBS
from raylatent.errors import ConfigError, RaylatentError
from raylatent.source import names

C = TypeVar("C")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; its exit code.

    Args:
        argv: Verb and options, default those of the process.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    if given and given[0] in {"-h", "--help", "--version"}:
        say(f"{PROG} {__version__}" if given[0] == "--version" else _usage())
        return 0
    if not given or given[0] not in VERBS:
        what = f"there is no verb {given[0]!r}" if given else "a verb is missing"
        return fail(f"error: {what}: {', '.join(VERBS)} ({PROG} --help)", 2)
    configuration, action = VERBS[given[0]]
    with _logging(), _ended_by_sigterm():
        try:
            config = _configuration(configuration, given[0], given[1:])
            return 0 if config is None else action(config)
        except RaylatentError as error:
            return fail(f"error: {error}", error.exit_code)
        except KeyboardInterrupt:
            again = "the same command again goes on from here"
            again = "nothing is kept" if given[0] == "bench" else again
            return fail(f"interrupted: {again}", 130)


def _usage() -> str:
    lines = [f"usage: {PROG} VERB [OPTIONS]   ({PROG} VERB --help lists them)", ""]
    for verb, (configuration, _) in VERBS.items():
        lines.append(f"  {verb:<12} {(configuration.__doc__ or '').splitlines()[0]}")
    return "\n".join(lines)


def _configuration(kind: type[C], verb: str, argv: Sequence[str]) -> C | None:
    """The configuration that the arguments give; None where only help was asked for.

    Raises:
        ConfigError: What argparse says before it exits.
    """
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return parse(kind, f"{PROG} {verb}", argv)
    except SystemExit as end:
        if not end.code:
            return None
        what = said.getvalue().strip().rpartition("error: ")[2]
        message = f"{verb}: {what}"
        raise ConfigError(message) from None


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends like Ctrl-C: the claim is given back, the run can go on."""

    def terminate(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


_SAID_ONCE = (annotations.__name__, names.__name__, "raylatent.mapping.fonts")


class _Once(logging.Filter):
    """What is said of names and labels is said once, however often they are read."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        line = record.getMessage()
        again = record.name in _SAID_ONCE and line in self._said
        self._said.add(line)
        return not again


@contextmanager
def _logging() -> Iterator[None]:
    """Log lines of raylatent on stderr, unless the program has its own handlers."""
    log = logging.getLogger(PROG)
    if log.handlers:
        yield
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"{PROG}: %(message)s"))
    handler.addFilter(_Once())
    before = (log.level, log.propagate)
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before[0])
        log.propagate = before[1]
