"""Figures of matplotlib in files, without pyplot."""

import io
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from raylatent.caches import use_private_caches
from raylatent.errors import MapError
from raylatent.mapping.fonts import make_legible
from raylatent.seal import content_digest
from raylatent.storage import Store, absolute

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES = (".png", ".pdf", ".svg")


def save_figure(
    path: str,
    draw: Callable[["Figure"], None],
    dpi: int,
    inches: tuple[float, float] = (7.5, 6.0),
) -> str:
    """Write a figure as PNG, PDF or SVG, without touching pyplot; the file's digest.

    Args:
        path: A file or URI ending in one of `PICTURES`.
        draw: Fills it.
        dpi: Pixels per inch of pictures.
        inches: Width and height.
    """
    uri = absolute(path)
    suffix = PurePosixPath(uri).suffix.lower()
    if suffix not in PICTURES:
        message = f"cannot draw into {uri}: the name ends in none of {PICTURES}"
        raise MapError(message)
    use_private_caches()
    from matplotlib import rc_context  # noqa: PLC0415  (slow)
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=inches, layout="constrained")
    FigureCanvasAgg(figure)
    draw(figure)
    make_legible(figure)
    buffer = io.BytesIO()
    # Text stays text in PDF and SVG, and the file does not depend on the day.
    with rc_context({"pdf.fonttype": 42, "svg.fonttype": "none"}):
        date = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}.get(suffix)
        figure.savefig(
            buffer, format=suffix[1:], dpi=dpi, metadata=date, bbox_inches="tight"
        )
    data = buffer.getvalue()
    digest = content_digest(data)
    folder, name = uri.rsplit("/", 1)
    Store(folder or "/").write(name, data)
    return digest
