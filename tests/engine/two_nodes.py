"""Runs scenarios on a head without CPUs and two worker nodes: `two_nodes.py JSON`.

A process of its own, since one process has one Ray. Each scenario is a dictionary of
ActivationsConfig's options and, optionally, `threads` for each actor, or a `module` to
take as model. Prints the failed slides of each.
"""

import json
import sys
from dataclasses import replace

import ray
from ray.cluster_utils import Cluster

from raylatent.config import ActivationsConfig
from raylatent.engine import activations
from raylatent.errors import RaylatentError
from raylatent.model.spec import model_spec


def plain_net():
    """An nn.Module from Python, the same each time."""
    import torch

    generator = torch.Generator().manual_seed(1)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 5, stride=4),
        torch.nn.ReLU(),
        torch.nn.Conv2d(8, 16, 3, stride=2),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(16, 4),
    )
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return net.eval()


def run_scenario(scenario):
    """One run; what became of it."""
    threads = scenario.pop("threads", None)
    module = scenario.pop("module", False)
    share_of = activations.pool

    def share(*arguments, **options):
        found = share_of(*arguments, **options)
        return replace(found, threads=threads or found.threads)

    activations.pool = share
    tuples = {k: tuple(v) for k, v in scenario.items() if isinstance(v, list)}
    config = ActivationsConfig(**{**scenario, **tuples})
    spec = model_spec(plain_net()) if module else model_spec(config.model)
    try:
        report = activations.compute_activations(config, spec)
    except RaylatentError as error:
        return {"error": type(error).__name__, "message": str(error)}
    finally:
        activations.pool = share_of
    nodes = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    return {"failed": [slide.slide for slide in report.failed], "nodes": len(nodes)}


def main():
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, log_to_driver=False)
        results = [run_scenario(scenario) for scenario in json.loads(sys.argv[1])]
        sys.stdout.write(f"RESULTS {json.dumps(results)}\n")
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main()
