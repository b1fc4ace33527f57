"""What each verb does with its configuration; the engine is imported when needed."""

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raylatent import annotations
from raylatent.claim import new_token
from raylatent.cli.saying import fail, say
from raylatent.cli.verify import verify
from raylatent.config import (
    ActivationsConfig,
    AtlasConfig,
    BenchConfig,
    ExtractTilesConfig,
    LayersConfig,
    MapConfig,
    MosaicConfig,
    VerifyConfig,
)
from raylatent.errors import ConfigError
from raylatent.mapping.parameters import MapParameters
from raylatent.source.find import find_tfrecords
from raylatent.source.names import match_said
from raylatent.source.slides import find_slides
from raylatent.storage import Store, absolute, is_uri

if TYPE_CHECKING:
    from raylatent.engine.report import RunReport

logger = logging.getLogger(__name__)

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

_SHOWN = 20  # slides that are named; report.json has all


def _atlas(config: AtlasConfig) -> int:
    config = _demo(config) if config.demo else config
    # What can be refused is refused before hours of work.
    labels = _check_labels(config)
    if labels is not None and (config.tfrecords or config.slides):
        names = [*find_tfrecords(config.tfrecords), *find_slides(config.slides)]
        _labeled(labels, names, config)
    map_parameters(config)
    report = _compute(_part(config, ActivationsConfig))
    if not report.n_rows:
        return fail("not one tile has activations: there is nothing to map", 1)
    if len(config.layers) > 1 and not config.layer:
        config = replace(config, layer=config.layers[0])
        say(f"layer     {config.layer} is mapped, --layer chooses another")
    if labels is None:
        config = replace(config, annotations="")  # what was to be said of it is said
    _map(_part(config, MapConfig))
    _mosaic(_part(config, MosaicConfig))
    return 1 if report.failed else 0


def _part(config: AtlasConfig, kind: type[Any]) -> Any:  # noqa: ANN401
    """The configuration of one of the verbs that `atlas` is made of."""
    return kind(**{f.name: getattr(config, f.name) for f in fields(kind)})


def _demo(config: AtlasConfig) -> AtlasConfig:
    from raylatent.demo import make_demo  # noqa: PLC0415  (an extra)
    from raylatent.run import RunDirectory  # noqa: PLC0415

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
        rows = annotations.read_annotations(config.annotations)
        if rows and annotations.MPP_COLUMN in rows[0]:
            return None  # they are for the slides
        logger.warning(
            "--annotations without --label COLUMN colors nothing; columns are %s",
            ", ".join(rows[0] if rows else ()),
        )
        return None
    return annotations.read_labels(config.annotations, config.label)


def _labeled(
    labels: Mapping[str, str], slides: Iterable[str], config: MapConfig | MosaicConfig
) -> dict[str, str]:
    """Labels by the slides' own names; how many slides have none is said.

    Raises:
        AnnotationsError: Not one slide has a label, or one has two.
    """
    where = f"annotations {config.annotations}"
    return match_said(labels, slides, what=repr(config.label), where=where)


def _activations(config: ActivationsConfig) -> int:
    return 1 if _compute(config).failed else 0


def _compute(config: ActivationsConfig) -> "RunReport":
    """Compute what is missing, and say what became of it."""
    from raylatent.engine.activations import compute_activations  # noqa: PLC0415
    from raylatent.model.spec import model_spec  # noqa: PLC0415  (torch, ray: slow)

    if not config.model:
        message = "--model SPEC is missing: a model folder, timm:NAME or hf-hub:REPO"
        raise ConfigError(message)
    spec = model_spec(config.model, allow_pickle=config.allow_pickle)
    report = compute_activations(config, spec)
    _say_slides(report, "rows")
    say(f"rows      {report.run}/activations")
    say(f"report    {report.run}/report.json")
    return report


def _extract_tiles(config: ExtractTilesConfig) -> int:
    from raylatent.engine.extraction import (  # noqa: PLC0415  (ray: slow)
        extract_tiles,
        tfrecords_folder,
    )

    report = extract_tiles(config)
    _say_slides(report, "tiles")
    say(f"TFRecords {report.run}/{tfrecords_folder(config)}".rstrip("/"))
    say(f"report    {report.run}/report.json")
    return 1 if report.failed else 0


