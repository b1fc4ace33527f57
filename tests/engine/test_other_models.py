"""A second start with another model on the same run: refused, by name; or goes on."""

import json
import shutil
from pathlib import Path

import pytest

from raylatent.engine import activations
from raylatent.errors import FingerprintError, ModelError, PassError
from raylatent.run import RUN_JSON, RunDirectory
from raylatent.run.settings import fingerprint
from raylatent.seal import DIGEST, sealed_json

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("in_process")]


@pytest.fixture
def edited(golden_model, tmp_path):
    """edited(text) is the golden model's folder with a text after its code."""

    def edit(text):
        folder = tmp_path / "model"
        shutil.copytree(golden_model, folder, dirs_exist_ok=True)
        code = (Path(golden_model) / "golden_net.py").read_text()
        (folder / "golden_net.py").write_text(f"{code}\n{text}\n")
        return str(folder)

    return edit


FORWARD = """
def forward(self, x):
    {}
    return old(self, x)
import os
old = GoldenNet.forward
GoldenNet.forward = forward
"""


def net_name(golden_model):
    from raylatent.model.features import Features

    return type(Features(golden_model, device="cpu").model).__name__


def test_what_is_not_seen_is_noticed_by_its_outputs(
    tmp_path, source, compute, edited, golden_model, monkeypatch
):
    """An environment variable that the forward pass reads."""
    scale = 'x = x * float(os.environ.get("SCALE", "1"))'
    text = FORWARD.format(scale).replace("GoldenNet", net_name(golden_model))
    out = tmp_path / "run"
    compute(out, [source], model=edited(text))
    again = compute(out, [source], model=edited(f"{text}\n# another comment"))
    assert again.counts["tiles"] == 0
    monkeypatch.setenv("SCALE", "1.5")
    with pytest.raises(FingerprintError, match="gives other activations"):
        compute(out, [source], model=edited(text))
    with pytest.raises(FingerprintError, match=r"forward is new|forward differs"):
        compute(out, [source], model=edited(text.replace("x * float", "x + float")))


def test_a_run_of_before_is_refused_and_can_be_read(tmp_path, source, compute):
    out = tmp_path / "run"
    compute(out, [source])
    settings = json.loads((out / RUN_JSON).read_text())
    del settings["identity"], settings["outputs"], settings[DIGEST]
    del settings["fields"]["files"]
    settings["fields"] |= {"model": "0" * 32, "code": "1" * 32}
    settings["fingerprint"] = fingerprint(settings["fields"])
    (out / RUN_JSON).write_text(json.dumps(sealed_json(settings)))
    with pytest.raises(
        FingerprintError, match="its rows can be read, but not"
    ) as caught:
        compute(out, [source])
    assert "--overwrite" in str(caught.value)
    assert len(RunDirectory.open(str(out)).read_rows("a")) > 0
    assert compute(out, [source], overwrite=True).counts["tiles"] == 99


def test_run_json_names_what_the_model_is(tmp_path, source, compute):
    out = tmp_path / "run"
    compute(out, [source])
    text = (out / RUN_JSON).read_text()
    assert len(text) < 300_000
    identity = json.loads(text)["identity"]
    assert set(identity) == {"tensors", "attributes", "code", "constants", "files"}
    assert identity["attributes"][""]["class"].startswith("golden_net.")


def test_a_model_that_needs_a_gpu(tmp_path, source, compute, edited, golden_model):
    needs = 'assert x.is_cuda, "CUDA only"'
    text = FORWARD.format(needs).replace("GoldenNet", net_name(golden_model))
    model = edited(text)
    with pytest.raises(ModelError, match="start the job where there is a GPU"):
        compute(tmp_path / "run", [source], model=model, num_gpus=None)
    with pytest.raises(PassError, match=r"CUDA only \(\w+\.py:\d+, in forward\)$"):
        compute(tmp_path / "run", [source], model=model, num_gpus=0)
    assert not (tmp_path / "run").exists()


def test_it_is_tried_on_the_driver_s_gpu(monkeypatch, caplog):
    """What has no GPU here: the second try, and what is said of it."""
    from raylatent.config import ActivationsConfig
    from raylatent.errors import PassError
    from raylatent.model.spec import ModelSpec

    tried = []

    def features(spec, *, device, **options):
        tried.append(device)
        if device == "cpu":
            message = "the model fails on a batch"
            raise PassError(message)
        return "features"

    monkeypatch.setattr(activations, "Features", features)
    monkeypatch.setattr(activations, "has_gpu", lambda: True)
    config = ActivationsConfig(out="unused", tfrecords=("unused",))
    spec = ModelSpec(name="x", factory="a:b")
    assert activations._tried(config, spec, with_preds=False) == "features"
    assert tried == ["cpu", "cuda"]
    assert "outputs are not compared" in caplog.text
