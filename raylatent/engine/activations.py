"""Tiles and a model to activations in Parquet, spread over a cluster."""

import logging
import platform
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from typing import Any

import ray

from raylatent import schema
from raylatent.claim import Claim, new_token
from raylatent.config import ActivationsConfig
from raylatent.engine.actors import (
    ActivationsActor,
    ActorOptions,
    DriverModel,
    PackedSpec,
)
from raylatent.engine.cluster import UNITS_AT_ONCE_ON_GPU, Pool, pool, start_queue
from raylatent.engine.connection import connect
from raylatent.engine.done import Inputs
from raylatent.engine.plan import Plan, make_plan, refuse_nothing
from raylatent.engine.progress import Pace, Progress
from raylatent.engine.report import (
    RunReport,
    Tally,
    audit,
    say_remarks,
    with_grids,
    write_report,
)
from raylatent.engine.stream import Advice, stream
from raylatent.engine.visibility import check_visibility, refuse_temporary_copy
from raylatent.errors import ConfigError, ModelError, PassError, RunError
from raylatent.mapping.fitted_map import library_versions
from raylatent.model.devices import has_gpu, torch_version
from raylatent.model.features import Features
from raylatent.model.identity import Identity
from raylatent.model.layer_checks import (
    constant_layers,
    cost_in_words,
    if_short_of_memory,
    refuse_unasked,
    tiles_of_unit,
    unit_in_words,
)
from raylatent.model.rows import RowOptions
from raylatent.model.sample_tiles import other_outputs
from raylatent.model.spec import ModelSpec
from raylatent.run import (
    IDENTITY,
    OUTPUTS,
    Part,
    RunDirectory,
    fingerprint,
    remove_litter,
)
from raylatent.source.kinds import (
    fields_of,
    find_sources,
    first_tile_px,
    kind_of,
    named,
)
from raylatent.source.protocol import Request
from raylatent.source.wsi import READER
from raylatent.stored.manifest import put_run_manifest
from raylatent.tiles.decode import DECODER

logger = logging.getLogger(__name__)

