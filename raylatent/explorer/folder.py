"""The folder of an explorer: what the page and machines are told, and the page itself."""

import base64
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib.resources import files
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylatent import schema
from raylatent.annotations import MISSING_WORDS
from raylatent.errors import MapError
from raylatent.explorer import pictures
from raylatent.explorer.blocks import Names, Write
from raylatent.explorer.named_regions import region_labels
from raylatent.explorer.on_slides import small_picture
from raylatent.explorer.polygon import listed
from raylatent.explorer.pyramid import COUNT, LABEL, SIDE
from raylatent.explorer.reach import Found
from raylatent.mapping import labels
from raylatent.mapping.fitted_map import library_versions
from raylatent.montage.points import Label, Rule
from raylatent.montage.tally import label_points
from raylatent.run import EXPLORER, RunDirectory
from raylatent.run.layout import CLUSTERS_JSON, EXPLORER_JSON, REGIONS_JSON
from raylatent.seal import DIGEST, content_digest, parse_json
from raylatent.storage import Store
from raylatent.stored.map_points import StoredPoints, tile_labels
from raylatent.stored.maps import MAP_JSON

VERSION = 1
CELLS = "cells.parquet"
META = "data/meta.js"
OTHERS = "(other labels)"
OTHER_CLASSES = "(best of the other classes)"

