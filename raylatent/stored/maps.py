"""A fitted map in its folder: model.npz and map.json, which says that it is whole."""

import io
import json
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raylatent.errors import MapError, StorageError
from raylatent.mapping.fitted_map import (
    FORMAT_VERSION,
    MODEL_NPZ,
    ROW_ENGINE,
    UMAP_ENGINE,
    FittedMap,
    model_digest,
)
from raylatent.seal import FILES, content_digest, json_holds, parse_json, sealed_json
from raylatent.storage import Store, reason

MAP_JSON = "map.json"

# What each engine needs of model.npz: the fields of `nearest`'s tuples, and places.
_ARRAYS = {
    ROW_ENGINE: (
        *("mean", "components", "offset", "rows", "reduced", "residual", "spread"),
        *("embedding", "stream"),
    ),
    UMAP_ENGINE: ("rows", "embedding"),
}
# What a broken archive can raise in zipfile and numpy.
_BROKEN = (
    *(ValueError, OSError, EOFError, LookupError, TypeError, ArithmeticError),
    *(MemoryError, RuntimeError, SyntaxError, struct.error, tokenize.TokenError),
    *(zipfile.BadZipFile, zlib.error),
)


def save_map(store: Store, fitted: FittedMap) -> None:
    """Write model.npz, then map.json: a folder with map.json is whole.

    Raises:
        StorageError: It could not be written.
    """
    data = fitted.model_file()
    store.write(MODEL_NPZ, data)
    write_info(store, {**fitted.info, FILES: {MODEL_NPZ: content_digest(data)}})


def load_map(store: Store) -> FittedMap:
    """Open what `save_map` wrote.

    Raises:
        MapError: There is no map, or of a later format, or without a model.
        StorageError: A file cannot be read.
    """
    info = read_info(store)
    if "placement" not in info:
        message = f"{store.uri} has points, but no fitted model: rows have no place"
        raise MapError(message)
    return FittedMap(info=info, arrays=_read_arrays(store, info))


def _read_arrays(store: Store, info: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """The arrays of model.npz, all that the engine needs among them."""
    placement = info["placement"]
    engine = placement.get("engine") if isinstance(placement, dict) else None
    if not isinstance(engine, str) or engine not in _ARRAYS:
        message = f"{store.uri}/{MAP_JSON} is broken: placement engine {engine!r}"
        raise MapError(message)
    data = store.read(MODEL_NPZ)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            arrays = {
                name.removesuffix(".npy"): np.lib.format.read_array(
                    io.BytesIO(archive.read(name)), allow_pickle=False
                )
                for name in archive.namelist()
            }
    except _BROKEN as error:
        message = (
            f"{store.uri}/{MODEL_NPZ} is broken: {reason(error)}; fit the map again"
        )
        raise StorageError(message) from error
    missing = [name for name in _ARRAYS[engine] if name not in arrays]
    if missing:
        message = (
            f"{store.uri}/{MODEL_NPZ} is broken: it lacks {', '.join(missing)}; fit "
            "the map again"
        )
        raise StorageError(message)
    if model_digest(info) != content_digest(data):
        message = f"{store.uri}/{MODEL_NPZ} is broken: fit the map again"
        raise StorageError(message)
    return arrays


def write_info(store: Store, info: Mapping[str, Any]) -> None:
    """Write map.json: last, since it says that the map is whole."""
    text = json.dumps(sealed_json(info), indent=1, sort_keys=True, allow_nan=False)
    store.write(MAP_JSON, f"{text}\n".encode())


def read_info(store: Store) -> dict[str, Any]:
    """The content of map.json in a map's folder.

    Raises:
        MapError: There is none, it is broken, or of a later format.
    """
    if not store.exists(MAP_JSON):
        message = f"{store.uri} holds no {MAP_JSON}: it is no map, or an unfinished one"
        raise MapError(message)
    info = parse_json(store.read(MAP_JSON))
    if info is None or not json_holds(info):
        message = f"{store.uri}/{MAP_JSON} is broken: it is not as it was written"
        raise MapError(message)
    version = info.get("format_version")
    if isinstance(version, bool) or not isinstance(version, int):
        message = f"{store.uri}/{MAP_JSON} is broken: its format_version is {version!r}"
        raise MapError(message)
    if version > FORMAT_VERSION:
        message = (
            f"{store.uri} has map format {version}, and this version of raylatent "
            f"reads up to {FORMAT_VERSION}: update raylatent"
        )
        raise MapError(message)
    return info
