"""Stored activations to a map: sample, fit on the driver, place every row."""

import logging
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raylatent import schema
from raylatent.claim import Claim, new_token
from raylatent.config.options import plain_name
from raylatent.engine.cluster import STALL_TIMEOUT_S
from raylatent.engine.connection import connect
from raylatent.engine.map_rows import place_rows, sample_rows
from raylatent.engine.progress import still_working
from raylatent.engine.visibility import check_visibility, refuse_temporary_copy
from raylatent.errors import MapError, RunError, StorageError
from raylatent.mapping.fit import fit_map
from raylatent.mapping.fitted_map import FittedMap
from raylatent.mapping.statistics import QUALITY_ROWS, measured
from raylatent.mapping.umap_learn import MapParameters
from raylatent.parts import part_name, rows_digest
from raylatent.run import MAPS, Part, RunDirectory, remove_litter
from raylatent.run.layout import CLUSTERS, CLUSTERS_JSON, manifest_of
from raylatent.storage import Store
from raylatent.stored.arrays import Promised
from raylatent.stored.manifest import relisted
from raylatent.stored.map_pictures import PICTURE_FILES
from raylatent.stored.map_points import POINTS_FOLDER
from raylatent.stored.maps import MAP_JSON, load_map, read_info, save_map
from raylatent.stored.verification import mismatch, read_states

logger = logging.getLogger(__name__)

_OWN_FILES = (MAP_JSON, CLUSTERS_JSON, *PICTURE_FILES)
_THREADS = 16  # a part of points is small: reading it is mostly waiting
_NUMBERED = re.compile(r".*/slide=[^/]+/\d+\.parquet")


def build_map(
    out: str,
    params: MapParameters,
    *,
    layer: str = "",
    name: str = "default",
    stall_timeout_s: float = STALL_TIMEOUT_S,
) -> str:
    """Fit a map on a sample of a run's rows and place every row on it.

    A map of the same parameters, layer and rows that is there already is kept; any
    other of that name is replaced.

    Args:
        out: The run directory.
        params: What the map is to be.
        layer: Which layer; may be left out where the run has one.
        name: The map's folder below `maps/`.
        stall_timeout_s: How long nothing may be finished.

    Returns:
        The map's folder, `<out>/maps/<name>`.

    Raises:
        ConfigError: The name is not that of one folder.
        RunError: There is no run, it has no rows, or lacks rows that no recorded
            error explains.
        MapError: There is no such layer, or the rows cannot be mapped.
    """
    plain_name("name=", name)
    refuse_temporary_copy("--out", [out])
    run = RunDirectory(out, writer=new_token())
    layer = _layer_of(run, layer)
    parts = _parts_of(run)
    store = run.store.child(f"{MAPS}/{name}")
    about: dict[str, Any] = {"layer": layer, "rows": rows_digest(parts)}
    fitted = current_map(store, params, about)
    broken, strays = [], []
    if fitted is not None:
        broken = unsound_points(run.store, name, parts, fitted)
        strays = stray_points(run.store, name, parts)
    if fitted is not None and not broken and not strays:
        _keep(run, store, name)
        return store.uri
    if fitted is None:
        _say_replaced(store, params, about)
    started_here = connect()
    most_s = stall_timeout_s
    place = partial(place_rows, run, layer=layer, name=name, stall_timeout_s=most_s)
    with Claim(run.store, run.store.writer) as claim:
        remove_litter(run)
        if not started_here:
            check_visibility(run.store)
        if fitted is not None:
            with relisted(store.uri, claimed=True) as digests:
                for file in strays:
                    run.store.delete(file)
                digests.update(_own_names(place(broken, fitted)[1], name))
            return store.uri
        rows, held, keys = sample_rows(run, parts, layer, params, QUALITY_ROWS, most_s)
        fitted = _fit(rows, layer, params, keys)
        about |= {"quality": measured(fitted, rows, held)}
        claim.check()
        # From here on, and until map.json is back, there is no map of this name.
        with relisted(store.uri, anew=True, claimed=True) as digests:
            _delete_map(store)
            counts, of_points = place(parts, fitted)
            claim.check()
            save_map(store, fitted.with_info(**about, points=counts))
            digests.update(_own_names(of_points, name))
    return store.uri


def _keep(run: RunDirectory, store: Store, name: str) -> None:
    logger.info("the map %s is there already", store.uri)
    if not run.store.exists(manifest_of("map", name)):
        with relisted(store.uri):
            pass  # nothing but listed


def _delete_map(store: Store) -> None:
    for file in _OWN_FILES:
        store.delete(file)
    for folder in (POINTS_FOLDER, CLUSTERS):
        store.delete_folder(folder)


def _own_names(digests: Mapping[str, str], name: str) -> dict[str, str]:
    """Digests by the files' names in a map's own folder."""
    return {
        file.removeprefix(f"{MAPS}/{name}/"): digest for file, digest in digests.items()
    }


def current_map(
    store: Store, params: MapParameters, about: Mapping[str, str]
) -> FittedMap | None:
    """The map in a folder, None unless it is whole and the one that is asked for.

    Args:
        store: The map's folder.
        params: What it is to be.
        about: What map.json must say beside: layer and digest of the rows.
    """
    try:
        fitted = load_map(store)
    except (MapError, StorageError):  # none, unfinished or broken: it is made anew
        return None
    info = fitted.info
    same = all(info.get(key) == value for key, value in about.items())
    return fitted if same and info.get("parameters") == params.as_json() else None


