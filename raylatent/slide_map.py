"""SlideMap: the tiles of some slides as points of a map."""

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from raylatent import schema, slide_map_page
from raylatent.config import MosaicConfig
from raylatent.errors import MapError
from raylatent.explorer.named_regions import stored_labels
from raylatent.mapping import statistics
from raylatent.mapping.fitted_map import FORMAT_VERSION, FittedMap, library_versions
from raylatent.mapping.labels import MOST_LABELS, say_too_many_labels
from raylatent.mapping.statistics import with_counts
from raylatent.montage.points import Label, Labels, Rule, are_by_slide, label_words
from raylatent.mosaic import Mosaic
from raylatent.run import RUN_JSON, RunDirectory
from raylatent.slide_map_pictures import LABEL, SlideMapPictures, translated
from raylatent.source.names import (
    SlideLabels,
    labels_given,
    labels_of_slides,
    match,
    unmatched,
)
from raylatent.storage import Store
from raylatent.stored.manifest import relisted, run_of_folder
from raylatent.stored.map_pictures import PICTURE_FILES
from raylatent.stored.map_points import (
    POINTS_DIGEST,
    StoredPoints,
    check_points,
    has_predictions,
    only_layer,
    points_parts,
    read_points,
    read_vectors,
    rows_of,
    tile_labels,
    write_points,
)
from raylatent.stored.maps import MAP_JSON, load_map, read_info, save_map, write_info
from raylatent.stored.mosaic_inputs import TFRecords, check_feature_bytes, where

logger = logging.getLogger(__name__)

_SHOWN = (
    schema.SLIDE,
    schema.X,
    schema.Y,
    schema.TILE_INDEX,
    schema.LOC_X,
    schema.LOC_Y,
    schema.KNN_DISTANCE,
)


