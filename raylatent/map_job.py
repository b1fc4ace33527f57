"""What is done with a map that is there: labels, clusters, selections, a page.

What these verbs do, without their words.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from raylatent import schema
from raylatent.annotations import (
    MPP_COLUMN,
    SLIDE_COLUMN,
    read_annotations,
    read_labels,
)
from raylatent.config import (
    ClusterConfig,
    ExploreConfig,
    LabelConfig,
    NamedMapConfig,
    SelectConfig,
)
from raylatent.errors import ConfigError
from raylatent.run import EXPLORER, MAPS, RunDirectory
from raylatent.seal import DIGEST
from raylatent.source.names import match, match_said
from raylatent.storage import Store, absolute, is_uri

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from raylatent.explorer.members import Only
    from raylatent.explorer.tile_squares import TileSquare
    from raylatent.montage.points import Label
    from raylatent.stored.map_pictures import TileLabels
    from raylatent.stored.map_points import StoredPoints

logger = logging.getLogger(__name__)


def run_label(config: LabelConfig) -> tuple[list[str], Sequence[str]]:
    """Label a map's tiles by named regions, and draw it so; labels, and pictures."""
    from raylatent.explorer.named_regions import put_regions  # noqa: PLC0415
    from raylatent.explorer.polygon import read_polygons  # noqa: PLC0415
    from raylatent.stored.map_points import StoredPoints  # noqa: PLC0415

    run = RunDirectory.open(config.run)
    stored = StoredPoints(f"{run.uri}/{MAPS}/{config.map}", run)
    regions = read_polygons(config.regions)
    put_regions(stored, regions, config.regions)
    return [one.name for one in regions], _drawn_again(stored)


def run_cluster(config: ClusterConfig) -> tuple[list[int], Sequence[str]]:
    """Store clusters beside a map, and draw it so; tiles of each, and pictures."""
    from raylatent.engine.clustering import build_clusters  # noqa: PLC0415  (ray: slow)
    from raylatent.stored.map_points import StoredPoints  # noqa: PLC0415

    run = RunDirectory.open(config.run)
    stored = StoredPoints(f"{run.uri}/{MAPS}/{config.map}", run)
    sizes = build_clusters(stored, config.n)
    return sizes, _drawn_again(stored)


def _drawn_again(stored: "StoredPoints") -> list[str]:
    """Draw a map by the labels that are beside it now; its pictures."""
    from raylatent.stored.map_pictures import PICTURE, save_pictures  # noqa: PLC0415

    store = stored.store
    kinds = [end for end in ("png", "pdf", "svg") if store.exists(f"{PICTURE}.{end}")]
    by_label, pictures = save_pictures(
        store,
        labels_of_tiles(stored.run, store),
        n_points=stored.info["points"]["rows"],
        kinds=kinds or ["png"],
    )
    return [*by_label, *pictures]


def labels_of_tiles(run: RunDirectory, store: Store) -> "TileLabels | None":
    """Labels of a map's tiles: regions, clusters, or their own; None without."""
    from raylatent.explorer.named_regions import stored_labels  # noqa: PLC0415
    from raylatent.stored.map_pictures import TileLabels  # noqa: PLC0415

    if (found := stored_labels(store)) is not None:
        return TileLabels(found.names, found)
    return TileLabels.of(store) if run.has_tile_labels else None


def run_select(config: SelectConfig) -> int:
    """Write the tiles of a map inside polygons, or of a cluster; how many there are."""
    from raylatent.explorer import exports, polygon  # noqa: PLC0415
    from raylatent.explorer.members import members  # noqa: PLC0415
    from raylatent.explorer.tile_squares import say_unknown, tile_squares  # noqa: PLC0415
    from raylatent.stored.map_points import StoredPoints  # noqa: PLC0415
    from raylatent.stored.mosaic_inputs import source_places  # noqa: PLC0415

    run = RunDirectory.open(config.run)
    stored = StoredPoints(f"{run.uri}/{MAPS}/{config.map}", run)
    only, called = _of_cluster(stored, config.cluster)
    names, where = [called], _everywhere
    if config.polygon:
        polygons = polygon.read_polygons(config.polygon)
        if not config.any_map:
            polygon.check_map(polygons, stored.info[DIGEST], config.polygon)
        polygons = polygon.named(polygons, config.region, config.polygon)
        names = [one.name or called for one in polygons]
        where = partial(polygon.region_of, polygons)
    stored.check_rows()
    found: dict[int, TileSquare] = {}
    located: dict[int, Any] = {}
    if config.to in {"geojson", "roi"}:
        found = tile_squares(run, config.slides, stored.slides)
        say_unknown(found, qupath=config.to == "geojson")
    elif config.to == "png":
        roots = [config.source_root] if config.source_root else None
        located = source_places(run, roots, stored.slides)
    export = exports.Export(
        fingerprint=run.settings()["fingerprint"],
        regions=names,
        squares=found,
        located=located,
    )
    inside = members(stored, where, names, only)
    tables = (table for table in inside if table is not None)
    return exports.WRITERS[config.to](config.out, tables, export)


