"""Command lines and Python arguments of configuration classes, whose options they are."""

import argparse
import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from difflib import get_close_matches
from textwrap import TextWrapper
from types import UnionType
from typing import Any, NoReturn, TypeVar, get_args, get_type_hints

from raylatent.errors import ConfigError

C = TypeVar("C")
F = TypeVar("F", bound=Callable[..., Any])

_HELP = "(--help lists the options)"


def parser_of(config: type, prog: str) -> argparse.ArgumentParser:
    """A parser with an option for each field of a configuration class."""
    parser = _Parser(prog=prog, description=config.__doc__, allow_abbrev=False)
    hints = get_type_hints(config)
    for field in fields(config):
        _add(parser, field, hints[field.name])
    return parser


class CommandLineError(ConfigError):
    """A command line that no configuration can be made of."""


def parse(
    config: type[C],
    prog: str,
    argv: Sequence[str] | None = None,
    others: Mapping[str, type] | None = None,
) -> C:
    """The configuration that a command line gives.

    Args:
        config: A configuration class.
        prog: What the program is called in its help.
        argv: The arguments, default the process's.
        others: Configurations by verb, for what is said of an option of theirs.

    Raises:
        SystemExit: With 0, after --help.
        CommandLineError: An argument is unknown, lacks its value, or is missing.
        ConfigError: A value is out of range.
    """
    given = sys.argv[1:] if argv is None else argv
    parser = parser_of(config, prog)
    _check_options(config, given, others or {})
    found, rest = parser.parse_known_args(given)
    if rest:
        wanted = {field.name for field in fields(config)}  # type: ignore[arg-type]
        meant = next((n for n in ("tfrecords", "slides", "out") if n in wanted), None)
        as_option = f", did you mean --{meant} {rest[0]}?" if meant else ""
        parser.error(f"{rest[0]!r} belongs to no option{as_option}")
    values = vars(found)
    for field in fields(config):  # type: ignore[arg-type]
        if field.metadata.get("many"):
            values[field.name] = tuple(values[field.name])
    return config(**values)


def flags_of(config: type) -> list[str]:
    """All options of a configuration class.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Config:
    ...     tile_px: int = 299
    >>> flags_of(Config)
    ['--tile-px']
    """
    found = []
    for field in fields(config):
        if not field.metadata.get("positional"):
            found.append("--" + field.name.replace("_", "-"))
        if "no" in field.metadata:
            found.append(field.metadata["no"])
    return found


