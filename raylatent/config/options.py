"""What a field of a configuration needs to be an option, and checks of values."""

import math
import numbers
from dataclasses import dataclass, field, fields
from typing import Any, get_args, get_type_hints

from raylatent.errors import ConfigError

MAX_NAME_BYTES = 200
FINEST_UM, COARSEST_UM = 0.02, 50.0
"""Beyond 100x with the smallest pixels, and coarser than an overview."""

_USUAL_PIXEL_UM = (0.05, 10.0)
_LENGTHS = (("nanometers", 1e-3), ("millimeters", 1e3), ("centimeters", 1e4))
_KINDS = (  # of values, the narrower first, as a message names them
    (bool, bool, "True or False"),
    (int, numbers.Integral, "a whole number"),
    (float, numbers.Real, "a number"),
)


def option(default: Any, text: str, **extra: Any) -> Any:  # noqa: ANN401
    """A field with its help text.

    Args:
        default: The field's default.
        text: What it is, with its unit.
        **extra: `choices` (others are refused), `metavar`, `many` (takes several
            values), `required`.
    """
    return field(default=default, metadata={"help": text, **extra})


def flag(text: str) -> Any:  # noqa: ANN401
    """A field that is off unless its option is given."""
    return field(default=False, metadata={"help": text})


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What every verb that works on a run takes."""

    out: str = option(
        "",
        "the run directory: a local path, s3://, gs://",
        metavar="RUN",
        required=True,
    )

    def __post_init__(self) -> None:
        """Refuse nonsense."""
        for name, allowed in _allowed(type(self)).items():
            _of_kind(name, getattr(self, name), allowed)
        for f in fields(self):
            choices, value = f.metadata.get("choices"), getattr(self, f.name)
            if choices and value is not None:
                one_of(f"--{f.name.replace('_', '-')}", value, choices)
        needed = any(
            f.name == "out" and f.metadata.get("required") for f in fields(self)
        )
        if needed and not self.out:
            message = "--out RUN is missing: where the run directory is or shall be"
            raise ConfigError(message)


@dataclass(frozen=True, kw_only=True)
class PatientConfig(RunConfig):
    """What every verb takes that waits for a cluster's work."""

    stall_timeout_s: float = option(
        7200.0, "with nothing finished for S seconds the run ends", metavar="S"
    )

    def __post_init__(self) -> None:
        """Refuse nonsense."""
        super().__post_init__()
        number_from("--stall-timeout-s", self.stall_timeout_s, 1)


def _allowed(config: type) -> dict[str, tuple[type, ...]]:
    """The types that a configuration's fields may have, by the field's name."""
    hints = get_type_hints(config)
    return {f.name: get_args(hints[f.name]) or (hints[f.name],) for f in fields(config)}


def _of_kind(name: str, value: object, allowed: tuple[type, ...]) -> None:
    """ConfigError where a value is a word or a truth value instead of a number."""
    for kind, accepted, text in _KINDS:
        if kind not in allowed or (value is None and type(None) in allowed):
            continue
        if not isinstance(value, accepted) or (
            isinstance(value, bool) and kind is not bool
        ):
            message = (
                f"{name} is {value!r} ({type(value).__name__}), which is not {text}"
            )
            raise ConfigError(message)


def one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """ConfigError unless a value is among those allowed."""
    if value not in allowed:
        message = f"{name} is {value!r}, not {', '.join(allowed)}"
        raise ConfigError(message)


def between(name: str, value: int, smallest: int, largest: int) -> None:
    """ConfigError unless a value is from the smallest to the largest allowed."""
    if not smallest <= value <= largest:
        message = f"{name} is {value}, not {smallest} to {largest}"
        raise ConfigError(message)


def at_least(name: str, value: int | None, smallest: int) -> None:
    """ConfigError if a value is given and less than the smallest allowed."""
    if value is not None and value < smallest:
        message = f"{name} is {value}, less than {smallest}"
        raise ConfigError(message)


def number_from(name: str, value: float, smallest: float) -> None:
    """ConfigError unless a number is finite and at least the smallest allowed."""
    if not smallest <= value < math.inf:
        message = f"{name} is {value}, not {smallest:g} or more"
        raise ConfigError(message)


def above_zero(name: str, value: float) -> None:
    """ConfigError unless a number is finite and above 0."""
    if not 0 < value < math.inf:
        message = f"{name} is {value}, not above 0"
        raise ConfigError(message)


def share(name: str, value: float) -> None:
    """ConfigError unless a number is from 0 to 1."""
    if not 0 <= value <= 1:
        message = f"{name} is {value}, not 0 to 1"
        raise ConfigError(message)


def why_not_mpp(value: float) -> str | None:
    """Why a number cannot be the micrometers a pixel of a slide; None if it can.

    >>> why_not_mpp(0.25) is None, why_not_mpp(499)
    (True, 'that cannot be, it looks like 499 nanometers: 0.499 µm')
    """
    if FINEST_UM <= value <= COARSEST_UM:
        return None
    low, high = _USUAL_PIXEL_UM
    for unit, factor in _LENGTHS:
        if low <= value * factor <= high:
            return (
                f"that cannot be, it looks like {value:g} {unit}: "
                f"{value * factor:.4g} µm"
            )
    return f"that cannot be: a slide has {FINEST_UM:g} to {COARSEST_UM:g}, as 0.25"


def pixel_size(name: str, value: float) -> None:
    """ConfigError unless a number can be the micrometers a pixel of a slide."""
    why_not = why_not_mpp(value)
    if why_not is not None:
        message = f"{name} is {value:g} micrometers a pixel, {why_not}"
        raise ConfigError(message)


def names(name: str, values: tuple[str, ...]) -> None:
    """ConfigError unless there are names, none of them empty or twice."""
    if not values or not all(values):
        message = f"{name} has an empty name: give at least one, none of them empty"
        raise ConfigError(message)
    for value in values:
        if values.count(value) > 1:
            message = f"{name} has {value} twice"
            raise ConfigError(message)


def plain_name(option_name: str, value: str) -> None:
    """ConfigError unless a value can be the name of one folder."""
    plain = value.strip(".") and value.isprintable() and not {"/", "\\"} & set(value)
    if not plain or len(value.encode()) > MAX_NAME_BYTES:
        message = (
            f"{option_name} is {value[:40]!r}: it must be a plain folder name of at most "
            f"{MAX_NAME_BYTES} bytes"
        )
        raise ConfigError(message)
