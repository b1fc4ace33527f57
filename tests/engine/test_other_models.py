"""A second start with another model on the same run: refused, by name; or goes on."""

import json
import shutil
from pathlib import Path

import pytest

from raylatent.engine import activations
from raylatent.errors import FingerprintError, ModelError, PassError, VersionError
from raylatent.run import RUN_JSON, RunDirectory
from raylatent.seal import sealed_json

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("in_process")]


@pytest.fixture
def edited(small_model, tmp_path):
    """edited(text) is the small model's folder with a text after its code."""

    def edit(text):
        folder = tmp_path / "model"
        shutil.copytree(small_model, folder, dirs_exist_ok=True)
        code = (Path(small_model) / "small_net.py").read_text()
        (folder / "small_net.py").write_text(f"{code}\n{text}\n")
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


def net_name(small_model):
    from raylatent.model.features import Features

    return type(Features(small_model, device="cpu").model).__name__


def test_what_is_not_seen_is_noticed_by_its_outputs(
    tmp_path, source, compute, edited, small_model, monkeypatch
):
    """An environment variable that the forward pass reads."""
    scale = 'x = x * float(os.environ.get("SCALE", "1"))'
    text = FORWARD.format(scale).replace("GoldenNet", net_name(small_model))
    out = tmp_path / "run"
    compute(out, [source], model=edited(text))
    again = compute(out, [source], model=edited(f"{text}\n# another comment"))
    assert again.counts["tiles"] == 0
    monkeypatch.setenv("SCALE", "1.5")
    with pytest.raises(FingerprintError, match="gives other activations"):
        compute(out, [source], model=edited(text))
    with pytest.raises(FingerprintError, match=r"forward is new|forward differs"):
        compute(out, [source], model=edited(text.replace("x * float", "x + float")))


def test_a_run_of_an_earlier_version_is_refused(tmp_path, source, compute):
    out = tmp_path / "run"
    compute(out, [source])
    settings = json.loads((out / RUN_JSON).read_text()) | {"schema_version": 2}
    (out / RUN_JSON).write_text(json.dumps(sealed_json(settings)))
    with pytest.raises(VersionError, match=r"an earlier version .* another --out"):
        compute(out, [source])
    with pytest.raises(VersionError, match="schema version 2, now 4"):
        RunDirectory.open(str(out))


def test_run_json_names_what_the_model_is(tmp_path, source, compute):
    out = tmp_path / "run"
    compute(out, [source])
    text = (out / RUN_JSON).read_text()
    assert len(text) < 300_000
    identity = json.loads(text)["identity"]
    assert set(identity) == {"tensors", "attributes", "code", "constants", "files"}
    assert identity["attributes"][""]["class"].startswith("small_net.")


def test_a_model_that_needs_a_gpu(tmp_path, source, compute, edited, small_model):
    needs = 'assert x.is_cuda, "CUDA only"'
    text = FORWARD.format(needs).replace("GoldenNet", net_name(small_model))
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
