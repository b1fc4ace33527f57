"""`raylatent <verb>`: the same configurations as the jobs.

Exit codes: 0, the promises hold and no slide failed; 1, some slide failed or the run
could not be finished; 2, bad arguments or a refused run directory; 130, interrupted.
"""

import json
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from types import FrameType
from typing import Any

from raylatent import annotations
from raylatent.arguments import parse
from raylatent.config import (
    ActivationsConfig,
    AtlasConfig,
    LayersConfig,
    MapConfig,
    MosaicConfig,
)
from raylatent.errors import ConfigError, RaylatentError
from raylatent.storage import is_uri

PROG = "raylatent"
PICTURE = "umap.png"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; its exit code.

    Args:
        argv: Verb and options, default those of the process.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    if not given or given[0] in {"-h", "--help"} or given[0] not in VERBS:
        return _usage(given)
    configuration, action = VERBS[given[0]]
    _log_to_stderr()
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        config = parse(configuration, f"{PROG} {given[0]}", given[1:])
        return action(config)
    except RaylatentError as error:
        return _fail(f"error: {error}", error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted: the same command again goes on from here", 130)
    finally:
        signal.signal(signal.SIGTERM, before)


def _usage(given: Sequence[str]) -> int:
    lines = [f"usage: {PROG} VERB [OPTIONS]   ({PROG} VERB --help lists them)", ""]
    for verb, (configuration, _) in VERBS.items():
        lines.append(f"  {verb:<12} {(configuration.__doc__ or '').splitlines()[0]}")
    asked = bool(given) and given[0] in {"-h", "--help"}
    if given and not asked:
        lines.append(f"\nerror: no such verb: {given[0]}")
    stream = sys.stdout if asked else sys.stderr
    stream.write("\n".join(lines) + "\n")
    return 0 if asked else 2


def _fail(text: str, code: int) -> int:
    sys.stderr.write(f"{PROG}: {' '.join(text.split())}\n")
    return code


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _terminate(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    """SIGTERM ends like Ctrl-C: the claim is given back, the run can go on."""
    raise KeyboardInterrupt


def _log_to_stderr() -> None:
    log = logging.getLogger(PROG)
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(f"{PROG}: %(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False


def _atlas(config: AtlasConfig) -> int:
    config = _demo(config) if config.demo else config
    _check_labels(config)
    code = _activations(_part(config, ActivationsConfig))
    if len(config.layers) > 1 and not config.layer:
        config = replace(config, layer=config.layers[0])
        _say(f"layer     {config.layer} is mapped, --layer chooses another")
    _map(_part(config, MapConfig))
    _mosaic(_part(config, MosaicConfig))
    return code


def _part(config: AtlasConfig, kind: type[Any]) -> Any:  # noqa: ANN401
    """The configuration of one of the verbs that `atlas` is made of."""
    return kind(**{f.name: getattr(config, f.name) for f in fields(kind)})


def _demo(config: AtlasConfig) -> AtlasConfig:
    from raylatent.demo import make_demo  # noqa: PLC0415  (an extra)

    if is_uri(config.out):
        message = f"--demo writes its slides into RUN: {config.out} must be local"
        raise ConfigError(message)
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
        annotations.read_annotations(config.annotations)
        return None
    return annotations.read_labels(config.annotations, config.label)


def _activations(config: ActivationsConfig) -> int:
    from raylatent.engine.activations import compute_activations  # noqa: PLC0415
    from raylatent.model.spec import model_spec  # noqa: PLC0415  (torch, ray: slow)

    if not config.model:
        message = "--model SPEC is missing: a model folder, timm:NAME or hf-hub:REPO"
        raise ConfigError(message)
    spec = model_spec(config.model, allow_pickle=config.allow_pickle)
    report = compute_activations(config, spec)
    _say(
        f"slides    {len(report.slides)}, {report.n_rows:,} rows, "
        f"{report.n_quarantined:,} tiles quarantined"
    )
    for slide in report.slides:
        if not slide.n_indexed and slide.error is None:
            _say(f"no tiles  {slide.slide}")
    for slide in report.failed[:20]:
        _fail(f"slide {slide.slide!r} failed: {slide.error}", 1)
    if len(report.failed) > 20:
        _fail(f"and {len(report.failed) - 20} more slides, see report.json", 1)
    _say(f"rows      {report.run}/activations")
    _say(f"report    {report.run}/report.json")
    return 1 if report.failed else 0


def _map(config: MapConfig) -> int:
    from raylatent.engine.placement import build_map  # noqa: PLC0415  (slow)
    from raylatent.mapping.parameters import MapParameters  # noqa: PLC0415
    from raylatent.slide_map import SlideMap  # noqa: PLC0415

    labels = _check_labels(config)
    folder = build_map(
        config.out, _parameters(config, MapParameters), layer=config.layer,
        name=config.map,
    )
    slide_map = SlideMap.load(folder)
    if labels is not None:
        slide_map.label_by_slide(labels)
    slide_map.save(f"{folder}/{PICTURE}")
    _say(f"map       {folder}/{PICTURE}")
    return 0


def _parameters(config: MapConfig, kind: Any) -> Any:  # noqa: ANN401
    values: dict[str, Any] = {}
    for pair in config.umap:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            message = f"--umap takes KEY=VALUE, not {pair!r}"
            raise ConfigError(message)
        try:
            values[name] = json.loads(text)
        except ValueError:
            values[name] = text
    return kind.of(
        n_neighbors=config.n_neighbors,
        min_dist=config.min_dist,
        metric=config.metric,
        seed=config.seed,
        sample=config.sample,
        **values,
    )


def _mosaic(config: MosaicConfig) -> int:
    from raylatent.run import MAPS, MOSAICS, RunDirectory  # noqa: PLC0415  (slow)
    from raylatent.slide_map import SlideMap  # noqa: PLC0415

    labels = _check_labels(config)
    run = RunDirectory.open(config.out)
    slide_map = SlideMap.load(f"{run.uri}/{MAPS}/{config.map}", run=run)
    if labels is not None:
        slide_map.label_by_slide(labels)
    options: dict[str, Any] = {}
    if config.source_root:
        options["tfrecords"] = [config.source_root]
    mosaic = slide_map.generate_mosaic(
        num_tiles_x=config.num_tiles_x,
        select=config.select,
        grid=config.grid,
        cell_px=config.cell_px,
        **options,
    )
    folder = f"{run.uri}/{MOSAICS}/{config.mosaic}"
    mosaic.save(folder)
    _say(f"mosaic    {folder}/mosaic.png")
    return 0


def _layers(config: LayersConfig) -> int:
    from raylatent.model.features import Features  # noqa: PLC0415  (torch: slow)

    features = Features(config.model, allow_pickle=config.allow_pickle, device="cpu")
    rows = features.layer_shapes()
    width = max((len(name) for name, _, _ in rows), default=0)
    kinds = max((len(kind) for _, kind, _ in rows), default=0)
    for name, kind, shape in rows:
        _say(f"{name:<{width}}  {kind:<{kinds}}  {shape}")
    shape = features.shapes[features.layers[0]]
    _say(f"{'postconv':<{width}}  {'':<{kinds}}  {shape}")
    return 0


VERBS: dict[str, tuple[type[Any], Callable[[Any], int]]] = {
    "atlas": (AtlasConfig, _atlas),
    "activations": (ActivationsConfig, _activations),
    "map": (MapConfig, _map),
    "mosaic": (MosaicConfig, _mosaic),
    "layers": (LayersConfig, _layers),
}

