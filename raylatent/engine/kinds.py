"""Kinds of nodes of a cluster, and how many actors of a job each has."""

import logging
import platform
from typing import Any

import ray

from raylatent.bench.rates import Node
from raylatent.config import BenchConfig
from raylatent.engine.cluster import (
    READ_CPUS,
    Pool,
    alive_nodes,
    gather,
    pool,
)

logger = logging.getLogger(__name__)

_TYPE = "accelerator_type:"  # of Ray's resources


def kinds_of_nodes(share: Pool) -> list[tuple[Node, str]]:
    """Kinds of nodes, and one node's id of each.

    Nodes are of one kind that have as many CPUs and GPUs, and GPUs of one type.
    """
    by_kind: dict[tuple[float, float, str], list[str]] = {}
    for node in alive_nodes():
        has = node["Resources"]
        types = sorted(name for name in has if name.startswith(_TYPE))
        hardware = ", ".join(name.removeprefix(_TYPE) for name in types)
        key = (float(has.get("CPU", 0)), float(has.get("GPU", 0)), hardware)
        if key[0] > 0:
            by_kind.setdefault(key, []).append(str(node["NodeID"]))
    rooms = {key: _room(key[0], key[1], share) for key in by_kind}
    total = sum(rooms[key] * len(ids) for key, ids in by_kind.items())
    at_once = min(share.largest, total) if share.num_gpus else share.largest
    return [
        (
            Node(
                cpus=key[0],
                gpus=key[1],
                count=len(ids),
                actors=at_once * rooms[key] / total if total else 0.0,
                hardware=key[2],
            ),
            ids[0],
        )
        for key, ids in sorted(by_kind.items(), reverse=True)
    ]


def _room(cpus: float, gpus: float, share: Pool) -> float:
    """Actors that a node has the GPUs for; where they take none, its part of all."""
    return gpus // share.num_gpus if share.num_gpus else cpus


def pool_with_gpus(config: BenchConfig, *, local: bool) -> Pool:
    """How actors share the cluster, once a node is up on which one can run."""
    share = pool(config.actor_range(), config.num_gpus, local=local)
    nodes = [node["Resources"] for node in alive_nodes()]
    if any(_room(n.get("CPU", 0), n.get("GPU", 0), share) for n in nodes):
        return share
    logger.info(
        "no node that is up has %g GPUs: waiting for the cluster to start one",
        share.num_gpus,
    )
    task: Any = ray.remote(num_cpus=READ_CPUS, num_gpus=share.num_gpus)(platform.node)
    answer = task.remote()
    try:
        list(gather([answer], config.stall_timeout_s))
    finally:
        end_task(answer, 0.0)
    return pool(config.actor_range(), config.num_gpus, local=local)


def end_task(answer: "ray.ObjectRef[Any]", timeout_s: float) -> None:
    """End a task that is not done yet, and wait for that at most so long.

    One that is done is let be: Ray's driver ends in a failed check where a task is
    cancelled by force while its answer arrives (2.60).
    """
    if not ray.wait([answer], timeout=0)[0]:
        ray.cancel(answer, force=True)
        ray.wait([answer], timeout=timeout_s)
