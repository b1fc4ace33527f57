"""What a map needs to be saved as a picture, or to become a mosaic."""

import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from raylatent import schema
from raylatent.errors import MapError, SourceError
from raylatent.montage.slide_tiles import WholeSlide
from raylatent.run import RunDirectory
from raylatent.source.find import find_tfrecords
from raylatent.source.slides import find_slides

MAX_FEATURE_BYTES = 4 << 30
MEDOIDS = frozenset({"medoid", "centroid"})
_PICTURES = frozenset(
    {".bmp", ".eps", ".gif", ".jpeg", ".jpg", ".tif", ".tiff", ".webp"}
)


def is_picture(uri: str, written: Collection[str]) -> bool:
    """Whether a name is that of a picture, not of a folder.

    Args:
        uri: The name.
        written: Suffixes that can be written.

    Raises:
        MapError: It is that of a picture of another kind.

    >>> is_picture("/maps/umap.PNG", [".png"]), is_picture("/maps/v1.2", [".png"])
    (True, False)
    """
    suffix = PurePosixPath(uri).suffix.lower()
    if suffix in written:
        return True
    if suffix in _PICTURES:
        message = f"cannot write {uri}: a map is saved as {', '.join(written)}"
        raise MapError(message)
    return False


def source_places(
    run: RunDirectory, roots: Iterable[str] | None = None
) -> dict[int, str | WholeSlide]:
    """TFRecords and whole slides by source id.

    Args:
        run: The run directory.
        roots: Where they are now, if they were moved: files and folders.

    Raises:
        SourceError: There is neither a TFRecord nor a slide below `roots`.
    """
    columns = (schema.SOURCE, schema.SLIDE, schema.URI, schema.WINDOW_PX)
    sources = run.sources().select(columns).to_pylist()
    of_slides = run.settings().get("fields", {}).get("slides") or {}
    icc = bool(of_slides.get("icc"))
    moved = None if roots is None else _below(list(roots), sources)
    places: dict[int, str | WholeSlide] = {}
    for row in sources:
        window = row[schema.WINDOW_PX]
        uri = row[schema.URI]
        if moved is not None:
            uri = moved.get((row[schema.SLIDE], window is not None))
        if uri is not None:
            places[row[schema.SOURCE]] = (
                uri
                if window is None
                else WholeSlide(uri=uri, window_px=window, icc=icc)
            )
    return places


def _below(
    roots: list[str], sources: list[dict[str, Any]]
) -> dict[tuple[str, bool], str]:
    """Sources found again by name: (slide, whether it is a whole one) to URI."""
    found: dict[tuple[str, bool], str] = {}
    complaint: SourceError | None = None
    for whole, find in ((False, find_tfrecords), (True, find_slides)):
        names = {
            row[schema.SLIDE]
            for row in sources
            if (row[schema.WINDOW_PX] is not None) == whole
        }
        if not names:
            continue
        for root in roots:
            try:
                there = find([root])
            except SourceError as error:
                complaint = complaint or error
                continue
            found |= {(name, whole): there[name] for name in names & set(there)}
    if complaint is not None and not found:
        raise complaint
    return found


def where(run: RunDirectory, given: Any) -> Any:  # noqa: ANN401  (as of Mosaic)
    """Where a mosaic's tiles are: as given, else as the run knows.

    Folders in which a run's whole slides are to be found are searched for them.
    """
    if given is None:
        return source_places(run)
    if isinstance(given, Mapping) or not run.settings()["fields"].get("slides"):
        return given
    roots = [given] if isinstance(given, str | os.PathLike) else given
    return source_places(run, [os.fspath(root) for root in roots])


def words(values: "pd.Series[Any] | None") -> list[object] | None:
    """Labels as frames show them; None where there are none, or they are numbers."""
    if values is None or pd.api.types.is_float_dtype(values):
        return None
    return list(values.astype(object).where(values.notna(), None))


def check_feature_bytes(run: RunDirectory, layer: str, n_tiles: int) -> None:
    """Refuse to read the activations of too many tiles at once.

    Raises:
        MapError: They are more than 4 GiB.
    """
    dtype = run.settings().get("fields", {}).get("dtype", "float32")
    width = int(np.prod(run.layers().get(layer, (0,))))
    n_bytes = n_tiles * width * np.dtype(dtype).itemsize
    if n_bytes > MAX_FEATURE_BYTES:
        message = (
            f"select='medoid' would read {n_bytes / 2**30:.1f} GiB of features "
            f"({n_tiles:,} tiles), more than {MAX_FEATURE_BYTES >> 30} GiB: "
            "'nearest' needs none, or map fewer slides"
        )
        raise MapError(message)
