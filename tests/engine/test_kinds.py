"""Kinds of nodes, and the actors that a job has on each."""

import pytest

from raylatent.config import BenchConfig
from raylatent.engine import cluster, kinds
from raylatent.engine.kinds import kinds_of_nodes, pool_with_gpus


@pytest.fixture
def nodes(monkeypatch):
    """Says which nodes are up."""

    def up(*resources):
        found = [
            {"Alive": True, "NodeID": str(i), "Resources": has}
            for i, has in enumerate(resources)
        ]
        for module in (cluster, kinds):
            monkeypatch.setattr(module, "alive_nodes", lambda: found)

    return up


def actors_of(actors, num_gpus):
    found = kinds_of_nodes(cluster.pool(actors, num_gpus))
    return {(node.cpus, node.gpus, node.hardware): node.actors for node, _ in found}


def test_no_more_actors_than_gpus_have_room_for(nodes):
    nodes({"CPU": 4.0}, {"CPU": 8.0, "GPU": 1.0})
    assert actors_of((1, 8), 1.0) == {(8.0, 1.0, ""): 1.0, (4.0, 0.0, ""): 0.0}
    assert actors_of((1, 8), 0.25) == {(8.0, 1.0, ""): 4.0, (4.0, 0.0, ""): 0.0}
    assert actors_of((1, 1), 0.25)[(8.0, 1.0, "")] == 1.0


def test_nodes_with_too_few_gpus_have_no_actor(nodes):
    nodes({"CPU": 8.0, "GPU": 1.0}, {"CPU": 8.0, "GPU": 5.0})
    assert actors_of((8, 8), 2.0) == {(8.0, 5.0, ""): 2.0, (8.0, 1.0, ""): 0.0}


def test_gpus_of_two_types_are_two_kinds(nodes):
    a100, t4 = ({f"accelerator_type:{name}": 1.0} for name in ("A100", "T4"))
    same = {"CPU": 16.0, "GPU": 1.0}
    nodes(same | a100, same | t4, same | t4)
    found = kinds_of_nodes(cluster.pool(None, None))
    assert {(node.hardware, node.count) for node, _ in found} == {
        ("A100", 1),
        ("T4", 2),
    }
    assert {node.actors for node, _ in found} == {1.0}


def test_actors_on_cores_are_spread_by_cores(nodes):
    nodes({"CPU": 12.0}, {"CPU": 4.0})
    assert actors_of((8, 8), 0.0) == {(12.0, 0.0, ""): 6.0, (4.0, 0.0, ""): 2.0}


def test_where_no_node_has_a_gpu_one_is_asked_for(nodes, monkeypatch, caplog):
    """The demand is what starts one; then actors are told by what is up."""
    nodes({"CPU": 4.0})
    asked = []

    def remote(**wanted):
        def task(function):
            class Task:
                def remote(self):
                    asked.append((wanted, function))
                    nodes({"CPU": 4.0}, {"CPU": 8.0, "GPU": 1.0})

            return Task()

        return task

    monkeypatch.setattr(kinds.ray, "remote", remote)
    monkeypatch.setattr(kinds.ray, "wait", lambda some, **_: (some, []))
    monkeypatch.setattr(kinds, "gather", lambda pending, _: iter(pending))
    config = BenchConfig(
        tfrecords=("a",), model="m", num_gpus=1.0, actors="1:8", out="out"
    )
    with caplog.at_level("INFO", "raylatent"):
        share = pool_with_gpus(config, local=False)
    ((wanted, _),) = asked
    assert wanted["num_gpus"] == 1.0
    assert "waiting for the cluster to start one" in caplog.text
    assert [node.actors for node, _ in kinds_of_nodes(share)] == [1.0, 0.0]
    pool_with_gpus(config, local=False)
    assert len(asked) == 1
