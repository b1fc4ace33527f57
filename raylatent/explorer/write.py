"""What an explorer has beside pictures: cells, points, and what the page is told."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylatent import schema
from raylatent.explorer import folder, pictures, pyramid
from raylatent.explorer.blocks import (
    Names,
    PointRows,
    cell_blocks,
    curve_of,
    merge_rows,
    point_blocks,
    point_rows,
)
from raylatent.explorer.named_regions import region_labels
from raylatent.explorer.polygon import listed
from raylatent.explorer.pyramid import Square
from raylatent.explorer.reach import SAMPLE_POINTS, Found
from raylatent.explorer.scripts import meta_script
from raylatent.explorer.squares import Drawn
from raylatent.mapping.fitted_map import library_versions
from raylatent.mapping.labels import numbers_of, scale_of
from raylatent.montage.cells import CELL, PLACE_X, PLACE_Y
from raylatent.montage.points import (
    LABELS,
    PREDICTIONS,
    Label,
    Parts,
    Points,
    Rule,
    cell_ids,
)
from raylatent.montage.tally import label_points
from raylatent.parts import read_footer
from raylatent.run import RunDirectory
from raylatent.seal import DIGEST, content_digest, seal_in, sealed_parquet
from raylatent.stable_hash import tile_hash
from raylatent.storage import Store
from raylatent.stored.map_points import StoredPoints

_TOGETHER = 4_000_000  # points that are put in order at once
_BINS = 12  # bits of the curve by which points are counted


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What an explorer is asked to be.

    Attributes:
        map: Name of the map.
        label: Of a block of points; None: without labels.
        label_column: Where labels are from, for people.
        annotations: Columns by slide.
        cell_px: Side of a cell.
        max_bytes: Of everything that is written.
        source_roots: Where the sources are now, if they were moved.
        seed: Of ties and of a sample.
    """

    map: str
    label: Label | None = None
    label_column: str = ""
    annotations: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    cell_px: int
    max_bytes: int
    source_roots: Sequence[str] | None = None
    seed: int = Rule.seed


@dataclass(frozen=True, kw_only=True)
class Scripts:
    """Where files go, and what was written.

    Attributes:
        store: The explorer's folder.
        digests: Of files by name, filled in.
    """

    store: Store
    digests: dict[str, str]

    def write(self, name: str, data: bytes) -> None:
        """Write a file."""
        self.store.write(name, data)
        self.digests[name] = content_digest(data)


@dataclass(frozen=True, kw_only=True)
class Whole:
    """All that is known of an explorer once its pictures are drawn.

    Attributes:
        run: The run.
        points: The map.
        parts: Its points.
        found: Its cells.
        drawn: Their pictures.
        wanted: What it is to be.
    """

    run: RunDirectory
    points: StoredPoints
    parts: Parts
    found: Found
    drawn: Drawn
    wanted: Wanted

    @cached_property
    def labeled(self) -> dict[str, int]:
        """How many points have each label."""
        return label_points(self.found.levels[0].cells.tally.labels)

    @cached_property
    def classes(self) -> list[str]:
        """Names of the classes whose predictions the cells have."""
        sums = self.found.levels[0].cells.tally.predictions
        if sums is None:
            return []
        told = self.run.settings().get("classes")
        n = sums.digits.shape[2]
        return list(map(str, told)) if told else [f"class {i}" for i in range(n)]

    @cached_property
    def names(self) -> Names:
        """What numbers in scripts stand for."""
        return folder.names_of(self.points.slides, self.labeled, len(self.classes))


def write_data(told: Scripts, whole: Whole) -> dict[str, Any]:
    """Write cells, points and the page; what explorer.json says."""
    found, names, wanted = whole.found, whole.names, whole.wanted
    levels = _write_cells(told, whole)
    of_points = write_points(whole.parts, found, names, told.write, wanted.seed)
    name = f"{pictures.MOSAIC}.dzi"
    told.write(name, pictures.description(found.extent.finest, wanted.cell_px))
    meta = _meta(told, whole)
    meta["levels"], meta["points"]["blocks"] = levels, of_points
    meta["points"]["n"] = sum(block["n"] for block in of_points)
    told.write("data/meta.js", meta_script(meta))
    for name, page in folder.page_files():
        told.write(name, page)
    return _facts(whole)


