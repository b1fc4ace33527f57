"""DatasetFeatures: the activations of a dataset, a lazy handle on a run's Parquet."""

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import reduce
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from raylatent import schema
from raylatent.config import ActivationsConfig
from raylatent.engine.activations import compute_activations
from raylatent.engine.placement import build_map
from raylatent.errors import ConfigError, IncompleteError, MapError, RunError
from raylatent.mapping.parameters import MapParameters
from raylatent.model.bags import bag_bytes
from raylatent.model.features import layer_names
from raylatent.model.spec import model_spec, with_overrides
from raylatent.parts import escape_partition
from raylatent.run import RunDirectory
from raylatent.slide_map import SlideMap
from raylatent.storage import Store

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[Any]
_OPTIONS = {f.name for f in fields(ActivationsConfig)}


class TileSource(Protocol):
    """What DatasetFeatures needs of a dataset; `raylatent.Dataset` is one."""

    tile_px: int | None

    def tfrecords(self) -> list[str]:
        """Files that hold the tiles."""
        ...

    def features_folder(self, model: str) -> str:
        """Where a run goes when no `outdir` is given."""
        ...


class SlideArrays(Mapping[str, Array]):
    """An array for each slide, read when it is asked for and not kept.

    Args:
        slides: Names, sorted.
        read: Reads one slide's array.
    """

    def __init__(self, slides: Sequence[str], read: Callable[[str], Array]) -> None:
        """See the class."""
        self._slides = list(slides)
        self._known = frozenset(slides)
        self._read = read

    def __getitem__(self, slide: str) -> Array:
        """The slide's array; KeyError names the slide."""
        if slide not in self._known:
            raise KeyError(slide)
        return self._read(slide)

    def __iter__(self) -> Iterator[str]:
        """Slides in order."""
        return iter(self._slides)

    def __len__(self) -> int:
        """Number of slides."""
        return len(self._slides)

    def __repr__(self) -> str:
        """What it is, without reading."""
        return f"<arrays of {len(self)} slides, read when asked for>"


