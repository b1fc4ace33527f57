"""Points of a map with labels, and their pictures."""

import logging
import os
from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from raylatent import schema
from raylatent.errors import MapError
from raylatent.mapping import plot as drawing
from raylatent.mapping.colors import colors_by_name
from raylatent.mapping.density import Labels, density
from raylatent.mapping.multiples import save_multiples
from raylatent.mapping.points import check_points
from raylatent.mapping.scale import scale_of
from raylatent.source.names import SlideLabels, labels_of_slides, match, unmatched

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

logger = logging.getLogger(__name__)

LABEL = "label"

_SHOWN = (
    schema.SLIDE,
    schema.X,
    schema.Y,
    schema.TILE_INDEX,
    schema.LOC_X,
    schema.LOC_Y,
    schema.KNN_DISTANCE,
)
_STYLE = frozenset(drawing.MapStyle.__dataclass_fields__) - {"scatter"}


class LabeledPoints:
    """Tiles as points: which are shown, how they are labeled, and plots of them.

    Args:
        points: Table with `slide` and the columns of `schema.POINTS`.

    Attributes:
        data: A pandas DataFrame, a row a tile, by slide, then tile index. Its index
            says which of the sorted points a row is.

    Raises:
        MapError: A needed column is missing.
    """

    def __init__(self, points: pa.Table) -> None:
        """See the class."""
        self._points = check_points(points)
        self.data: pd.DataFrame = self._points.select(_SHOWN).to_pandas()

    @property
    def points(self) -> pa.Table:
        """The points with their full reference, row for row those of `data`."""
        rows = self.data.index.to_numpy()
        if np.array_equal(rows, np.arange(self._points.num_rows)):
            return self._points
        return self._points.take(pa.array(rows))

    @property
    def x(self) -> NDArray[np.float32]:
        """float32 (n,)."""
        return np.asarray(self.data[schema.X], dtype=np.float32)

    @property
    def y(self) -> NDArray[np.float32]:
        """float32 (n,)."""
        return np.asarray(self.data[schema.Y], dtype=np.float32)

    @property
    def slides(self) -> list[str]:
        """Names of the slides on the map, sorted."""
        return sorted(self.data[schema.SLIDE].unique())

    def __len__(self) -> int:
        """Number of points."""
        return len(self.data)

    def __repr__(self) -> str:
        """Points and slides in numbers."""
        return f"SlideMap({len(self)} tiles of {len(self.slides)} slides)"

    def filter(self, slides: Iterable[str]) -> None:
        """Keep only the tiles of these slides.

        Raises:
            MapError: No tile is of any of them.
        """
        wanted = [slides] if isinstance(slides, str) else list(slides)
        names = sorted({str(name) for name in wanted})
        found = match(((name, True) for name in names), self.slides)
        kept = self.data[self.data[schema.SLIDE].isin(found)]
        if kept.empty:
            message = f"no tile is of any of {names}: {self!r} stays as it is"
            raise MapError(message)
        if lost := unmatched(names, found):
            logger.warning("no tile is of %s", ", ".join(map(repr, lost[:5])))
        self.data = kept.copy()

    def label(self, meta: str, translate: Mapping[Any, Any] | None = None) -> None:
        """Label by a column of `data`, its values translated if asked.

        Raises:
            MapError: There is no such column.
        """
        if meta not in self.data.columns:
            message = f"no column {meta!r} to label by: {', '.join(self.data.columns)}"
            raise MapError(message)
        values = self.data[meta]
        if meta == schema.SLIDE and translate is not None and not callable(translate):
            translate = labels_of_slides(translate, self.slides)
        labels = values if translate is None else values.map(translate)
        given = translate.values() if isinstance(translate, Mapping) else ()
        whole = bool(given) and all(isinstance(value, Integral) for value in given)
        if whole and labels.dtype.kind == "f":
            labels = labels.astype("Int64")  # not 1.0 where some tile has no label
        self.data[LABEL] = labels

    def label_by_slide(self, slide_labels: SlideLabels | None = None) -> None:
        """Label by slide, or by the given label of each slide.

        A slide without label is drawn in gray, and said in the log.

        Args:
            slide_labels: A mapping of slide to label, a Series with slides as its index,
                or a table with one column beside `slide`. Slides may be written with
                their ending, or with spaces at the ends.

        Raises:
            AnnotationsError: No slide of the map has a label, or one has two.
        """
        self.label(schema.SLIDE, slide_labels)

    def plot(
        self,
        subsample: int | None = None,
        title: str | None = None,
        *,
        ax: "Axes | None" = None,
        **style: Any,  # noqa: ANN401
    ) -> "Axes":
        """Plot the map, colored by `label` where it was set.

        Args:
            subsample: Draw this many tiles, chosen by a fixed seed.
            title: Above the plot.
            ax: Draw here instead of in a new figure of pyplot.
            **style: `cmap`, `xlim`, `ylim`, `xlabel`, `ylabel`, `legend` (its title),
                `loc`, `ncol`, `categorical`, `legend_kwargs`, `max_dots` (see
                `mapping.plot.MapStyle`); all else goes to matplotlib's `scatter`.
        """
        xy, labels, look = self._drawn(subsample, {"title": title, **style})
        return drawing.show_map(xy, labels, look, ax)

    def save_plot(
        self,
        filename: str | os.PathLike[str],
        *,
        subsample: int | None = None,
        dpi: int = 300,
        **style: Any,  # noqa: ANN401
    ) -> None:
        """Write the plot as `.png`, `.pdf` or `.svg`; arguments as of `plot`.

        Raises:
            MapError: Another ending.
        """
        xy, labels, look = self._drawn(subsample, style)
        drawing.save_map(os.fspath(filename), xy, labels, look, dpi=dpi)

    def save_by_label(
        self, filename: str | os.PathLike[str], *, dpi: int = 200
    ) -> None:
        """Write a small picture of each label's tiles, all on the same frame.

        Args:
            filename: `.png`, `.pdf` or `.svg`.
            dpi: Pixels per inch of pictures.

        Raises:
            MapError: There is no label, labels are numbers on a scale, or another ending.
        """
        if LABEL not in self.data.columns:
            message = f"{self!r} has no labels: label it first, as with label_by_slide"
            raise MapError(message)
        values, missing = self.data[LABEL], self.data[LABEL].isna()
        if scale_of(values.dropna().unique()) is not None:
            message = (
                f"the labels of {self!r} are numbers on a scale, of which a picture each "
                "shows nothing: label by groups of them, as pandas.cut makes them"
            )
            raise MapError(message)
        names = (
            None if none else str(value)
            for value, none in zip(values, missing, strict=True)
        )
        part = (self._xy(), Labels.of(names))
        save_multiples(os.fspath(filename), density(lambda: [part]), dpi=dpi)

    def _xy(self) -> NDArray[np.float64]:
        return np.asarray(self.data[[schema.X, schema.Y]], dtype=np.float64)

    def _colors(self) -> dict[Any, str]:
        names = self.data[LABEL].dropna().unique()
        by_name = colors_by_name(names)
        return {name: by_name[str(name)] for name in names}

    def _drawn(
        self, subsample: int | None, style: Mapping[str, Any]
    ) -> tuple[NDArray[np.float64], ArrayLike | None, drawing.MapStyle]:
        own = {name: style[name] for name in _STYLE & set(style)}
        own = {name: value for name, value in own.items() if value is not None}
        scatter = {name: style[name] for name in set(style) - _STYLE}
        xy = self._xy()
        labels = self.data[LABEL].array if LABEL in self.data.columns else None
        if subsample is not None and subsample < len(xy):
            if labels is not None and self.data[LABEL].dtype.kind != "f":
                own.setdefault("cmap", self._colors())  # as with all of them
            chosen = np.random.default_rng(0).permutation(len(xy))[:subsample]
            xy, labels = xy[chosen], None if labels is None else labels[chosen]
        return xy, labels, drawing.MapStyle(scatter=scatter, **own)