def _write_cells(told: Scripts, whole: Whole) -> list[dict[str, Any]]:
    """Write the cells of all levels; what the page is told of each."""
    found, names = whole.found, whole.names
    tables, levels = [], []
    for level, chosen in enumerate(found.chosen):
        table, sizes = _with_pictures(whole, level, chosen)
        scripts, blocks = cell_blocks(level, table, names, sizes, found.square)
        if level <= folder.CONTRAST_LEVEL:
            slides = found.levels[level].slides
            scripts.append(folder.slides_script(level, slides, names))
        for name, data in scripts:
            told.write(name, data)
        own = level < found.extent.own
        levels.append(folder.level_facts(level, table, blocks, own=own))
        tables.append(table)
    data = bytes(memoryview(sealed_parquet(pa.concat_tables(tables))))
    told.store.write(folder.CELLS, data)
    told.digests[folder.CELLS] = seal_in(data)
    return levels


def _with_pictures(
    whole: Whole, level: int, chosen: pa.Table
) -> tuple[pa.Table, NDArray[np.uint16]]:
    """The cells of a level, and the sizes of their tiles' own pictures, (cells, 2)."""
    found, drawn = whole.found, whole.drawn
    table = pyramid.level_table(level, chosen, found.levels[level])
    finest = found.square.grid(found.extent.finest)
    places = np.stack([chosen[name].to_numpy() for name in (PLACE_X, PLACE_Y)], axis=1)
    cells = found.chosen[-1][CELL].to_numpy()
    at = np.searchsorted(cells, cell_ids(finest, places)[0])
    picture, sizes = drawn.picture[at].copy(), drawn.sizes[at]
    picture[sizes[:, 0] == 0] = -1  # it could not be read
    none = picture < 0
    for name, values in ((schema.PICTURE, picture), (schema.SLOT, drawn.slot[at])):
        column = table.schema.get_field_index(name)
        array = pa.array(values.astype(np.int32), mask=none)
        table = table.set_column(column, schema.EXPLORER_CELLS.field(name), array)
    return table, sizes


def _facts(whole: Whole) -> dict[str, Any]:
    """What machines are told."""
    found, wanted, points = whole.found, whole.wanted, whole.points
    square = found.square
    return {
        "version": folder.VERSION,
        "run": str(whole.run.settings()["fingerprint"]),
        "maps": [
            {
                "name": wanted.map,
                "digest": points.info[DIGEST],
                "lower": [square.x, square.y],
                "side": square.side,
            }
        ],
        "counts": {
            "points": found.bounds.n,
            "dropped_not_finite": found.bounds.n_dropped,
        },
        "levels": [
            {"level": level, "side": pyramid.SIDE << level, "cells": len(cells)}
            for level, cells in enumerate(found.chosen)
        ],
        "points": "all" if found.extent.all_points else "sample",
        "bytes": {
            "forecast": found.extent.n_bytes,
            "pictures": whole.drawn.n_bytes,
        },
        "failed": len(whole.drawn.failed),
        "rule": asdict(found.rule),
        "cell_px": wanted.cell_px,
        "versions": library_versions(("raylatent", "numpy", "pillow", "pyarrow")),
    }


def _meta(told: Scripts, whole: Whole) -> dict[str, Any]:
    """What the page is told, but for levels and points."""
    run, points, found = whole.run, whole.points, whole.found
    wanted, names = whole.wanted, whole.names
    quality = points.info.get("quality") or {}
    facts = folder.MapFacts(
        name=wanted.map,
        digest=points.info[DIGEST],
        layer=points.layer,
        trustworthiness=quality.get("trustworthiness"),
    )
    of_tiles = not isinstance(wanted.label, partial)  # as `labels_of_points` is made
    regions = region_labels(points.store)
    means = found.levels[-1].cells.tally.knn_distance
    top = (
        float(np.nanmax(means.means()))
        if means is not None and len(means.cell)
        else 0.0
    )
    slides = found.levels[0].slides.group_by("label").aggregate([("count", "sum")])
    n_tiles = dict(
        zip(slides["label"].to_pylist(), slides["count_sum"].to_pylist(), strict=True)
    )
    thumbnails = _thumbnails(told, run, names)
    return {
        "version": folder.VERSION,
        "run": run.uri.rstrip("/").rsplit("/", 1)[-1],
        "fingerprint": str(run.settings()["fingerprint"]),
        "map": facts.as_json(found.square),
        "n": found.bounds.n,
        "cell_px": wanted.cell_px,
        "points": {"kind": "all" if found.extent.all_points else "sample"},
        "regions": [] if regions is None else listed(regions.regions),
        "slides": folder.slide_facts(run.sources(), names, n_tiles, thumbnails),
        "labels": folder.label_facts(
            names, whole.labeled, wanted.label_column, "tile" if of_tiles else "slide"
        ),
        "classes": whole.classes,
        "annotations": {
            "columns": folder.annotation_facts(wanted.annotations, names, _numbers),
            "patient": _patient(wanted.annotations),
        },
        "novelty": {"max": top, "has": means is not None},
        "colors_of_slides": folder.slide_colors(len(names.slides)),
        "tiles": {"slots": pictures.SLOTS, "levels": found.extent.own},
        "versions": library_versions(("raylatent",)),
    }