class DatasetFeatures:
    """Activations of every tile of a dataset.

    Computes what is missing, then is a handle on the run directory: opening a run of
    100 million tiles costs nothing, arrays are read when they are asked for.

    Args:
        model: A model folder, `timm:NAME`, `hf-hub:REPO@REVISION`, an nn.Module or a
            ModelSpec.
        dataset: A Dataset, or paths of TFRecords.
        layers: Names of layers, or `postconv`.
        outdir: The run directory; default in the dataset's project.
        layer: The same as `layers`.
        pooling: `avg`, `max` or `cls`.
        include_preds: Store predictions; default if the model has classes.
        tile_px: Side of the tiles, where the model does not say.
        mean: Of each channel of pixels scaled to 0..1, where the model does not say.
        std: Likewise.
        classes: Names or number of the classes, where the model does not say.
        **options: Any other option of `raylatent activations`, as `dtype`, `actors`.

    Raises:
        IncompleteError: Some slide failed; all others are finished and kept.
        RaylatentError: See `compute_activations`.
    """

    def __init__(  # noqa: PLR0913  (Slideflow's signature, and what a module lacks)
        self,
        model: object,
        dataset: "TileSource | str | Sequence[str]",
        layers: str | Sequence[str] | None = None,
        *,
        outdir: str | None = None,
        layer: str | Sequence[str] | None = None,
        pooling: str | None = None,
        include_preds: bool | None = None,
        tile_px: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        classes: Sequence[str] | int | None = None,
        **options: Any,  # noqa: ANN401
    ) -> None:
        """Compute what is missing."""
        unknown = sorted(set(options) - _OPTIONS)
        if unknown:
            message = f"unknown option {unknown[0]!r}: {', '.join(sorted(_OPTIONS))}"
            raise ConfigError(message)
        spec = model_spec(model, allow_pickle=options.get("allow_pickle", False))
        given = {"tile_px": tile_px, "mean": mean, "std": std, "classes": classes}
        if spec.tile_px is None and tile_px is None:
            given["tile_px"] = getattr(dataset, "tile_px", None)
        spec = with_overrides(spec, **given)
        config = ActivationsConfig(
            tfrecords=_tfrecords(dataset),
            model=spec.name,
            layers=tuple(layer_names(layers, layer)),
            pooling=pooling or "none",
            include_preds=include_preds,
            out=outdir or _default_folder(dataset, spec.name),
            **options,
        )
        report = compute_activations(config, spec)
        if report.failed:
            first = report.failed[0]
            message = (
                f"{len(report.failed)} of {len(report.slides)} slides failed, as "
                f"{first.slide!r}: {first.error} (the others are finished: "
                f"DatasetFeatures.open({report.run!r}))"
            )
            raise IncompleteError(message)
        self._attach([RunDirectory.open(report.run)])

    @classmethod
    def open(cls, run: str) -> "DatasetFeatures":
        """A finished run.

        Raises:
            RunError: There is no run.
        """
        self = cls.__new__(cls)
        self._attach([RunDirectory.open(run)])
        return self

    @classmethod
    def concat(cls, sets: "Sequence[DatasetFeatures]") -> "DatasetFeatures":
        """Several sets side by side: tiles that all have, their features joined.

        Tiles are the same if slide and tile index are.
        """
        self = cls.__new__(cls)
        self._attach([run for one in sets for run in one._runs])
        return self

    def _attach(self, runs: list[RunDirectory]) -> None:
        if not runs:
            message = "there is nothing to concatenate"
            raise RunError(message)
        self._runs = runs
        common = reduce(set.intersection, (set(run.slides()) for run in runs))
        self.slides = sorted(common)
        with_preds = self.slides if self.num_classes else []
        self.activations = SlideArrays(self.slides, self._activations)
        self.predictions = SlideArrays(with_preds, self._predictions)
        self.locations = SlideArrays(self.slides, self._locations)

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
        shapes = [shape for run in self._runs for shape in run.layers().values()]
        return sum(int(np.prod(shape)) for shape in shapes)

    @property
    def num_classes(self) -> int:
        """Predictions of one tile, 0 where none are stored."""
        return int(self._runs[0].settings().get("num_classes") or 0)

    @property
    def classes(self) -> list[str] | None:
        """Names of the classes, where the model has them."""
        names = self._runs[0].settings().get("classes")
        return None if names is None else list(names)

    def _indices(self, slide: str) -> NDArray[np.int64]:
        """Tile indices that all runs have, ascending."""
        columns = [
            run.read_rows(slide, [schema.TILE_INDEX])[schema.TILE_INDEX].to_numpy()
            for run in self._runs
        ]
        return reduce(np.intersect1d, columns) if len(columns) > 1 else columns[0]

    def _activations(self, slide: str) -> Array:
        blocks: list[Array] = []
        indices = self._indices(slide) if len(self._runs) > 1 else None
        for run in self._runs:
            layers = run.layers()
            rows = run.read_rows(slide, [schema.TILE_INDEX, *layers])
            keep = slice(None)
            if indices is not None:
                keep = np.isin(rows[schema.TILE_INDEX].to_numpy(), indices)
            for name, shape in layers.items():
                flat = rows[name].combine_chunks().flatten()
                values = flat.to_numpy(zero_copy_only=False)
                blocks.append(values.reshape(len(rows), *shape)[keep])
        if len(blocks) == 1:
            return blocks[0]
        return np.concatenate([b.reshape(len(b), -1) for b in blocks], axis=1)

    def _column(self, slide: str, names: list[str]) -> Any:  # noqa: ANN401
        rows = self._runs[0].read_rows(slide, [schema.TILE_INDEX, *names])
        if len(self._runs) > 1:
            keep = np.isin(rows[schema.TILE_INDEX].to_numpy(), self._indices(slide))
            rows = rows.filter(keep)
        return rows.select(names)

    def _predictions(self, slide: str) -> Array:
        column = self._column(slide, [schema.PREDICTIONS])[schema.PREDICTIONS]
        flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
        values: Array = flat.reshape(len(column), -1)
        return values

    def _locations(self, slide: str) -> Array:
        """Int where every tile has a location, else float with NaN."""
        rows = self._column(slide, [schema.LOC_X, schema.LOC_Y])
        columns = [rows[name].to_numpy() for name in (schema.LOC_X, schema.LOC_Y)]
        return np.stack(columns, axis=1)

    def to_df(self) -> "pd.DataFrame":
        """All tiles as a DataFrame: index `slide`, arrays in columns as Slideflow's.

        Everything is read into memory: for large runs query the Parquet instead.
        """
        import pandas as pd  # noqa: PLC0415  (slow)

        frames = []
        for slide in self.slides:
            columns: dict[str, Any] = {
                "tfr_index": self._indices(slide),
                "locations": list(self.locations[slide]),
                "activations": list(self.activations[slide]),
            }
            if slide in self.predictions:
                columns["predictions"] = list(self.predictions[slide])
            frame = pd.DataFrame(columns)
            frame["slide"] = slide
            frames.append(frame.set_index("slide", drop=False))
        return pd.concat(frames) if frames else pd.DataFrame()

    def to_torch(self, outdir: str, slides: Sequence[str] | None = None) -> None:
        """Bags as Slideflow's: `{slide}.pt`, `{slide}.index.npz`, `bags_config.json`.

        Args:
            outdir: A folder or URI.
            slides: Which; default all.

        Raises:
            RunError: There is no such slide.
        """
        store = Store(outdir)
        for slide in self.slides if slides is None else slides:
            if slide not in self.activations:
                message = f"no rows of slide {slide!r}"
                raise RunError(message)
            features = self.activations[slide]
            flat = features.reshape(len(features), -1)
            index = io.BytesIO()
            np.savez(index, self.locations[slide])
            name = escape_partition(slide)
            store.write(f"{name}.index.npz", index.getvalue())
            store.write(f"{name}.pt", bag_bytes(flat))
        settings = self._runs[0].settings()
        config = {
            "extractor": {"model": settings["model"], "fields": settings["fields"]},
            "num_features": self.num_features,
            "tile_px": settings["fields"]["tile_px"],
        }
        store.write("bags_config.json", json.dumps(config, indent=1).encode())

    def map_activations(
        self, *, layer: str = "", name: str = "default", **umap: Any  # noqa: ANN401
    ) -> SlideMap:
        """Fit UMAP on a sample and place every tile.

        The same arguments again open the stored map, others replace it.

        Args:
            layer: Which layer; may be left out where there is one.
            name: The map's folder below `maps/` of the run.
            **umap: `sample`, `seed`, and any argument of umap.UMAP.

        Raises:
            MapError: An argument that a map cannot honor.
        """
        if len(self._runs) != 1:
            message = "map each run by itself: sets side by side cannot be mapped yet"
            raise MapError(message)
        folder = build_map(
            self.run.uri, MapParameters.of(**umap), layer=layer, name=name
        )
        return SlideMap.load(folder)


def _tfrecords(dataset: "TileSource | str | Sequence[str]") -> tuple[str, ...]:
    if isinstance(dataset, str):
        return (dataset,)
    if isinstance(dataset, Sequence):
        return tuple(str(path) for path in dataset)
    return tuple(dataset.tfrecords())


def _default_folder(
    dataset: "TileSource | str | Sequence[str]", model: str
) -> str:
    if isinstance(dataset, str | Sequence):
        message = "outdir= is missing: where the run directory shall be"
        raise ConfigError(message)
    return dataset.features_folder(model)
