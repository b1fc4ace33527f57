"""The main job: activations, then a map, then a mosaic.

What the verbs do, without their words; `atlas` is all of it as one function.
"""

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from raylatent import schema
from raylatent.arguments import option_values, with_options
from raylatent.config import (
    ActivationsConfig,
    AtlasConfig,
    ExploreConfig,
    MapConfig,
    MosaicConfig,
    PageConfig,
)
from raylatent.dataset import refuse_failed
from raylatent.errors import ConfigError, IncompleteError
from raylatent.mapping.umap_learn import MapParameters
from raylatent.run import MAPS, MOSAICS, RunDirectory
from raylatent.source.kinds import find_sources
from raylatent.source.names import check_labels, labeled
from raylatent.storage import Store, is_uri

if TYPE_CHECKING:
    from raylatent.dataset_features import DatasetFeatures
    from raylatent.engine.report import RunReport
    from raylatent.model.spec import ModelSpec
    from raylatent.montage.points import Label
    from raylatent.mosaic import Mosaic
    from raylatent.slide_map import SlideMap
    from raylatent.source.protocol import Request

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
        slide_map: The map of every tile; its points are read when they are needed.
        mosaic: The mosaic, as it is stored.
        picture: Where the mosaic's picture is.
        map_folder: Where the map is.
        page: Where the page to walk in is, None where none was written.
    """

    run: str
    features: "DatasetFeatures"
    slide_map: "SlideMap"
    mosaic: "Mosaic"
    picture: str
    map_folder: str
    page: str | None = None


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
        mosaic: The mosaic and its folder, None in the same case.
        page: The page, None where none was written.
    """

    report: "RunReport"
    map: StoredMap | None = None
    mosaic: tuple["Mosaic", str] | None = None
    page: str | None = None


