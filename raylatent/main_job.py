"""The main job: activations, then a map, then a mosaic.

What the verbs do, without their words; `atlas` is all of it as one function.
"""

import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raylatent.annotations import MPP_COLUMN, read_annotations, read_labels
from raylatent.config import ActivationsConfig, AtlasConfig, MapConfig, MosaicConfig
from raylatent.errors import ConfigError, IncompleteError
from raylatent.mapping.parameters import MapParameters
from raylatent.run import MAPS, MOSAICS, RunDirectory
from raylatent.source.kinds import find_sources
from raylatent.source.names import match_said
from raylatent.storage import Store, is_uri

if TYPE_CHECKING:
    from raylatent.dataset_features import DatasetFeatures
    from raylatent.engine.report import RunReport
    from raylatent.model.spec import ModelSpec
    from raylatent.mosaic import Mosaic
    from raylatent.slide_map import SlideMap

logger = logging.getLogger(__name__)

PathLike = str | os.PathLike[str]

# UMAP arguments with an option of their own.
_OWN_OPTIONS = {
    "metric": "--metric",
    "min_dist": "--min-dist",
    "n_neighbors": "--n-neighbors",
    "placement": "--placement",
    "random_state": "--seed",
    "sample": "--sample",
    "seed": "--seed",
}


@dataclass(frozen=True)
class Atlas:
    """What the main job made.

    Attributes:
        run: The run directory.
        features: Its activations.
        mosaic: The mosaic, as it is stored.
        picture: Where the mosaic's picture is.
        map_folder: Where the map is.
    """

    run: str
    features: "DatasetFeatures"
    mosaic: "Mosaic"
    picture: str
    map_folder: str

    @cached_property
    def slide_map(self) -> "SlideMap":
        """The map; all its points are read when it is first asked for."""
        from raylatent.slide_map import SlideMap  # noqa: PLC0415  (slow)

        return SlideMap.load(self.map_folder)


@dataclass(frozen=True)
class StoredMap:
    """A map of a run, and its pictures.

    Attributes:
        folder: Where it is.
        info: What map.json says.
        pictures: Of all tiles.
        by_label: Of the tiles of each label.
    """

    folder: str
    info: dict[str, Any]
    pictures: Sequence[str]
    by_label: Sequence[str]


@dataclass(frozen=True)
class Outcome:
    """What a whole job came to.

    Attributes:
        report: Of the activations.
        map: The map, None if not one tile has activations.
        mosaic: The mosaic and its folder, None likewise.
    """

    report: "RunReport"
    map: StoredMap | None = None
    mosaic: tuple["Mosaic", str] | None = None


