"""Pictures of a SlideMap: its plot, shown or saved, and a small picture of each label."""

import inspect
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from raylatent import schema
from raylatent.errors import MapError
from raylatent.mapping import plot as drawing
from raylatent.mapping.density import Labels, density
from raylatent.mapping.labels import colors_by_name, scale_of
from raylatent.mapping.plot import MapStyle, is_picture
from raylatent.storage import Store, absolute
from raylatent.stored.manifest import put_listed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABEL = "label"

Limits = tuple[float, float]

_STYLE = frozenset(MapStyle.__dataclass_fields__) - {"scatter"}


class SlideMapPictures(ABC):
    """What of a SlideMap draws it."""

    @property
    @abstractmethod
    def data(self) -> pd.DataFrame:
        """A row a tile, with `x`, `y` and perhaps `label`."""

    @abstractmethod
    def _save_map(self, store: Store) -> None:
        """Write the map itself into a folder."""

    def plot(  # noqa: PLR0913  (Slideflow's signature)
        self,
        subsample: int | None = None,
        title: str | None = None,
        *,
        ax: "Axes | None" = None,
        xlabel: str | None = None,
        ylabel: str | None = None,
        xlim: Limits | None = None,
        ylim: Limits | None = None,
        cmap: Mapping[Any, Any] | str | None = None,
        categorical: str | bool = MapStyle.categorical,
        legend: str | None = None,
        loc: str | None = None,
        ncol: int = MapStyle.ncol,
        legend_kwargs: Mapping[str, Any] | None = None,
        max_dots: int = MapStyle.max_dots,
        **scatter: Any,  # noqa: ANN401  (matplotlib's)
    ) -> "Axes":
        """Plot the map, colored by `label` where it was set.

        Args:
            subsample: Draw this many tiles, chosen by a fixed seed.
            title: Above the plot.
            ax: Draw here instead of in a new figure of pyplot.
            xlabel: Below the plot.
            ylabel: Left of the plot.
            xlim: Limits of x.
            ylim: Limits of y.
            cmap: Label to color, or the name of a colormap.
            categorical: Whether labels are categories; `auto` takes numbers for a scale.
            legend: Title of the legend or color bar.
            loc: Place of the legend, outside on the right by default.
            ncol: Columns of the legend.
            legend_kwargs: For matplotlib's `Axes.legend`.
            max_dots: With more points an image of counts, of majority labels, or of mean
                values is drawn instead of dots.
            **scatter: For matplotlib's `Axes.scatter`, as `s`, the size of dots.
        """
        xy, labels, style = self._drawn(subsample, _style(dict(locals())))
        return drawing.show_map(xy, labels, style, ax)

    def save(  # noqa: PLR0913  (of the plot)
        self,
        path: str | os.PathLike[str],
        *,
        subsample: int | None = None,
        dpi: int = 300,
        title: str | None = None,
        xlabel: str | None = None,
        ylabel: str | None = None,
        xlim: Limits | None = None,
        ylim: Limits | None = None,
        cmap: Mapping[Any, Any] | str | None = None,
        categorical: str | bool = MapStyle.categorical,
        legend: str | None = None,
        loc: str | None = None,
        ncol: int = MapStyle.ncol,
        legend_kwargs: Mapping[str, Any] | None = None,
        max_dots: int = MapStyle.max_dots,
        **scatter: Any,  # noqa: ANN401  (matplotlib's)
    ) -> None:
        """Save the plot (`.png`, `.pdf`, `.svg`), or the map into a folder.

        The folder holds points, model and map.json, which is written last. Labels are
        not kept: they are the user's. Arguments but `path`, a file or folder, local or a
        URI, are of plots, as of `plot`; a picture
        has `dpi` pixels per inch.

        Raises:
            MapError: A picture of another kind, or an argument of plots for a folder.
            StorageError: It could not be written.
        """
        given = dict(locals())
        uri = absolute(path)
        if is_picture(uri):
            xy, labels, style = self._drawn(subsample, _style(given))
            put_listed(uri, drawing.map_file(uri, xy, labels, style, dpi=dpi))
            return
        own = inspect.signature(self.save).parameters.values()
        changed = [p.name for p in own if given[p.name] is not p.default]
        if of_plots := sorted({*changed, *scatter} - {"path", "scatter"}):
            message = f"{of_plots[0]!r} is of plots, and {uri} is a folder"
            raise MapError(message)
        self._save_map(Store(uri))

    def save_plot(  # noqa: PLR0913  (Slideflow's signature)
        self,
        filename: str | os.PathLike[str],
        *,
        subsample: int | None = None,
        dpi: int = 300,
        title: str | None = None,
        xlabel: str | None = None,
        ylabel: str | None = None,
        xlim: Limits | None = None,
        ylim: Limits | None = None,
        cmap: Mapping[Any, Any] | str | None = None,
        categorical: str | bool = MapStyle.categorical,
        legend: str | None = None,
        loc: str | None = None,
        ncol: int = MapStyle.ncol,
        legend_kwargs: Mapping[str, Any] | None = None,
        max_dots: int = MapStyle.max_dots,
        **scatter: Any,  # noqa: ANN401  (matplotlib's)
    ) -> None:
        """Write the plot as `.png`, `.pdf` or `.svg`; arguments as of `plot` and `save`.

        Raises:
            MapError: Another ending.
        """
        xy, labels, style = self._drawn(subsample, _style(dict(locals())))
        uri = absolute(filename)
        put_listed(uri, drawing.map_file(uri, xy, labels, style, dpi=dpi))

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
        names = [
            None if none else str(value)
            for value, none in zip(values, missing, strict=True)
        ]
        part = (self._xy(), Labels.of(names))
        uri, counted = absolute(filename), density(lambda: [part])
        dots = (part[0], names)
        put_listed(uri, drawing.multiples_file(uri, counted, dpi=dpi, dots=dots))

    def _xy(self) -> NDArray[np.float64]:
        return np.asarray(self.data[[schema.X, schema.Y]], dtype=np.float64)

    def _colors(self) -> dict[Any, str]:
        names = self.data[LABEL].dropna().unique()
        by_name = colors_by_name(names)
        return {name: by_name[str(name)] for name in names}

    def _drawn(
        self, subsample: int | None, style: MapStyle
    ) -> tuple[NDArray[np.float64], ArrayLike | None, MapStyle]:
        xy = self._xy()
        labels = self.data[LABEL].array if LABEL in self.data.columns else None
        if subsample is not None and subsample < len(xy):
            words = labels is not None and self.data[LABEL].dtype.kind != "f"
            if words and style.cmap is None:
                style = replace(style, cmap=self._colors())  # as with all of them
            chosen = np.random.default_rng(0).permutation(len(xy))[:subsample]
            xy, labels = xy[chosen], None if labels is None else labels[chosen]
        return xy, labels, style


def _style(given: Mapping[str, Any]) -> MapStyle:
    """How a map is drawn, of a method's arguments; None means the default."""
    own = {name: given[name] for name in _STYLE if given[name] is not None}
    return MapStyle(scatter=given["scatter"], **own)


def translated(
    values: "pd.Series[Any]", translate: Mapping[Any, Any] | Callable[[Any], Any] | None
) -> "pd.Series[Any]":
    """Values as labels, translated if asked; whole numbers stay whole."""
    labels = values if translate is None else values.map(translate)
    given = translate.values() if isinstance(translate, Mapping) else ()
    whole = bool(given) and all(isinstance(value, Integral) for value in given)
    if whole and labels.dtype.kind == "f":
        labels = labels.astype("Int64")  # not 1.0 where some tile has no label
    return labels
