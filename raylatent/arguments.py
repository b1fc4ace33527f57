"""Command lines from configuration classes: one list of options serves both."""

import argparse
from collections.abc import Sequence
from dataclasses import MISSING, Field, fields
from types import UnionType
from typing import Any, NoReturn, TypeVar, get_args, get_type_hints

C = TypeVar("C")


def parser_of(config: type, prog: str) -> argparse.ArgumentParser:
    """A parser with an option for each field of a configuration class."""
    parser = _Parser(prog=prog, description=config.__doc__, allow_abbrev=False)
    hints = get_type_hints(config)
    for field in fields(config):
        _add(parser, field, hints[field.name])
    return parser


def parse(config: type[C], prog: str, argv: Sequence[str] | None = None) -> C:
    """The configuration that a command line gives.

    Raises:
        SystemExit: With 2, after saying what is wrong with the arguments.
        ConfigError: A value is out of range.
    """
    values = vars(parser_of(config, prog).parse_args(argv))
    for field in fields(config):  # type: ignore[arg-type]
        if field.metadata.get("many"):
            values[field.name] = tuple(values[field.name])
    return config(**values)


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
        """End with 2."""
        self.exit(2, f"{self.prog}: error: {message} (--help lists the options)\n")


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
