"""Whether a map that is there is the one asked for, and all its points are sound."""

import hashlib
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from raylatent import schema
from raylatent.errors import BrokenPartError, MapError, StorageError
from raylatent.mapping.fitted import MAP_JSON, FittedMap
from raylatent.mapping.parameters import MapParameters
from raylatent.mapping.points import POINTS_FOLDER
from raylatent.parts import part_name
from raylatent.run import MAPS, Part
from raylatent.run.checked import check_part
from raylatent.seal import is_as_written
from raylatent.storage import Store

logger = logging.getLogger(__name__)

_THREADS = 16  # a part of points is small: reading it is mostly waiting


_COLUMNS = tuple(schema.POINTS.names)
_PART = re.compile(r".*/slide=[^/]+/\d+\.parquet")


def rows_digest(parts: Iterable[Part]) -> str:
    """A digest of all rows, from the parts' own."""
    pairs = ((part.name, part.footer.get(schema.FOOTER_DIGEST, "")) for part in parts)
    return digest_of_digests(pairs)


def digest_of_digests(pairs: Iterable[tuple[str, str]]) -> str:
    """The same from names of parts that have rows, and the digests in their footers."""
    hasher = hashlib.blake2b(digest_size=16)
    for name, digest in pairs:
        hasher.update(f"{name}\0{digest}\n".encode("utf-8", "surrogateescape"))
    return hasher.hexdigest()


def current_map(
    store: Store,
    params: MapParameters,
    about: Mapping[str, str],
    *,
    sealed: bool = False,
) -> FittedMap | None:
    """The map in a folder, None unless it is whole and the one that is asked for.

    Args:
        store: The map's folder.
        params: What it is to be.
        about: What map.json must say beside: layer and digest of the rows.
        sealed: Whether the run is of since there are seals.
    """
    try:
        fitted = FittedMap.load(store)
    except (MapError, StorageError):  # none, unfinished or broken: it is made anew
        return None
    info = fitted.info
    if not is_as_written(info, sealed=sealed):
        logger.warning("%s/%s has no digest: it is made anew", store.uri, MAP_JSON)
        return None
    same = all(info.get(key) == value for key, value in about.items())
    return fitted if same and info.get("parameters") == params.as_json() else None


def stray_points(store: Store, name: str, parts: Sequence[Part]) -> list[str]:
    """Parts of points in a map's folder that no part of rows asks for."""
    folder = f"{MAPS}/{name}/{POINTS_FOLDER}"
    wanted = {part_name(folder, part.slide, part.unit) for part in parts}
    strays = [
        file
        for file in store.list(folder)
        if file not in wanted and _PART.fullmatch(file)
    ]
    for file in strays:
        logger.warning("%s/%s is of no row: it is deleted", store.uri, file)
    return strays


def unsound_points(
    store: Store,
    name: str,
    parts: Sequence[Part],
    fitted: FittedMap,
    *,
    sealed: bool = False,
) -> list[Part]:
    """Parts of rows whose points are not there, broken, or of another map or rows.

    Args:
        store: The run directory.
        name: The map's.
        parts: The rows that it places.
        fitted: The map.
        sealed: Whether the run is of since there are seals.
    """
    folder = f"{MAPS}/{name}/{POINTS_FOLDER}"

    def complaint(part: Part) -> str | None:
        file = part_name(folder, part.slide, part.unit)
        wanted = {
            schema.FOOTER_SLIDE: part.slide,
            schema.FOOTER_UNIT: str(part.unit),
            schema.FOOTER_MAP: fitted.digest,
            schema.FOOTER_ROWS: part.footer.get(schema.FOOTER_DIGEST),
        }
        try:
            points = check_part(store, file, _COLUMNS, sealed=sealed)
        except BrokenPartError as error:
            return str(error)
        except StorageError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            return f"{store.uri}/{file} is missing"
        told = points.footer if sealed else {**wanted, **points.footer}
        same = all(told.get(key) == value for key, value in wanted.items())
        if same and points.rows == part.rows:
            return None
        return f"{store.uri}/{file} is of another map or of other rows"

    with ThreadPoolExecutor(_THREADS) as pool:
        complaints = list(pool.map(complaint, parts))
    unsound = []
    for part, why in zip(parts, complaints, strict=True):
        if why is not None:
            logger.warning("%s: it is made again", why)
            unsound.append(part)
    return unsound
