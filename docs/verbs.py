"""Write the reference of verbs, docs/verbs.md, out of the configurations.

    python docs/verbs.py

A test compares the file with what this makes.
"""

from dataclasses import Field, fields
from inspect import getdoc
from pathlib import Path
from typing import Any

from raylatent.cli.verbs import VERBS

TARGET = Path(__file__).with_name("verbs.md")
HEAD = """\
# Verbs and their options

<!-- Written by `python docs/verbs.py`: a change belongs into raylatent/config. -->

`raylatent VERB --help` says the same. `raylatent VERB` exits with 0, 1, 2 or 130: see
[what you can rely on](guarantees.md#stopped-started-again-changed).
"""


def reference() -> str:
    """The whole text."""
    parts = [HEAD]
    for verb, (config, _) in VERBS.items():
        parts.append(f"## {verb}\n\n{getdoc(config)}\n")
        rows = [_row(field) for field in fields(config)]
        parts.append("\n".join(["| option | meaning |", "|---|---|", *rows]) + "\n")
    return "\n".join(parts)


def _row(field: "Field[Any]") -> str:
    about = field.metadata
    flag = "--" + field.name.replace("_", "-")
    values = about.get("metavar") or ", ".join(about.get("choices") or ())
    if values and about.get("many"):
        values += "..."
    if about.get("positional"):
        name = f"`{values}`"
    else:
        name = f"`{flag}`" + (f" {values}" if values else "")
    if "no" in about:
        name += f", `{about['no']}`"
    text = str(about["help"])
    default = field.default
    if default not in (None, "", (), False) and "default" not in text:
        shown = " ".join(default) if isinstance(default, tuple) else default
        text += f" (default {shown})"
    cells = (name, text + (", required" if about.get("required") else ""))
    escaped = (cell.replace("|", "\\|").replace("<", "\\<") for cell in cells)
    return "| " + " | ".join(escaped) + " |"


if __name__ == "__main__":
    TARGET.write_text(reference(), encoding="utf-8")
