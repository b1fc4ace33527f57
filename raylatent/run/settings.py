"""run.json: the configuration of a run, and what tells it from another."""

import hashlib
import json
import re
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

from raylatent import schema
from raylatent.errors import RunError, VersionError
from raylatent.seal import DIGEST, json_holds, parse_json, sealed_json

RUN_JSON = "run.json"
IDENTITY = "identity"
"""Beside the fields: what they say of the model, entry by entry."""
OUTPUTS = "outputs"
"""Beside the fields: what the model gave for its two sample tiles."""
TILE_LABELS = "tile_labels"
"""A field: whether tiles have labels of their own."""
_MODEL_FIELDS = ("model", "code", "files")
_DIGEST = re.compile(r"(?<![\w.])[0-9a-f]{16}(?!\w)")
CLEARING = "clearing"  # stands in run.json while rows of another run are deleted


def fingerprint(fields: Mapping[str, Any]) -> str:
    """A digest of all that changes a number.

    >>> fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    True
    """
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def settings_text(fields: Mapping[str, Any], about: Mapping[str, Any]) -> bytes:
    """The content of run.json.

    Args:
        fields: All that changes a number.
        about: What else is worth to be recorded.
    """
    settings = {
        "schema_version": schema.SCHEMA_VERSION,
        "fingerprint": fingerprint(fields),
        "fields": dict(fields),
        **about,
    }
    return json.dumps(sealed_json(settings), indent=1).encode()


def clearing_text() -> bytes:
    """The content of run.json while the files of another run are deleted."""
    settings = {"schema_version": schema.SCHEMA_VERSION, CLEARING: True}
    return json.dumps(sealed_json(settings)).encode()


def differences(
    settings: Mapping[str, Any],
    fields: Mapping[str, Any],
    about: Mapping[str, Any] = {},
) -> list[str]:
    """What differs between a stored run and a configuration; empty if nothing.

    Args:
        settings: What run.json says.
        fields: All that changes a number.
        about: What else is recorded: its `identity` names what differs in a model.

    >>> differences({"fields": {"dtype": "float16"}}, {"dtype": "float32"})
    ['dtype was "float16", now "float32"']
    """
    if settings.get("fingerprint") == fingerprint(fields):
        return []
    old = settings.get("fields", {})
    of_model = {n for n in _MODEL_FIELDS if old.get(n) != fields.get(n)}
    if IDENTITY not in about or IDENTITY not in settings:
        of_model.clear()
    named = ""
    if of_model:
        named = shortened(entry_differences(settings[IDENTITY], about[IDENTITY]))
    changed = _changed(_without(old, of_model), _without(fields, of_model))
    return [named, *changed] if named else changed or ["its fingerprint differs"]


def _without(fields: Mapping[str, Any], names: Container[str]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in names}


def shortened(sentences: Sequence[str], most: int = 3) -> str:
    """The first of many, and how many more there are.

    >>> shortened(["a differs", "b differs"], most=1)
    'a differs; and 1 more like this'
    """
    more = len(sentences) - most
    rest = [f"and {more} more like this"] if more > 0 else []
    return "; ".join([*sentences[:most], *rest])


