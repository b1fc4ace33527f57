"""Stored activations to a map: sample, fit on the driver, place every row."""

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import ray

from raylatent import schema
from raylatent.claim import Claim, new_token
from raylatent.engine.cluster import connect, pool
from raylatent.engine.progress import Progress
from raylatent.engine.sampling import sample_rows, vectors
from raylatent.engine.stream import stream
from raylatent.engine.verify.points import (
    current_map,
    rows_digest,
    stray_points,
    unsound_points,
)
from raylatent.engine.visibility import check_visibility, refuse_temporary_copy
from raylatent.errors import MapError, RunError
from raylatent.mapping.fit import fit_map
from raylatent.mapping.fitted import MAP_JSON, FittedMap, read_info
from raylatent.mapping.parameters import MapParameters
from raylatent.mapping.points import POINTS_FOLDER
from raylatent.model.complete import Promised
from raylatent.parts import part_name, read_part, write_part
from raylatent.run import MAPS, Part, RunDirectory, remove_litter
from raylatent.storage import Store

logger = logging.getLogger(__name__)

PICTURE = "umap.png"  # of a map, beside map.json
_DIGEST = "digest"  # of a part's rows
_PLACED = pa.schema(
    [
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("outside", pa.int64(), nullable=False),
        pa.field("novel", pa.int64(), nullable=False),
    ]
)
_ITEM = pa.schema(
    [
        pa.field(schema.SLIDE, pa.string(), nullable=False),
        pa.field(schema.UNIT, pa.int32(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field(_DIGEST, pa.string(), nullable=False),
    ]
)


def build_map(
    out: str, params: MapParameters, *, layer: str = "", name: str = "default"
) -> str:
    """Fit a map on a sample of a run's rows and place every row on it.

    A map of the same parameters, layer and rows that is there already is kept; any
    other of that name is replaced.

    Args:
        out: The run directory.
        params: What the map is to be.
        layer: Which layer; may be left out where the run has one.
        name: The map's folder below `maps/`.

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
    footers = run.footers(run.slides())
    parts = [part for part in footers if part.rows]
    if not parts:
        message = f"{run.uri} has no activations yet: run `raylatent activations` first"
        raise RunError(message)
    _check_complete(run, footers)
    store = run.store.child(f"{MAPS}/{name}")
    about = {"layer": layer, "rows": rows_digest(parts)}
    fitted = current_map(store, params, about)
    broken = [] if fitted is None else unsound_points(run.store, name, parts, fitted)
    strays = [] if fitted is None else stray_points(run.store, name, parts)
    if fitted is not None and not broken and not strays:
        logger.info("the map %s is there already", store.uri)
        return store.uri
    if fitted is None:
        _say_replaced(store, params, about)
    started_here = connect()
    with Claim(run.store, run.store.writer) as claim:
        remove_litter(run)
        if not started_here:
            check_visibility(run.store)
        if fitted is not None:
            for stray in strays:
                run.store.delete(stray)
            place_rows(run, broken, fitted, layer=layer, name=name)
            return store.uri
        features = sample_rows(run, parts, layer, params)
        logger.info("fitting UMAP on %d rows", len(features))
        fitted = fit_map(features, params)
        claim.check()
        # From here on, and until map.json is back, there is no map of this name.
        store.delete(MAP_JSON)
        store.delete(PICTURE)
        store.delete_folder(POINTS_FOLDER)
        counts = place_rows(run, parts, fitted, layer=layer, name=name)
        claim.check()
        fitted.with_info(**about, points=counts).save(store)
    return store.uri


def _say_replaced(store: Store, params: MapParameters, about: dict[str, str]) -> None:
    """Say that another map of this name is replaced, and what differs."""
    try:
        info = read_info(store)
    except MapError:
        return
    old, new = dict(info.get("parameters", {})), params.as_json()
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
    if not layer:
        return layers[0]
    if layer not in layers:
        message = f"{run.uri} has no layer {layer!r}: it has {', '.join(layers)}"
        raise MapError(message)
    return layer


def place_rows(
    run: RunDirectory,
    parts: Sequence[Part],
    fitted: FittedMap,
    *,
    layer: str,
    name: str,
) -> dict[str, int]:
    """Place every row of the parts, a points part for each; counts of rows.

    Raises:
        MapError: Not every row was placed.
    """
    total = sum(part.rows for part in parts)
    counts = dict.fromkeys(_PLACED.names, 0)
    reads = [partial(_item, part) for part in parts]
    arguments = (ray.put(fitted), run.store, layer, f"{MAPS}/{name}/{POINTS_FOLDER}")
    share = pool(None, 0)
    with Progress("map", total) as progress:
        for row in stream("parts", reads, PlacementActor, arguments, share):
            for key in counts:
                counts[key] += row[key]
            progress.add(row["rows"])
    if counts["rows"] != total:
        message = f"{counts['rows']} of {total} rows were placed: run again"
        raise MapError(message)
    return counts


def _item(part: Part) -> pa.Table:
    row = {
        schema.SLIDE: part.slide,
        schema.UNIT: part.unit,
        "name": part.name,
        _DIGEST: part.footer.get(schema.FOOTER_DIGEST, ""),
    }
    return pa.Table.from_pylist([row], schema=_ITEM)


class PlacementActor:
    """Activation parts in, points parts on disk, counts out.

    Args:
        fitted: Reference to the fitted map, shared by all actors of a node.
        store: The run directory.
        layer: The layer that was mapped.
        folder: Where points go.
    """

    def __init__(
        self,
        fitted: "ray.ObjectRef[FittedMap]",
        store: Store,
        layer: str,
        folder: str,
    ) -> None:
        """Take the map."""
        self._fitted = ray.get(fitted)
        self._store = store
        self._layer = layer
        self._folder = folder

    def __call__(self, item: pa.Table) -> pa.Table:
        """Place one part's rows."""
        row = item.to_pylist()[0]
        table = read_part(
            self._store, row["name"], [*schema.REFERENCE.names, self._layer]
        )
        points, counts = place_part(table, self._fitted, self._layer)
        slide = row[schema.SLIDE]
        name = part_name(self._folder, slide, row[schema.UNIT])
        footer = {
            schema.FOOTER_SLIDE: slide,
            schema.FOOTER_UNIT: str(row[schema.UNIT]),
            schema.FOOTER_MAP: self._fitted.digest,
            schema.FOOTER_ROWS: row[_DIGEST],
        }
        write_part(self._store, name, points, footer)
        return pa.Table.from_pylist([counts], schema=_PLACED)


def place_part(
    table: pa.Table, fitted: FittedMap, layer: str
) -> tuple[pa.Table, dict[str, Any]]:
    """Points of a part's rows, and how many are outside the frame, or novel.

    The pure twin of `PlacementActor`.
    """
    xy, distance = fitted.place(vectors(table, layer))
    points = pa.Table.from_arrays(
        [
            *(table[name].combine_chunks() for name in schema.REFERENCE.names),
            pa.array(xy[:, 0]),
            pa.array(xy[:, 1]),
            pa.array(distance),
        ],
        schema=schema.POINTS,
    )
    frame = fitted.frame
    outside = ((xy < frame.lower) | (xy > frame.upper)).any(axis=1)
    novel = distance > fitted.knn_threshold
    return points, {
        "rows": len(xy),
        "outside": int(outside.sum()),
        "novel": int(novel.sum()),
    }