@with_options(AtlasConfig)
def atlas(  # noqa: D417, PLR0913  (the verb's options)
    *,
    out: PathLike,
    model: object,
    tfrecords: PathLike | Sequence[PathLike] = (),
    slides: PathLike | Sequence[PathLike] = (),
    tiles: PathLike | Sequence[PathLike] = (),
    tiles_pattern: str = "",
    layers: str | Sequence[str] = AtlasConfig.layers,
    annotations: PathLike = "",
    label: str = "",
    tile_px: int | None = None,
    tile_um: str | float = "",
    stride_div: float = AtlasConfig.stride_div,
    mpp: float | None = None,
    allow_upsampling: bool = False,
    qc: str = AtlasConfig.qc,
    grayspace_fraction: float = AtlasConfig.grayspace_fraction,
    whitespace_fraction: float = AtlasConfig.whitespace_fraction,
    icc: bool = False,
    pooling: str | None = None,
    include_preds: bool | None = None,
    resize: bool | None = None,
    dtype: str = AtlasConfig.dtype,
    actors: str | int = "",
    num_gpus: float | None = None,
    batch_size: int = AtlasConfig.batch_size,
    unit_tiles: int | None = None,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    mixed_precision: bool | None = None,
    compile: bool = False,
    allow_pickle: bool = False,
    max_bad_fraction: float = AtlasConfig.max_bad_fraction,
    recheck: bool | None = None,
    overwrite: bool = False,
    stall_timeout_s: float = AtlasConfig.stall_timeout_s,
    layer: str = "",
    map: str = AtlasConfig.map,
    sample: int = AtlasConfig.sample,
    seed: int = AtlasConfig.seed,
    n_neighbors: int = AtlasConfig.n_neighbors,
    min_dist: float = AtlasConfig.min_dist,
    metric: str = AtlasConfig.metric,
    umap: Mapping[str, Any] | Sequence[str] = (),
    placement: str = AtlasConfig.placement,
    vector: str = AtlasConfig.vector,
    mosaic: str = AtlasConfig.mosaic,
    num_tiles_x: int | None = AtlasConfig.num_tiles_x,
    select: str = AtlasConfig.select,
    grid: str = AtlasConfig.grid,
    layout: str = AtlasConfig.layout,
    each: str = AtlasConfig.each,
    cell_px: int = AtlasConfig.cell_px,
    gap_px: int = AtlasConfig.gap_px,
    title: str = "",
    scale_bar: bool = False,
    pdf: bool = False,
    source_root: PathLike = "",
    explorer: bool | None = None,
    max_size: str = AtlasConfig.max_size,
    explorer_cell_px: int = AtlasConfig.explorer_cell_px,
) -> Atlas:
    """Compute activations, place every tile on a map, and draw a mosaic of it.

    This is `raylatent atlas` as a function: the options have the names and the meaning
    that `raylatent atlas --help` gives, and what is done already is not done again.

    Args:
        model: A model folder, `timm:NAME`, `hf-hub:REPO@REVISION`, a mapping with the
            keys of model.json, or an nn.Module.
        mean: Of each channel of pixels scaled to 0..1, where the model does not say, as
            an nn.Module; by default 0.5, as Slideflow standardizes.
        std: Standard deviation of each channel, 0.5 likewise.
        umap: Any other UMAP arguments, as a dict or as `KEY=VALUE`.
        ...: The options of `raylatent atlas`.

    Raises:
        IncompleteError: Some slide failed: all others are finished, mapped and drawn; or
            not one tile has activations.
        RaylatentError: As of the verbs.
    """
    given = dict(locals())
    from raylatent.dataset_features import DatasetFeatures  # noqa: PLC0415  (slow)
    from raylatent.model.spec import model_spec, with_overrides  # noqa: PLC0415

    spec = model_spec(given.pop("model"), allow_pickle=allow_pickle)
    spec = with_overrides(spec, mean=mean, std=std)
    if isinstance(umap, Mapping):
        given["umap"] = [f"{name}={_as_json(name, umap[name])}" for name in umap]
    options = option_values(AtlasConfig, given)
    done = run_atlas(AtlasConfig(model=spec.name, **options), spec)
    report = done.report
    if not isinstance(layers, str) and len(layers) > 1 and not layer:
        logger.warning("of layers %s the first is mapped", ", ".join(layers))
    if done.map is None or done.mosaic is None:
        message = (
            f"not one tile of {report.run} has activations: there is nothing to map"
        )
        raise IncompleteError(message)
    refuse_failed(report, f"finished, mapped and drawn in {report.run}")
    made, folder = done.mosaic
    return Atlas(
        run=report.run,
        features=DatasetFeatures.open(report.run),
        slide_map=made.slide_map,
        mosaic=made,
        picture=f"{folder}/mosaic.png",
        map_folder=done.map.folder,
        page=done.page,
    )


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
    labels = check_labels(config)
    sources = None
    if labels is not None:
        sources = find_sources(config)
        labeled(labels, sources, config)
    map_parameters(config)
    report = run_activations(_part(config, ActivationsConfig), spec, sources)
    if say is not None:
        say(report)
    if not report.n_rows:
        return Outcome(report)
    config = replace(config, out=report.run)  # in which {fingerprint} was filled in
    if len(config.layers) > 1 and not config.layer:
        config = replace(config, layer=config.layers[0])
    # What was to be said of annotations without a label is said.
    drawn = replace(config, annotations="") if labels is None else config
    made = run_map(_part(drawn, MapConfig))
    mosaic = run_mosaic(_part(drawn, MosaicConfig))
    return Outcome(report, made, mosaic, _explored(config))


def _explored(config: AtlasConfig) -> str | None:
    """The page of the run's map, where it is wanted and can be opened."""
    if config.explorer is False:
        return None
    if is_uri(config.out):
        logger.info(
            "a page to walk in is written by `raylatent explore %s --out DIR`; "
            "`raylatent serve %s --explorer DIR` shows it with the slides",
            *(config.out, config.out),
        )
        return None
    from raylatent.map_job import run_explore  # noqa: PLC0415  (slow)

    page: PageConfig = _part(config, PageConfig)
    given = {**vars(page), "out": "", "source_root": config.source_root}
    return run_explore(ExploreConfig(run=config.out, **given), anew=False)[0]


def run_activations(
    config: ActivationsConfig,
    spec: "ModelSpec | None" = None,
    sources: "Mapping[str, Request] | None" = None,
) -> "RunReport":
    """Compute the activations that are missing.

    Args:
        config: What the verb `activations` takes.
        spec: The model, if it is none that `config.model` names.
        sources: Those that the configuration names, if they were found already.

    Raises:
        ConfigError: No model is named.
        RaylatentError: As of `compute_activations`.
    """
    if not config.model:
        message = "--model SPEC is missing: a model folder, timm:NAME or hf-hub:REPO"
        raise ConfigError(message)
    if "{fingerprint}" not in config.out:
        RunDirectory(config.out).refuse_before_work()
    if sources is None:
        sources = find_sources(config)
    _start_ray_ahead(config)
    from raylatent.engine.activations import compute_activations  # noqa: PLC0415
    from raylatent.model.spec import model_spec  # noqa: PLC0415  (torch, ray: slow)

    if spec is None:
        spec = model_spec(config.model, allow_pickle=config.allow_pickle)
    return compute_activations(config, spec, sources)


