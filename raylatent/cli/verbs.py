"""What each verb does with its configuration; the engine is imported when needed."""

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raylatent.claim import new_token
from raylatent.config import (
    ActivationsConfig,
    AtlasConfig,
    BenchConfig,
    ClusterConfig,
    ExploreConfig,
    ExtractTilesConfig,
    LabelConfig,
    LayersConfig,
    MapConfig,
    MosaicConfig,
    SelectConfig,
    ServeConfig,
    VerifyConfig,
)
from raylatent.config.map_verbs import RunMapConfig
from raylatent.errors import ConfigError
from raylatent.run.layout import PSEUDONYMS
from raylatent.storage import Store, absolute
from raylatent.terminal import fail, say

if TYPE_CHECKING:
    from raylatent.engine.report import RunReport
    from raylatent.main_job import StoredMap
    from raylatent.mosaic import Mosaic
    from raylatent.stored.verification import Verification

logger = logging.getLogger(__name__)

_SHOWN = 20  # slides that are named; report.json has all
_FINDINGS_SHOWN = 50


def _atlas(config: AtlasConfig) -> int:
    from raylatent.main_job import run_atlas  # noqa: PLC0415  (torch, ray: slow)

    done = run_atlas(config, say=_say_rows)
    if done.map is None or done.mosaic is None:
        return fail("not one tile has activations: there is nothing to map", 1)
    if len(config.layers) > 1 and not config.layer:
        say(f"layer     {config.layers[0]} is mapped, --layer chooses another")
    _say_map(done.map)
    _say_mosaic(config, *done.mosaic)
    if done.page is not None:
        say(f"open      {Path(done.page).as_uri()}")
    return 1 if done.report.failed else 0


def _activations(config: ActivationsConfig) -> int:
    from raylatent.main_job import run_activations  # noqa: PLC0415  (torch, ray: slow)

    report = run_activations(config)
    _say_rows(report)
    return 1 if report.failed else 0


def _say_rows(report: "RunReport") -> None:
    _say_slides(report, "rows")
    say(f"rows      {report.run}/activations")
    say(f"report    {report.run}/report.json")


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
        say(f"no tiles  {slide}")
    if len(empty) > _SHOWN:
        say(f"no tiles  in {len(empty) - _SHOWN} more slides, see report.json")
    for failed in report.failed[:_SHOWN]:
        fail(f"slide {failed.slide!r} failed: {failed.error}", 1)
    if len(report.failed) > _SHOWN:
        fail(f"and {len(report.failed) - _SHOWN} more slides, see report.json", 1)
    if any(slide.left_out is not None for slide in report.slides):
        say(f"page      {report.run}/slides.html")


def _map(config: MapConfig) -> int:
    from raylatent.main_job import run_map  # noqa: PLC0415  (ray: slow)

    _say_map(run_map(config))
    return 0


def _say_map(made: "StoredMap") -> None:
    from raylatent.mapping.statistics import in_words  # noqa: PLC0415  (slow)

    for line in in_words(made.info):
        say(line)
    for picture in made.by_label:
        say(f"by label  {picture}")
    for picture in reversed(made.pictures):
        say(f"map       {picture}")


def _mosaic(config: MosaicConfig) -> int:
    from raylatent.main_job import run_mosaic  # noqa: PLC0415  (ray: slow)

    _say_mosaic(config, *run_mosaic(config))
    return 0


def _say_mosaic(config: MosaicConfig, mosaic: "Mosaic", folder: str) -> None:
    say(f"cells     {mosaic.summary()}")
    for name, note in mosaic.notes.items():
        say(f"{name:<9} {note}")
    if config.each == "label":
        say(f"each      {folder}-label=*/mosaic.png")
    say(f"mosaic    {folder}/mosaic.png")


def _select(config: SelectConfig) -> int:
    from raylatent.map_job import run_select  # noqa: PLC0415  (slow)

    say(f"tiles     {run_select(config):,}")
    say(f"{config.to:<9} {absolute(config.out)}")
    return 0


def _label(config: LabelConfig) -> int:
    from raylatent.map_job import run_label  # noqa: PLC0415  (slow)

    labels, pictures = run_label(config)
    say(f"labels    {', '.join(labels) or 'none'}")
    _say_labeled(config, pictures)
    return 0


