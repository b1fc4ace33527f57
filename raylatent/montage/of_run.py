"""What a map needs to be saved as a picture, or to become a mosaic."""

from collections.abc import Collection
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from raylatent import schema
from raylatent.errors import MapError
from raylatent.run import RunDirectory

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


def source_uris(run: RunDirectory) -> dict[int, str]:
    """TFRecords by source id."""
    sources = run.sources()
    columns = (sources[name].to_pylist() for name in (schema.SOURCE, schema.URI))
    return dict(zip(*columns, strict=True))


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
