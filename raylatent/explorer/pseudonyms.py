"""Random names of slides: RUN/pseudonyms.csv, outside of the folder that is handed out."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from secrets import token_hex

from raylatent.claim import Claim, new_token
from raylatent.errors import RunError
from raylatent.run.layout import PSEUDONYMS
from raylatent.storage import Store

_COLUMNS = ["slide", "pseudonym"]


def read_pseudonyms(store: Store) -> dict[str, str]:
    """The names that slides of a run were given, by slide.

    Raises:
        RunError: The table is not as it was written.
    """
    if not store.exists(PSEUDONYMS):
        return {}
    rows = list(csv.reader(io.StringIO(store.read(PSEUDONYMS).decode("utf-8-sig"))))
    found = {row[0]: row[1] for row in rows[1:] if len(row) == len(_COLUMNS) and row[1]}
    n = len(set(found.values()))
    if rows[:1] != [_COLUMNS] or not n == len(found) == len(rows) - 1:
        message = (
            f"{store.uri}/{PSEUDONYMS} is not the table of slide and pseudonym that was "
            "written, each once: put it back, or delete it for other names"
        )
        raise RunError(message)
    return found


def give_pseudonyms(store: Store, slides: Sequence[str]) -> dict[str, str]:
    """Pseudonyms of slides; those that have none get a random one, and it is kept.

    Args:
        store: The run directory.
        slides: Names.

    Raises:
        ClaimError: Another driver works on the run.
    """
    with Claim(store, new_token()):
        known = read_pseudonyms(store)
        taken = {*known, *known.values(), *slides}
        for slide in slides:
            while slide not in known:
                if (name := f"slide-{token_hex(4)}") not in taken:
                    known[slide] = name
                    taken.add(name)
        text = io.StringIO()
        csv.writer(text).writerows([_COLUMNS, *sorted(known.items())])
        store.write(PSEUDONYMS, text.getvalue().encode())
    if store.is_local:
        Path(store.path(PSEUDONYMS)).chmod(0o600)
    return {slide: known[slide] for slide in slides}
