"""Project and Dataset: a folder of TFRecords and annotations, in Slideflow's words."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from raylatent.annotations import SLIDE_COLUMN, Row, read_annotations, slide_labels
from raylatent.dataset_features import DatasetFeatures
from raylatent.errors import AnnotationsError, ConfigError, SourceError
from raylatent.mosaic import Mosaic
from raylatent.source.find import find_tfrecords
from raylatent.storage import Store, absolute

ANNOTATIONS = "annotations.csv"
_FOLDER = re.compile(r"^(\d+)px_(.+)$")

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
    """

    def __init__(  # noqa: PLR0913
        self,
        files: Mapping[str, str],
        *,
        root: str,
        tile_px: int | None = None,
        tile_um: int | str | None = None,
        annotations: Sequence[Row] = (),
        filters: Filters | None = None,
        filter_blank: str | Sequence[str] = (),
    ) -> None:
        """See the class."""
        self.root = root
        self.tile_px = tile_px
        self.tile_um = tile_um
        self.annotations = list(annotations)
        self.filters = {k: _values(v) for k, v in (filters or {}).items()}
        self.filter_blank = _values(filter_blank)
        self._files = dict(files)
        if self.filters or self.filter_blank:
            kept = {row[SLIDE_COLUMN] for row in self.annotations if self._keeps(row)}
            self._files = {s: uri for s, uri in files.items() if s in kept}
            if not self._files:
                message = f"no slide is left by the filters {self.filters}"
                raise SourceError(message)

    def _keeps(self, row: Row) -> bool:
        for column in (*self.filters, *self.filter_blank):
            if column not in row:
                message = (
                    f"annotations have no column {column!r} (they have "
                    f"{', '.join(row)})"
                )
                raise AnnotationsError(message)
        return all(row[c] in allowed for c, allowed in self.filters.items()) and all(
            row[c] for c in self.filter_blank
        )

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
        )

    def slides(self) -> list[str]:
        """Names of the slides, sorted."""
        return sorted(self._files)

    def tfrecords(self) -> list[str]:
        """Their files."""
        return [self._files[slide] for slide in self.slides()]

    def labels(
        self, column: str, *, format: Literal["index", "name"] = "index"  # noqa: A002
    ) -> tuple[dict[str, Any], list[str]]:
        """Label of each slide, and the labels there are, sorted.

        Args:
            column: Of the annotations.
            format: `name` for the labels themselves, `index` for their position among
                the sorted ones.

        Raises:
            AnnotationsError: There are no annotations, or no such column.
        """
        if format not in {"index", "name"}:
            message = f"format is {format!r}, not 'index' or 'name'"
            raise ConfigError(message)
        if not self.annotations:
            message = f"{self.root} has no {ANNOTATIONS}, so slides have no labels"
            raise AnnotationsError(message)
        found = slide_labels(self.annotations, column, where=f"{self.root}")
        names = {s: label for s, label in found.items() if s in self._files}
        unique = sorted(set(names.values()))
        if format == "name":
            return dict(names), unique
        return {s: unique.index(label) for s, label in names.items()}, unique

    def features_folder(self, model: str) -> str:
        """Where activations go: `<root>/features/<model>-<fingerprint>`.

        The part in braces is filled in once it is known. Filtered datasets have
        folders of their own, so that none sets the other's slides aside.
        """
        about = [self.tile_px, self.tile_um, self.filters, self.filter_blank]
        digest = hashlib.blake2b(json.dumps(about).encode(), digest_size=3).hexdigest()
        name = re.sub(r"[^\w.-]+", "_", model).strip(".") or "model"
        return f"{self.root}/features/{name}-{{fingerprint}}-{digest}"


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

    def __init__(self, root: str) -> None:
        """See the class."""
        self.root = absolute(root)
        self._store = Store(self.root)
        if not self._store.list():
            message = f"no such project: {root} is not there, or is empty"
            raise SourceError(message)
        path = f"{self.root}/{ANNOTATIONS}"
        found = self._store.exists(ANNOTATIONS)
        self.annotations: list[Row] = read_annotations(path) if found else []

    def dataset(
        self,
        tile_px: int | None = None,
        tile_um: int | str | None = None,
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
        folder = self.root
        if self._store.list("tfrecords"):
            folder = f"{self.root}/tfrecords"
        files = find_tfrecords([folder], below=self._size_folder(folder, tile_px, tile_um))
        return Dataset(
            files,
            root=self.root,
            tile_px=tile_px,
            tile_um=tile_um,
            annotations=self.annotations,
            filters=filters,
            filter_blank=filter_blank,
        )

    def _size_folder(
        self, folder: str, tile_px: int | None, tile_um: int | str | None
    ) -> str | None:
        """The name of the folder of one tile size, None where no folder is named so."""
        sizes = sorted(
            {
                part
                for name in Store(folder).list()
                if name.endswith((".tfrecords", ".tfrecord"))
                for part in name.split("/")[:-1]
                if _FOLDER.match(part)
            }
        )
        if not sizes:
            return None
        if tile_px is None and len(sizes) == 1:
            return sizes[0]
        um = f"{tile_um}um" if isinstance(tile_um, int | float) else str(tile_um)
        wanted = f"{tile_px}px_{um}".lower()
        fitting = [
            size
            for size in sizes
            if size.lower() == wanted
            or (tile_um is None and size.startswith(f"{tile_px}px_"))
        ]
        if len(fitting) != 1:
            message = (
                f"{folder} has no tiles of {tile_px} px, {tile_um} um: it has "
                f"{', '.join(sizes)}"
            )
            raise SourceError(message)
        return fitting[0]

    def generate_features(
        self, model: object, dataset: Dataset | None = None, **options: Any  # noqa: ANN401
    ) -> DatasetFeatures:
        """Activations of a dataset; default all slides.

        Args:
            model: As of DatasetFeatures.
            dataset: Which slides.
            **options: As of DatasetFeatures; `outdir` defaults to
                `<root>/features/<model>-<fingerprint>`.
        """
        return DatasetFeatures(model, dataset or self.dataset(), **options)

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
        return features.map_activations(**(umap_kwargs or {})).generate_mosaic(**options)
