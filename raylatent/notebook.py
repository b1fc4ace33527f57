"""What handles show of themselves in a notebook: a table, and perhaps a picture.

Every text is escaped, tables and pictures are small, and what goes wrong is told in the
table: showing something ends nobody's work.
"""

import base64
import html
import io
import sys
from collections.abc import Callable, Mapping

from PIL import Image

from raylatent.errors import RaylatentError

MOST_PX = 800
"""Longest side of a picture."""

_MOST_CHARS, _MOST_NAMES = 300, 10
_TOLD = (RaylatentError, OSError, ValueError, TypeError, LookupError, MemoryError)

Picture = bytes | Image.Image | None


def is_notebook() -> bool:
    """Whether this is the kernel of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and "IPKernelApp" in shell.config


def card(
    title: str,
    rows: Callable[[], Mapping[str, object]],
    picture: Callable[[], Picture] = lambda: None,
) -> str:
    """A table under a title, and a picture if there is one, as HTML that has all in it.

    >>> card("<b>", lambda: {"slides": 2})
    '<div><b>&lt;b&gt;</b><table><tr><th>slides</th><td>2</td></tr></table></div>'
    """
    told: dict[str, object] = {}
    shown = ""
    try:
        told |= rows()
        shown = _as_html(picture())
    except _TOLD as error:
        told["not shown"] = error
    lines = "".join(
        f"<tr><th>{_text(name)}</th><td>{_text(value)}</td></tr>"
        for name, value in told.items()
    )
    return f"<div><b>{_text(title)}</b><table>{lines}</table>{shown}</div>"


def listed(names: list[str]) -> str:
    """Some names, and how many more there are.

    >>> listed([str(i) for i in range(12)])
    '0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more'
    """
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more:,} more" if more > 0 else "")


def _text(value: object) -> str:
    text = f"{value:,}" if isinstance(value, int) else str(value)
    text = text if len(text) <= _MOST_CHARS else f"{text[:_MOST_CHARS]}…"
    return html.escape(text.encode("utf-8", "replace").decode())


def _as_html(picture: Picture) -> str:
    """An `img` with its bytes, at most `MOST_PX` a side."""
    if picture is None:
        return ""
    kind, data = "JPEG", io.BytesIO()
    if isinstance(picture, bytes):  # a plot
        kind, picture = "PNG", Image.open(io.BytesIO(picture))
    small = picture.convert("RGB")
    small.thumbnail((MOST_PX, MOST_PX))
    small.save(data, kind)
    text = base64.b64encode(data.getvalue()).decode()
    return f'<img alt="" src="data:image/{kind.lower()};base64,{text}">'
