"""run.json: the configuration of a run, and what tells it from another."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from raylatent import schema
from raylatent.errors import RunError
from raylatent.seal import json_holds, parse_json, sealed_json

RUN_JSON = "run.json"
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


def differences(settings: Mapping[str, Any], fields: Mapping[str, Any]) -> list[str]:
    """What differs between a stored run and a configuration; empty if nothing.

    >>> differences({"fields": {"dtype": "float16"}}, {"dtype": "float32"})
    ['dtype was "float16", now "float32"']
    """
    if settings.get("fingerprint") == fingerprint(fields):
        return []
    changed = _changed(settings.get("fields", {}), fields)
    return changed or ["its fingerprint differs"]


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


def parse_settings(text: bytes, uri: str, *, whole: bool = False) -> dict[str, Any]:
    """What run.json of the run at `uri` says; RunError if it is not ours, or broken.

    Args:
        text: Its content.
        uri: Of the run.
        whole: Refuse one whose fingerprint is not that of its fields.
    """
    settings = parse_json(text)
    if settings is None:
        message = f"{uri}/{RUN_JSON} is no JSON object: choose another --out"
        raise RunError(message)
    if json_holds(settings) is False:
        message = (
            f"{uri}/{RUN_JSON} is not as it was written: run the command that made it "
            "again, which mends it, or choose another --out"
        )
        raise RunError(message)
    version = settings.get("schema_version")
    if isinstance(version, int) and version > schema.SCHEMA_VERSION:
        message = f"{uri} was made by a later version of raylatent: use that one"
        raise RunError(message)
    if not _is_ours(settings):
        message = f"{uri}/{RUN_JSON} is not raylatent's: choose another --out"
        raise RunError(message)
    is_run = CLEARING not in settings
    if whole and is_run and settings["fingerprint"] != fingerprint(settings["fields"]):
        message = (
            f"{uri}/{RUN_JSON} has a fingerprint that is not that of its fields: choose "
            "another --out"
        )
        raise RunError(message)
    return settings


def _is_ours(settings: Mapping[str, Any]) -> bool:
    """Whether what everything else relies on is there."""
    if CLEARING in settings:
        return True
    kinds = {"schema_version": int, "fingerprint": str, "fields": dict, "layers": dict}
    return all(isinstance(settings.get(name), kind) for name, kind in kinds.items())


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
