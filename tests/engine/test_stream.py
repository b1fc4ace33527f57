"""Actors of the local Ray: their errors end as one line, and nothing waits for ever."""

import os

import pyarrow as pa
import pytest

from raylatent import cli
from raylatent.engine import stream as module
from raylatent.engine.cluster import Pool
from raylatent.engine.stream import stream
from raylatent.errors import IncompleteError, StorageError

pytestmark = [pytest.mark.ray]

FAILING_NET = """
import small_net


class FailingNet(small_net.ResNet):
    def forward(self, x):
        if len(x) == 16 and float(x.amax()) == float(x.amin()):
            raise RuntimeError("out of\\nmemory")
        return super().forward(x)


def build():
    return FailingNet()
"""


def share(n):
    return Pool(smallest=n, largest=n, num_cpus=0.2, num_gpus=0, threads=1)


class Doubling:
    def __init__(self, deadly):
        self.deadly = deadly

    def __call__(self, i):
        if i == self.deadly:
            os._exit(1)
        if i == 7:
            message = f"cannot write {i}"
            raise StorageError(message)
        return pa.table({"twice": [2 * i]})


def test_each_item_is_answered_once(ray_session):
    rows = stream("items", range(6), Doubling, (-1,), share(2))
    assert sorted(row["twice"] for row in rows) == [0, 2, 4, 6, 8, 10]
    assert list(stream("items", [], Doubling, (-1,), share(2))) == []


def test_an_actors_error_is_the_drivers(ray_session):
    with pytest.raises(StorageError) as caught:
        list(stream("items", [7], Doubling, (-1,), share(1)))
    assert type(caught.value) is StorageError
    assert str(caught.value) == "cannot write 7"


@pytest.mark.slow
def test_actors_that_die_again_and_again_end_the_run(ray_session, monkeypatch):
    monkeypatch.setattr(module, "_RESTARTS", 1)
    with pytest.raises(IncompleteError, match="died and were started again 2 times"):
        list(stream("items", [3], Doubling, (3,), share(1)))


def test_a_model_that_fails_on_a_batch_ends_in_one_line(
    ray_session, tmp_path, small_model, tiles, write_slide, capfd
):
    import io
    import json
    import shutil
    from dataclasses import replace

    from PIL import Image

    black = io.BytesIO()
    Image.new("RGB", (96, 96)).save(black, format="PNG")
    source = tmp_path / "tfrecords"
    source.mkdir()
    write_slide(source, "good", tiles[:16])
    dark = [replace(tile, image_raw=black.getvalue()) for tile in tiles[:16]]
    write_slide(source, "zdark", [*tiles[:16], *dark])
    folder = shutil.copytree(small_model, tmp_path / "model")
    (folder / "failing_net.py").write_text(FAILING_NET)
    spec = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(
        json.dumps({**spec, "factory": "failing_net:build"})
    )
    command = [
        *("activations", "--tfrecords", source, "--model", folder, "--actors", 1),
        *("--unit-tiles", 16, "--batch-size", 16, "--out", tmp_path / "run"),
    ]
    code = cli.main([str(word) for word in command])
    printed, complaints = capfd.readouterr()
    assert code != 0
    # Ray tells the driver how many processes tests before this one left.
    said = [line for line in printed.splitlines() if "(raylet)" not in line]
    assert said == []
    errors = [line for line in complaints.splitlines() if "error" in line.lower()]
    (line,) = errors
    assert line.startswith("raylatent: error: the model fails on a batch of shape")
    assert "out of" in line
    assert "Traceback" not in complaints
    written = sorted((tmp_path / "run/activations").glob("*/*.parquet"))
    assert len(written) == 2  # what was done before is kept
    assert not (tmp_path / "run/claim.json").exists()
