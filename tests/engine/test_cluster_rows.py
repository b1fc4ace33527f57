"""Rows of a cluster of two nodes are, bit for bit, those of the plain loop."""

import json
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]

SCRIPT = Path(__file__).with_name("two_nodes.py")


@pytest.fixture(scope="module")
def source(tmp_path_factory, tiles, write_slide):
    """Slides of 64, 33 and 1 tiles, the first with two that are no pictures."""
    folder = tmp_path_factory.mktemp("tfrecords")
    write_slide(folder, "a b", tiles, bad={21, 40})
    write_slide(folder, "007", tiles[:33])
    write_slide(folder, "one", tiles[:1])
    return folder


def test_rows_are_those_of_the_plain_loop(
    tmp_path, source, sandbox, small_model, assert_same, beside
):
    common = {
        "tfrecords": [str(source)],
        "model": small_model,
        "unit_tiles": 24,
        "batch_size": 16,
        "max_bad_fraction": 0.1,
    }
    layers = {"layers": ["layer1", "postconv"], "pooling": "avg"}
    scenarios = {
        "one actor": {**layers, "actors": "1", "threads": 1},
        "three actors": {**layers, "actors": "3", "threads": 2},
        "a module, its maps in float16": {
            "actors": "1:2",
            "module": True,
            "layers": ["2"],
            "dtype": "float16",
        },
    }
    given = [
        {**common, **scenario, "out": str(tmp_path / f"run {i}")}
        for i, scenario in enumerate(scenarios.values())
    ]
    code, out, err = sandbox.run(
        sys.executable, SCRIPT, json.dumps(given), timeout_s=500
    )
    assert code == 0, err[-3000:]
    (line,) = [line for line in out.splitlines() if line.startswith("RESULTS ")]
    for result in json.loads(line.removeprefix("RESULTS ")):
        assert result == {"failed": [], "nodes": 3}
    plain = {"unit_tiles": 24, "batch_size": 16}
    assert_same(tmp_path / "run 0", [source], **layers, **plain)
    assert_same(tmp_path / "run 1", [source], **layers, **plain, threads=3)
    assert_same(
        tmp_path / "run 2",
        [source],
        model=beside("two_nodes").plain_net(),
        layers=("2",),
        dtype="float16",
        **plain,
    )