def atlas(  # noqa: PLR0913  (the verb's options)
    *,
    out: PathLike,
    model: object,
    tfrecords: PathLike | Sequence[PathLike] = (),
    slides: PathLike | Sequence[PathLike] = (),
    tiles: PathLike | Sequence[PathLike] = (),
    tiles_pattern: str = "",
    layers: str | Sequence[str] = ("postconv",),
    annotations: PathLike = "",
    label: str = "",
    tile_px: int | None = None,
    tile_um: str | float = "",
    stride_div: float = 1.0,
    mpp: float | None = None,
    allow_upsampling: bool = False,
    qc: str = "otsu",
    grayspace_fraction: float = 0.6,
    whitespace_fraction: float = 1.0,
    icc: bool = False,
    pooling: str | None = None,
    include_preds: bool | None = None,
    resize: bool | None = None,
    dtype: str = "float32",
    actors: str | int = "",
    num_gpus: float | None = None,
    batch_size: int = 32,
    unit_tiles: int | None = None,
    mixed_precision: bool | None = None,
    compile: bool = False,
    allow_pickle: bool = False,
    max_bad_fraction: float = 0.01,
    recheck: bool | None = None,
    overwrite: bool = False,
    stall_timeout_s: float = 7200.0,
    layer: str = "",
    map: str = "default",
    sample: int = 20_000,
    seed: int = 42,
    n_neighbors: int = 50,
    min_dist: float = 0.1,
    metric: str = "cosine",
    umap: Mapping[str, Any] | Sequence[str] = (),
    placement: str = "rows",
    vector: str = "none",
    mosaic: str = "default",
    num_tiles_x: int = 50,
    select: str = "nearest",
    grid: str = "square",
    cell_px: int = 100,
    source_root: PathLike = "",
) -> Atlas:
    """Compute activations, place every tile on a map, and draw a mosaic of it.

    This is `raylatent atlas` as a function: the options have the names and the meaning
    that `raylatent atlas --help` gives, and what is done already is not done again.

    Args:
        out: The run directory, local or a URI.
        model: A model folder, `timm:NAME`, `hf-hub:REPO@REVISION`, a mapping with the
            keys of model.json, or an nn.Module. Pixels of a module are standardized as
            Slideflow does, by a mean and standard deviation of 0.5 of pixels scaled to
            0..1: for a model that takes others, give a model folder or a mapping.
        tfrecords: Files or folders of TFRecords.
        slides: Files or folders of whole slides.
        tiles: Folders of pictures, each a tile; a slide is the first folder below.
        tiles_pattern: A regular expression with groups `slide`, `label`, `x` and `y`,
            some of them, that is searched in the pictures' paths below their folder.
        layers: Layers that are stored, one column each.
        annotations: A CSV with a column `slide`.
        label: Its column to color by.
        tile_px: Side of a tile in pixels.
        tile_um: Side of a tile in micrometers, or a magnification as `"10x"`.
        stride_div: Tiles are their side divided by this apart.
        mpp: Micrometers a pixel of slides that do not say.
        allow_upsampling: Whether slides that are coarser than the tiles are taken.
        qc: `otsu`, `blur`, `both` or `none`.
        grayspace_fraction: Tiles with a larger share of gray pixels are left out.
        whitespace_fraction: Tiles with a larger share of white pixels are left out.
        icc: Whether colors are converted by the slides' ICC profiles.
        pooling: `none`, `avg`, `max` or `cls`.
        include_preds: Whether predictions are stored; default if the model has classes.
        resize: Whether tiles of another size are resized (default) or refused.
        dtype: `float32` or `float16`, of stored activations.
        actors: How many, as `4` or `"1:8"`.
        num_gpus: GPUs of each actor.
        batch_size: Tiles in one pass.
        unit_tiles: Tiles in one unit of work.
        mixed_precision: Whether the model runs in bfloat16 autocast.
        compile: Whether the model is compiled.
        allow_pickle: Whether a pickled module may be opened, which can run any code.
        max_bad_fraction: A slide with a larger share of bad tiles fails.
        recheck: Whether parts that are kept are read and checked (default).
        overwrite: Whether rows of another configuration are deleted.
        stall_timeout_s: With nothing finished for so long, the job ends.
        layer: Which layer is mapped; default the first.
        map: Name of the map.
        sample: How many tiles UMAP is fitted on.
        seed: Of the sample, the fit and ties.
        n_neighbors: UMAP's.
        min_dist: UMAP's.
        metric: UMAP's.
        umap: Any other UMAP arguments.
        placement: `rows` or `umap-learn`.
        vector: `none`, `pdf` or `svg`, which pictures of the map are also written as.
        mosaic: Name of the mosaic.
        num_tiles_x: Cells across the map.
        select: `nearest`, `medoid` or `first`.
        grid: `square` or `slideflow`.
        cell_px: Side of a cell in pixels.
        source_root: Where moved TFRecords or slides are now.

    Raises:
        IncompleteError: Some slide failed: all others are finished, mapped and drawn; or
            not one tile has activations.
        RaylatentError: As of the verbs.
    """
    options = dict(locals())
    from raylatent.dataset_features import DatasetFeatures  # noqa: PLC0415  (slow)
    from raylatent.model.spec import model_spec  # noqa: PLC0415  (torch: slow)

    spec = model_spec(options.pop("model"), allow_pickle=allow_pickle)
    done = run_atlas(AtlasConfig(model=spec.name, **_as_options(options)), spec)
    report = done.report
    if not isinstance(layers, str) and len(layers) > 1 and not layer:
        logger.warning("of layers %s the first is mapped", ", ".join(layers))
    if done.map is None or done.mosaic is None:
        message = (
            f"not one tile of {report.run} has activations: there is nothing to map"
        )
        raise IncompleteError(message)
    if report.failed:
        first = report.failed[0]
        message = (
            f"{len(report.failed)} of {len(report.slides)} slides failed, as "
            f"{first.slide!r}: {first.error} (the others are finished, mapped and drawn "
            f"in {report.run})"
        )
        raise IncompleteError(message)
    made, folder = done.mosaic
    return Atlas(
        run=report.run,
        features=DatasetFeatures.open(report.run),
        mosaic=made,
        picture=f"{folder}/mosaic.png",
        map_folder=done.map.folder,
    )