def stray_points(store: Store, name: str, parts: Sequence[Part]) -> list[str]:
    """Parts of points in a map's folder that no part of rows asks for."""
    folder = f"{MAPS}/{name}/{POINTS_FOLDER}"
    wanted = {part_name(folder, part.slide, part.unit) for part in parts}
    strays = [
        file
        for file in store.list(folder)
        if file not in wanted and _NUMBERED.fullmatch(file)
    ]
    for file in strays:
        logger.warning("%s/%s is of no row: it is deleted", store.uri, file)
    return strays


def unsound_points(
    store: Store, name: str, parts: Sequence[Part], fitted: FittedMap
) -> list[Part]:
    """Parts of rows whose points are not there, broken, or of another map or rows.

    Args:
        store: The run directory.
        name: The map's.
        parts: The rows that it places.
        fitted: The map.
    """
    folder = f"{MAPS}/{name}/{POINTS_FOLDER}"

    def why(part: Part) -> str | None:
        wanted = {
            schema.FOOTER_SLIDE: part.slide,
            schema.FOOTER_UNIT: str(part.unit),
            schema.FOOTER_MAP: fitted.digest,
            schema.FOOTER_ROWS: part.footer.get(schema.FOOTER_DIGEST),
        }
        found = read_states(store, [part_name(folder, part.slide, part.unit)])
        return mismatch(found[0] if found else None, wanted, part.rows)

    with ThreadPoolExecutor(_THREADS) as pool:
        complaints = list(pool.map(why, parts))
    unsound = []
    for part, found in zip(parts, complaints, strict=True):
        if found is not None:
            file = part_name(folder, part.slide, part.unit)
            logger.warning("%s/%s is made again: %s", store.uri, file, found)
            unsound.append(part)
    return unsound


def _parts_of(run: RunDirectory) -> list[Part]:
    """Parts with rows, refused where rows are lacking."""
    footers = run.footers(run.slides())
    parts = [part for part in footers if part.rows]
    if not parts:
        message = f"{run.uri} has no activations yet: run `raylatent activations` first"
        raise RunError(message)
    _check_complete(run, footers)
    return parts


def _fit(
    rows: NDArray[np.float32],
    layer: str,
    params: MapParameters,
    keys: NDArray[np.uint64],
) -> FittedMap:
    say_fit(rows, layer, params)
    with still_working("fitting UMAP"):
        return fit_map(rows, params, keys)


def say_fit(features: NDArray[np.float32], layer: str, params: MapParameters) -> None:
    """Say on what UMAP is fitted, and where that cannot tell anything."""
    logger.info("fitting UMAP on %d rows", len(features))
    most = max(1, len(features) - 1)
    if params.n_neighbors > most:
        logger.warning(
            "n_neighbors is %d, of %d sampled rows it can be %d, which is taken",
            *(params.n_neighbors, len(features), most),
        )
    if len(features) > 1 and (features == features[0]).all():
        logger.warning(
            "layer %r is the same in all %d sampled rows: it tells no tile from another, "
            "and a map of it says nothing (see constant_layers in report.json)",
            *(layer, len(features)),
        )


def _say_replaced(store: Store, params: MapParameters, about: dict[str, str]) -> None:
    """Say that another map of this name is replaced, and what differs."""
    try:
        info = read_info(store)
    except MapError:
        return
    old, new = info.get("parameters"), params.as_json()
    old = old if isinstance(old, dict) else {}
    changed = [
        f"{key} was {old.get(key)}, now {new.get(key)}"
        for key in new
        if old.get(key) != new.get(key)
    ]
    if info.get("layer") != about["layer"]:
        changed.append(f"the layer was {info.get('layer')}, now {about['layer']}")
    if info.get("rows") != about["rows"]:
        changed.append("the run's rows have changed")
    why = "; ".join(changed) or "it is broken"
    logger.warning("the map %s is replaced: %s", store.uri, why)


def _check_complete(run: RunDirectory, parts: Sequence[Part]) -> None:
    """Refuse to leave out lost or broken parts; what is known to have failed is said."""
    promised = Promised(run)
    lacking = promised.lacking(parts)
    lost = [slide for slide in lacking if slide not in promised.failed]
    if lost:
        slide, more = lost[0], len(lost) - 1
        message = (
            f"slide {slide!r} lacks {lacking[slide]} of {promised.n_indexed[slide]} "
            f"tiles{f', and {more} more slides lack some' if more else ''}: run "
            "`raylatent activations` again"
        )
        raise RunError(message)
    if lacking:
        logger.warning(
            "%d slides failed and lack tiles, as %r: the map is made of what is there",
            *(len(lacking), next(iter(lacking))),
        )


def _layer_of(run: RunDirectory, layer: str) -> str:
    layers = list(run.layers())
    if not layer and len(layers) > 1:
        shown = ", ".join(layers)
        logger.info("of layers %s the first is mapped: --layer names another", shown)
    if not layer:
        return layers[0]
    if layer not in layers:
        message = f"{run.uri} has no layer {layer!r}: it has {', '.join(layers)}"
        raise MapError(message)
    return layer
