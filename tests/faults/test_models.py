"""Models that fail: said once, in one line, with what is written kept."""

import io
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from raylatent import cli
from raylatent.engine import stream

pytestmark = [pytest.mark.ray, pytest.mark.slow]

NETS = """
import os
import sys

import torch
import small_net


class Broken(Exception):
    pass


class Net(small_net.ResNet):
    most = 1_000_000

    def forward(self, x):
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return super().forward(x)


def build(driver=0, most=1_000_000, fail=False):
    if fail:
        raise Broken("no such thing\\nas this")
    if driver and os.getpid() != driver:
        os._exit(3)
    net = Net()
    net.most = most
    return net


def exits():
    class Exiting(small_net.ResNet):
        def forward(self, x):
            if float(x[0].amax()) == float(x[0].amin()):
                sys.exit("enough")
            return super().forward(x)

    return Exiting()
"""


@pytest.fixture
def model(tmp_path, small_model):
    """model(factory, **kwargs): a folder like small_net's, with that factory."""

    def make(factory="build", **kwargs):
        folder = Path(shutil.copytree(small_model, tmp_path / "model"))
        (folder / "fault_nets.py").write_text(NETS)
        spec = json.loads((folder / "model.json").read_text())
        spec |= {"factory": f"fault_nets:{factory}", "kwargs": kwargs}
        (folder / "model.json").write_text(json.dumps(spec))
        return folder

    return make


@pytest.fixture(autouse=True)
def cluster(ray_session):
    """All of them use the one Ray."""


@pytest.fixture
def said(tmp_path, campaign, capfd):
    """said(model, source, code): the one line of errors of a job."""

    def run(model, source, code):
        words = [
            *("activations", "--tfrecords", source, "--model", model, "--actors", 1),
            *("--unit-tiles", 16, "--batch-size", 16, "--out", tmp_path / "run"),
        ]
        campaign.run()
        assert cli.main([str(word) for word in words]) == code
        complaints = capfd.readouterr().err
        assert "Traceback" not in complaints
        (line,) = [
            x for x in complaints.splitlines() if x.startswith("raylatent: error")
        ]
        return line

    return run


def test_a_factory_that_raises(said, model, source, campaign):
    line = said(model(fail=True), source, 2)
    assert "fault_nets:build" in line
    assert "Broken: no such thing as this" in line
    campaign.fault("model: factory raises")


def test_weights_with_nan(said, model, source, campaign):
    folder = model()
    state = load_file(folder / "net.safetensors")
    state["fc.bias"][0] = torch.nan
    save_file(state, folder / "net.safetensors")
    line = said(folder, source, 2)
    assert "net.safetensors have NaN in fc.bias" in line
    campaign.fault("model: weights with NaN")


def test_a_device_without_the_memory_for_a_batch(
    compute, tmp_path, model, source, plain_loop, campaign, small_model
):
    folder = str(model(most=16))
    options = {"batch_size": 32, "unit_tiles": 20}
    report = compute(tmp_path / "run", [source], model=folder, actors="2", **options)
    campaign.fault("model: device out of memory")
    campaign.run()
    assert report.counts["smaller_batch"] == 99
    assert not report.failed
    expected = plain_loop(folder, [source], **options)
    campaign.audit(tmp_path / "run", expected)
    # And near what a device with enough memory gives.
    whole = plain_loop(small_model, [source], **options)
    for slide, (rows, _) in whole.items():
        a, b = (
            torch.tensor(t["postconv"].combine_chunks().flatten().to_numpy())
            for t in (rows, expected[slide][0])
        )
        assert torch.cosine_similarity(a, b, dim=0) > 0.9999


@pytest.mark.campaign  # tests/engine/test_stalled.py has one for every day
def test_an_actor_that_dies_at_its_start(said, model, source, campaign, monkeypatch):
    monkeypatch.setattr(stream, "_RESTARTS", 1)
    line = said(model(driver=os.getpid()), source, 1)
    assert "actors died and were started again 2 times" in line
    assert "last at its start on" in line
    campaign.fault("model: actor dies at start")


def test_a_model_that_exits_in_a_pass(
    said, model, source, tiles, write_slide, campaign
):
    black = io.BytesIO()
    Image.new("RGB", (96, 96)).save(black, format="PNG")
    dark = [replace(tile, image_raw=black.getvalue()) for tile in tiles[:16]]
    write_slide(source, "zdark", dark)
    line = said(model("exits"), source, 2)
    assert "the model fails on a batch of shape" in line
    assert "SystemExit: enough" in line
    campaign.fault("model: exits in a pass")
