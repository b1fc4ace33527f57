"""`raylatent <verb>`: the same configurations as the jobs.

Exit codes: 0, the promises hold and no slide failed; 1, some slide failed or the run
could not be finished; 2, bad arguments or a refused run directory; 130, interrupted.
"""

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import NoReturn, TypeVar

from raylatent import __version__
from raylatent.arguments import CommandLineError, parse
from raylatent.cli.interrupts import INTERRUPTED, Interrupts
from raylatent.cli.verbs import VERBS
from raylatent.errors import ConfigError, RaylatentError, StorageError
from raylatent.terminal import PROG, fail, flush, say, write_line

_AGAIN = "the same command again goes on from here"

C = TypeVar("C")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; its exit code.

    Args:
        argv: Verb and options, default those of the process.
    """
    try:
        code = _main(list(sys.argv[1:] if argv is None else argv))
        flush(sys.stdout)
    except StorageError as error:  # of stdout
        code = fail(f"error: {error}", error.exit_code)
    flush(sys.stderr)
    return code


def run() -> NoReturn:
    """The command: `main`, after which the process ends soon."""
    code = main()
    connection = sys.modules.get("raylatent.engine.connection")
    if connection is not None:  # else no Ray was started
        connection.end_soon(code)
    raise SystemExit(code)


def _main(given: list[str]) -> int:
    if given and given[0] in {"-h", "--help", "--version"}:
        text = f"{PROG} {__version__}" if given[0] == "--version" else _usage()
        for line in text.splitlines():
            say(line)
        return 0
    if not given or given[0] not in VERBS:
        return fail(f"error: {_no_verb(given)} ({PROG} --help)", 2)
    verb = given[0]
    configuration, action = VERBS[verb]
    again = "nothing is kept" if verb in {"bench", "serve"} else _AGAIN
    with _logging(), Interrupts(f"interrupted: {again}") as interrupts:
        try:
            _refuse_gone_folder()
            config = _configuration(configuration, verb, given[1:])
            return 0 if config is None else action(config)
        except KeyboardInterrupt:
            return fail(f"interrupted: {again}", INTERRUPTED)
        except Exception as error:
            if interrupts.n_told:  # what it broke off raised something else
                return fail(f"interrupted: {again}", INTERRUPTED)
            if not isinstance(error, RaylatentError):
                raise
            return fail(f"error: {error}", error.exit_code)


def _refuse_gone_folder() -> None:
    """Libraries that are loaded later end the process without a sentence."""
    try:
        os.getcwd()  # noqa: PTH109  (Path.cwd() would do the same)
    except OSError as error:
        message = (
            f"the working directory cannot be used ({error.strerror}): change to one "
            "that is there, then give the command again"
        )
        raise ConfigError(message) from error


def _no_verb(given: list[str]) -> str:
    verbs = ", ".join(VERBS)
    if not given:
        return f"a verb is missing: {verbs}"
    if given[0].startswith("-"):
        return f"a verb comes first, then {given[0]}: {verbs}"
    near = get_close_matches(given[0], VERBS, 1)
    meant = f", did you mean {near[0]}? There are" if near else ":"
    return f"there is no verb {given[0]!r}{meant} {verbs}"


def _usage() -> str:
    lines = [f"usage: {PROG} VERB [OPTIONS]   ({PROG} VERB --help lists them)", ""]
    for verb, (configuration, _) in VERBS.items():
        lines.append(f"  {verb:<12} {(configuration.__doc__ or '').splitlines()[0]}")
    return "\n".join(lines)


def _configuration(kind: type[C], verb: str, argv: Sequence[str]) -> C | None:
    """The configuration that the arguments give; None where only help was asked for.

    Raises:
        ConfigError: The arguments make no sense.
    """
    others = {name: other for name, (other, _) in VERBS.items() if name != verb}
    try:
        return parse(kind, f"{PROG} {verb}", argv, others)
    except CommandLineError as error:
        message = f"{verb}: {error}"
        raise ConfigError(message) from error
    except SystemExit:  # after --help
        return None


class _Lines(logging.Handler):
    """Log lines on stderr, each once: several stages may have the same."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        line = record.getMessage()
        if line not in self._said:
            self._said.add(line)
            write_line(f"{PROG}: {line}")


@contextmanager
def _logging() -> Iterator[None]:
    """Log lines of raylatent on stderr, unless the program has its own handlers."""
    log = logging.getLogger(PROG)
    if log.handlers:
        yield
        return
    handler = _Lines()
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
