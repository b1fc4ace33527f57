"""What one sees of a SlideMap without asking for a file: in a notebook, and its page.

The functions are methods of `SlideMap`.
"""

import os
import webbrowser
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from raylatent import notebook
from raylatent.config import ExploreConfig
from raylatent.errors import MapError
from raylatent.map_job import run_explore
from raylatent.mapping.plot import MAX_DOTS, MapStyle, map_file
from raylatent.montage.points import labels_of_points
from raylatent.run import EXPLORER
from raylatent.run.layout import EXPLORER_JSON
from raylatent.seal import DIGEST, parse_json
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
            and compare; the page is written anew.
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
    if anew or own or annotations or label or not _is_of(Store(folder), stored):
        run_explore(config, own)
    page = Page(f"{folder}/index.html")
    return page.show() if show else page


def _is_of(store: Store, stored: StoredPoints) -> bool:
    """Whether a folder has a finished page of a map."""
    told = parse_json(store.read(EXPLORER_JSON)) if store.exists(EXPLORER_JSON) else {}
    maps = (told or {}).get("maps", [])
    return any(one.get(DIGEST) == stored.info[DIGEST] for one in maps)
