"""What one sees of a SlideMap without asking for a file: in a notebook, and its page.

The functions are methods of `SlideMap`.
"""

import os
import webbrowser
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from raylatent import notebook, schema
from raylatent.config import ExploreConfig
from raylatent.errors import MapError
from raylatent.explorer.folder import facts_of
from raylatent.explorer.on_slides import MOST_CARDS, Sheet, card_of, slide_picture
from raylatent.explorer.polygon import check_map, read_polygons, region_of
from raylatent.explorer.tile_squares import tile_squares
from raylatent.map_job import run_explore
from raylatent.mapping.labels import (
    NO_LABEL_COLOR,
    OKABE_ITO,
    Entries,
    entries_of,
    number,
    scale_of,
)
from raylatent.mapping.plot import MAX_DOTS, MapStyle, map_file
from raylatent.montage.points import labels_of_points
from raylatent.run import EXPLORER
from raylatent.seal import DIGEST
from raylatent.slide_map_pictures import LABEL
from raylatent.storage import Store, absolute
from raylatent.stored.map_pictures import PICTURE
from raylatent.stored.map_points import StoredPoints

if TYPE_CHECKING:
    from raylatent.slide_map import SlideMap


@dataclass(frozen=True, repr=False)
class Page:
    """A page of a map, on this machine.

    Attributes:
        path: Of its index.html, which opens by double click.
    """

    path: str

    def __repr__(self) -> str:
        """Where it is, as browsers take it."""
        return f"open {Path(self.path).as_uri()}"

    def _repr_html_(self) -> str:
        """Where it is, and its coarsest picture.

        A browser lets no page of a server, as a notebook's, open files of the disk: there
        is no frame and no link.
        """
        coarsest = self.path.removesuffix("index.html") + "mosaic_files"
        own = {"open": repr(self)[5:], "elsewhere": "raylatent serve RUN"}
        return notebook.card("page", lambda: own, lambda: _largest_single(coarsest))

    def show(self) -> "Page":
        """Open it in a browser where there is a screen."""
        if os.name != "posix" or os.environ.keys() & {"DISPLAY", "WAYLAND_DISPLAY"}:
            webbrowser.open(Path(self.path).as_uri())
        return self


def _largest_single(folder: str) -> bytes | None:
    """The largest level of a DZI that is one picture."""
    levels = Path(folder).glob("*/0_0.jpg")
    single = [one for one in levels if len(list(one.parent.iterdir())) == 1]
    largest = max(single, key=lambda one: int(one.parent.name), default=None)
    return None if largest is None else largest.read_bytes()


