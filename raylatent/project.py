"""Project: a folder of slides, TFRecords and annotations, in Slideflow's words."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from raylatent.annotations import Row, read_annotations
from raylatent.arguments import option_values, with_options
from raylatent.config import ActivationsConfig, ExtractTilesConfig, MosaicConfig
from raylatent.dataset import ANNOTATIONS, Dataset, Filters, Paths, refuse_failed
from raylatent.dataset_features import DatasetFeatures
from raylatent.engine.extraction import extract_tiles
from raylatent.errors import SourceError
from raylatent.model.spec import model_spec
from raylatent.montage.points import Labels, Rule
from raylatent.mosaic import Mosaic
from raylatent.source.find import choose_size, find_tfrecords, size_folders
from raylatent.source.slides import find_slides
from raylatent.source.wsi import size_name
from raylatent.storage import Store, absolute
from raylatent.stored.mosaic_inputs import TFRecords

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
            tile_px=tile_px,
            tile_um=tile_um,
            variant=below if below and len(sizes) > 1 else "",
            **self._about(filters, filter_blank),
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
            tile_px=tile_px,
            tile_um=tile_um,
            variant=size_name(tile_px, tile_um),
            whole=True,
            **self._about(filters, filter_blank),
        )

    def _about(
        self, filters: Filters | None, filter_blank: str | Sequence[str]
    ) -> dict[str, Any]:
        return {
            "root": self.root,
            "annotations": self.annotations,
            "filters": filters,
            "filter_blank": filter_blank,
        }

    @with_options(ExtractTilesConfig)
    def extract_tiles(  # noqa: D417, PLR0913  (of the verb)
        self,
        tile_px: int,
        tile_um: float | str,
        *,
        filters: Filters | None = None,
        filter_blank: str | Sequence[str] = (),
        stride_div: float = ExtractTilesConfig.stride_div,
        mpp: float | None = None,
        allow_upsampling: bool = False,
        qc: str = ExtractTilesConfig.qc,
        grayspace_fraction: float = ExtractTilesConfig.grayspace_fraction,
        whitespace_fraction: float = ExtractTilesConfig.whitespace_fraction,
        icc: bool = False,
        annotations: str | os.PathLike[str] | None = None,
        img_format: str = ExtractTilesConfig.img_format,
        jpeg_quality: int = ExtractTilesConfig.jpeg_quality,
        actors: str | int = ExtractTilesConfig.actors,
        unit_tiles: int | None = None,
        max_bad_fraction: float = ExtractTilesConfig.max_bad_fraction,
        recheck: bool | None = None,
        overwrite: bool = False,
        stall_timeout_s: float = ExtractTilesConfig.stall_timeout_s,
    ) -> Dataset:
        """Cut the slides in `<root>/slides` into TFRecords; the dataset of these.

        They go to `<root>/tfrecords/<size>`, `size` as `299px_302um`, with a page of
        the slides beside them, `slides.html`.

        Args:
            tile_px: Side of the tiles in pixels.
            tile_um: Side in micrometers, or a magnification as `10x`.
            filters: Allowed values of annotation columns.
            filter_blank: Columns that must not be empty.
            annotations: A CSV with a `slide` column; by default the project's.
            ...: The options of `raylatent extract-tiles`.

        Raises:
            IncompleteError: Some slide failed; all others are finished and kept.
        """
        given = dict(locals())
        whole = self._whole_slides(tile_px, tile_um, filters, filter_blank)
        out = f"{self.root}/tfrecords/{size_name(tile_px, tile_um)}"
        options = {**whole.inputs(), **option_values(ExtractTilesConfig, given)}
        report = extract_tiles(ExtractTilesConfig(out=out, **options))
        refuse_failed(report, f"in {out}")
        return self.dataset(
            tile_px, tile_um, filters=filters, filter_blank=filter_blank
        )

    def _tiles_folder(self) -> str:
        inside = self._store.list("tfrecords")
        return f"{self.root}/tfrecords" if inside else self.root

    def generate_features(  # noqa: PLR0913  (of DatasetFeatures)
        self,
        model: object,
        dataset: Dataset | None = None,
        layers: str | Sequence[str] | None = None,
        *,
        outdir: str | os.PathLike[str] | None = None,
        layer: str | Sequence[str] | None = None,
        pooling: str | None = None,
        include_preds: bool | None = None,
        tile_px: int | None = None,
        mean: Sequence[float] | float | None = None,
        std: Sequence[float] | float | None = None,
        classes: Sequence[str] | int | None = None,
        slides: Paths | None = None,
        tile_um: str | float | None = None,
        stride_div: float = ActivationsConfig.stride_div,
        mpp: float | None = None,
        allow_upsampling: bool = False,
        qc: str = ActivationsConfig.qc,
        grayspace_fraction: float = ActivationsConfig.grayspace_fraction,
        whitespace_fraction: float = ActivationsConfig.whitespace_fraction,
        icc: bool = False,
        annotations: str | os.PathLike[str] | None = None,
        dtype: str = ActivationsConfig.dtype,
        actors: str | int = ActivationsConfig.actors,
        num_gpus: float | None = None,
        batch_size: int = ActivationsConfig.batch_size,
        unit_tiles: int | None = None,
        mixed_precision: bool | None = None,
        compile: bool = False,
        resize: bool | None = None,
        allow_pickle: bool = False,
        max_bad_fraction: float = ActivationsConfig.max_bad_fraction,
        recheck: bool | None = None,
        overwrite: bool = False,
        stall_timeout_s: float = ActivationsConfig.stall_timeout_s,
    ) -> DatasetFeatures:
        """Activations of a dataset; default all slides.

        Arguments are those of `DatasetFeatures`. `dataset` is by default that of all
        slides, with tiles of the model's size where the project has several; `outdir` is
        `<root>/features/<model>-<fingerprint>`.
        """
        given = dict(locals())
        del given["self"]
        if dataset is None:
            several = len(size_folders(self._tiles_folder())) > 1
            side = model_spec(model, allow_pickle=allow_pickle).tile_px
            given["dataset"] = self.dataset(side if several else None)
        return DatasetFeatures(**given)

    def generate_mosaic(  # noqa: PLR0913  (of Mosaic)
        self,
        features: DatasetFeatures,
        *,
        umap_kwargs: Mapping[str, Any] | None = None,
        tfrecords: TFRecords | None = None,
        num_tiles_x: int | None = MosaicConfig.num_tiles_x,
        select: str = MosaicConfig.select,
        grid: str = MosaicConfig.grid,
        tile_select: str | None = None,
        cell_px: int = MosaicConfig.cell_px,
        labels: Labels | Literal[False] | None = None,
        seed: int = Rule.seed,
        max_dist: float | None = None,
        layout: str = MosaicConfig.layout,
    ) -> Mosaic:
        """The mosaic of a dataset's map.

        `umap_kwargs` are arguments of `DatasetFeatures.map_activations`, all others
        those of `SlideMap.generate_mosaic`.
        """
        given = dict(locals())
        for name in ("self", "features", "umap_kwargs"):
            del given[name]
        slide_map = features.map_activations(**(umap_kwargs or {}))
        return slide_map.generate_mosaic(**given)
