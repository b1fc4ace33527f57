"""What is done with a map that is there: labels, clusters, selections, a page.

What these verbs do, without their words.
"""

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from raylatent import schema
from raylatent.annotations import SLIDE_COLUMN, read_annotations
from raylatent.config import ClusterConfig, ExploreConfig, LabelConfig, SelectConfig
from raylatent.config.map_verbs import RunMapConfig
from raylatent.errors import ConfigError
from raylatent.explorer import exports, polygon
from raylatent.explorer.folder import Wanted, asked_for, facts_of, maps_with_page
from raylatent.explorer.members import Only, Where, members
from raylatent.explorer.named_regions import put_regions, region_labels, stored_labels
from raylatent.explorer.on_slides import slide_picture
from raylatent.explorer.pseudonyms import give_pseudonyms
from raylatent.explorer.tile_squares import TileSquare, say_unknown, tile_squares
from raylatent.montage.points import Label, labels_of_points
from raylatent.run import EXPLORER, MAPS, RunDirectory
from raylatent.seal import DIGEST
from raylatent.source.names import check_labels, labeled, match
from raylatent.storage import Store, absolute, is_uri
from raylatent.stored.map_clusters import cluster_labels
from raylatent.stored.map_pictures import PICTURE, TileLabels, save_pictures
from raylatent.stored.map_points import StoredPoints
from raylatent.stored.mosaic_inputs import source_places

logger = logging.getLogger(__name__)


def run_label(config: LabelConfig) -> tuple[list[str], Sequence[str]]:
    """Label a map's tiles by named regions, and draw it so; labels, and pictures."""
    stored = _opened(config)
    regions = polygon.read_polygons(config.regions)
    put_regions(stored, regions, config.regions)
    return [one.name for one in regions], _drawn_again(stored)


def run_cluster(config: ClusterConfig) -> tuple[list[int], Sequence[str]]:
    """Store clusters beside a map, and draw it so; tiles of each, and pictures."""
    from raylatent.engine.clustering import build_clusters  # noqa: PLC0415  (ray: slow)

    stored = _opened(config)
    sizes = build_clusters(stored, config.n)
    if sizes and region_labels(stored.store) is not None:
        logger.warning(
            "the map has named regions, which go before clusters: it stays colored by "
            "them; --label cluster colors mosaics and pages by cluster"
        )
    return sizes, _drawn_again(stored)


def _opened(config: RunMapConfig) -> StoredPoints:
    run = RunDirectory.open(config.run)
    return StoredPoints(f"{run.uri}/{MAPS}/{config.map}", run)


def _drawn_again(stored: StoredPoints) -> list[str]:
    """Draw a map by the labels that are beside it now; its pictures."""
    store = stored.store
    kinds = [end for end in ("png", "pdf", "svg") if store.exists(f"{PICTURE}.{end}")]
    by_label, pictures = save_pictures(
        store,
        labels_of_tiles(stored.run, store),
        n_points=stored.info["points"]["rows"],
        kinds=kinds or ["png"],
    )
    return [*by_label, *pictures]


def labels_of_tiles(
    run: RunDirectory, store: Store, which: str = ""
) -> TileLabels | None:
    """Labels of a map's tiles: regions or clusters (`which`), or their own, if any."""
    if (found := stored_labels(store, which)) is not None:
        return TileLabels(found.names, found)
    return TileLabels.of(store) if run.has_tile_labels else None


def run_select(config: SelectConfig) -> int:
    """Write the tiles of a map inside polygons, or of a cluster; how many there are."""
    stored = _opened(config)
    only, names = None, [""]
    if config.cluster is not None:
        only, names = _of_cluster(stored, config.cluster)
    where: Where = _everywhere
    if config.polygon:
        polygons = polygon.read_polygons(config.polygon)
        if not config.any_map:
            polygon.check_map(polygons, stored.info[DIGEST], config.polygon)
        polygons = polygon.named(polygons, config.region, config.polygon)
        names = [one.name or names[0] for one in polygons]
        where = partial(polygon.region_of, polygons)
    stored.check_rows()
    squares: dict[int, TileSquare] = {}
    located: dict[int, Any] = {}
    if config.to in {"geojson", "roi", "slides"}:
        squares = tile_squares(stored.run, config.slides, stored.slides)
        if config.to != "slides":
            say_unknown(squares, qupath=config.to == "geojson")
    elif config.to == "png":
        roots = [config.source_root] if config.source_root else None
        located = source_places(stored.run, roots, stored.slides)
    export = exports.Export(
        fingerprint=stored.run.settings()["fingerprint"],
        regions=names,
        squares=squares,
        located=located,
        pictures=partial(slide_picture, stored.run),
    )
    inside = members(stored, where, names, only)
    tables = (table for table in inside if table is not None)
    return exports.WRITERS[config.to](config.out, tables, export)