def as_html(self: "SlideMap") -> str:
    """How many tiles, of which slides, and the map in small."""

    def rows() -> Mapping[str, object]:
        told = {"tiles": len(self), "slides": notebook.listed(self.slides)}
        return told if (s := self._stored) is None else {**told, "map": s.store.uri}

    def in_small() -> bytes | None:
        # Of a large map that was not read yet only the picture in its folder is shown.
        if self._stored is not None and not self._is_read():
            store, name = self._stored.store, f"{PICTURE}.png"
            if not self._is_labeled() and store.exists(name):
                return store.read(name)
            if len(self) > MAX_DOTS:
                return None
        xy, labels, style = self._drawn(MAX_DOTS // 10, MapStyle())
        return map_file("map.png", xy, labels, style, dpi=100)

    return notebook.card("SlideMap", rows, in_small)


def explore(
    self: "SlideMap",
    *,
    annotations: str | os.PathLike[str] = "",
    label: str = "",
    out: str | os.PathLike[str] = "",
    max_size: str = ExploreConfig.max_size,
    anew: bool = False,
    show: bool = True,
) -> Page:
    """The page to walk in; it is written if there is none of this very map.

    Where there is a screen it opens in a browser; else, and in a notebook, what is
    returned shows where it is. Labels are those that were set here, if any.

    Args:
        self: The map.
        annotations: A CSV with a `slide` column, whose others the page can color by
            and compare.
        label: The column that labels slides.
        out: Its folder; default `explorer/<map>` of the run, if that is local.
        max_size: Of the page and its pictures, as `500MB`.
        anew: Write it in any case, as after labels were set by another program.
        show: Whether to open it.

    Raises:
        MapError: Not all tiles of a map of a run, or labels of single tiles, which the
            page has only of regions and clusters.
        ConfigError: A map at a URI without `out`.
    """
    stored, own = self._stored, None
    if stored is None or not self._is_stored():
        message = "a page is of a whole map of a run: SlideMap.load opens one"
        raise MapError(message)
    if self._is_labeled() and not label:
        labels = self._labels_set(stored=True)
        if not isinstance(labels, Mapping):
            message = (
                "labels of single tiles that were set in Python are on no page: name "
                "regions with `raylatent label`, or store clusters with `raylatent "
                "cluster`"
            )
            raise MapError(message)
        own = partial(labels_of_points, labels)
    folder = absolute(out or f"{stored.run.uri}/{EXPLORER}/{stored.name}")
    config = ExploreConfig(
        run=stored.run.uri,
        map=stored.name,
        annotations=os.fspath(annotations),
        label=label,
        out=folder,
        max_size=max_size,
    )
    said = own or annotations or label or max_size != ExploreConfig.max_size
    if anew or said or not _is_of(Store(folder), stored):
        run_explore(config, own, anew=anew)
    page = Page(f"{folder}/index.html")
    return page.show() if show else page


def inside(self: "SlideMap", polygon: str | os.PathLike[str]) -> NDArray[np.bool_]:
    """Which tiles lie in the areas of a polygon file, or of a regions.json: bool (n,).

    Args:
        self: The map.
        polygon: As the page saves it, of this map.

    Raises:
        MapError: It is no such file, or of another map.
    """
    areas = read_polygons(os.fspath(polygon))
    if self._stored is not None:
        check_map(areas, self._stored.info[DIGEST], os.fspath(polygon))
    return region_of(areas, self._xy()) >= 0


def on_slides(self: "SlideMap", which: ArrayLike | None = None) -> Image.Image:
    """Where on their slides tiles lie: a sheet of the slides with most of them.

    A tile has the color of its label where the map is labeled. Where the run has no
    picture of a slide, as of TFRecords, the ground is empty.

    Args:
        self: The map.
        which: Of the rows of `data`, bool (n,) or positions; None: all. As
            `sm.data["cluster"] == 3`, or `sm.inside("polygon.json")`.

    Raises:
        MapError: The map belongs to no run.
    """
    frame, run = self.data, self._run()
    chosen = np.arange(len(frame))
    if which is not None:
        chosen = chosen[np.asarray(which) if np.size(which) else []]
    colors, legend = np.full(len(frame), OKABE_ITO[0], object), Entries()
    if LABEL in frame.columns:
        of_labels, legend = _colors_told(self)
        known = frame[LABEL].map(of_labels)
        colors = known.fillna(NO_LABEL_COLOR).to_numpy(object)
    squares = tile_squares(run, (), self.slides)
    pictures = partial(slide_picture, run)
    columns = [schema.SLIDE, schema.SOURCE, schema.LOC_X, schema.LOC_Y]
    sheet, tiles = Sheet(), self.points.select(columns).take(pa.array(chosen))
    names = pc.unique(tiles[schema.SLIDE])
    of = pc.index_in(tiles[schema.SLIDE], names).to_numpy()
    order, sizes = np.argsort(of, kind="stable"), np.bincount(of, minlength=len(names))
    tiles, colors = tiles.take(pa.array(order)), colors[chosen[order]]
    by_size = zip(-sizes, names.to_pylist(), sizes.cumsum() - sizes, strict=True)
    for n, _, start in sorted(by_size)[:MOST_CARDS]:
        here = colors[start : start - n].tolist()
        sheet.add(card_of(tiles.slice(start, -n), pictures, squares, here))
    sheet.n_tiles, sheet.n_slides = len(tiles), len(names)
    return sheet.picture(legend)


def _colors_told(self: "SlideMap") -> tuple[dict[Any, str], Entries]:
    """The color of each label, and what a legend says of them."""
    counts = self.data[LABEL].value_counts()
    if (scale := scale_of(counts.index)) is None:
        colors = self._colors()
        return colors, entries_of(dict(counts), colors)
    told = [(f"{tick:g}", scale.color(tick)) for tick in scale.ticks()]
    return {v: scale.color(number(v) or 0.0) for v in counts.index}, told


def _is_of(store: Store, stored: StoredPoints) -> bool:
    """Whether a folder has a finished page of a map."""
    maps = facts_of(store).get("maps", [])
    return any(one.get(DIGEST) == stored.info[DIGEST] for one in maps)
