"""Columns of a mosaic's points as they are given: places, features, labels."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from raylatent import schema
from raylatent.errors import MapError

Labels = Mapping[str, object] | Sequence[object]


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
        labels: By slide, or one for each point. A Series whose index has no name twice
            and names slides is by slide.
        slides: Of the points; None for arrays.
        n: Number of points.
    """
    if isinstance(labels, pd.Series) and slides is not None:
        names = pc.unique(slides).to_pylist()
        if labels.index.is_unique and labels.index.isin(names).any():
            labels = labels.to_dict()
    if isinstance(labels, Mapping):
        if slides is None:
            message = "labels by slide need slides: give a label for each image"
            raise MapError(message)
        encoded = slides.combine_chunks().dictionary_encode()
        values = [_label(labels.get(name)) for name in encoded.dictionary.to_pylist()]
        return pa.array(values, pa.string()).take(encoded.indices)
    if len(labels) != n:
        message = f"there are {n} points and {len(labels)} labels: give as many"
        raise MapError(message)
    if isinstance(labels, pa.Array | pa.ChunkedArray):
        labels = labels.to_pylist()
    return pa.array([_label(value) for value in labels], pa.string())


def _label(value: object) -> str | None:
    missing = pd.api.types.is_scalar(value) and pd.isna(value)
    return None if missing else str(value)


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
