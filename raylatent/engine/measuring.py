"""What a benchmark runs on a node: an actor of the job, but for Ray."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from raylatent.bench.node import Bench, measure_node
from raylatent.bench.rates import Measured
from raylatent.bench.whole import Actor
from raylatent.engine.actors import ActorOptions, PackedSpec, load_features
from raylatent.engine.cores import UNITS_AT_ONCE_ON_GPU, threads_here
from raylatent.engine.unit_actor import check_reader
from raylatent.model.lanes import lane_of
from raylatent.model.running import feed_gpu, set_threads
from raylatent.storage import Store
from raylatent.tiles.decoders import Decoders
from raylatent.tiles.stream import Threads


def measure_here(
    spec: PackedSpec,
    bench: Bench,
    options: ActorOptions | None,
    store: Store | None,
) -> Measured:
    """Measure an actor's model and threads on this node.

    Args:
        spec: The model.
        bench: What is to be measured.
        options: As the job's actors get them; None where there is none of them.
        store: Where parts go; None: nowhere.

    Raises:
        RaylatentError: As an actor of the job would.
    """
    if options is None:
        return measure_node(bench, None)
    threads = threads_here(options.threads, options.num_gpus)
    (feed_gpu if options.num_gpus else set_threads)(threads)
    with ThreadPoolExecutor(threads) as executor, ExitStack() as stack:
        decoders = Decoders(threads) if options.num_gpus else None
        if decoders is not None:
            stack.callback(decoders.close)
        features = load_features(spec.unpack(), options)
        check_reader(options.reader)
        actor = Actor(
            lane=lane_of(features),
            rows=options.rows,
            threads=Threads(executor, threads, decoders),
            store=store,
            at_once=UNITS_AT_ONCE_ON_GPU if options.num_gpus else 1,
        )
        return measure_node(bench, actor)
