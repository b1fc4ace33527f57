"""Stages measured on one node of each kind, with a job's own sources and model."""

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from math import ceil
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raylatent.bench.node import Bench
from raylatent.bench.rates import Measured, Node
from raylatent.bench.report import BenchReport
from raylatent.bench.units import Sources
from raylatent.config import BenchConfig
from raylatent.engine.activations import Job, prepare
from raylatent.engine.actors import ActorOptions, DriverModel, PackedSpec
from raylatent.engine.cluster import READ_CPUS, Pool, gather
from raylatent.engine.connection import connect
from raylatent.engine.kinds import end_task, kinds_of_nodes, pool_with_gpus
from raylatent.engine.measuring import measure_here
from raylatent.engine.visibility import check_visibility
from raylatent.errors import ContentError, SourceError, StorageError
from raylatent.mapping.parameters import MapParameters
from raylatent.model.rows import RowOptions
from raylatent.model.spec import ModelSpec
from raylatent.run.scratch import scratch
from raylatent.source.grids import SlideRequest, detect_tiles, kept_tiles, open_slide
from raylatent.source.units import index_source
from raylatent.source.wsi import READER
from raylatent.storage import Store

logger = logging.getLogger(__name__)

_FILES = 16  # that tiles are taken of
_SLIDES = 4
_INDEX_BATCH = 16
_END_S = 10.0


def run_bench(config: BenchConfig, spec: ModelSpec) -> BenchReport:
    """Measure each stage on one node of each kind.

    Args:
        config: Sources and options, as of the activations.
        spec: The model.

    Raises:
        InputError: Sources, model or layers are not there or make no sense.
        IncompleteError: Not one tile can be read.
        StorageError: What is measured cannot be written.
    """
    job = prepare(config, spec)
    started_here = connect()
    share = pool_with_gpus(config, local=started_here)
    nodes = kinds_of_nodes(share)
    kinds: list[tuple[Node, Measured]] = []
    with scratch(config.out) if config.out else nullcontext() as base:
        if base is not None and not started_here:
            check_visibility(base, list(job.inputs.uris.values()), job.spec)
        for node, node_id in nodes:
            logger.info(
                "measuring on a node of %g CPUs and %g GPUs", node.cpus, node.gpus
            )
            store = None if base is None else base.child(str(len(kinds)))
            kinds.append((node, _measure(config, job, share, (node, node_id), store)))
    if config.tiles is None:
        tiles, units = _count(job, config)
    else:
        tiles, units = config.tiles, ceil(config.tiles / job.inputs.unit_tiles)
    return BenchReport(kinds=tuple(kinds), tiles=tiles, units=units)


def _measure(
    config: BenchConfig,
    job: Job,
    share: Pool,
    place: tuple[Node, str],
    store: Store | None,
) -> Measured:
    """Measure on one node, and on no other."""
    node, node_id = place
    options = _options(config, job, share) if node.actors else None
    bench = Bench(
        sources=Sources(
            files=_some(list(job.inputs.tfrecords.items()), _FILES),
            slides=_some(list(job.inputs.slides.items()), _SLIDES),
            tile_px=job.features.tile_px,
            unit_tiles=job.inputs.unit_tiles,
        ),
        seconds=config.seconds,
        params=MapParameters(),
    )
    task: Any = ray.remote(num_cpus=min(share.num_cpus, node.cpus), max_retries=0)(
        measure_here
    )
    strategy = NodeAffinitySchedulingStrategy(node_id, soft=False)
    answer = task.options(
        scheduling_strategy=strategy,
        num_gpus=share.num_gpus if options is not None else 0,
    ).remote(PackedSpec.pack(job.spec), bench, options, store)
    try:
        (measured,) = gather([answer], config.stall_timeout_s)
    finally:
        end_task(answer, _END_S)  # nothing is written after that
    found: Measured = measured
    return found


def _options(config: BenchConfig, job: Job, share: Pool) -> ActorOptions:
    """As the job itself would make its actors."""
    return ActorOptions(
        run=config.out,
        token="",
        fingerprint="",
        model=DriverModel.of(job.features),
        layers=tuple(job.features.layers),
        pooling=job.features.pooling,
        batch_size=config.batch_size,
        mixed_precision=bool(config.mixed_precision),
        compiled=config.compile,
        threads=share.threads,
        num_gpus=share.num_gpus,
        reader=READER if job.inputs.slides else None,
        rows=RowOptions(
            dtype=config.dtype,
            with_preds=job.with_preds,
            resize=config.resize is not False,
        ),
    )


def _some(values: list[Any], most: int) -> list[Any]:
    """Values from all over a list.

    >>> _some(list(range(10)), 4)
    [0, 3, 6, 9]
    """
    return values[:: max(1, -(-len(values) // most))]


def _count(job: Job, config: BenchConfig) -> tuple[int, int]:
    """Tiles and units of all sources, counted by the cluster; what cannot be has none."""
    logger.info(
        "counting the tiles of %d sources",
        len(job.inputs.tfrecords) + len(job.inputs.slides),
    )
    files = list(job.inputs.tfrecords.items())
    of_files: Any = ray.remote(num_cpus=READ_CPUS)(count_files)
    of_slide: Any = ray.remote(num_cpus=1)(count_slide)
    pending = [
        of_files.remote(files[i : i + _INDEX_BATCH], job.features.tile_px)
        for i in range(0, len(files), _INDEX_BATCH)
    ]
    pending += [
        of_slide.remote(slide, request) for slide, request in job.inputs.slides.items()
    ]
    counts = [n for some in gather(pending, config.stall_timeout_s) for n in some]
    return sum(counts), sum(ceil(n / job.inputs.unit_tiles) for n in counts)


def count_files(files: Sequence[tuple[str, str]], tile_px: int) -> list[int]:
    """Tiles of each of some TFRecords."""
    return [index_source(slide, uri, tile_px)[0].n_indexed for slide, uri in files]


def count_slide(slide: str, request: SlideRequest) -> list[int]:
    """Tiles of a whole slide; none if it cannot be opened."""
    try:
        rows, _ = kept_tiles(detect_tiles(open_slide(slide, request), request))
    except (SourceError, StorageError, ContentError):
        return [0]
    return [len(rows)]
