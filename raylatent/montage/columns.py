"""The columns of a mosaic's points as they are given: places, features, labels.

Each is checked, and made an array that has a row for each point.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from raylatent import schema
from raylatent.annotations import tidy
from raylatent.errors import MapError
from raylatent.source.names import SlideLabels, is_table, labels_of_slides, match

_MOST_NUMBERS = 1_000

Labels = SlideLabels | Sequence[object]
"""By slide, or one for each point."""


def as_xy(coords: ArrayLike) -> NDArray[np.float64]:
    """Coordinates as an array of shape (n, 2), float64."""
    try:
        xy = np.asarray(coords, np.float64)
    except (TypeError, ValueError) as error:
        message = "coords are not numbers: give an (x, y) for each image"
        raise MapError(message) from error
    if xy.size == 0:
        return xy.reshape(0, 2)
    if xy.ndim != 2 or xy.shape[1] != 2:
        message = f"coords have shape {xy.shape}: give (n, 2), an (x, y) for each image"
        raise MapError(message)
    return xy


def feature_array(features: ArrayLike, n: int) -> NDArray[np.floating[Any]]:
    """Features as an array of shape (n, d)."""
    array: NDArray[Any] = np.asarray(features)
    if array.ndim != 2 or len(array) != n or array.dtype.kind not in "fiu":
        message = (
            f"features have shape {array.shape} and dtype {array.dtype}: give numbers, "
            f"({n}, n_features), a row for each point"
        )
        raise MapError(message)
    return array


def label_array(
    labels: Labels, slides: pa.ChunkedArray | None, n: int
) -> pa.StringArray:
    """A label for each of n points, null where it has none.

    Args:
        labels: By slide, as of `source.names.labels_given`, or one for each point. A
            Series whose index has no name twice and names slides is by slide.
        slides: Of the points; None for arrays.
        n: Number of points.
    """
    names = None if slides is None else pc.unique(slides).to_pylist()
    if are_by_slide(labels, names):
        if slides is None or names is None:
            message = "labels by slide need slides: give a label for each image"
            raise MapError(message)
        return labels_of(labels_of_slides(labels, names), slides)
    if len(labels) != n:
        message = f"there are {n} points and {len(labels)} labels: give as many"
        raise MapError(message)
    if isinstance(labels, pa.Array | pa.ChunkedArray):
        labels = labels.to_pylist()
    return pa.array([_label(value) for value in labels], pa.string())


def are_by_slide(labels: Labels, slides: list[str] | None) -> bool:
    """Whether labels are by slide; a Series only if its index names slides, each once."""
    if isinstance(labels, pd.Series):
        index = labels.index
        once = slides is not None and index.is_unique and index.dtype.kind not in "iuf"
        return once and bool(match(((str(i), True) for i in index), slides or ()))
    return isinstance(labels, Mapping) or is_table(labels)


def labels_of(
    by_slide: Mapping[str, object], slides: pa.ChunkedArray
) -> pa.StringArray:
    """The label of each point, null where it has none.

    Args:
        by_slide: By the slides' own names.
        slides: Of the points.
    """
    encoded = slides.combine_chunks().dictionary_encode()
    values = [_label(by_slide.get(name)) for name in encoded.dictionary.to_pylist()]
    return pa.array(values, pa.string()).take(encoded.indices)


def labels_of_points(
    by_slide: Mapping[str, object], points: pa.Table
) -> pa.StringArray:
    """The same of a block of points."""
    return labels_of(by_slide, points[schema.SLIDE])


def _label(value: object) -> str | None:
    missing = pd.api.types.is_scalar(value) and pd.isna(value)
    return None if missing else tidy(str(value)) or None


def prediction_array(table: pa.Table) -> NDArray[np.floating[Any]] | None:
    """The column `predictions` of lists of as many numbers (n, classes), if any.

    Raises:
        MapError: Lists are lacking, or differ in length.
    """
    if schema.PREDICTIONS not in table.column_names:
        return None
    column = table[schema.PREDICTIONS].combine_chunks()
    lists = column.cast(pa.list_(pa.float32()))
    lengths = set(lists.value_lengths().to_pylist())
    if len(lengths) > 1 or None in lengths:
        message = "predictions of points must be lists of as many numbers, none null"
        raise MapError(message)
    values = lists.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(lists), -1) if len(lists) else None


def label_words(values: "pd.Series[Any] | None") -> list[object] | None:
    """Labels as frames show them; None where there are none.

    Numbers that nearly each tile has of its own, as predictions, are no labels.
    """
    if values is None:
        return None
    if pd.api.types.is_float_dtype(values) and values.nunique() > _MOST_NUMBERS:
        return None
    return list(values.astype(object).where(values.notna(), None))
