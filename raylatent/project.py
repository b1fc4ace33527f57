"""Project: a folder of slides, TFRecords and annotations, in Slideflow's words."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from raylatent.annotations import Row, read_annotations
from raylatent.config import ExtractTilesConfig
from raylatent.dataset import ANNOTATIONS, Dataset, Filters
from raylatent.dataset_features import DatasetFeatures
from raylatent.engine.extraction import extract_tiles
from raylatent.errors import IncompleteError, SourceError
from raylatent.model.spec import model_spec
from raylatent.mosaic import Mosaic
from raylatent.source.find import choose_size, find_tfrecords, size_folders
from raylatent.source.slides import find_slides
from raylatent.source.wsi import size_name
from raylatent.storage import Store, absolute

SLIDES = "slides"


class Project:
    """A folder with `annotations.csv` and TFRecords, or whole slides.

    TFRecords are looked for in `<root>/tfrecords` where that exists, else in the whole
    folder, below `<tile_px>px_<tile_um>um` or `<tile_px>px_10x` as Slideflow calls it.
    Where there are none of a size, tiles are cut out of the slides in `<root>/slides`.

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
        """The slides that have tiles of a size, or whose tiles can be cut in that size.

        Args:
            tile_px: Side of the tiles in pixels; may be left out where TFRecords have
                only one.
            tile_um: Side in micrometers, or a magnification as `10x`; likewise.
            filters: Allowed values of annotation columns.
            filter_blank: Columns that must not be empty.

        Raises:
            SourceError: There are no such tiles; the message lists the sizes there are.
        """
        folder = self._tiles_folder()
        sizes = size_folders(folder)
        if tile_px is not None and tile_um is not None:
            size = size_name(tile_px, tile_um)
            others = bool(sizes) or not self._store.list("tfrecords")
            if size not in sizes and others and self._store.list(SLIDES):
                return self._whole_slides(tile_px, tile_um, filters, filter_blank)
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

    def _whole_slides(
        self,
        tile_px: int,
        tile_um: float | str,
        filters: Filters | None,
        filter_blank: str | Sequence[str],
    ) -> Dataset:
        return Dataset(
            find_slides([f"{self.root}/{SLIDES}"]),
            root=self.root,
            tile_px=tile_px,
            tile_um=tile_um,
            annotations=self.annotations,
            filters=filters,
            filter_blank=filter_blank,
            variant=size_name(tile_px, tile_um),
            whole=True,
        )

    def extract_tiles(
        self,
        tile_px: int,
        tile_um: float | str,
        *,
        filters: Filters | None = None,
        filter_blank: str | Sequence[str] = (),
        **options: Any,  # noqa: ANN401
    ) -> Dataset:
        """Cut the slides in `<root>/slides` into TFRecords; the dataset of these.

        They go to `<root>/tfrecords/<size>`, `size` as `299px_302um`, with a page of
        the slides beside them, `slides.html`.

        Args:
            tile_px: Side of the tiles in pixels.
            tile_um: Side in micrometers, or a magnification as `10x`.
            filters: Allowed values of annotation columns.
            filter_blank: Columns that must not be empty.
            **options: Any other option of `raylatent extract-tiles`, as `img_format`.

        Raises:
            IncompleteError: Some slide failed; all others are finished and kept.
        """
        whole = self._whole_slides(tile_px, tile_um, filters, filter_blank)
        out = f"{self.root}/tfrecords/{size_name(tile_px, tile_um)}"
        report = extract_tiles(
            ExtractTilesConfig(out=out, **{**whole.inputs(), **options})
        )
        if report.failed:
            first = report.failed[0]
            message = (
                f"{len(report.failed)} of {len(report.slides)} slides failed, as "
                f"{first.slide!r}: {first.error} (the others are in {out})"
            )
            raise IncompleteError(message)
        return self.dataset(
            tile_px, tile_um, filters=filters, filter_blank=filter_blank
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