def _numbers(values: Sequence[str]) -> list[float] | None:
    return numbers_of(values) if values and scale_of(values) is not None else None


def _patient(annotations: Mapping[str, Mapping[str, str]]) -> str | None:
    columns = {key for row in annotations.values() for key in row}
    return next(
        (name for name in ("patient", "case", "submitter_id") if name in columns), None
    )


def _thumbnails(
    told: Scripts, run: RunDirectory, names: Names
) -> dict[str, tuple[int, int]]:
    """Copy the pictures of whole slides; the slides' width and height in pixels."""
    found = {}
    for slide, number in names.slides.items():
        grid, picture = run.grid_part(slide), run.thumbnail(slide)
        if not run.store.exists(grid) or not run.store.exists(picture):
            continue
        made = json.loads(read_footer(run.store, grid)[1].get(schema.FOOTER_GRID, "{}"))
        size = made.get("geometry", {})
        if "width" in size and "height" in size:
            told.write(f"slides/{number}.jpg", run.store.read(picture))
            found[slide] = (int(size["width"]), int(size["height"]))
    return found


def write_points(
    parts: Parts,
    found: Found,
    names: Names,
    write: Callable[[str, bytes], None],
    seed: int,
) -> list[dict[str, Any]]:
    """Write the scripts of the points, or of a sample; number and extent of each.

    Of very many, stretches of the curve are put in order one after another.
    """
    square, keep = found.square, None
    if not found.extent.all_points:
        keep = int(SAMPLE_POINTS / found.bounds.n * float(1 << 64))
    count = partial(_count_bins, square=square, keep=keep, seed=seed)
    counts = parts.fold(count, np.add)
    about: list[dict[str, Any]] = []
    for low, high in stretches(counts, _TOGETHER):
        take = partial(
            _rows_of,
            square=square,
            names=names,
            low=low,
            high=high,
            keep=keep,
            seed=seed,
        )
        rows = parts.fold(take, merge_rows, [PREDICTIONS, LABELS])
        for (name, data), of_block in point_blocks(rows, square, len(about)):
            write(name, data)
            about.append(of_block)
    return about


def stretches(counts: NDArray[np.int64], most: int) -> list[tuple[int, int]]:
    """Bins in runs of about so many points, [low, high).

    >>> stretches(np.array([3, 3, 0, 5, 1]), 6)
    [(0, 3), (3, 5)]
    """
    found, low, total = [], 0, 0
    for i, n in enumerate(counts.tolist()):
        if total and total + n > most:
            found.append((low, i))
            low, total = i, 0
        total += n
    if total:
        found.append((low, len(counts)))
    return found


def _kept(points: Points, keep: int | None, seed: int) -> Points:
    """Points of a sample: those with a small hash, whatever the parts are."""
    if keep is None or points.reference is None:
        return points
    slides = points.reference[schema.SLIDE].combine_chunks().dictionary_encode()
    codes = slides.indices.to_numpy(zero_copy_only=False)
    tiles = points.reference[schema.TILE_INDEX].to_numpy()
    small = np.zeros(len(tiles), bool)
    for code, slide in enumerate(slides.dictionary.to_pylist()):
        rows = np.flatnonzero(codes == code)
        small[rows] = tile_hash(seed, slide, tiles[rows]) < np.uint64(keep)
    return points.take(np.flatnonzero(small))


def _count_bins(
    points: Points, square: Square, keep: int | None, seed: int
) -> NDArray[np.int64]:
    kept = _kept(points, keep, seed)
    bins = curve_of(kept.xy, square) >> np.uint64(32 - _BINS)
    return np.bincount(bins.astype(np.int64), minlength=1 << _BINS)


def _rows_of(
    points: Points,
    square: Square,
    names: Names,
    low: int,
    high: int,
    keep: int | None,
    seed: int,
) -> PointRows:
    kept = _kept(points, keep, seed)
    bins = (curve_of(kept.xy, square) >> np.uint64(32 - _BINS)).astype(np.int64)
    return point_rows(kept.take(np.flatnonzero((bins >= low) & (bins < high))), names)
