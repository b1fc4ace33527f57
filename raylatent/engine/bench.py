"""Stages measured on one node of each kind, with a job's own sources and model."""

import logging
import platform
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raylatent.bench.node import Bench, measure_node
from raylatent.bench.rates import Measured, Node
from raylatent.bench.report import BenchReport
from raylatent.bench.units import Sources
from raylatent.bench.whole import Actor
from raylatent.claim import new_token
from raylatent.config import BenchConfig
from raylatent.engine.actors import PackedSpec
from raylatent.engine.cluster import READ_CPUS, Pool, alive_nodes, connect, gather, pool
from raylatent.engine.cores import UNITS_AT_ONCE_ON_GPU, threads_here
from raylatent.engine.requests import first_tile_px, refuse_bad_names, slide_requests
from raylatent.engine.visibility import check_visibility, refuse_temporary_copy
from raylatent.errors import ContentError, ModelError, SourceError, StorageError
from raylatent.mapping.parameters import MapParameters
from raylatent.model.features import Features
from raylatent.model.lanes import lane_of
from raylatent.model.rows import RowOptions
from raylatent.model.runtime import feed_gpu, has_gpu, keep_float32, set_threads
from raylatent.model.spec import ModelSpec
from raylatent.source.find import find_tfrecords
from raylatent.source.grids import SlideRequest, detect_tiles, kept_tiles, open_slide
from raylatent.source.slides import find_slides
from raylatent.source.units import index_source
from raylatent.storage import Store
from raylatent.tiles.decoders import Decoders
from raylatent.tiles.stream import Threads

logger = logging.getLogger(__name__)

_FILES = 16  # that tiles are taken of
_SLIDES = 4
_INDEX_BATCH = 16


@dataclass(frozen=True, kw_only=True)
class _ActorOptions:
    """What makes an actor of the job on a node."""

    layers: tuple[str, ...]
    pooling: str | None
    batch_size: int
    mixed_precision: bool
    compiled: bool
    threads: int
    num_gpus: float
    rows: RowOptions
    store: Store | None


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What is known before the cluster is."""

    files: dict[str, str]
    slides: dict[str, SlideRequest]
    spec: ModelSpec
    features: Features


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
    job = _prepare(config, spec)
    started_here = connect()
    share = pool(config.actor_range(), config.num_gpus, local=started_here)
    nodes = _kinds(share)
    kinds: list[tuple[Node, Measured]] = []
    folder = f"bench-{new_token()}"
    base = Store(config.out) if config.out else None
    try:
        if base is not None and not started_here:
            sources = [*job.files.values(), *(r.uri for r in job.slides.values())]
            check_visibility(base.child(folder), sources, job.spec)
        for node, node_id in nodes:
            logger.info(
                "measuring on a node of %g CPUs and %g GPUs", node.cpus, node.gpus
            )
            store = None if base is None else base.child(f"{folder}/{len(kinds)}")
            kinds.append((node, _measure(config, job, share, (node, node_id), store)))
    finally:
        if base is not None:
            base.delete_folder(folder)
    tiles = config.tiles or _count(job, config)
    return BenchReport(kinds=tuple(kinds), tiles=tiles)


def _prepare(config: BenchConfig, spec: ModelSpec) -> _Job:
    """All that can be refused before a cluster is asked."""
    if config.out:
        refuse_temporary_copy("--out", [config.out])
    refuse_temporary_copy("--tfrecords", config.tfrecords)
    files = find_tfrecords(config.tfrecords)
    slides = find_slides(config.slides)
    refuse_bad_names(files, slides)
    if spec.tile_px is None and spec.hub is None:
        spec = replace(spec, tile_px=config.tile_px or first_tile_px(files))
    features = Features(
        spec,
        layers=config.layers,
        include_preds=config.include_preds is True,
        pooling=config.pooling,
        batch_size=config.batch_size,
        device="cpu",
    )
    return _Job(
        files=files,
        slides=slide_requests(config, slides, features.tile_px),
        spec=features.spec,
        features=features,
    )


def _kinds(share: Pool) -> list[tuple[Node, str]]:
    """Kinds of nodes by CPUs and GPUs, and one node's id of each."""
    by_kind: dict[tuple[float, float], list[str]] = {}
    for node in alive_nodes():
        has = node["Resources"]
        key = (float(has.get("CPU", 0)), float(has.get("GPU", 0)))
        if key[0] > 0:
            by_kind.setdefault(key, []).append(str(node["NodeID"]))
    on_gpus = share.num_gpus > 0
    total = sum(key[on_gpus] * len(ids) for key, ids in by_kind.items())
    return [
        (
            Node(
                cpus=key[0],
                gpus=key[1],
                count=len(ids),
                actors=share.largest * key[on_gpus] / total if total else 0.0,
            ),
            ids[0],
        )
        for key, ids in sorted(by_kind.items(), reverse=True)
    ]