def entry_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two models, by name: values first, what is new last.

    Args:
        old: Groups of entries, as `identity` in run.json.
        new: Those of the other model.

    >>> was, now = ({"attributes": {"head": {"scale": x}}} for x in ("0.5", "0.7"))
    >>> entry_differences(was, now)
    ["attribute 'scale' of module 'head' was 0.5, now 0.7"]
    """
    found = []
    for group, sentence in _SENTENCES.items():
        before, after = _flat(old.get(group, {})), _flat(new.get(group, {}))
        for key in before.keys() | after.keys():
            values = (before.get(key), after.get(key))
            if values[0] != values[1]:
                text = _was_and_is(*values)
                rank = (None in values, text == "differs")
                found.append((rank, f"{sentence(key)} {text}"))
    return [text for _, text in sorted(found)]


def _flat(entries: Mapping[str, Any]) -> dict[tuple[str, ...], str]:
    flat: dict[tuple[str, ...], str] = {}
    for name, value in entries.items():
        if isinstance(value, Mapping):
            flat |= {(name, inner): str(text) for inner, text in value.items()}
        else:
            flat[name,] = str(value)
    return flat


def _was_and_is(before: str | None, after: str | None) -> str:
    if before is None:
        return "is new"
    if after is None:
        return "is gone"
    if _DIGEST.search(before) or _DIGEST.search(after):
        return "differs"
    return f"was {before}, now {after}"


def _of_module(key: tuple[str, ...]) -> str:
    module, name = key[0], key[-1]
    where = f"module {module!r}" if module else "the model itself"
    if name == "class":
        return f"the class of {where}"
    what = {
        "_forward_hooks": "the forward hooks",
        "_forward_pre_hooks": "the forward pre-hooks",
    }.get(name, f"attribute {name!r}")
    return f"{what} of {where}"


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs, down to the fields of fields.

    >>> _changed({"slides": {"qc": "otsu", "icc": True}}, {"slides": {"icc": True}})
    ['slides.qc was "otsu", now null']
    """
    changed: list[str] = []
    for name in sorted(set(old) | set(new)):
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            changed += [f"{name}.{inner}" for inner in _changed(before, after)]
        elif before != after:
            changed.append(f"{name} was {_short(before)}, now {_short(after)}")
    return changed


def parse_settings(text: bytes, uri: str) -> dict[str, Any]:
    """What run.json of the run at `uri` says; RunError if it is not ours, or broken.

    Args:
        text: Its content.
        uri: Of the run.
    """
    settings = parse_json(text)
    if settings is None:
        message = f"{uri}/{RUN_JSON} is no JSON object: choose another --out"
        raise RunError(message)
    if DIGEST not in settings or json_holds(settings):
        _refuse_other_version(settings, uri)
        if not _is_ours(settings):
            message = f"{uri}/{RUN_JSON} is not raylatent's: choose another --out"
            raise RunError(message)
    if not json_holds(settings):
        message = (
            f"{uri}/{RUN_JSON} is not as it was written: run the command that made it "
            "again, which mends it, or choose another --out"
        )
        raise RunError(message)
    return settings


def _refuse_other_version(settings: Mapping[str, Any], uri: str) -> None:
    """Refuse a run whose files another version of raylatent wrote.

    Raises:
        VersionError: The message says which.
    """
    version = settings.get("schema_version")
    if isinstance(version, int) and version > schema.SCHEMA_VERSION:
        message = f"{uri} was made by a later version of raylatent: use that one"
        raise VersionError(message)
    if isinstance(version, int) and version < schema.SCHEMA_VERSION:
        message = (
            f"{uri} was made by an earlier version of raylatent (schema version "
            f"{version}, now {schema.SCHEMA_VERSION}), whose files did not all tell "
            "their digests: compute the run anew in another --out"
        )
        raise VersionError(message)


def _is_ours(settings: Mapping[str, Any]) -> bool:
    """Whether what everything else relies on is there."""
    if CLEARING in settings:
        return True
    kinds = {"schema_version": int, "fingerprint": str, "fields": dict, "layers": dict}
    return all(isinstance(settings.get(name), kind) for name, kind in kinds.items())


_SENTENCES: dict[str, Callable[[tuple[str, ...]], str]] = {
    "code": lambda key: f"the code of {key[0]}",
    "constants": lambda key: (
        f"the {key[0]}" if " " in key[0] else f"the value of {key[0]}"
    ),
    "attributes": _of_module,
    "tensors": lambda key: f"the tensor {key[0]!r}",
    "files": lambda key: f"the file {key[0]} that the factory reads",
}


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
