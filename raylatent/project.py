"""Project and Dataset: a folder of TFRecords and annotations, in Slideflow's words."""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from raylatent.annotations import SLIDE_COLUMN, Row, read_annotations, slide_labels
from raylatent.dataset_features import DatasetFeatures
from raylatent.errors import AnnotationsError, ConfigError, SourceError
from raylatent.model.spec import model_spec
from raylatent.mosaic import Mosaic
from raylatent.source.find import find_tfrecords
from raylatent.source.sizes import choose_size, size_folders
from raylatent.storage import Store, absolute

ANNOTATIONS = "annotations.csv"

Filters = Mapping[str, "str | Sequence[str]"]


class Dataset:
    """Slides with tiles of one size, and what the annotations say of them.

    Args:
        files: TFRecord of each slide.
        root: The project's folder; where runs go.
        tile_px: Side of the tiles in pixels.
        tile_um: Side in micrometers, or a magnification as `10x`.
        annotations: Rows, each with a `slide`.
        filters: Allowed values of columns.
        filter_blank: Columns that must not be empty.
        variant: What tells these tiles from others that the project has of the same
            slides, as `299px_10x`; empty where it has no others.

    Raises:
        AnnotationsError: A filter's column is not in the annotations.
        SourceError: The filters leave no slide.
    """

    def __init__(  # noqa: PLR0913  (what a project knows of it)
        self,
        files: Mapping[str, str],
        *,
        root: str,
        tile_px: int | None = None,
        tile_um: float | str | None = None,
        annotations: Sequence[Row] = (),
        filters: Filters | None = None,
        filter_blank: str | Sequence[str] = (),
        variant: str = "",
    ) -> None:
        """See the class."""
        self.root = root
        self.variant = variant
        self.tile_px = tile_px
        self.tile_um = tile_um
        self.annotations = list(annotations)
        self.filters = {k: _values(v) for k, v in (filters or {}).items()}
        self.filter_blank = _values(filter_blank)
        self._files = dict(files)
        if self.filters or self.filter_blank:
            if not self.annotations:
                message = (
                    f"{root} has no {ANNOTATIONS}, so there is nothing to filter by"
                )
                raise AnnotationsError(message)
            kept = {row[SLIDE_COLUMN] for row in self.annotations if self._keeps(row)}
            self._files = {s: uri for s, uri in files.items() if s in kept}
            if not self._files:
                message = (
                    f"no slide of {root} is left by filters {self.filters} and "
                    f"filter_blank {self.filter_blank}"
                )
                raise SourceError(message)

    def __repr__(self) -> str:
        """How many slides, of which tiles."""
        size = f"tile_px={self.tile_px}, tile_um={self.tile_um!r}"
        return f"Dataset({len(self._files)} slides, {size})"

    def _keeps(self, row: Row) -> bool:
        for column in (*self.filters, *self.filter_blank):
            if column not in row:
                have = ", ".join(row)
                message = f"annotations have no column {column!r} (they have {have})"
                raise AnnotationsError(message)
        allowed = all(row[column] in values for column, values in self.filters.items())
        return allowed and all(row[column] for column in self.filter_blank)

    def filter(
        self, filters: Filters, filter_blank: str | Sequence[str] = ()
    ) -> "Dataset":
        """The slides among these that have allowed values."""
        return Dataset(
            self._files,
            root=self.root,
            tile_px=self.tile_px,
            tile_um=self.tile_um,
            annotations=self.annotations,
            filters={**self.filters, **filters},
            filter_blank=[*self.filter_blank, *_values(filter_blank)],
            variant=self.variant,
        )

    def slides(self) -> list[str]:
        """Names of the slides, sorted."""
        return sorted(self._files)

    def tfrecords(self) -> list[str]:
        """Their files."""
        return [self._files[slide] for slide in self.slides()]

    def labels(
        self, column: str, *, format: Literal["index", "name"] = "index"
    ) -> tuple[dict[str, Any], list[str]]:
        """Label of each slide, and the labels there are, sorted.

        Args:
            column: Of the annotations.
            format: `name` for the labels themselves, `index` for their position among
                the sorted ones.

        Raises:
            AnnotationsError: There are no annotations, no such column, or no label of
                any of the slides.
        """
        if format not in {"index", "name"}:
            message = f"format is {format!r}, not 'index' or 'name'"
            raise ConfigError(message)
        if not self.annotations:
            message = f"{self.root} has no {ANNOTATIONS}, so slides have no labels"
            raise AnnotationsError(message)
        found = slide_labels(self.annotations, column, where=f"{self.root}")
        names = {s: label for s, label in found.items() if s in self._files}
        if not names:
            some = ", ".join(self.slides()[:3])
            message = (
                f"annotations of {self.root} label no slide of these ({some}) in "
                f"{column!r}: their column {SLIDE_COLUMN!r} must have the files' stems"
            )
            raise AnnotationsError(message)
        unique = sorted(set(names.values()))
        if format == "name":
            return dict(names), unique
        return {s: unique.index(label) for s, label in names.items()}, unique

    def features_folder(self, model: str) -> str:
        """Where activations go: `<root>/features/<model>-<fingerprint>`.

        The part in braces is filled in once it is known. Filtered datasets, and sizes
        of tiles where there are several, have their own: none sets aside the others'.
        """
        name = re.sub(r"[^\w.-]+", "_", model).strip(".") or "model"
        folder = f"{self.root}/features/{name}-{{fingerprint}}"
        filters = {column: sorted(set(v)) for column, v in self.filters.items()}
        about = [self.variant, filters, sorted(set(self.filter_blank))]
        if not any(about):
            return folder
        text = json.dumps(about, sort_keys=True)
        return f"{folder}-{hashlib.blake2b(text.encode(), digest_size=3).hexdigest()}"