def option_values(config: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Options as a configuration takes them: paths as text, one as several.

    Args:
        config: The class of a verb's configuration.
        given: Values of arguments by name; those that are no option of it, and those
            that are None, are left out.

    >>> from raylatent.config import ActivationsConfig
    >>> option_values(ActivationsConfig, {"slides": "a.svs", "actors": 2, "self": None})
    {'actors': '2', 'slides': ('a.svs',)}
    """
    values = {}
    for name, kind in get_type_hints(config).items():
        value = given.get(name)
        if value is None:
            continue
        if kind == tuple[str, ...]:
            several = [value] if isinstance(value, str | os.PathLike) else value
            value = tuple(os.fspath(one) for one in several)
        elif kind is str:
            value = str(value)
        values[name] = value
    return values


def with_options(config: type) -> Callable[[F], F]:
    """A decorator that describes arguments which are options by the options' help.

    The line of a docstring that begins with `...: ` is replaced.

    Args:
        config: The configuration class.

    >>> from raylatent.config import ActivationsConfig
    >>> def run(dtype: str) -> None:
    ...     "...: The options of the verb."
    >>> with_options(ActivationsConfig)(run).__doc__
    'dtype: Of the stored activations.'
    """

    def described(function: F) -> F:
        text = inspect.getdoc(function) or ""
        marker = re.search(r"^( *)\.\.\.: .*$", text, re.MULTILINE)
        if marker is None:  # stripped by python -OO
            return function
        wrapper = TextWrapper(88, subsequent_indent=f"{marker[1]}    ")
        there = inspect.signature(function).parameters
        lines = [
            wrapper.fill(f"{marker[1]}{field.name}: {_in_python(field)}")
            for field in fields(config)
            if field.name in there and f"\n{marker[1]}{field.name}: " not in text
        ]
        start, end = marker.span()
        function.__doc__ = f"{text[:start]}{chr(10).join(lines)}{text[end:]}"
        return function

    return described


def _in_python(field: "Field[Any]") -> str:
    """An option's help as a sentence on a Python argument."""
    text = str(field.metadata["help"])
    text = re.sub(r"--([a-z-]+)", lambda m: f"`{m[1].replace('-', '_')}`", text)
    return f"{text[0].upper()}{text[1:]}."


def _check_options(
    config: type, argv: Sequence[str], others: Mapping[str, type]
) -> None:
    """Refuse what is no option, before argparse complains of what is missing for it."""
    flags = flags_of(config)
    for word in argv:
        name = word.partition("=")[0]
        if word == "--":
            return
        if word.startswith("--") and name not in {*flags, "--help"}:
            meant = name.replace("_", "-")
            elsewhere = [v for v, other in others.items() if meant in flags_of(other)]
            near = [flag for flag in flags if flag.startswith(meant)]
            near = near or get_close_matches(meant, flags, 3, 0.7)
            message = f"there is no option {name}"
            if near:
                message += f", did you mean {' or '.join(near[:3])}?"
            elif elsewhere:
                message += f" here, {'it' if meant == name else meant} is one of {' and '.join(elsewhere)}"
            message += f" {_HELP}"
            raise CommandLineError(message)


def _add(parser: argparse.ArgumentParser, field: "Field[Any]", hint: object) -> None:
    """One field: a flag, a pair of flags, one value or several."""
    about = field.metadata
    flag = "--" + field.name.replace("_", "-")
    text = str(about["help"]).replace("%", "%%")
    default = field.default
    if about.get("positional"):
        parser.add_argument(
            field.name,
            metavar=about["metavar"],
            nargs=about.get("nargs"),
            default=default,
            help=text,
        )
    elif hint is bool:
        parser.add_argument(flag, action="store_true", help=text)
    elif "no" in about:
        group = parser.add_mutually_exclusive_group()
        group.add_argument(
            flag, action="store_true", default=None, dest=field.name, help=text
        )
        group.add_argument(
            about["no"], action="store_false", dest=field.name, help=f"not {flag}"
        )
    else:
        many = bool(about.get("many"))
        parser.add_argument(
            flag,
            type=str if many else _plain(hint),
            action=_Several if many else "store",
            nargs="+" if many else None,
            default=default if default is not MISSING else None,
            required=bool(about.get("required")),
            choices=about.get("choices"),
            metavar=about.get("metavar"),
            help=_with_default(text, default),
        )


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; the usage of forty options would hide it."""

    def error(self, message: str) -> NoReturn:
        """Raise it."""
        message = f"{message} {_HELP}"
        raise CommandLineError(message)


class _Several(argparse.Action):
    """Several values, and the option several times: all are kept, not the default."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002
        namespace: argparse.Namespace,
        values: Any,  # noqa: ANN401
        option_string: str | None = None,  # noqa: ARG002
    ) -> None:
        given = getattr(namespace, self.dest)
        before = [] if given is self.default else list(given)
        setattr(namespace, self.dest, [*before, *values])


def _with_default(text: str, default: object) -> str:
    if default in {None, "", ()} or default is MISSING or "default" in text:
        return text
    shown = " ".join(default) if isinstance(default, tuple) else default
    return f"{text} (default {shown})"


def _plain(hint: object) -> Any:  # noqa: ANN401
    """The type that parses a value: of `float | None` it is float."""
    if isinstance(hint, UnionType):
        return next(kind for kind in get_args(hint) if kind is not type(None))
    return hint