def _of_cluster(stored: StoredPoints, number: int) -> tuple[Only, list[str]]:
    """Which points are of a cluster, and what it is called."""
    labels = cluster_labels(stored.store)
    if labels is None or not 1 <= number <= labels.n:
        none = "no clusters: run `raylatent cluster` first"
        has = none if labels is None else f"clusters 1 to {labels.n}"
        message = f"--cluster is {number}, and {stored.store.uri} has {has}"
        raise ConfigError(message)
    return (lambda points: labels.of(points) == number), [labels.names[number - 1]]


def _everywhere(xy: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The number of what places (n, 2) lie in, where all lie in it."""
    return np.zeros(len(xy), np.int32)


def run_explore(
    config: ExploreConfig, own: Label | None = None, *, anew: bool = True
) -> tuple[str, dict[str, Any]]:
    """Write the page of a map; where it is, and what explorer.json says.

    Args:
        config: What the verb `explore` takes.
        own: Labels that were set in Python, instead of those of the configuration.
        anew: Whether it is written though there is one of the same, or with pseudonyms.
    """
    annotations = _annotations(config)
    given = check_labels(config) if own is None else None
    run = RunDirectory.open(config.run)
    in_run = f"{run.uri}/{EXPLORER}/{config.map}"
    folder = absolute(config.out or in_run)
    if is_uri(folder):
        message = (
            f"a page opens from a disk, and {folder} is none: give --out DIR, a local "
            f"folder; `raylatent serve {config.run} --explorer DIR` shows that one too"
        )
        raise ConfigError(message)
    if (facts := _with_pseudonyms(folder, config, anew=anew)) is not None:
        return f"{folder}/index.html", facts
    stored = StoredPoints(f"{run.uri}/{MAPS}/{config.map}", run)
    label, column = own, "" if own is None else schema.LABEL
    if given is not None:
        of_slides = labeled(given, run.slides(), config)
        label, column = partial(labels_of_points, of_slides), config.label
    elif own is None:
        which = config.stored_labels() or ""
        if (found := labels_of_tiles(run, stored.store, which)) is not None:
            label, column = found.label, found.column
    hide = config.pseudonymise
    wanted = Wanted(
        map=config.map,
        label=label,
        label_column=column,
        annotations=match(annotations.items(), run.slides()),
        cell_px=config.explorer_cell_px,
        max_bytes=config.max_bytes(),
        source_roots=[config.source_root] if config.source_root else None,
        pseudonyms=give_pseudonyms(run.store, stored.slides) if hide else None,
        maps=maps_with_page(run, config.map) if folder == in_run else [],
    )
    facts = None if anew else asked_for(Store(folder), stored.store, wanted)
    if facts is None:
        from raylatent.engine.explore import build_explorer  # noqa: PLC0415  (ray: slow)

        facts = build_explorer(run, folder, wanted)
    return f"{folder}/index.html", facts


def _with_pseudonyms(
    folder: str, config: ExploreConfig, *, anew: bool
) -> dict[str, Any] | None:
    """What a page says whose pseudonyms stay, as nobody asks for a page with names."""
    facts = facts_of(Store(folder))
    if config.pseudonymise or not facts.get("pseudonyms"):
        return None
    then = (
        f"stays as it is: `raylatent explore {config.run}` writes one with their names"
    )
    logger.warning(
        "slides have pseudonyms on the page in %s, which %s",
        *(folder, "has their names from now on" if anew else then),
    )
    return None if anew else facts


def _annotations(config: ExploreConfig) -> dict[str, dict[str, str]]:
    """Columns of the annotations by slide as it is written there.

    Raises:
        ConfigError: One that is to be kept is not there.
    """
    rows = read_annotations(config.annotations) if config.annotations else []
    every = [name for name in (rows[0] if rows else ()) if name != SLIDE_COLUMN]
    if lost := set(config.keep_columns) - set(every):
        message = (
            f"--keep-columns {min(lost)} is no column of {config.annotations}: it has "
            f"{', '.join(every)}"
        )
        raise ConfigError(message)
    kept = config.keep_columns or ([] if config.pseudonymise else every)
    return {row[SLIDE_COLUMN]: {name: row[name] for name in kept} for row in rows}
