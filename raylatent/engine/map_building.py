"""Stored activations to a map: sample, fit on the driver, place every row."""

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raylatent.claim import Claim, new_token
from raylatent.engine.cluster import STALL_TIMEOUT_S
from raylatent.engine.connection import connect
from raylatent.engine.placement import place_rows
from raylatent.engine.progress import still_working
from raylatent.engine.sampling import sample_rows
from raylatent.engine.verify.points import (
    current_map,
    rows_digest,
    stray_points,
    unsound_points,
)
from raylatent.engine.visibility import check_visibility, refuse_temporary_copy
from raylatent.errors import MapError, RunError
from raylatent.mapping.fit import fit_map
from raylatent.mapping.fitted import MAP_JSON, read_info
from raylatent.mapping.parameters import MapParameters
from raylatent.mapping.points import POINTS_FOLDER
from raylatent.mapping.quality import QUALITY_ROWS, measured
from raylatent.mapping.stored_plot import PICTURE_FILES
from raylatent.model.stored import Promised
from raylatent.run import MAPS, Part, RunDirectory, remove_litter
from raylatent.seal import is_as_written
from raylatent.storage import Store

logger = logging.getLogger(__name__)


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
        RunError: There is no run, it has no rows, or lacks rows that no recorded
            error explains.
        MapError: There is no such layer, or the rows cannot be mapped.
    """
    refuse_temporary_copy("--out", [out])
    run = RunDirectory(out, writer=new_token())
    layer = _layer_of(run, layer)
    parts = _parts_of(run)
    store = run.store.child(f"{MAPS}/{name}")
    about: dict[str, Any] = {"layer": layer, "rows": rows_digest(parts)}
    sealed = is_as_written(run.settings(), sealed=True)
    fitted = current_map(store, params, about, sealed=sealed)
    broken, strays = [], []
    if fitted is not None:
        broken = unsound_points(run.store, name, parts, fitted, sealed=sealed)
        strays = stray_points(run.store, name, parts)
    if fitted is not None and not broken and not strays:
        logger.info("the map %s is there already", store.uri)
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
            for stray in strays:
                run.store.delete(stray)
            place(broken, fitted)
            return store.uri
        features, held = sample_rows(run, parts, layer, params, QUALITY_ROWS, most_s)
        say_fit(features, layer, params)
        with still_working("fitting UMAP"):
            fitted = fit_map(features, params)
        about |= {"quality": measured(fitted, features, held)}
        claim.check()
        # From here on, and until map.json is back, there is no map of this name.
        _delete_map(store)
        counts = place(parts, fitted)
        claim.check()
        fitted.with_info(**about, points=counts).save(store)
    return store.uri


def _delete_map(store: Store) -> None:
    for name in (MAP_JSON, *PICTURE_FILES):
        store.delete(name)
    store.delete_folder(POINTS_FOLDER)


def _parts_of(run: RunDirectory) -> list[Part]:
    """Parts with rows, refused where rows are lacking."""
    footers = run.footers(run.slides())
    parts = [part for part in footers if part.rows]
    if not parts:
        message = f"{run.uri} has no activations yet: run `raylatent activations` first"
        raise RunError(message)
    _check_complete(run, footers)
    return parts


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


def check_map_is_current(run: RunDirectory, folder: str) -> None:
    """Refuse a map of rows that the run no longer has; the parts' footers are read.

    Args:
        run: The run.
        folder: The map's folder; a map that does not tell its rows is let pass.

    Raises:
        MapError: There is no map, or it is of other rows.
    """
    mapped = read_info(Store(folder)).get("rows")
    parts = [part for part in run.footers(run.slides()) if part.rows]
    if mapped is not None and mapped != rows_digest(parts):
        message = (
            f"the map {folder} is of other rows than the run has now: run "
            "`raylatent map` again"
        )
        raise MapError(message)


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