_PACKAGES = ("raylatent", "torch", "ray", "numpy", "pyarrow", "pillow")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is known before the cluster is.

    Attributes:
        config: As given.
        inputs: The sources.
        spec: The model's, completed.
        features: The model on the driver.
        identity: What tells the model from others.
        with_preds: Whether predictions are stored.
        in_turn: Whether units of all slides come in turn, so that the first of them
            are a sample, and not slide by slide.
    """

    config: ActivationsConfig
    inputs: Inputs
    spec: ModelSpec
    features: Features
    identity: Identity
    with_preds: bool
    in_turn: bool = False

    @property
    def row_numbers(self) -> tuple[int, int, int]:
        """Tiles of a unit, numbers of a tile, tiles of a micro-batch."""
        features = self.features
        return self.inputs.unit_tiles, features.num_features, features.batch_size


def compute_activations(
    config: ActivationsConfig,
    spec: ModelSpec,
    sources: Mapping[str, Request] | None = None,
) -> RunReport:
    """Compute the activations of every tile that is not done yet.

    Args:
        config: Sources, layers, options, and the run directory; `{fingerprint}` in
            its path is replaced by the run's.
        spec: The model.
        sources: Those that the configuration names, if they were found already.

    Returns:
        What became of each slide; `failed` names those that failed.

    Raises:
        InputError: Sources, model or layers are not there or make no sense.
        RunError: The run directory is refused.
        StorageError: The run directory cannot be written, after retries.
        IncompleteError: There is no tile at all.
    """
    if "{fingerprint}" not in config.out:
        RunDirectory(config.out).refuse_before_work()
    return run_job(prepare(config, spec, sources))


def run_job(job: Job, *, pace: Pace | None = None) -> RunReport:
    """Compute what `prepare` made ready, see `compute_activations`.

    The cluster is asked once there is work for it, or a run to begin.

    Args:
        job: The job.
        pace: Counts the tiles that are done; once it has enough, the rest of them is
            left undone.
    """
    config = job.config
    share = cache(lambda: pool(config.actor_range(), config.num_gpus, local=connect()))
    device = _device_of_run(config) or _device(share())
    digest = fingerprint(_fingerprint_fields(job, device))
    out = config.out.replace("{fingerprint}", digest[:12])
    run = RunDirectory(out, writer=new_token())

    @cache
    def check_cluster() -> None:
        _begin(job, run, _device(share()))
        if not connect():
            check_visibility(run.store, list(job.inputs.requests.values()), job.spec)

    with Claim(run.store, run.store.writer) as claim:
        _begin(job, run, device)
        remove_litter(run)
        plan = make_plan(run, job.inputs, check_cluster)
        refuse_nothing(plan)
        _announce(job, plan)
        remarks = say_remarks(run, job.inputs.with_grid)
        started = time.monotonic()
        tally, gpus = Tally(), 0.0
        if plan.units:
            tally = _run_units(job, run, plan, share(), claim, pace or Pace())
            gpus = share().num_gpus
        wall_s = time.monotonic() - started
        run.refresh()
        parts = run.footers(known=plan.kept)
        slides = audit(run, parts, plan.sources, tally.undone, config.max_bad_fraction)
        report = RunReport(
            run=run.uri,
            slides=with_grids(run, slides, job.inputs.with_grid, remarks),
            removed=plan.removed,
            counts=tally.counts,
            seconds={**tally.seconds, "wall": wall_s},
            cpu=tally.cpu,
            gpus=gpus,
            constant=constant_layers(job.features.layers, tally.constants, tally.rows),
        )
        for layer in report.constant:
            logger.warning("%s", layer)
        put_run_manifest(run, _digests(parts) | write_report(run, report))
        remove_litter(run)
    return report


def _digests(parts: Sequence[Part]) -> dict[str, str]:
    """Of parts by name, as their footers tell them."""
    seal = schema.FOOTER_SEAL
    return {part.name: part.footer[seal] for part in parts if seal in part.footer}


def prepare(
    config: ActivationsConfig,
    spec: ModelSpec,
    sources: Mapping[str, Request] | None = None,
) -> Job:
    """All that can be refused before a cluster is asked; `sources` may be found already."""
    if config.out:  # a benchmark may have none
        refuse_temporary_copy("--out", [config.out])
    for option, paths in named(config).items():
        refuse_temporary_copy(option, paths)
    requests = find_sources(config) if sources is None else sources
    if spec.tile_px is None and spec.hub is None:
        spec = replace(spec, tile_px=config.tile_px or first_tile_px(requests))
    with_preds = config.include_preds
    if with_preds is None:
        with_preds = spec.classes is not None
    features = _tried(config, spec, with_preds=with_preds)
    if config.pooling is None:
        refuse_unasked(features.shapes, config.dtype)
    if config.slides and config.resize is False:
        refuse_other_side(config.tile_px, features.tile_px)
    inputs = Inputs(
        requests={k: r.sized(features.tile_px) for k, r in requests.items()},
        unit_tiles=config.unit_tiles
        or tiles_of_unit(features.num_features, features.batch_size),
        stall_timeout_s=config.stall_timeout_s,
        recheck=config.recheck is not False,
    )
    return Job(
        config=config,
        inputs=inputs,
        spec=features.spec,
        features=features,
        identity=features.identity(),
        with_preds=with_preds,
    )


def refuse_other_side(tile_px: int | None, wanted: int) -> None:
    """Refuse to cut tiles that the model would then refuse, one by one.

    Raises:
        ConfigError: The message says both sides.
    """
    if tile_px not in {None, wanted}:
        message = (
            f"--tile-px is {tile_px}, the model takes {wanted}: without --no-resize "
            "tiles are resized"
        )
        raise ConfigError(message)


def _tried(config: ActivationsConfig, spec: ModelSpec, *, with_preds: bool) -> Features:
    """The model on the driver's CPU, where outputs can be compared; else on its GPU."""
    features = partial(
        Features,
        spec,
        layers=config.layers,
        include_preds=with_preds,
        pooling=config.pooling,
        batch_size=config.batch_size,
    )
    try:
        return features(device="cpu")
    except PassError as error:
        if config.num_gpus == 0:
            raise
        if not has_gpu():
            message = (
                f"{error}. That was on the driver's CPU, and the driver has no GPU: if "
                "the model needs one, start the job where there is a GPU"
            )
            raise ModelError(message) from error
        logger.warning(
            "the model cannot run on a CPU (%s): it is tried on the driver's GPU, and "
            "its outputs are not compared with those of another start",
            error,
        )
        return features(device="cuda")


def _device_of_run(config: ActivationsConfig) -> str | None:
    """Where a run that is here, and stays, is computed: `cpu` or `gpu`; else None.

    What `--num-gpus` says counts more, and without it what the cluster has: that is
    compared when the cluster is asked.
    """
    if config.overwrite or "{fingerprint}" in config.out:
        return None
    try:
        fields = RunDirectory(config.out).settings()["fields"]
    except RunError:  # which is mended, or refused, when the run begins
        return None
    return str(fields.get("device")) if config.num_gpus is None else _device(config)


def _device(share: Pool | ActivationsConfig) -> str:
    return "gpu" if share.num_gpus else "cpu"


def _begin(job: Job, run: RunDirectory, device: str) -> None:
    """Write run.json, or refuse a run of another configuration that is here."""
    run.begin(
        _fingerprint_fields(job, device),
        _about(job),
        overwrite=job.config.overwrite,
        also=lambda settings: other_outputs(
            settings.get(OUTPUTS), job.features.sample_outputs
        ),
    )


