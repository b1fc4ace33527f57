"""SlideMap: the tiles of some slides as points of a map."""

import logging
import os
from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from raylatent import schema
from raylatent.errors import MapError
from raylatent.mapping import plot as drawing
from raylatent.mapping import statistics
from raylatent.mapping.density import Labels, density
from raylatent.mapping.fitted_map import (
    FORMAT_VERSION,
    MAP_JSON,
    FittedMap,
    library_versions,
    read_info,
    write_info,
)
from raylatent.mapping.labels import colors_by_name, scale_of
from raylatent.mapping.pictures import save_multiples
from raylatent.mapping.plot import is_picture
from raylatent.mapping.point_files import (
    check_points,
    read_points,
    read_vectors,
    write_points,
)
from raylatent.mapping.statistics import with_counts
from raylatent.montage.inputs import check_feature_bytes, label_words
from raylatent.montage.points import select_of
from raylatent.montage.sources import where
from raylatent.montage.stored_points import has_predictions
from raylatent.mosaic import Mosaic
from raylatent.run import RUN_JSON, RunDirectory
from raylatent.run.manifest import relisted
from raylatent.source.names import (
    SlideLabels,
    labels_given,
    labels_of_slides,
    match,
    unmatched,
)
from raylatent.storage import Store, absolute

if TYPE_CHECKING:
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