def _of_cluster(
    stored: "StoredPoints", number: int | None
) -> "tuple[Only | None, str]":
    """Which points are of a cluster, and what it is called; None: all are meant."""
    from raylatent.explorer.named_regions import stored_labels  # noqa: PLC0415
    from raylatent.stored.map_clusters import ClusterLabels  # noqa: PLC0415

    if number is None:
        return None, ""
    labels = stored_labels(stored.store, ClusterLabels.column)
    if not isinstance(labels, ClusterLabels) or not 1 <= number <= labels.n:
        n = getattr(labels, "n", 0)
        message = f"--cluster is {number}, and {stored.store.uri} has clusters 1 to {n}"
        raise ConfigError(message)
    return (lambda points: labels.of(points) == number), labels.names[number - 1]


def _everywhere(xy: "NDArray[np.float64]") -> "NDArray[np.int32]":
    """The number of what places (n, 2) lie in, where all lie in it."""
    return np.zeros(len(xy), np.int32)


def run_explore(
    config: ExploreConfig, own: "Label | None" = None
) -> tuple[str, dict[str, Any]]:
    """Write the page of a map; where it is, and what explorer.json says.

    Args:
        config: What the verb `explore` takes.
        own: Labels that were set in Python, instead of those of the configuration.
    """
    annotations = _annotations(config)
    labels = check_labels(config) if own is None else None
    run = RunDirectory.open(config.run)
    folder = absolute(config.out or f"{run.uri}/{EXPLORER}/{config.map}")
    if is_uri(folder):
        message = (
            f"a page opens from a disk, and {folder} is none: give --out DIR, a local "
            f"folder, or show it by `raylatent serve {config.run}`"
        )
        raise ConfigError(message)
    from raylatent.engine.explore import build_explorer  # noqa: PLC0415  (ray: slow)
    from raylatent.explorer.folder import Wanted  # noqa: PLC0415
    from raylatent.explorer.named_regions import stored_labels  # noqa: PLC0415
    from raylatent.explorer.pseudonyms import give_pseudonyms  # noqa: PLC0415
    from raylatent.montage.points import labels_of_points  # noqa: PLC0415
    from raylatent.stored.map_points import StoredPoints, tile_labels  # noqa: PLC0415

    label = own
    column, of_map = (
        "" if own is None else schema.LABEL,
        Store(f"{run.uri}/{MAPS}/{config.map}"),
    )
    if labels is not None:
        of_slides = labeled(labels, run.slides(), config)
        label, column = partial(labels_of_points, of_slides), config.label
    elif own is None and (found := stored_labels(of_map, config.stored_labels() or "")):
        label, column = found, found.column
    elif own is None and labels_of_tiles(run, of_map):
        label, column = tile_labels, schema.LABEL
    hidden = None
    if config.pseudonymise:
        slides = StoredPoints(of_map.uri, run).slides
        hidden = give_pseudonyms(run.store, slides)
    wanted = Wanted(
        map=config.map,
        label=label,
        label_column=column,
        annotations=match(annotations.items(), run.slides()),
        cell_px=config.explorer_cell_px,
        max_bytes=config.max_bytes(),
        source_roots=[config.source_root] if config.source_root else None,
        pseudonyms=hidden,
        in_run=folder == f"{run.uri}/{EXPLORER}/{config.map}",
    )
    facts = build_explorer(run, folder, wanted)
    return f"{folder}/index.html", facts


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


def check_labels(config: NamedMapConfig) -> dict[str, str] | None:
    """Labels by slide, None where none are asked for; refused before hours of work."""
    if not config.annotations:
        return None
    if not config.label:
        rows = read_annotations(config.annotations)
        if rows and MPP_COLUMN in rows[0]:
            return None  # they are for the slides
        logger.warning(
            "--annotations without --label COLUMN colors nothing; columns are %s",
            ", ".join(rows[0] if rows else ()),
        )
        return None
    return read_labels(config.annotations, config.label)


def labeled(
    labels: Mapping[str, str], slides: Iterable[str], config: NamedMapConfig
) -> dict[str, str]:
    """Labels by the slides' own names; how many slides have none is said.

    Raises:
        AnnotationsError: Not one slide has a label, or one has two.
    """
    where = f"annotations {config.annotations}"
    return match_said(labels, slides, what=repr(config.label), where=where)
