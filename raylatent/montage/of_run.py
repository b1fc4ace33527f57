"""What a map needs to be saved as a picture, or to become a mosaic."""

import logging
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from raylatent import schema
from raylatent.errors import MapError, SourceError, StorageError
from raylatent.mapping.points import read_vectors
from raylatent.montage.slide_tiles import WholeSlide
from raylatent.montage.sources import SLIDE_FILES, TFRECORD_FILES, few
from raylatent.run import RunDirectory
from raylatent.source.names import match
from raylatent.storage import absolute

logger = logging.getLogger(__name__)

MAX_FEATURE_BYTES = 4 << 30
_MOST_NUMBERS = 1_000
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
    run: RunDirectory,
    roots: Sequence[str] | None = None,
    needed: Collection[str] | None = None,
) -> dict[int, str | WholeSlide]:
    """TFRecords and whole slides by source id.

    Args:
        run: The run directory.
        roots: Where they are now, if they were moved: files and folders. What is not
            found there is looked for where it was.
        needed: Slides that matter; None: all.

    Raises:
        SourceError: A root is not there, or none of the run's sources is.
    """
    columns = (
        *(schema.SOURCE, schema.SLIDE, schema.URI),
        *(schema.WINDOW_PX, schema.TILE_PX),
    )
    sources = run.sources().select(columns).to_pylist()
    of_slides = run.settings().get("fields", {}).get("slides") or {}
    icc = bool(of_slides.get("icc"))
    if needed is not None:
        sources = [row for row in sources if row[schema.SLIDE] in needed]
    moved = {} if roots is None else _below(roots, sources)
    places: dict[int, str | WholeSlide] = {}
    for row in sources:
        uri = moved.get(row[schema.SLIDE], row[schema.URI])
        window = row[schema.WINDOW_PX]
        places[row[schema.SOURCE]] = (
            uri
            if window is None
            else WholeSlide(
                uri=uri, window_px=window, icc=icc, tile_px=row[schema.TILE_PX]
            )
        )
    return places


def _below(roots: Sequence[str], sources: list[dict[str, Any]]) -> dict[str, str]:
    """Sources found again by slide: TFRecords among TFRecords, slides among slides."""
    whole = {r[schema.SLIDE] for r in sources if r[schema.WINDOW_PX] is not None}
    names = {row[schema.SLIDE] for row in sources}
    found: dict[str, str] = {}
    for kind, wanted in ((TFRECORD_FILES, names - whole), (SLIDE_FILES, whole)):
        if wanted:
            there = kind.below(roots, wanted, may_lack=True)
            # Copied by way of a Mac, names may be composed of other characters.
            moved = match(((n, n) for n in wanted), there)
            found |= {own: absolute(there[n]) for n, own in moved.items()}
    lost = sorted(names - set(found))
    if lost and not found:
        message = f"{few(roots)} holds none of the run's sources: {few(lost)}"
        raise SourceError(message)
    if lost:
        logger.warning(
            "%d of %d sources are not below %s and are looked for where they were: %s",
            *(len(lost), len(names), few(roots), few(lost)),
        )
    return found


def where(
    run: RunDirectory,
    given: Any,  # noqa: ANN401  (as of Mosaic)
    needed: Collection[str] | None = None,
) -> Any:  # noqa: ANN401
    """Where a mosaic's tiles are: as given, else as the run knows.

    Folders in which a run's whole slides are to be found are searched for them.
    """
    if given is None:
        return source_places(run)
    if isinstance(given, Mapping) or not run.settings()["fields"].get("slides"):
        return given
    roots = [given] if isinstance(given, str | os.PathLike) else given
    return source_places(run, [os.fspath(root) for root in roots], needed)


def words(values: "pd.Series[Any] | None") -> list[object] | None:
    """Labels as frames show them; None where there are none.

    Numbers that nearly each tile has of its own, as predictions, are no labels.
    """
    if values is None:
        return None
    if pd.api.types.is_float_dtype(values) and values.nunique() > _MOST_NUMBERS:
        return None
    return list(values.astype(object).where(values.notna(), None))


def has_predictions(run: RunDirectory) -> bool:
    """Whether predictions are stored beside the activations."""
    return bool(run.settings().get("fields", {}).get("predictions"))


def with_predictions(run: RunDirectory, points: pa.Table) -> pa.Table:
    """Points with their predictions as a column, where the run has any.

    They only tell of the cells: where they cannot be read, points stay without.
    """
    if not has_predictions(run) or not len(points):
        return points
    try:
        values = read_vectors(run, points, schema.PREDICTIONS)
    except (MapError, StorageError) as error:
        logger.warning("the mosaic is made without predictions: %s", error)
        return points
    flat = pa.array(values.ravel(), pa.float32())
    lists = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    return points.append_column(schema.PREDICTIONS, lists)


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
            "'nearest' needs none, and `raylatent mosaic --select medoid` reads them "
            "part by part"
        )
        raise MapError(message)
