"""DatasetFeatures: the activations of a dataset, a lazy handle on a run's Parquet."""

import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from raylatent import notebook, schema
from raylatent.arguments import option_values, with_options
from raylatent.config import ActivationsConfig, MapConfig
from raylatent.dataset import Dataset, Paths, inputs_of, refuse_failed
from raylatent.engine.activations import compute_activations
from raylatent.engine.map_building import build_map
from raylatent.errors import ConfigError, MapError, RunError
from raylatent.mapping.umap_learn import MapParameters
from raylatent.model.layers import layer_names
from raylatent.model.spec import model_spec, with_overrides
from raylatent.run import RunDirectory
from raylatent.slide_map import SlideMap
from raylatent.storage import Store
from raylatent.stored.arrays import (
    SlideArrays,
    StoredArrays,
    write_bag,
    write_bags_config,
)

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

# Arguments that are options of the model, or are made into options.
_OWN = frozenset({"layers", "model", "pooling", "tile_px"})


@with_options(ActivationsConfig)
class DatasetFeatures:
    """Activations of every tile of a dataset.

    Computes what is missing, then is a handle on the run directory: opening it reads the
    plan and no rows, arrays are read when they are asked for.

    Attributes:
        slides: Names of the slides that have tiles, sorted.
        activations: By slide, (n, features) in tile order: layers concatenated, one
            layer alone in its own shape. Bad tiles are missing here and below alike.
        predictions: By slide, float32 (n, classes); empty where none are stored.
        locations: By slide, (n, 2): x, y of the tiles' centers in level-0 pixels.

    Args:
        model: A model folder, `timm:NAME`, `hf-hub:REPO@REVISION`, an nn.Module or a
            ModelSpec.
        dataset: A Dataset, or files and folders of TFRecords, of whole slides (beside
            `tile_um=`) or of pictures that are tiles, of whatever kind each path is.
        layers: Names of layers, or `postconv`.
        outdir: The run directory; default in the dataset's project.
        layer: The same as `layers`.
        pooling: `avg`, `max` or `cls`; None stores all numbers, and says how many
            gigabytes where they are many.
        include_preds: Store predictions; default if the model has classes.
        tile_px: Side of the tiles, where the model does not say.
        mean: Of each channel of pixels scaled to 0..1, where the model does not say.
        std: Of each channel, where the model does not say.
        classes: Names or number of the classes, where the model does not say.
        slides: Whole slides, folders of them or URIs; by default the dataset's.
        tiles: Folders of pictures that are tiles; by default the dataset's.
        tile_um: Side of the slides' tiles in micrometers, or a magnification as `10x`; by
            default the dataset's.
        annotations: A CSV with a `slide` column; by default the project's.
        ...: The options of `raylatent activations`.

    Raises:
        IncompleteError: Some slide failed; all others are finished and kept.
        RaylatentError: See `compute_activations`.
    """

    def __init__(  # noqa: PLR0913  (Slideflow's signature, and what a module lacks)
        self,
        model: object,
        dataset: Dataset | Paths,
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
        tiles: Paths | None = None,
        tiles_pattern: str = ActivationsConfig.tiles_pattern,
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
    ) -> None:
        """Compute what is missing."""
        given = {name: v for name, v in locals().items() if name not in _OWN}
        spec = model_spec(model, allow_pickle=allow_pickle)
        if tile_px is None and spec.tile_px is None and spec.hub is None:
            tile_px = getattr(dataset, "tile_px", None)
        spec = with_overrides(
            spec, tile_px=tile_px, mean=mean, std=std, classes=classes
        )
        options = {
            **inputs_of(dataset),
            **option_values(ActivationsConfig, given),
            "model": spec.name,
            "layers": tuple(layer_names(layers, layer)),
            "pooling": pooling or "none",
            "out": _folder(outdir, dataset, spec.name),
        }
        report = compute_activations(ActivationsConfig(**options), spec)
        refuse_failed(report, f"finished: DatasetFeatures.open({report.run!r})")
        self._attach([RunDirectory.open(report.run)])

    def __repr__(self) -> str:
        """How many slides, and where."""
        return f"DatasetFeatures({len(self.slides)} slides in {self._runs[0].uri})"

    def _repr_html_(self) -> str:
        """How many tiles of which slides, and of which layers."""

        def rows() -> dict[str, object]:
            every = [pair for run in self._runs for pair in run.layers().items()]
            indexed = self._runs[0].sources()[schema.N_INDEXED].to_pylist()
            return {
                "run": ", ".join(run.uri for run in self._runs),
                "slides": f"{len(self.slides):,}: {notebook.listed(self.slides)}",
                "tiles": sum(indexed),
                "layers": notebook.listed([f"{name} {n}" for name, n in every]),
                "classes": notebook.listed(self.classes or []) or self.num_classes,
            }

        return notebook.card("DatasetFeatures", rows)

    @classmethod
    def open(cls, run: str | os.PathLike[str]) -> "DatasetFeatures":
        """A finished run: its plan is read, no rows; RunError if there is none."""
        self = cls.__new__(cls)
        self._attach([RunDirectory.open(os.fspath(run))])
        return self

    @classmethod
    def concat(cls, sets: "Sequence[DatasetFeatures]") -> "DatasetFeatures":
        """Several sets side by side: tiles that all have, their features joined.

        Tiles are the same if slide and tile index are. Predictions and locations are
        those of the first set.

        Raises:
            RunError: No set was given, or no slide is in all of them.
        """
        self = cls.__new__(cls)
        self._attach([run for one in sets for run in one._runs])
        return self

    def _attach(self, runs: list[RunDirectory]) -> None:
        self._stored = StoredArrays(runs)
        self.slides = self._stored.slides
        with_preds = self.slides if self.num_classes else []
        self.activations = SlideArrays(self.slides, self._stored.activations)
        self.predictions = SlideArrays(with_preds, self._stored.predictions)
        self.locations = SlideArrays(self.slides, self._stored.locations)

    @property
    def _runs(self) -> list[RunDirectory]:
        return self._stored.runs

    @property
    def run(self) -> RunDirectory:
        """The run directory; RunError for several side by side."""
        if len(self._runs) != 1:
            message = "several runs side by side have no run directory of their own"
            raise RunError(message)
        return self._runs[0]

    @property
    def num_features(self) -> int:
        """Features of one tile, all layers together, flattened."""
        return self._stored.num_features

    @property
    def num_classes(self) -> int:
        """Predictions of one tile, 0 where none are stored."""
        return int(self._runs[0].settings().get("num_classes") or 0)

    @property
    def classes(self) -> list[str] | None:
        """Names of the classes, where the model has them."""
        names = self._runs[0].settings().get("classes")
        return None if names is None else list(names)

    def to_df(self) -> "pd.DataFrame":
        """All tiles as a DataFrame: index `slide`, arrays in columns as Slideflow's.

        Everything is read into memory: for large runs query the Parquet instead. Slides
        that have no part are left out, with a warning.
        """
        import pandas as pd  # noqa: PLC0415  (slow)

        frames = []
        for slide in self._with_parts():
            columns: dict[str, Any] = {
                "tfr_index": self._stored.indices(slide),
                "locations": list(self.locations[slide]),
                "activations": list(self.activations[slide]),
            }
            if slide in self.predictions:
                columns["predictions"] = list(self.predictions[slide])
            frame = pd.DataFrame(columns)
            frame["slide"] = slide
            # Without a name: "slide" would be both a column and a level of the index.
            frames.append(frame.set_index("slide", drop=False).rename_axis(None))
        return pd.concat(frames) if frames else pd.DataFrame()

    def _with_parts(self) -> list[str]:
        """Slides that have rows to read; the others are said in one warning."""
        found = [slide for slide in self.slides if self._stored.has_parts(slide)]
        without = sorted(set(self.slides).difference(found))
        if without:
            logger.warning(
                "%d of %d slides have no part and are left out, as %r: see report.json",
                *(len(without), len(self.slides), without[0]),
            )
        return found

    def to_torch(
        self, outdir: str | os.PathLike[str], slides: Sequence[str] | None = None
    ) -> None:
        """Bags as Slideflow's: `{slide}.pt`, `{slide}.index.npz`, `bags_config.json`.

        Args:
            outdir: A folder or URI.
            slides: Which; default all that have a part.

        Raises:
            RunError: There is no such slide, or it has no part.
        """
        store = Store(outdir)
        wanted = self._with_parts() if slides is None else list(slides)
        unknown = [slide for slide in wanted if slide not in self.activations]
        if unknown:
            message = f"there are no rows of slide {unknown[0]!r}"
            raise RunError(message)
        for slide in wanted:
            write_bag(store, slide, self.activations[slide], self.locations[slide])
        write_bags_config(store, self._runs[0].settings(), self.num_features)

    def map_activations(  # noqa: PLR0913  (UMAP's)
        self,
        *,
        layer: str = "",
        name: str = MapConfig.map,
        n_neighbors: int = MapConfig.n_neighbors,
        min_dist: float = MapConfig.min_dist,
        metric: str = MapConfig.metric,
        sample: int = MapConfig.sample,
        seed: int = MapConfig.seed,
        placement: str = MapConfig.placement,
        stall_timeout_s: float = MapConfig.stall_timeout_s,
        **umap: Any,  # noqa: ANN401  (UMAP's)
    ) -> SlideMap:
        """Fit UMAP on a sample and place every tile.

        The same arguments again open the stored map, others replace it.

        Args:
            layer: Which layer; the first where it is left out.
            name: The map's folder below `maps/` of the run.
            n_neighbors: UMAP's.
            min_dist: UMAP's.
            metric: UMAP's.
            sample: How many tiles UMAP is fitted on.
            seed: Of the sample, the fit and ties.
            placement: `rows`: each by itself, or `umap-learn`: by its own transform.
            stall_timeout_s: With nothing finished for so long, the work ends.
            **umap: Any other argument of umap.UMAP.

        Raises:
            MapError: An argument that a map cannot honor.
        """
        if len(self._runs) != 1:
            message = "map each run by itself: sets side by side cannot be mapped yet"
            raise MapError(message)
        layers = [*self.run.layers()]
        if not layer and len(layers) > 1:
            logger.warning("of layers %s the first is mapped", ", ".join(layers))
        parameters = MapParameters.of(
            n_neighbors=n_neighbors,
            min_dist=min_dist,
            metric=metric,
            sample=sample,
            seed=seed,
            placement=placement,
            **umap,
        )
        folder = build_map(
            self.run.uri,
            parameters,
            layer=layer,
            name=name,
            stall_timeout_s=stall_timeout_s,
        )
        return SlideMap.load(folder, stall_timeout_s=stall_timeout_s)


def _folder(
    outdir: str | os.PathLike[str] | None, dataset: Dataset | Paths, model: str
) -> str:
    """The run directory: as given, else in the dataset's project."""
    if outdir is not None:
        return os.fspath(outdir)
    if isinstance(dataset, str | os.PathLike | Sequence):
        message = "outdir= is missing: where the run directory shall be"
        raise ConfigError(message)
    return dataset.features_folder(model)