def _say_slides(report: "RunReport", what: str) -> None:
    """Counts, slides without tiles, and those that failed."""
    n_failed = f" ({len(report.failed)} failed)" if report.failed else ""
    say(
        f"slides    {len(report.slides)}{n_failed}, {report.n_rows:,} {what}, "
        f"{report.n_quarantined:,} tiles quarantined"
    )
    if n_resized := report.counts.get("resized", 0):
        say(f"resized   {n_resized:,} tiles of another size (--no-resize refuses them)")
    empty = [s.slide for s in report.slides if not s.n_indexed and s.error is None]
    for slide in empty[:_SHOWN]:
        say(f"no tiles  {slide if slide.isprintable() else ascii(slide)}")
    if len(empty) > _SHOWN:
        say(f"no tiles  in {len(empty) - _SHOWN} more slides, see report.json")
    for failed in report.failed[:_SHOWN]:
        fail(f"slide {failed.slide!r} failed: {failed.error}", 1)
    if len(report.failed) > _SHOWN:
        fail(f"and {len(report.failed) - _SHOWN} more slides, see report.json", 1)
    if any(slide.left_out is not None for slide in report.slides):
        say(f"page      {report.run}/slides.html")


def _map(config: MapConfig) -> int:
    parameters = map_parameters(config)
    labels = _check_labels(config)
    from raylatent.engine.map_building import build_map  # noqa: PLC0415  (slow)
    from raylatent.mapping.fitted import read_info  # noqa: PLC0415
    from raylatent.mapping.quality import in_words  # noqa: PLC0415
    from raylatent.mapping.stored_plot import save_pictures  # noqa: PLC0415
    from raylatent.run import RunDirectory  # noqa: PLC0415

    if labels is not None:
        labels = _labeled(labels, RunDirectory.open(config.out).slides(), config)
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
    by_label, pictures = save_pictures(store, labels, n_points=n_points, kinds=kinds)
    for line in in_words(info):
        say(line)
    for picture in by_label:
        say(f"by label  {picture}")
    for picture in reversed(pictures):
        say(f"map       {picture}")
    return 0


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


def _mosaic(config: MosaicConfig) -> int:
    from raylatent.engine.cells import ClusterPoints  # noqa: PLC0415  (ray: slow)
    from raylatent.engine.map_building import check_map_is_current  # noqa: PLC0415
    from raylatent.mapping.stored_plot import labels_on_map  # noqa: PLC0415
    from raylatent.mosaic import Mosaic  # noqa: PLC0415  (slow)
    from raylatent.run import MAPS, MOSAICS, RunDirectory  # noqa: PLC0415

    labels: Mapping[str, str] | None = _check_labels(config)
    run = RunDirectory.open(config.out)
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
    say(f"cells     {mosaic.summary()}")
    say(f"mosaic    {folder}/mosaic.png")
    return 0


def _layers(config: LayersConfig) -> int:
    from raylatent.model.features import model_layers  # noqa: PLC0415  (torch: slow)

    rows, postconv = model_layers(config.model, allow_pickle=config.allow_pickle)
    width = max((len(name) for name, _, _ in rows), default=0)
    kinds = max((len(kind) for _, kind, _ in rows), default=0)
    for name, kind, shape in rows:
        say(f"{name:<{width}}  {kind:<{kinds}}  {shape}")
    say(f"{'postconv':<{width}}  {'':<{kinds}}  {postconv}")
    return 0


def _bench(config: BenchConfig) -> int:
    from raylatent.bench import run_bench  # noqa: PLC0415  (torch, ray: slow)
    from raylatent.model.spec import model_spec  # noqa: PLC0415

    spec = model_spec(config.model, allow_pickle=config.allow_pickle)
    target = _new_file(config.json) if config.json else None
    report = run_bench(config, spec)
    for line in report.lines():
        say(line)
    if target is not None:
        store, name = target
        store.write(name, f"{json.dumps(report.as_json(), indent=1)}\n".encode())
        say(f"json      {config.json}")
    return 0


def _new_file(file: str) -> tuple[Store, str]:
    """Where a file goes; it can be written there, which is known before long work.

    Raises:
        StorageError: It cannot, after retries.
        RunError: There is a folder of its name, or a file where its folder would be.
    """
    folder, name = absolute(file).rsplit("/", 1)
    store = Store(folder or "/")
    probe = f"{name}.{new_token()}" if store.exists(name) else name
    store.write(probe, b"")
    store.delete(probe)
    return store, name


VERBS: dict[str, tuple[type[Any], Callable[[Any], int]]] = {
    "atlas": (AtlasConfig, _atlas),
    "activations": (ActivationsConfig, _activations),
    "map": (MapConfig, _map),
    "mosaic": (MosaicConfig, _mosaic),
    "extract-tiles": (ExtractTilesConfig, _extract_tiles),
    "layers": (LayersConfig, _layers),
    "verify": (VerifyConfig, verify),
    "bench": (BenchConfig, _bench),
}