_MAP = (MAP_JSON, REGIONS_JSON, CLUSTERS_JSON)
_SHORTEST = 3  # characters of a slide's name that is looked for in other texts
_PATIENT = ("patient", "case", "submitter_id")
_LEAST_PATIENTS = 5  # of a column of cases, which may as well say case or control


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
        pseudonyms: Of all slides; None: they are called by their names.
        maps: Of the run, whose explorers are beside this one; itself among them.
        seed: Of ties and of a sample.
    """

    map: str
    label: Label | None = None
    label_column: str = ""
    annotations: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    cell_px: int
    max_bytes: int
    source_roots: Sequence[str] | None = None
    pseudonyms: Mapping[str, str] | None = None
    maps: Sequence[str] = ()
    seed: int = Rule.seed

    def request(self, of_map: Store) -> str | None:
        """A digest of all that a page of the map in a folder is made of.

        None with pseudonyms: by it one could try out the names behind them.
        """
        own = self.label
        if self.pseudonyms is not None:
            return None
        told = [
            [VERSION, library_versions(("raylatent",))],
            [[name, content_digest(data)] for name, data in page_files()],
            [content_digest(of_map.read(name)) for name in _MAP if of_map.exists(name)],
            [self.label_column, own.args if isinstance(own, partial) else None],
            [self.annotations, self.cell_px, self.max_bytes],
            list(self.maps),
        ]
        return content_digest(json.dumps(told, sort_keys=True).encode())


def maps_with_page(run: RunDirectory, own: str) -> list[str]:
    """The maps of a run whose explorers are in it, and one that is to have one."""
    pages = Store(f"{run.uri}/{EXPLORER}")
    there = (n for n in pages.root_folders() if pages.exists(f"{n}/{EXPLORER_JSON}"))
    return sorted({own, *there})


def facts_of(store: Store) -> dict[str, Any]:
    """What explorer.json in a folder says; nothing where there is none."""
    found = parse_json(store.read(EXPLORER_JSON)) if store.exists(EXPLORER_JSON) else {}
    return found or {}


def asked_for(store: Store, of_map: Store, wanted: Wanted) -> dict[str, Any] | None:
    """What explorer.json says, if that page is as wanted and no tile is missing."""
    facts, request = facts_of(store), wanted.request(of_map)
    same = request is not None and facts.get("request") == request
    whole = all(map(store.exists, ("index.html", META)))
    return facts if same and whole and facts.get("failed") == 0 else None


@dataclass(frozen=True, kw_only=True)
class Told:
    """What of an explorer is told in words and numbers."""

    run: RunDirectory
    points: StoredPoints
    found: Found
    wanted: Wanted
    request: str | None = None  # from before the map was read
    kept_classes: Sequence[int] = ()
    """Where not all classes are told: these, and the best of the others."""

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
        n, kept = sums.digits.shape[2], self.kept_classes
        own = [str(told[i] if told else f"class {i}") for i in kept or range(n)]
        return [*own, OTHER_CLASSES] if kept else own

    @cached_property
    def names(self) -> Names:
        """What numbers in scripts stand for: the labels of most points have a color."""
        order, hidden = labels.in_order(self.labeled), self.wanted.pseudonyms
        most = sorted(order, key=lambda name: -self.labeled[name])
        most = most[: labels.MOST_ENTRIES]
        shown = [str(name) for name in order if name in most]
        others, rest = len(order) > len(shown), OTHERS
        while rest in self.labeled:
            rest = f"({rest})"
        pairs = [(s, s if hidden is None else hidden[s]) for s in self.points.slides]
        return Names(
            slides=sorted(pairs, key=lambda pair: pair[1]),
            labels=[*shown, rest] if others else shown,
            others=others,
            n_classes=len(self.classes),
        )

    def meta(self) -> dict[str, Any]:
        """What the page is told, but for levels, points and thumbnails.

        Raises:
            MapError: Slides are to have pseudonyms, and another text has a slide's name.
        """
        found, wanted = self.found, self.wanted
        regions, hidden = region_labels(self.points.store), wanted.pseudonyms
        told = {
            "version": VERSION,
            "run": "" if hidden else self.run.uri.rstrip("/").rsplit("/", 1)[-1],
            "fingerprint": str(self.run.settings()["fingerprint"]),
            "map": self._map(),
            "maps": [] if hidden else [{"name": name} for name in wanted.maps],
            "n": found.bounds.n,
            "cell_px": wanted.cell_px,
            "points": {"kind": "all" if found.extent.all_points else "sample"},
            "regions": [] if regions is None else listed(regions.regions),
            "labels": self._labels(),
            "classes": self.classes,
            "annotations": self._annotations(),
            "novelty": self._novelty(),
            "colors_of_slides": labels.category_colors(len(self.names.slides)),
            "tiles": {"slots": pictures.SLOTS, "levels": found.extent.own},
            "versions": library_versions(("raylatent",)),
        }
        if hidden:
            self._refuse_names(told, hidden)
        return told

    def _refuse_names(self, told: Mapping[str, Any], slides: Collection[str]) -> None:
        """Refuse texts of people that have the name of a slide in them."""
        named = *told["regions"], *told["annotations"]["columns"], told["map"]
        texts = [
            *(told["map"]["layer"], told["labels"]["column"], *told["labels"]["names"]),
            *(*self.labeled, *told["classes"], *(one["name"] for one in named)),
            *(v for row in self.wanted.annotations.values() for v in row.values()),
        ]
        long = "|".join(re.escape(one) for one in slides if len(one) >= _SHORTEST)
        pattern = re.compile(rf"(?<![^\W_])(?:{long})(?![^\W_])", re.IGNORECASE)
        for text in map(str, texts):
            if text in slides or (long and pattern.search(text)):
                message = (
                    f"{text[:80]!r} has the name of a slide in it: with --pseudonymise "
                    "no label, region, column, class or map may"
                )
                raise MapError(message)

    def facts(self, n_bytes: int, failed: int) -> dict[str, Any]:
        """What machines are told, with bytes of the pictures and tiles without one."""
        found, bounds = self.found, self.found.bounds
        levels = enumerate(map(len, found.chosen))
        one = {key: self._map()[key] for key in ("name", DIGEST, "lower", "side")}
        rule = dict(vars(found.rule))
        if self.wanted.pseudonyms is not None:
            del rule["seed"]  # it would let names be tried out
        return {
            "version": VERSION,
            "run": str(self.run.settings()["fingerprint"]),
            "maps": [one],
            "counts": {"points": bounds.n, "dropped_not_finite": bounds.n_dropped},
            "levels": [{"level": i, "side": SIDE << i, "cells": n} for i, n in levels],
            "points": "all" if found.extent.all_points else "sample",
            "bytes": {"forecast": found.extent.n_bytes, "pictures": n_bytes},
            "failed": failed,
            "request": self.request,
            "rule": rule,
            "classes": self.classes,
            "cell_px": self.wanted.cell_px,
            "pseudonyms": self.wanted.pseudonyms is not None,
            "versions": library_versions(("raylatent", "numpy", "pillow", "pyarrow")),
        }

    def _map(self) -> dict[str, Any]:
        square, info = self.found.square, self.points.info
        return {
            "name": self.wanted.map,
            "digest": info[DIGEST],
            "layer": self.points.layer,
            "trustworthiness": (info.get("quality") or {}).get("trustworthiness"),
            "lower": [square.x, square.y],
            "side": square.side,
        }

    def _labels(self) -> dict[str, Any]:
        names, points, label = self.names, self.labeled, self.wanted.label
        colors, other = labels.colors_by_name(points), labels.OTHER_COLOR
        counts = [points[name] for name in names.labels if name in points]
        if names.others:
            counts.append(sum(points.values()) - sum(counts))
        return {
            "column": self.wanted.label_column,
            # As `labels_of_points` is made of labels by slide.
            "of": "slide" if label is None or isinstance(label, partial) else "tile",
            "names": list(names.labels),
            "colors": [colors.get(name, other) for name in names.labels],
            "counts": counts,
        }

    def _annotations(self) -> dict[str, Any]:
        rows = self.wanted.annotations
        columns = dict.fromkeys(key for row in rows.values() for key in row)
        found, patient = [], next(filter(self._has_patients, _PATIENT), None)
        for column in columns:
            own = self._words(column, missing=column == patient)
            given = [value for value in own if value]
            kind, words = "category", labels.in_order(set(given))
            at: Mapping[str, Any] = {word: i for i, word in enumerate(words)}
            if column != patient and given and labels.scale_of(given) is not None:
                at = dict(zip(given, labels.numbers_of(given), strict=True))
                kind, words = "number", []
            values = [at[value] if value else None for value in own]
            found += [{"name": column, "kind": kind, "values": values, "names": words}]
        return {"columns": found, "patient": patient}

    def _words(self, column: str, *, missing: bool) -> list[str | None]:
        """What a column says of each slide; None for words that mean none, if `missing`."""
        rows, none = self.wanted.annotations, MISSING_WORDS if missing else ()
        own = (rows.get(name, {}).get(column) for name, _ in self.names.slides)
        return [None if not word or word.lower() in none else word for word in own]

    def _has_patients(self, column: str) -> bool:
        """Whether a column tells patients, by its name or else by how many they are."""
        if column == _PATIENT[0]:
            return any(column in row for row in self.wanted.annotations.values())
        given = [word for word in self._words(column, missing=True) if word]
        return len(set(given)) >= max(_LEAST_PATIENTS, len(given) / 2)

    def _novelty(self) -> dict[str, Any]:
        sums = self.found.levels[-1].cells.tally.knn_distance
        if sums is None or not len(sums.cell):
            return {"max": 0.0, "has": sums is not None}
        return {"max": float(np.nanmax(sums.means())), "has": True}

    def slides(self, write: Write) -> list[dict[str, Any]]:
        """What the page is told of each slide; its picture is written."""
        rows = {row[schema.SLIDE]: row for row in self.run.sources().to_pylist()}
        by_slide = self.found.levels[0].slides.group_by(LABEL)
        counts = by_slide.aggregate([(COUNT, "sum")]).to_pydict()
        tiles = dict(zip(*counts.values(), strict=True))
        found, plain = [], self.wanted.pseudonyms is not None
        for number, (name, shown) in enumerate(self.names.slides):
            row = rows.get(name, {})
            picture = small_picture(self.run, name, plain=plain)
            width, height = (None, None) if picture is None else picture.size
            bounds = [row.get(schema.BOUNDS_X), row.get(schema.BOUNDS_Y)]
            if picture is not None:
                write(f"slides/{number}.jpg", picture.jpeg)
            told = {"name": shown, "tiles": tiles.get(name, 0), "url": None}
            told |= {"width": width, "height": height, "thumbnail": bool(picture)}
            told |= {key: row.get(key) for key in ("window_px", "mpp", "tile_um")}
            found.append({**told, "bounds": None if None in bounds else bounds})
        return found

    def hidden(self, chosen: pa.Table) -> pa.Table:
        """Tiles of cells without what tells of their slides or files, if that is asked."""
        if self.wanted.pseudonyms is None:
            return chosen
        lost = {schema.SOURCE, schema.OFFSET, schema.LENGTH, schema.NAME}
        lost |= {schema.LABEL} if self.wanted.label is not tile_labels else set()
        columns = {name: chosen[name] for name in chosen.schema.names}
        columns |= {name: pa.nulls(len(chosen), chosen[name].type) for name in lost}
        columns[schema.SLIDE] = self.shown(chosen[schema.SLIDE])
        return pa.table(columns)

    def shown(self, slides: pa.ChunkedArray) -> pa.Array:
        """What the page calls slides (n,)."""
        names = pa.array([name for _, name in self.names.slides], pa.string())
        return names.take(pa.array(self.names.slide_numbers(slides)))


def page_files() -> Iterator[tuple[str, bytes]]:
    """The page: its files by name, as they lie in the package."""
    folder = files("raylatent.explorer").joinpath("page")
    for file in sorted(folder.iterdir(), key=lambda one: one.name):
        if file.is_file():
            yield file.name, file.read_bytes()
    yield "server.js", b'"use strict";\n'


def picture_bitmap(level: int, rows: NDArray[Any], cols: NDArray[Any]) -> str:
    """Which blocks of a level have cells, as base64 of a bitmap."""
    side = 1 << level
    at = np.unique((side - 1 - rows // SIDE) * side + cols // SIDE)
    bitmap = np.zeros(-(-side * side // 8), np.uint8)
    np.bitwise_or.at(bitmap, at >> 3, (1 << (at & 7)).astype(np.uint8))
    return base64.b64encode(bitmap.tobytes()).decode()