def _as_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Values as the command line gives them."""
    values = dict(given)
    for name in ("tfrecords", "slides", "tiles"):
        paths = values[name]
        several = [paths] if isinstance(paths, str | os.PathLike) else paths
        values[name] = tuple(os.fspath(path) for path in several)
    for name in ("out", "annotations", "source_root"):
        values[name] = os.fspath(values[name])
    layers, umap = values["layers"], values["umap"]
    values["layers"] = (layers,) if isinstance(layers, str) else tuple(layers)
    if isinstance(umap, Mapping):
        umap = [f"{name}={json.dumps(value)}" for name, value in umap.items()]
    values["umap"] = tuple(umap)
    return values | {name: str(values[name]) for name in ("tile_um", "actors")}


def run_atlas(
    config: AtlasConfig,
    spec: "ModelSpec | None" = None,
    say: "Callable[[RunReport], None] | None" = None,
) -> Outcome:
    """Do the whole job.

    Args:
        config: What the verb `atlas` takes.
        spec: The model, if it is none that `config.model` names.
        say: Is told the report of the activations, before they are mapped.
    """
    config = _demo(config) if config.demo else config
    # What can be refused is refused before hours of work.
    labels = _check_labels(config)
    if labels is not None:
        _labeled(labels, find_sources(config), config)
    map_parameters(config)
    report = run_activations(_part(config, ActivationsConfig), spec)
    if say is not None:
        say(report)
    if not report.n_rows:
        return Outcome(report)
    if len(config.layers) > 1 and not config.layer:
        config = replace(config, layer=config.layers[0])
    if labels is None:
        config = replace(config, annotations="")  # what was to be said of it is said
    made = run_map(_part(config, MapConfig))
    return Outcome(report, made, run_mosaic(_part(config, MosaicConfig)))


def run_activations(
    config: ActivationsConfig, spec: "ModelSpec | None" = None
) -> "RunReport":
    """Compute the activations that are missing.

    Raises:
        ConfigError: No model is named.
        RaylatentError: As of `compute_activations`.
    """
    if not config.model:
        message = "--model SPEC is missing: a model folder, timm:NAME or hf-hub:REPO"
        raise ConfigError(message)
    with _ray_ahead(config):
        from raylatent.engine.activations import compute_activations  # noqa: PLC0415
        from raylatent.model.spec import model_spec  # noqa: PLC0415  (torch, ray: slow)

        if spec is None:
            spec = model_spec(config.model, allow_pickle=config.allow_pickle)
        return compute_activations(config, spec)


def _ray_ahead(config: ActivationsConfig) -> AbstractContextManager[None]:
    """Ray being started while torch is imported, if a run is to begin.

    Of a run that is here there may be nothing to do, or it is refused.

    Raises:
        RaylatentError: A run cannot begin there, or sources are not found.
    """
    run = RunDirectory(config.out)
    if run.exists() or not Path(config.model, "model.json").is_file():
        return nullcontext()
    run.refuse_before_work()
    find_sources(config)
    from raylatent.engine.connection import started_ahead  # noqa: PLC0415  (slow)

    return started_ahead()


def run_map(config: MapConfig) -> StoredMap:
    """Fit a map of a run, place every row, and draw it."""
    parameters = map_parameters(config)
    labels = _check_labels(config)
    run = RunDirectory.open(config.out)
    if labels is not None:
        labels = _labeled(labels, run.slides(), config)
    from raylatent.engine.map_building import build_map  # noqa: PLC0415  (ray: slow)
    from raylatent.mapping.fitted_map import read_info  # noqa: PLC0415
    from raylatent.mapping.pictures import (  # noqa: PLC0415
        TileLabels,
        save_pictures,
    )

    folder = build_map(
        config.out,
        parameters,
        layer=config.layer,
        name=config.map,
        stall_timeout_s=config.stall_timeout_s,
    )
    store = Store(folder)
    info = read_info(store)
    n_points = info["points"]["rows"]
    kinds = [kind for kind in ("png", config.vector) if kind != "none"]
    shown: Mapping[str, str] | TileLabels | None = labels
    if labels is None and run.has_tile_labels:
        shown = TileLabels.of(store)
    by_label, pictures = save_pictures(store, shown, n_points=n_points, kinds=kinds)
    return StoredMap(folder, info, pictures, by_label)


def run_mosaic(config: MosaicConfig) -> tuple["Mosaic", str]:
    """Draw a mosaic of a run's map; the mosaic, and the folder that it is stored in."""
    labels: Mapping[str, str] | None = _check_labels(config)
    run = RunDirectory.open(config.out)
    from raylatent.engine.cells import ClusterPoints  # noqa: PLC0415  (ray: slow)
    from raylatent.engine.map_building import check_map_is_current  # noqa: PLC0415
    from raylatent.mapping.pictures import labels_on_map  # noqa: PLC0415
    from raylatent.mosaic import Mosaic  # noqa: PLC0415

    of_map = f"{run.uri}/{MAPS}/{config.map}"
    digest = check_map_is_current(run, of_map)
    points = ClusterPoints(of_map, run, stall_timeout_s=config.stall_timeout_s)
    if labels is not None:
        labels = labels_on_map(points.slides, _labeled(labels, run.slides(), config))
    mosaic = Mosaic(
        points,
        tfrecords=[config.source_root] if config.source_root else None,
        labels=labels,
        num_tiles_x=config.num_tiles_x,
        select=config.select,
        grid=config.grid,
        cell_px=config.cell_px,
    )
    folder = f"{run.uri}/{MOSAICS}/{config.mosaic}"
    mosaic.export(folder, of_map={"name": config.map, "digest": digest})
    return mosaic, folder


