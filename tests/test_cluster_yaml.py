"""cluster.yaml against Ray's own schema and checks; nothing here reaches AWS."""

import copy
import json
from pathlib import Path

import jsonschema
import pytest
import ray.autoscaler
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[1]


@pytest.fixture
def cluster():
    return yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def schema():
    folder = Path(ray.autoscaler.__file__).parent
    return json.loads((folder / "ray-schema.json").read_text(encoding="utf-8"))


def test_fits_rays_schema(cluster, schema):
    jsonschema.validate(cluster, schema)


def test_passes_rays_checks_with_its_defaults(cluster):
    prepared = prepare_config(copy.deepcopy(cluster))
    prepared.setdefault("cluster_synced_files", [])  # `ray up` fills it in
    validate_config(prepared)
    assert prepared["head_node_type"] == "head"


@pytest.mark.parametrize(
    ("path", "value", "error"),
    [
        (("max_worker",), 3, jsonschema.ValidationError),  # unknown key
        (("max_workers",), "eight", jsonschema.ValidationError),
        (
            ("available_node_types", "head", "docker_image"),
            1,
            jsonschema.ValidationError,
        ),
        (("head_node_type",), "heads", ValueError),  # no such type
        (("available_node_types", "gpu_spot", "min_workers"), 99, ValueError),
    ],
)
def test_a_mistake_is_noticed(cluster, path, value, error):
    cluster["cluster_synced_files"] = []
    inner = cluster
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(error):
        validate_config(cluster)


def test_costs_nothing_when_idle_and_is_bounded(cluster):
    workers = {
        name: node
        for name, node in cluster["available_node_types"].items()
        if name != cluster["head_node_type"]
    }
    assert workers
    assert all(node["min_workers"] == 0 for node in workers.values())
    assert all(
        node["max_workers"] <= cluster["max_workers"] for node in workers.values()
    )
    spot = workers["gpu_spot"]["node_config"]["InstanceMarketOptions"]
    assert spot["MarketType"] == "spot"
    assert cluster["idle_timeout_minutes"] > 0


def test_installs_the_tested_versions_from_the_copy_on_every_node(cluster):
    (remote,) = cluster["file_mounts"]
    assert (ROOT / cluster["file_mounts"][remote] / "constraints.txt").is_file()
    install = [
        line for line in cluster["setup_commands"] if "-c constraints.txt" in line
    ]
    assert len(install) == 1
    assert f"cd ~/{Path(remote).name} " in install[0]
    assert remote == f"/home/{cluster['auth']['ssh_user']}/{Path(remote).name}"


def test_commands_survive_yaml(cluster):
    lists = [key for key in cluster if key.endswith("_commands")]
    lines = [line for key in lists for line in cluster[key]]
    assert lines
    assert all(isinstance(line, str) and "\n" not in line for line in lines)
    assert all(line.count("'") % 2 == 0 for line in lines)