def _say_labeled(config: RunMapConfig, pictures: Sequence[str]) -> None:
    for picture in pictures:
        say(f"map       {picture}")
    say("mosaic    is as it was: `raylatent mosaic` draws it with the new labels")
    say(f"page      is as it was: `raylatent explore {config.run}` writes it anew")


def _cluster(config: ClusterConfig) -> int:
    from raylatent.map_job import run_cluster  # noqa: PLC0415  (ray: slow)

    sizes, pictures = run_cluster(config)
    for number, n in enumerate(sizes, 1):
        say(f"cluster   {number}, {n:,} tiles")
    _say_labeled(config, pictures)
    return 0


def _serve(config: ServeConfig) -> int:
    try:
        from raylatent.explorer.server import serve  # noqa: PLC0415  (an extra)
    except ImportError as error:
        message = "serve needs the extra serve: pip install 'raylatent[serve]'"
        raise ConfigError(message) from error
    serve(config, say)
    return 0


def _explore(config: ExploreConfig) -> int:
    from raylatent.map_job import run_explore  # noqa: PLC0415  (ray: slow)

    page, facts = run_explore(config)
    level = facts["levels"][-1]
    points = facts["counts"]["points"]
    say(
        f"levels    {len(facts['levels'])}, the deepest has {level['cells']:,} cells, "
        f"{100 * level['cells'] / points:.3g} % of {points:,} tiles; points: "
        f"{facts['points']}"
    )
    if config.pseudonymise:
        say(
            f"names     random: {absolute(config.run)}/{PSEUDONYMS} tells which is which"
        )
    if facts["failed"]:
        say(f"failed    {facts['failed']:,} tiles cannot be read and are gray")
    say(f"open      {Path(page).as_uri()}")
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


def verify(config: VerifyConfig) -> int:
    """Check a run, and say what was found; the exit code."""
    from raylatent.engine.verify import verify_run  # noqa: PLC0415  (ray: slow)

    report = verify_run(config)
    _say_counts(report)
    for note in report.notes[:_FINDINGS_SHOWN]:
        fail(f"note: {note}", 0)
    if len(report.notes) > _FINDINGS_SHOWN:
        fail(f"note: and {len(report.notes) - _FINDINGS_SHOWN} more of these", 0)
    for finding in report.findings[:_FINDINGS_SHOWN]:
        fail(str(finding), 1)
    if len(report.findings) > _FINDINGS_SHOWN:
        fail(f"and {len(report.findings) - _FINDINGS_SHOWN} more things are wrong", 1)
    if report.findings:
        return 1
    if report.worked_on_by is not None:
        return fail(f"unfinished: {report.worked_on_by} works on {report.run}", 1)
    say(f"verified  {report.run}")
    return 0


def _say_counts(report: "Verification") -> None:
    counts = report.counts
    say(
        f"slides    {counts['slides']:,}, {counts['rows']:,} rows, "
        f"{counts['quarantined']:,} tiles quarantined, {counts['missing']:,} missing"
    )
    say(f"parts     {counts['parts']:,}, {counts['bytes']:,} bytes checked")
    for name, n_points in report.points.items():
        say(f"map       {name}, {n_points:,} points")
    for name in report.mosaics:
        say(f"mosaic    {name}")
    for name in report.pages:
        say(f"explore   {name}")
    if report.sources:
        states = (f"{n:,} {state}" for state, n in report.sources.most_common())
        records = f", {n:,} records checked" if (n := counts["records"]) else ""
        say(f"sources   {', '.join(states)}{records}")


VERBS: dict[str, tuple[type[Any], Callable[[Any], int]]] = {
    "atlas": (AtlasConfig, _atlas),
    "activations": (ActivationsConfig, _activations),
    "map": (MapConfig, _map),
    "mosaic": (MosaicConfig, _mosaic),
    "explore": (ExploreConfig, _explore),
    "extract-tiles": (ExtractTilesConfig, _extract_tiles),
    "select": (SelectConfig, _select),
    "label": (LabelConfig, _label),
    "cluster": (ClusterConfig, _cluster),
    "serve": (ServeConfig, _serve),
    "layers": (LayersConfig, _layers),
    "verify": (VerifyConfig, verify),
    "bench": (BenchConfig, _bench),
}