def _values(values: "str | Sequence[str]") -> list[str]:
    return [values] if isinstance(values, str) else [str(value) for value in values]


class Project:
    """A folder with `annotations.csv` and TFRecords.

    TFRecords are looked for in `<root>/tfrecords` where that exists, else in the whole
    folder, below `<tile_px>px_<tile_um>um` or `<tile_px>px_10x` as Slideflow calls it.

    Args:
        root: A local folder or a URI.

    Raises:
        SourceError: There is no such folder.
        AnnotationsError: annotations.csv has no column `slide`.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        """See the class."""
        self.root = absolute(root)
        self._store = Store(self.root)
        if not self._store.list():
            message = f"no such project: {root} is not there, or is empty"
            raise SourceError(message)
        path = f"{self.root}/{ANNOTATIONS}"
        found = self._store.exists(ANNOTATIONS)
        self.annotations: list[Row] = read_annotations(path) if found else []

    def __repr__(self) -> str:
        """Where it is."""
        return f"Project({self.root!r})"

    def dataset(
        self,
        tile_px: int | None = None,
        tile_um: float | str | None = None,
        *,
        filters: Filters | None = None,
        filter_blank: str | Sequence[str] = (),
    ) -> Dataset:
        """The slides that have tiles of a size.

        Args:
            tile_px: Side of the tiles in pixels; may be left out where there is one.
            tile_um: Side in micrometers, or a magnification as `10x`.
            filters: Allowed values of annotation columns.
            filter_blank: Columns that must not be empty.

        Raises:
            SourceError: There are no such tiles; the message lists the sizes there are.
        """
        folder = self._tiles_folder()
        sizes = size_folders(folder)
        below = choose_size(sizes, tile_px, tile_um, where=folder)
        return Dataset(
            find_tfrecords([folder], below=below),
            root=self.root,
            tile_px=tile_px,
            tile_um=tile_um,
            annotations=self.annotations,
            filters=filters,
            filter_blank=filter_blank,
            variant=below if below and len(sizes) > 1 else "",
        )

    def _tiles_folder(self) -> str:
        inside = self._store.list("tfrecords")
        return f"{self.root}/tfrecords" if inside else self.root

    def generate_features(
        self,
        model: object,
        dataset: Dataset | None = None,
        **options: Any,  # noqa: ANN401
    ) -> DatasetFeatures:
        """Activations of a dataset; default all slides.

        Args:
            model: As of DatasetFeatures.
            dataset: Which slides; where the project has several sizes of tiles the
                default is the model's.
            **options: As of DatasetFeatures; `outdir` defaults to
                `<root>/features/<model>-<fingerprint>`.
        """
        if dataset is None:
            several = len(size_folders(self._tiles_folder())) > 1
            pickles = bool(options.get("allow_pickle"))
            tile_px = model_spec(model, allow_pickle=pickles).tile_px
            dataset = self.dataset(tile_px if several else None)
        return DatasetFeatures(model, dataset, **options)

    def generate_mosaic(
        self,
        features: DatasetFeatures,
        *,
        umap_kwargs: Mapping[str, Any] | None = None,
        **options: Any,  # noqa: ANN401
    ) -> Mosaic:
        """The mosaic of a dataset's map.

        Args:
            features: The activations.
            umap_kwargs: As of `DatasetFeatures.map_activations`.
            **options: As of Mosaic.
        """
        slide_map = features.map_activations(**(umap_kwargs or {}))
        return slide_map.generate_mosaic(**options)