class SlideMap(SlideMapPictures):
    """Tiles as points of a map, with their slides and labels.

    A map of a run that is opened from its folder reads its points when they are first
    needed, as by `data`, `x` or `plot`. Labels by slide and mosaics need none of them: a
    mosaic of the whole map is made by the cluster, as `raylatent mosaic` makes it.

    Args:
        points: Table with `slide` and the columns of `schema.POINTS`; of the reference
            only `tile_index` is needed.
        fitted: The map on which new rows can be placed.
        run: The run that holds the tiles' activations.
        layer: The layer that was mapped; needed where the run has several.

    Attributes:
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
        self._attach(check_points(points), run, layer)
        self.fitted = fitted

    def _attach(
        self,
        points: pa.Table | StoredPoints,
        run: RunDirectory | None,
        layer: str | None,
        stall_timeout_s: float = MosaicConfig.stall_timeout_s,
    ) -> None:
        self.run = run
        self._layer = layer
        self._given = points
        self._stored = points if isinstance(points, StoredPoints) else None
        self._stall_timeout_s = stall_timeout_s
        # Labels by slide, until `data` has others.
        self._by_slide: pd.Series[Any] | None = None

    @classmethod
    def from_xy(
        cls,
        x: ArrayLike,
        y: ArrayLike,
        slides: Iterable[str],
        tfr_index: ArrayLike | None = None,
        *,
        fitted: FittedMap | None = None,
        run: RunDirectory | None = None,
        layer: str | None = None,
    ) -> "SlideMap":
        """Points at given places.

        Args:
            x: Of each tile (n,).
            y: Of each tile (n,).
            slides: Slide of each tile.
            tfr_index: The tile's number in its TFRecord (n,); by default tiles are
                counted in each slide.
            fitted: As of the class.
            run: As of the class.
            layer: As of the class.

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
            return cls(points, fitted=fitted, run=run, layer=layer)
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
        stall_timeout_s: float = MosaicConfig.stall_timeout_s,
    ) -> "SlideMap":
        """Open what `save` wrote, or a map of a run (`<run>/maps/<name>`).

        Args:
            path: The folder, local or a URI.
            run: As of the class; found by itself where the folder lies in one.
            layer: As of the class; map.json may tell it.
            stall_timeout_s: With nothing finished for so long, a mosaic of the map ends.

        Raises:
            MapError: There is no map, or an unfinished one.
        """
        store = Store(path)
        info = read_info(store)
        layer = layer or info.get("layer")
        if run is None:
            around = store.uri.rsplit("/", 2)[0]
            inside = "/" in around and Store(around).exists(RUN_JSON)
            run = RunDirectory(around) if inside else None
        if run is None:
            fitted = load_map(store) if "placement" in info else None
            return cls(read_points(store), fitted=fitted, layer=layer)
        stored = StoredPoints(store.uri, run, layer)
        stored.info, stored.part_names = info, points_parts(store)
        self = cls.__new__(cls)
        self._attach(stored, run, layer, stall_timeout_s)
        return self

    def _save_map(self, store: Store) -> None:
        # Read before the folder changes, which may be the one that they are in.
        points, fitted, _ = self.points, self.fitted, self.data
        about: dict[str, Any] = {} if self._layer is None else {"layer": self._layer}
        with relisted(store.uri, anew=True):
            store.delete(MAP_JSON)
            if run_of_folder(store.uri) is not None:  # else they may be somebody's
                for picture in PICTURE_FILES:
                    store.delete(picture)
            # By this a reader sees that other points were put there.
            about[POINTS_DIGEST] = write_points(store, points)
            if fitted is not None:
                save_map(store, with_counts(fitted, points).with_info(**about))
            else:
                about |= {"format_version": FORMAT_VERSION}
                about |= {"points": {"rows": points.num_rows}}
                write_info(store, {**about, "versions": library_versions()})

    @cached_property
    def fitted(self) -> FittedMap | None:
        """The map on which new rows are placed; None for points alone."""
        if self._stored is None or "placement" not in self._stored.info:
            return None
        return load_map(self._stored.same())

    @cached_property
    def _points(self) -> pa.Table:
        """All points, sorted; read from the map's folder when they are first needed."""
        stored = self._stored
        return self._given if stored is None else read_points(stored.same())

    @cached_property
    def data(self) -> pd.DataFrame:
        """A pandas DataFrame, a row a tile, by slide, then tile index.

        Columns are `slide`, `x`, `y`, `tile_index`, `loc_x`, `loc_y`, `knn_distance`,
        `label` where the map has named regions or clusters, or tiles have labels, and
        once asked for `label`, `cluster`, `num_unique_neighbors` and
        `percent_matching_categories`. The index says which of the sorted points a row is.
        """
        frame: pd.DataFrame = self._points.select(_SHOWN).to_pandas()
        if self._own_labels is not None:
            frame[LABEL] = self._own_labels
        if self._by_slide is not None:
            frame[LABEL] = frame[schema.SLIDE].map(self._by_slide)
        return frame

    @cached_property
    def _own_labels(self) -> "pd.Series[Any] | None":
        """Labels that the map has by itself, of all points: of its regions, or tiles."""
        own = self._points[schema.LABEL]
        if self._labels_stored is not None:
            return self._labels_stored(self._points).to_pandas()
        n_labels = pc.count_distinct(own).as_py()
        if n_labels > MOST_LABELS:
            say_too_many_labels()
        return own.to_pandas() if 0 < n_labels <= MOST_LABELS else None

    @cached_property
    def _labels_stored(self) -> Label | None:
        """The labels by regions or clusters that were stored beside the map, if any."""
        return None if self._stored is None else stored_labels(self._stored.store)

    def _is_read(self) -> bool:
        return "data" in vars(self)

    @property
    def points(self) -> pa.Table:
        """The points with their full reference, row for row those of `data`."""
        if not self._is_read() or self._has_all_rows():
            return self._points
        return self._points.take(pa.array(self._rows()))

    def _has_all_rows(self) -> bool:
        """Whether `data` has all points in their order."""
        return np.array_equal(self._rows(), np.arange(self._points.num_rows))

    def _rows(self) -> NDArray[np.int64]:
        """Which of the points each row of `data` is."""
        return rows_of(self._points, self.data)

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
        if self._stored is not None and not self._is_read():
            return self._stored.slides
        return sorted(self.data[schema.SLIDE].unique())

    def __len__(self) -> int:
        """Number of points."""
        told = None if self._stored is None else self._stored.n_points
        return len(self.data) if told is None or self._is_read() else told

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

    def label(
        self,
        meta: str,
        translate: Mapping[Any, Any] | Callable[[Any], Any] | None = None,
    ) -> None:
        """Label by a column of `data`, its values translated if asked.

        Raises:
            MapError: There is no such column.
        """
        if meta == schema.SLIDE:
            names = pd.Series(self.slides, index=self.slides)
            if translate is not None and not callable(translate):
                translate = labels_of_slides(translate, self.slides)
            self._by_slide = translated(names, translate)
            if self._is_read():
                self.data[LABEL] = self.data[schema.SLIDE].map(self._by_slide)
            return
        if meta not in self.data.columns:
            message = f"no column {meta!r} to label by: {', '.join(self.data.columns)}"
            raise MapError(message)
        self.data[LABEL] = translated(self.data[meta], translate)

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

    @property
    def layer(self) -> str:
        """The layer that was mapped; MapError if the run has several, and none told."""
        if self._layer is None:
            self._layer = only_layer(self._run())
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

    def generate_mosaic(  # noqa: PLR0913  (of the class)
        self,
        *,
        tfrecords: TFRecords | None = None,
        num_tiles_x: int | None = MosaicConfig.num_tiles_x,
        select: str = MosaicConfig.select,
        grid: str = MosaicConfig.grid,
        tile_select: str | None = None,
        cell_px: int = MosaicConfig.cell_px,
        labels: Labels | Literal[False] | None = None,
        features: ArrayLike | None = None,
        seed: int = Rule.seed,
        max_dist: float | None = None,
        layout: str = MosaicConfig.layout,
    ) -> Mosaic:
        """The map drawn with the tiles themselves.

        A whole map of a run is gone through part by part where it is stored, by the
        cluster if there are many parts; so are labels by slide. A map that was filtered,
        or has a label for each tile, is gone through in memory.

        Arguments are those of `Mosaic`, but for few tiles there are fewer columns by
        default. `tfrecords` defaults to the run's sources, and may
        be folders that its TFRecords and slides were moved to; `labels` to those set
        here, if they are words or at most 1,000 numbers (False: none); `features` to the activations
        where `select` needs them: in memory all are read at once, up to 4 GiB.

        Raises:
            MapError: Arguments that do not fit, features of more than 4 GiB, or a map of
                other rows than its run has now.
        """
        given = dict(locals())
        del given["self"]
        if self.run is not None:
            given["tfrecords"] = where(self.run, tfrecords, self.slides)
        return Mosaic(self, **given)

    build_mosaic = generate_mosaic
    explore = slide_map_page.explore
    inside = slide_map_page.inside
    on_slides = slide_map_page.on_slides
    _repr_html_ = slide_map_page.as_html

    def _is_stored(self) -> bool:
        """Whether all points of the map, and no others, are in its folder in a run."""
        if self._stored is None or not self._is_read():
            return self._stored is not None
        return self._has_all_rows() and self._stored.is_same()

    def _labels_set(self, *, stored: bool) -> Labels | Label | None:
        """Labels as frames show them; None without.

        Args:
            stored: Whether labels by slide, or those in the folder, are wanted if these
                are the ones.
        """
        if stored and self._is_labeled_by_slide():
            words = label_words(self._by_slide)
            if words is not None:
                return dict(zip(self.slides, words, strict=True))
            return None
        if stored and not self._is_labeled():
            own = tile_labels if self._run().has_tile_labels else None
            return self._labels_stored or own
        return label_words(self.data.get(LABEL))

    def _is_labeled_by_slide(self) -> bool:
        """Whether labels are still those that were given by slide."""
        own = self._by_slide
        if own is None or not self._is_read():
            return own is not None
        column = self.data.get(LABEL)
        if column is None or list(own.index) != self.slides:
            return False
        return bool(column.equals(self.data[schema.SLIDE].map(own)))

    def _is_labeled(self) -> bool:
        """Whether labels were set here, not by the run or its regions."""
        if not self._is_read() or self._is_labeled_by_slide():
            return self._by_slide is not None
        set_here, own = self.data.get(LABEL), self._own_labels
        return set_here is not None and (own is None or not set_here.equals(own))

    def _for_mosaic(
        self,
        labels: Labels | Literal[False] | None,
        features: ArrayLike | None,
        select: str,
    ) -> tuple["SlideMap | StoredPoints", Labels | Label | None, ArrayLike | None]:
        """What a mosaic of this map is made of: its points, labels and features.

        The points are those in the map's folder if they are all of them and their labels
        are by slide or in the folder too, else those in memory.

        Args:
            labels: As given, by slide or one for each point; None: those set here.
            features: As given.
            select: `medoid` needs features.

        Raises:
            MapError: Features of more than 4 GiB are needed, or the map is of other rows
                than the run has now.
        """
        run, slides = self.run, self.slides
        stored = self._stored if features is None and self._is_stored() else None
        shown: Labels | Label | None = None if labels is False else labels
        if labels is None:
            shown = self._labels_set(stored=stored is not None)
        elif stored is not None and shown is not None and are_by_slide(shown, slides):
            shown = labels_of_slides(shown, slides)
        if self._stored is not None:
            self._stored.check_rows()
        if stored is not None and (
            shown is None or callable(shown) or are_by_slide(shown, slides)
        ):
            return self._clustered(stored), shown, None
        if run is not None and select == "medoid" and features is None:
            check_feature_bytes(run, self.layer, len(self.data))
            features = self.activations()
        return self, shown, features

    def _clustered(self, stored: StoredPoints) -> StoredPoints:
        """The stored points, gone through by the cluster if there are many parts."""
        from raylatent.engine.cells import ClusterPoints  # noqa: PLC0415  (ray: slow)

        uri, most_s = stored.same().uri, self._stall_timeout_s
        found = ClusterPoints(uri, stored.run, self._layer, stall_timeout_s=most_s)
        found.info, found.part_names = stored.info, stored.part_names
        return found

    def _run(self) -> RunDirectory:
        if self.run is None:
            message = "this map belongs to no run, so its activations are not known"
            raise MapError(message)
        return self.run

    def _read(self, column: str) -> NDArray[np.floating]:
        if self._stored is not None:
            self._stored.check_rows()
        return read_vectors(self._run(), self.points, column)