def map_parameters(config: MapConfig) -> MapParameters:
    """What the map is asked to be; MapError names an argument that makes no sense."""
    values: dict[str, Any] = {}
    for pair in config.umap:
        name, _, text = pair.partition("=")
        try:
            values[name] = json.loads(text)
        except ValueError:
            values[name] = text
        if name in _OWN_OPTIONS:
            message = f"--umap {pair} is said as {_OWN_OPTIONS[name]} {values[name]}"
            raise ConfigError(message)
    return MapParameters.of(
        n_neighbors=config.n_neighbors,
        min_dist=config.min_dist,
        metric=config.metric,
        seed=config.seed,
        sample=config.sample,
        placement=config.placement,
        **values,
    )


def _part(config: AtlasConfig, kind: type[Any]) -> Any:  # noqa: ANN401
    """The configuration of one of the verbs that `atlas` is made of."""
    return kind(**{f.name: getattr(config, f.name) for f in fields(kind)})


def _demo(config: AtlasConfig) -> AtlasConfig:
    from raylatent.demo import make_demo  # noqa: PLC0415  (an extra)

    if is_uri(config.out):
        message = f"--demo writes its slides into RUN: {config.out} must be local"
        raise ConfigError(message)
    RunDirectory(config.out).refuse_other_things()
    made = make_demo(Path(config.out).expanduser().absolute() / "demo")
    return replace(
        config,
        demo=False,
        tfrecords=tuple(made.tfrecords),
        model=made.model,
        annotations=config.annotations or made.annotations,
        label=config.label or "region",
    )


def _check_labels(config: MapConfig | MosaicConfig) -> dict[str, str] | None:
    """Labels by slide, None where none are asked for; refused before hours of work."""
    if not config.annotations:
        return None
    if not config.label:
        rows = read_annotations(config.annotations)
        if rows and MPP_COLUMN in rows[0]:
            return None  # they are for the slides
        logger.warning(
            "--annotations without --label COLUMN colors nothing; columns are %s",
            ", ".join(rows[0] if rows else ()),
        )
        return None
    return read_labels(config.annotations, config.label)


def _labeled(
    labels: Mapping[str, str], slides: Iterable[str], config: MapConfig | MosaicConfig
) -> dict[str, str]:
    """Labels by the slides' own names; how many slides have none is said.

    Raises:
        AnnotationsError: Not one slide has a label, or one has two.
    """
    where = f"annotations {config.annotations}"
    return match_said(labels, slides, what=repr(config.label), where=where)
