"""SlideMap: the tiles of some slides as points of a map."""

import os
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from raylatent import schema
from raylatent.errors import MapError
from raylatent.mapping import statistics
from raylatent.mapping.figure import PICTURES
from raylatent.mapping.fitted import (
    FORMAT_VERSION,
    MAP_JSON,
    FittedMap,
    library_versions,
    read_info,
    write_info,
)
from raylatent.mapping.labeled import LABEL, LabeledPoints
from raylatent.mapping.points import read_points, read_vectors, write_points
from raylatent.mapping.quality import with_counts
from raylatent.montage import of_run
from raylatent.montage.points import select_of
from raylatent.mosaic import Mosaic
from raylatent.run import RUN_JSON, RunDirectory
from raylatent.source.names import SlideLabels, labels_given, match
from raylatent.storage import Store, absolute


class SlideMap(LabeledPoints):
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
        super().__init__(points)
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
        if of_run.is_picture(uri, PICTURES):
            self.save_plot(uri, **style)
            return
        if style:
            message = f"{sorted(style)[0]!r} is of plots, and {uri} is a folder"
            raise MapError(message)
        store = Store(uri)
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
        if not of_run.has_predictions(self._run()):
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
            options["tfrecords"] = of_run.where(self.run, given_files, self.slides)
        select = select_of(options.get("tile_select") or options.get("select", ""))
        given = options.get("features") is not None
        if select == "medoid" and self.run is not None and not given:
            of_run.check_feature_bytes(self.run, self.layer, len(self.data))
            options["features"] = self.activations()
        labels = of_run.words(self.data.get(LABEL))
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