class SlideMap:
    """Tiles as points of a map, with their slides and labels.

    Args:
        points: Table with `slide` and the columns of `schema.POINTS`; of the reference
            only `tile_index` is needed.
        fitted: The map on which new rows can be placed.
        run: The run that holds the tiles' activations.
        layer: The layer that was mapped; needed where the run has several.

    Attributes:
        data: A pandas DataFrame, a row a tile, by slide, then tile index: `slide`, `x`,
            `y`, `tile_index`, `loc_x`, `loc_y`, `knn_distance`, and once asked for
            `label`, `cluster`, `num_unique_neighbors`, `percent_matching_categories`.
            Its index says which of the sorted points a row is.
        fitted: As given.
        run: As given.

    Raises:
        MapError: A needed column is missing.

    >>> slide_map = SlideMap.from_xy([0.0, 1.0], [0.0, 2.0], ["a", "b"])
    >>> slide_map.label_by_slide({"a": "tumor", "b": "normal"})
    >>> slide_map.data[["slide", "label"]].to_numpy().tolist()
    [['a', 'tumor'], ['b', 'normal']]
    """

    def __init__(
        self,
        points: pa.Table,
        *,
        fitted: FittedMap | None = None,
        run: RunDirectory | None = None,
        layer: str | None = None,
    ) -> None:
        """See the class."""
        self._points = check_points(points)
        self.data: pd.DataFrame = self._points.select(_SHOWN).to_pandas()
        own = self._points[schema.LABEL]
        if own.null_count < len(own):
            self.data[LABEL] = own.to_pandas()
        self.fitted = fitted
        self.run = run
        self._layer = layer

    @classmethod
    def from_xy(
        cls,
        x: ArrayLike,
        y: ArrayLike,
        slides: Iterable[str],
        tfr_index: ArrayLike | None = None,
        **of_the_class: Any,  # noqa: ANN401
    ) -> "SlideMap":
        """Points at given places.

        Args:
            x: Of each tile (n,).
            y: Of each tile (n,).
            slides: Slide of each tile.
            tfr_index: The tile's number in its TFRecord (n,); by default tiles are
                counted in each slide.
            **of_the_class: `fitted`, `run`, `layer`.

        Raises:
            MapError: Lengths differ, or a place is not finite.
        """
        names = [str(slide) for slide in slides]
        columns = {schema.X: np.asarray(x), schema.Y: np.asarray(y)}
        if tfr_index is None:
            counted = pd.Series(names, dtype=object).groupby(names).cumcount()
            columns[schema.TILE_INDEX] = counted.to_numpy(dtype=np.int64)
        else:
            columns[schema.TILE_INDEX] = np.asarray(tfr_index)
        for name, values in columns.items():
            if values.shape != (len(names),):
                message = (
                    f"{name} has shape {values.shape} for {len(names)} slides: give a "
                    "value for each tile"
                )
                raise MapError(message)
        try:
            points = pa.table({schema.SLIDE: pa.array(names, pa.string()), **columns})
            return cls(points, **of_the_class)
        except pa.ArrowInvalid as error:
            message = f"x, y and tfr_index must be numbers: {error}"
            raise MapError(message) from error

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        run: RunDirectory | None = None,
        layer: str | None = None,
    ) -> "SlideMap":
        """Open what `save` wrote, or a map of a run (`<run>/maps/<name>`).

        Args:
            path: The folder, local or a URI.
            run: As of the class; found by itself where the folder lies in one.
            layer: As of the class; map.json may tell it.

        Raises:
            MapError: There is no map, or an unfinished one.
        """
        store = Store(path)
        info = read_info(store)
        if run is None:
            around = store.uri.rsplit("/", 2)[0]
            inside = "/" in around and Store(around).exists(RUN_JSON)
            run = RunDirectory(around) if inside else None
        return cls(
            read_points(store),
            fitted=FittedMap.load(store) if "placement" in info else None,
            run=run,
            layer=layer or info.get("layer"),
        )

    def save(self, path: str | os.PathLike[str], **style: Any) -> None:  # noqa: ANN401
        """Save the plot (`.png`, `.pdf`, `.svg`), or the map into a folder.

        The folder holds points, model and map.json, which is written last. Labels are
        not kept: they are the user's.

        Args:
            path: A file or folder, local or a URI.
            **style: Of the plot, as of `plot`.

        Raises:
            MapError: A picture of another kind.
            StorageError: It could not be written.
        """
        uri = absolute(path)
        if is_picture(uri):
            self.save_plot(uri, **style)
            return
        if style:
            message = f"{sorted(style)[0]!r} is of plots, and {uri} is a folder"
            raise MapError(message)
        with relisted(uri, anew=True):
            self._save(Store(uri))

    def _save(self, store: Store) -> None:
        store.delete(MAP_JSON)
        write_points(store, self.points)
        layer = {} if self._layer is None else {"layer": self._layer}
        if self.fitted is not None:
            told = with_counts(self.fitted, self.points)
            told.with_info(**layer).save(store)
        else:
            about = {"format_version": FORMAT_VERSION, "versions": library_versions()}
            write_info(store, {**about, **layer})

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

    @property
    def layer(self) -> str:
        """The layer that was mapped; MapError if the run has several, and none told."""
        if self._layer is None:
            layers = list(self._run().layers())
            if len(layers) != 1:
                message = f"say which layer was mapped, layer=: the run has {layers}"
                raise MapError(message)
            self._layer = layers[0]
        return self._layer

    def activations(self) -> NDArray[np.floating]:
        """Activations of the tiles (n, n_features), in the order of `data`.

        Raises:
            MapError: The map belongs to no run, or the run lacks a tile.
        """
        return self._read(self.layer)

    def label_by_preds(self, index: int) -> None:
        """Label by the prediction for a class, by its number; MapError if not there."""
        if not has_predictions(self._run()):
            message = (
                f"{self._run().uri} has no predictions to label by: compute activations "
                "of a model with classes, without --no-preds"
            )
            raise MapError(message)
        predictions = self._read(schema.PREDICTIONS)
        if not -predictions.shape[1] <= index < predictions.shape[1]:
            message = f"no class {index}: predictions have {predictions.shape[1]}"
            raise MapError(message)
        self.data[LABEL] = predictions[:, index]

    def cluster(self, n_clusters: int) -> None:
        """Label by k-means clusters of the activations, or without run of the places.

        Also kept as the column `cluster`.

        Raises:
            MapError: Fewer than 1 cluster, or more than points.
        """
        features = self._xy() if self.run is None else self.activations()
        self.data["cluster"] = statistics.cluster(features, n_clusters)
        self.label("cluster")

    def neighbors(
        self,
        slide_categories: SlideLabels | None = None,
        *,
        method: str = "map",
        k: int = 100,
    ) -> None:
        """Look at each tile's k nearest (itself among them, as in Slideflow).

        Adds `num_unique_neighbors`, the number of slides among them, and with
        categories `percent_matching_categories`, the share of the tile's own category.

        Args:
            slide_categories: Category of each slide, as of `label_by_slide`.
            method: Where neighbors are looked for: `map`, or `features`.
            k: Neighbors.

        Raises:
            MapError: A slide has no category, or another method.
        """
        if method not in {"map", "features"}:
            message = f"method={method!r} is neither 'map' nor 'features'"
            raise MapError(message)
        if slide_categories is not None:
            given = labels_given(slide_categories)
            slide_categories = match(given.items(), self.slides)
        places = self._xy() if method == "map" else self.activations()
        unique, matching = statistics.neighbor_statistics(
            places, self.data[schema.SLIDE].tolist(), slide_categories, k=k
        )
        self.data["num_unique_neighbors"] = unique
        if matching is not None:
            self.data["percent_matching_categories"] = matching

    def umap_transform(self, array: ArrayLike) -> NDArray[np.float32]:
        """Places of new rows, float32 (n, 2), in UMAP's own coordinates.

        Each row is placed by itself: its place does not depend on the others.

        Args:
            array: Activations (n, n_features).

        Raises:
            MapError: The map has no fitted model, or rows do not fit it.
        """
        if self.fitted is None:
            message = "this map was not fitted (from_xy), so it cannot place new rows"
            raise MapError(message)
        return self.fitted.place(np.asarray(array))[0]

    def generate_mosaic(self, **options: Any) -> Mosaic:  # noqa: ANN401
        """The map drawn with the tiles themselves.

        Args:
            **options: As of `Mosaic`. TFRecords default to the run's sources, and may
                be folders that its TFRecords and slides were moved to; labels
                to those set here, if they are words or at most 1,000 numbers; features
                to the activations where `select` needs them: all are read at once, up
                to 4 GiB.

        Raises:
            MapError: Options that do not fit, or features of more than 4 GiB.
        """
        if self.run is not None:
            given_files = options.get("tfrecords")
            options["tfrecords"] = where(self.run, given_files, self.slides)
        select = select_of(options.get("tile_select") or options.get("select", ""))
        given = options.get("features") is not None
        if select == "medoid" and self.run is not None and not given:
            check_feature_bytes(self.run, self.layer, len(self.data))
            options["features"] = self.activations()
        labels = label_words(self.data.get(LABEL))
        if labels is not None:
            options.setdefault("labels", labels)
        return Mosaic(self, **options)

    build_mosaic = generate_mosaic

    def _run(self) -> RunDirectory:
        if self.run is None:
            message = "this map belongs to no run, so its activations are not known"
            raise MapError(message)
        return self.run

    def _read(self, column: str) -> NDArray[np.floating]:
        return read_vectors(self._run(), self.points, column)