def _measure(
    config: BenchConfig,
    job: _Job,
    share: Pool,
    place: tuple[Node, str],
    store: Store | None,
) -> Measured:
    """Measure on one node, and on no other."""
    node, node_id = place
    options = _options(config, job, share, store) if node.actors else None
    bench = Bench(
        sources=Sources(
            files=_some(list(job.files.items()), _FILES),
            slides=_some(list(job.slides.items()), _SLIDES),
            tile_px=job.features.tile_px,
            unit_tiles=config.unit_tiles,
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
    ).remote(PackedSpec.pack(job.spec), bench, options)
    try:
        (measured,) = gather([answer], config.stall_timeout_s)
    finally:
        ray.cancel(answer, force=True)
    found: Measured = measured
    return found


def _options(
    config: BenchConfig, job: _Job, share: Pool, store: Store | None
) -> _ActorOptions:
    """As the job itself would make its actors."""
    with_preds = config.include_preds
    if with_preds is None:
        with_preds = job.features.classes is not None
    return _ActorOptions(
        layers=tuple(job.features.layers),
        pooling=job.features.pooling,
        batch_size=config.batch_size,
        mixed_precision=bool(config.mixed_precision),
        compiled=config.compile,
        threads=share.threads,
        num_gpus=share.num_gpus,
        rows=RowOptions(
            dtype=config.dtype,
            with_preds=with_preds,
            resize=config.resize is not False,
        ),
        store=store,
    )


def _some(values: list[Any], most: int) -> list[Any]:
    """Values from all over a list.

    >>> _some(list(range(10)), 4)
    [0, 3, 6, 9]
    """
    return values[:: max(1, -(-len(values) // most))]


def measure_here(
    spec: PackedSpec, bench: Bench, options: _ActorOptions | None
) -> Measured:
    """What runs on a node: an actor's model and threads, measured."""
    if options is None:
        return measure_node(bench, None)
    if options.num_gpus and not has_gpu():
        message = (
            f"torch sees no GPU on {platform.node()}, though Ray gave the task one: "
            "install a torch that can use it, or --num-gpus 0"
        )
        raise ModelError(message)
    threads = threads_here(options.threads, options.num_gpus)
    (feed_gpu if options.num_gpus else set_threads)(threads)
    features = Features(
        spec.unpack(),
        layers=options.layers,
        include_preds=options.rows.with_preds,
        pooling=options.pooling,
        batch_size=options.batch_size,
        device="cuda" if options.num_gpus else "cpu",
        mixed_precision=options.mixed_precision,
    )
    if not options.mixed_precision:
        keep_float32()
    if options.compiled:
        features.compile()
    with ThreadPoolExecutor(threads) as executor, ExitStack() as stack:
        decoders = Decoders(threads) if options.num_gpus else None
        if decoders is not None:
            stack.callback(decoders.close)
        actor = Actor(
            lane=lane_of(features),
            rows=options.rows,
            threads=Threads(executor, threads, decoders),
            store=options.store,
            at_once=UNITS_AT_ONCE_ON_GPU if options.num_gpus else 1,
        )
        return measure_node(bench, actor)


def _count(job: _Job, config: BenchConfig) -> int:
    """Tiles of all sources, counted by the cluster; those that cannot be have none."""
    logger.info("counting the tiles of %d sources", len(job.files) + len(job.slides))
    files = list(job.files.items())
    of_files: Any = ray.remote(num_cpus=READ_CPUS)(count_files)
    of_slide: Any = ray.remote(num_cpus=1)(count_slide)
    pending = [
        of_files.remote(files[i : i + _INDEX_BATCH], job.features.tile_px)
        for i in range(0, len(files), _INDEX_BATCH)
    ]
    pending += [
        of_slide.remote(slide, request) for slide, request in job.slides.items()
    ]
    return sum(gather(pending, config.stall_timeout_s))


def count_files(files: Sequence[tuple[str, str]], tile_px: int) -> int:
    """Tiles of TFRecords."""
    return sum(index_source(slide, uri, tile_px)[0].n_indexed for slide, uri in files)


def count_slide(slide: str, request: SlideRequest) -> int:
    """Tiles of a whole slide; none if it cannot be opened."""
    try:
        rows, _ = kept_tiles(detect_tiles(open_slide(slide, request), request))
    except (SourceError, StorageError, ContentError):
        return 0
    return len(rows)
