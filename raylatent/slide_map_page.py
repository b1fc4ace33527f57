"""What one sees of a SlideMap without asking for a file: in a notebook, and its page."""

import json
import os
import webbrowser
from abc import abstractmethod
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from raylatent import notebook, schema
from raylatent.annotations import SLIDE_COLUMN, read_annotations
from raylatent.config import ExploreConfig
from raylatent.errors import MapError
from raylatent.explorer.named_regions import RegionLabels
from raylatent.mapping.plot import MAX_DOTS, MapStyle, map_file
from raylatent.montage.points import labels_of_points
from raylatent.run import EXPLORER, RunDirectory
from raylatent.run.layout import EXPLORER_JSON
from raylatent.seal import DIGEST
from raylatent.slide_map_pictures import SlideMapPictures
from raylatent.source.names import match
from raylatent.storage import Store, absolute, is_uri
from raylatent.stored.map_pictures import PICTURE
from raylatent.stored.map_points import StoredPoints

if TYPE_CHECKING:
    from raylatent.montage.points import Label, Labels

_DPI = 100


class Page:
    """A page of a map, on this machine.

    Attributes:
        path: Of its index.html, which opens by double click.
    """

    def __init__(self, path: str) -> None:
        """See the class."""
        self.path = path

    def __repr__(self) -> str:
        """Where it is, as browsers take it."""
        return f"open {Path(self.path).as_uri()}"

    def _repr_html_(self) -> str:
        """Where it is, and its coarsest picture.

        A notebook's page may not open files of the disk, and Jupyter shows files in a
        sandbox in which the page's scripts are refused: there is no frame and no link.
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
    levels = sorted(Path(folder).glob("*/0_0.jpg"), key=lambda one: int(one.parts[-2]))
    single = [one for one in levels if len(list(one.parent.iterdir())) == 1]
    return single[-1].read_bytes() if single else None


class SlideMapPage(SlideMapPictures):
    """What of a SlideMap is shown in a notebook, and its page."""

    run: RunDirectory | None
    _stored: StoredPoints | None

    @property
    @abstractmethod
    def slides(self) -> list[str]:
        """Names of the slides on the map, sorted."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of points."""

    @abstractmethod
    def _is_read(self) -> bool: ...

    @abstractmethod
    def _is_stored(self) -> bool: ...

    @abstractmethod
    def _labels_set(self, *, stored: bool) -> "Labels | Label | None": ...

    def _repr_html_(self) -> str:
        """How many tiles, of which slides, and the map in small."""

        def rows() -> Mapping[str, object]:
            where = {} if self._stored is None else {"map": self._stored.store.uri}
            told = {"tiles": len(self), "slides": notebook.listed(self.slides)}
            return {**told, **where}

        return notebook.card("SlideMap", rows, self._in_small)

    def _in_small(self) -> bytes | None:
        """A plot; of a large map that was not read yet the picture in its folder."""
        stored = self._stored
        if stored is not None and not self._is_read():
            name = f"{PICTURE}.png"
            if not self._is_labeled() and stored.store.exists(name):
                return stored.store.read(name)
            if len(self) > MAX_DOTS:
                return None
        xy, labels, style = self._drawn(MAX_DOTS // 10, MapStyle())
        return map_file("map.png", xy, labels, style, dpi=_DPI)

    @abstractmethod
    def _is_labeled(self) -> bool:
        """Whether labels were set here."""

    def explore(
        self,
        *,
        annotations: str | os.PathLike[str] | None = None,
        out: str | os.PathLike[str] | None = None,
        max_size: str = ExploreConfig.max_size,
        anew: bool = False,
        show: bool = True,
    ) -> Page:
        """The page to walk in; it is written if there is none of this very map.

        Where there is a screen it opens in a browser; else, and in a notebook, what is
        returned shows where it is.

        Args:
            annotations: A CSV with a `slide` column, whose others the page can color by
                and compare; the page is written anew.
            out: Its folder; default `explorer/<map>` of the run, if that is local.
            max_size: Of the page and its pictures, as `500MB`.
            anew: Write it in any case, as after labels were set by another program.
            show: Whether to open it.

        Raises:
            MapError: Not all tiles of a map of a run, a map at a URI without `out`, or
                labels of single tiles, which the page has only of regions and clusters.
        """
        stored = self._stored
        if stored is None or not self._is_stored():
            message = "a page is of a whole map of a run: SlideMap.load opens one"
            raise MapError(message)
        folder = absolute(out or f"{stored.run.uri}/{EXPLORER}/{stored.name}")
        if is_uri(folder):
            message = f"a page opens from a disk, and {folder} is none: give out="
            raise MapError(message)
        anew = anew or annotations is not None or self._is_labeled()
        if anew or not _is_of(Store(folder), stored):
            config = ExploreConfig(
                run=stored.run.uri, map=stored.name, max_size=max_size
            )
            self._write_page(stored, folder, config, annotations)
        page = Page(f"{folder}/index.html")
        return page.show() if show else page

    def _write_page(
        self,
        stored: StoredPoints,
        folder: str,
        config: ExploreConfig,
        annotations: str | os.PathLike[str] | None,
    ) -> None:
        from raylatent.engine.explore import build_explorer  # noqa: PLC0415  (ray: slow)
        from raylatent.explorer.write import Wanted  # noqa: PLC0415  (slow)

        labels, column = self._labels_set(stored=True), schema.LABEL
        label: Label | None
        if labels is None or callable(labels):
            label = labels
            column = "region" if isinstance(labels, RegionLabels) else column
        elif isinstance(labels, Mapping):
            label = partial(labels_of_points, labels)
        else:
            message = (
                "labels of single tiles that were set in Python are on no page: name "
                "regions with `raylatent label`"
            )
            raise MapError(message)
        rows = [] if annotations is None else read_annotations(os.fspath(annotations))
        by_slide = [
            (row[SLIDE_COLUMN], {k: v for k, v in row.items() if k != SLIDE_COLUMN})
            for row in rows
        ]
        wanted = Wanted(
            map=stored.name,
            label=label,
            label_column=column if label else "",
            annotations=match(by_slide, stored.run.slides()),
            cell_px=config.explorer_cell_px,
            max_bytes=config.max_bytes(),
        )
        build_explorer(stored.run, folder, wanted)


def _is_of(store: Store, stored: StoredPoints) -> bool:
    """Whether a folder has a finished page of a map."""
    if not store.exists(EXPLORER_JSON):
        return False
    told = json.loads(store.read(EXPLORER_JSON))
    return bool(told["maps"][0][DIGEST] == stored.info[DIGEST])