def _start_ray_ahead(config: ActivationsConfig) -> None:
    """Begin to start Ray while torch is imported, if a run is to begin.

    Of a run that is here there may be nothing to do, or it is refused.
    """
    run = RunDirectory(config.out)
    if run.exists() or not Path(config.model, "model.json").is_file():
        return
    from raylatent.engine.connection import start_ahead  # noqa: PLC0415  (slow)

    start_ahead()


def run_map(config: MapConfig) -> StoredMap:
    """Fit a map of a run, place every row, and draw it."""
    parameters = map_parameters(config)
    labels = check_labels(config)
    run = RunDirectory.open(config.out)
    if labels is not None:
        labels = labeled(labels, run.slides(), config)
    from raylatent.engine.map_building import build_map  # noqa: PLC0415  (ray: slow)
    from raylatent.map_job import labels_of_tiles  # noqa: PLC0415
    from raylatent.stored.map_pictures import save_pictures  # noqa: PLC0415
    from raylatent.stored.maps import read_info  # noqa: PLC0415

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
    shown = labels_of_tiles(run, store) if labels is None else labels
    by_label, pictures = save_pictures(store, shown, n_points=n_points, kinds=kinds)
    return StoredMap(folder, info, pictures, by_label)


def run_mosaic(config: MosaicConfig) -> tuple["Mosaic", str]:
    """Draw a mosaic of a run's map as its SlideMap does; the mosaic, and its folder."""
    labels = check_labels(config)
    run = RunDirectory.open(config.out)
    from raylatent.explorer.named_regions import stored_labels  # noqa: PLC0415
    from raylatent.montage.render import Look  # noqa: PLC0415
    from raylatent.slide_map import SlideMap  # noqa: PLC0415
    from raylatent.stored.map_pictures import labels_on_map  # noqa: PLC0415
    from raylatent.stored.mosaics import (  # noqa: PLC0415
        delete_mosaics_of_labels,
        folder_of_label,
    )

    of_map = f"{run.uri}/{MAPS}/{config.map}"
    slide_map = SlideMap.load(of_map, run=run, stall_timeout_s=config.stall_timeout_s)
    shown: Label | Literal[False] | None = None  # None: as the map is labeled
    if labels is None and (which := config.stored_labels()):
        shown = stored_labels(Store(of_map), which)
    if labels is not None:
        given = labeled(labels, run.slides(), config)
        of_slides = labels_on_map(slide_map.slides, given)
        if of_slides is None:
            shown = False
        else:
            slide_map.label(schema.SLIDE, of_slides.get)
    mosaic = slide_map.generate_mosaic(
        tfrecords=[config.source_root] if config.source_root else None,
        num_tiles_x=config.num_tiles_x,
        select=config.select,
        grid=config.grid,
        cell_px=config.cell_px,
        labels=shown,
        layout=config.layout,
    )
    folder = f"{run.uri}/{MOSAICS}/{config.mosaic}"
    drawn = [(folder, config.title, mosaic)]
    for label, one in (mosaic.by_label() if config.each == "label" else {}).items():
        title = f"{config.title}: {label}" if config.title else label
        drawn.append((folder_of_label(folder, label), title, one))
    px, gap, bar = config.cell_px, config.gap_px, config.scale_bar
    for uri, title, one in drawn:
        look = Look(cell_px=px, gap_px=gap, title=title, scale_bar=bar)
        one.export(uri, look, pdf=config.pdf)
    if config.each == "label":
        delete_mosaics_of_labels(run.store, config.mosaic, {uri for uri, _, _ in drawn})
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


def _as_json(name: str, value: object) -> str:
    """A UMAP argument as `--umap` takes it; numpy's numbers are numbers."""
    try:
        return json.dumps(value, default=lambda one: one.item())
    except (AttributeError, TypeError, ValueError) as error:
        message = (
            f"umap={{{name!r}: ...}} is a {type(value).__name__}: give numbers, words, "
            "or lists and dicts of them"
        )
        raise ConfigError(message) from error


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
