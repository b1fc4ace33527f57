"""Whether a stored map is whole, without its points."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from raylatent.errors import MapError, StorageError
from raylatent.mapping.fitted import MAP_JSON, MODEL_NPZ, FittedMap, read_info
from raylatent.storage import Store


@dataclass(frozen=True, kw_only=True)
class MapCheck:
    """What was found of a map.

    Attributes:
        info: The content of map.json, empty where it cannot be read.
        complaints: What is wrong, by the name of the file in the map's folder.
        digest: Of its model, None where it has none that can be read.
    """

    info: Mapping[str, Any] = field(default_factory=dict)
    complaints: Mapping[str, str] = field(default_factory=dict)
    digest: str | None = None


def check_map(store: Store, *, sealed: bool = False) -> MapCheck:
    """Read map.json and the arrays of a map's folder.

    Args:
        store: The map's folder.
        sealed: Whether map.json must have a digest.

    Raises:
        StorageError: A file cannot be read, after retries.
    """
    try:
        info = read_info(store, sealed=sealed)
    except MapError as error:
        return MapCheck(complaints={MAP_JSON: _without_place(store, error)})
    if "placement" not in info:  # points alone, which a SlideMap saved
        return MapCheck(info=info)
    if not store.exists(MODEL_NPZ):
        return MapCheck(info=info, complaints={MODEL_NPZ: "it is missing"})
    try:
        return MapCheck(info=info, digest=FittedMap.load(store).digest)
    except MapError as error:
        return MapCheck(complaints={MAP_JSON: _without_place(store, error)})
    except StorageError as error:
        if isinstance(error.__cause__, OSError):  # not the content's fault
            raise
        return MapCheck(info=info, complaints={MODEL_NPZ: _without_place(store, error)})


def _without_place(store: Store, error: Exception) -> str:
    return str(error).removeprefix(f"{store.uri}/")