def _fingerprint_fields(job: Job, device: str) -> dict[str, Any]:
    config, features = job.config, job.features
    return {
        "schema_version": schema.SCHEMA_VERSION,
        **job.identity.fields(),
        "layers": list(features.layers),
        "pooling": features.pooling or "none",
        "predictions": job.with_preds,
        "softmax": job.with_preds and features.softmax,
        "tile_px": features.tile_px,
        "mean": list(features.spec.mean),
        "std": list(features.spec.std),
        "dtype": config.dtype,
        "batch_size": config.batch_size,
        "unit_tiles": job.inputs.unit_tiles,
        "device": device,
        "mixed_precision": bool(config.mixed_precision),
        "torch": torch_version(),
        "decoder": DECODER,
        **fields_of(config, features.tile_px),
        "resize": config.resize is not False,
        "compiled": bool(config.compile),
        **({} if job.spec.output is None else {"output": job.spec.output}),
    }


def _about(job: Job) -> dict[str, Any]:
    spec = job.spec
    return {
        "layers": {name: list(s) for name, s in job.features.shapes.items()},
        "num_classes": job.features.num_classes if job.with_preds else None,
        "classes": None if spec.classes is None else list(spec.classes),
        "outcome": spec.outcome,
        "model": {
            "name": spec.name,
            "factory": spec.factory,
            "folder": spec.folder,
            "weights": spec.weights,
            "hub": spec.hub,
        },
        "unit_tiles": job.inputs.unit_tiles,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": {
            "python": platform.python_version(),
            **library_versions(_PACKAGES),
        },
        IDENTITY: asdict(job.identity),
        OUTPUTS: job.features.sample_outputs,
    }


def _announce(job: Job, plan: Plan) -> None:
    if plan.removed:
        logger.warning(
            "slides no longer named, %d: their rows are set aside in removed/ (%s)",
            len(plan.removed),
            ", ".join(plan.removed[:5]),
        )
    logger.info(
        "slides %d, tiles %d, done %d", len(plan.sources), plan.n_indexed, plan.n_done
    )
    cost = cost_in_words(job.features.shapes, plan.n_indexed, job.config.dtype)
    for line in (cost, unit_in_words(*job.row_numbers)):
        if line is not None:
            logger.warning("%s", line)


def _options(job: Job, run: RunDirectory, share: Pool) -> ActorOptions:
    """What the actors are told."""
    settings = run.settings()
    return ActorOptions(
        run=run.uri,
        token=run.store.writer,
        fingerprint=str(settings["fingerprint"]),
        model=DriverModel.of(job.features),
        layers=tuple(job.features.layers),
        pooling=job.features.pooling,
        batch_size=job.config.batch_size,
        mixed_precision=bool(settings["fields"]["mixed_precision"]),
        compiled=job.config.compile,
        threads=share.threads,
        num_gpus=share.num_gpus,
        reader=READER if job.inputs.with_grid else None,
        rows=RowOptions(
            dtype=job.config.dtype,
            with_preds=job.with_preds,
            resize=job.config.resize is not False,
        ),
    )


def _run_units(
    job: Job, run: RunDirectory, plan: Plan, share: Pool, claim: Claim, pace: Pace
) -> Tally:
    """Send the units to the actors; what they told of them."""
    logger.info("actors up to %d, threads of each %d", share.largest, share.threads)
    options = _options(job, run, share)
    tally = Tally()
    units = sorted(plan.units, key=lambda u: u.unit) if job.in_turn else plan.units
    with_grid = [unit for unit in units if kind_of(unit.source).has_grid]
    queue = start_queue(with_grid, plan.nodes)
    if share.num_gpus and not with_grid:
        share = replace(share, at_once=UNITS_AT_ONCE_ON_GPU)
    model = ray.put(PackedSpec.pack(job.spec))
    arguments = (model, options, queue)
    n_todo = sum(unit.count for unit in plan.units)
    pace.begin(min(share.largest * share.at_once, len(units)))
    with Progress("activations", n_todo) as progress:
        found = stream(
            "units of tiles",
            units,
            ActivationsActor,
            arguments,
            share,
            advice=Advice(if_short_of_memory=if_short_of_memory(*job.row_numbers)),
            stall_timeout_s=job.config.stall_timeout_s,
        )
        with closing(found):
            for row in found:
                claim.check()
                tiles = tally.add(row)
                progress.add(tiles)
                pace.add(tiles)
                if pace.enough:
                    break
    smaller = tally.counts["smaller_batch"]
    if smaller:
        logger.warning(
            "a GPU had no memory for --batch-size %d: %d tiles went through in smaller "
            "passes, their rows are within the tolerance for GPUs",
            *(job.config.batch_size, smaller),
        )
    return tally
