"""Compiled passes: the same layers, pooled as before, whatever the model is like."""

import shutil

import numpy as np
import pytest
import torch
from torch import nn

from raylatent.errors import ModelError
from raylatent.model import layers
from raylatent.model.devices import lane_of
from raylatent.model.features import Features
from raylatent.tiles.clock import Clock

PX = 24
BATCH = 16
INDUCTOR = pytest.param(
    "inductor",
    marks=[
        pytest.mark.slow,
        pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler"),
    ],
)


class Net(nn.Module):
    """A module used twice, one in place after a layer, and a head."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.conv = nn.Conv2d(3, 8, 5, stride=3)
        self.relu = nn.ReLU(inplace=True)
        self.mix = nn.Conv2d(8, 8, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 3)

    def forward(self, batch):
        found = self.relu(self.conv(batch))
        found = self.mix(self.mix(found))
        return {"logits": self.fc(self.pool(found).flatten(1))}


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture(params=["eager", "aot_eager", INDUCTOR])
def backend(request, monkeypatch):
    monkeypatch.setattr(layers, "_BACKEND", request.param)
    return request.param


def features(model=None, **options):
    return Features(
        Net() if model is None else model,
        layers=["conv", "mix", "postconv"],
        classes=3,
        pooling="avg",
        tile_px=PX,
        batch_size=BATCH,
        device="cpu",
        **options,
    )


@pytest.fixture
def tiles():
    random = np.random.default_rng(0)
    return random.integers(0, 256, (BATCH, PX, PX, 3), dtype=np.uint8)


@pytest.mark.parametrize("with_preds", [False, True])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_layers_are_those_of_the_plain_pass(backend, tiles, with_preds):
    plain, compact = features(), features()
    compact.compile()
    for _ in range(2):
        found, preds = compact.forward(tiles, with_preds=with_preds)
        wanted, wanted_preds = plain.forward(tiles, with_preds=with_preds)
        assert list(found) == ["conv", "mix", "postconv"]
        for name in found:
            np.testing.assert_allclose(found[name], wanted[name], atol=1e-5)
        if with_preds:
            np.testing.assert_allclose(preds, wanted_preds, atol=1e-6)
        else:
            assert preds is None


def test_it_is_compiled_once(monkeypatch, tiles):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(layers, "_BACKEND", backend)
    compact = features()
    compact.compile()
    lane = lane_of(compact)
    clock = Clock("wait", "transfer", "forward")
    chunks = [list(tiles)] * 3 + [list(tiles[:5])]
    passed = list(lane.passes(map(lane.fill, chunks), clock, with_preds=False))
    assert len(passed) == 4
    assert len(graphs) == 1  # nothing breaks it, and it fits every pass
    names = {node.target for node in graphs[0].graph.nodes if node.op == "output"}
    assert names == {"output"}


def test_bfloat16_is_compiled_as_well(monkeypatch, tiles):
    monkeypatch.setattr(layers, "_BACKEND", "aot_eager")
    plain = features(mixed_precision=True)
    compact = features(mixed_precision=True)
    compact.compile()
    found, _ = compact.forward(tiles, with_preds=False)
    wanted, _ = plain.forward(tiles, with_preds=False)
    for name in found:
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], wanted[name], rtol=0.02, atol=0.02)


def test_what_cannot_be_compiled_is_an_error_of_the_model(monkeypatch, tiles):
    def backend(graph, inputs):
        message = "no compiler"
        raise RuntimeError(message)

    monkeypatch.setattr(layers, "_BACKEND", backend)
    compact = features()
    compact.compile()
    with pytest.raises(ModelError, match="no compiler"):
        compact.forward(tiles, with_preds=False)


class Attention(nn.Module):
    """Sums over many positions, which threads could share."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3)
        self.weigh = nn.Conv2d(8, 1, 1)
        self.found = nn.Identity()

    def forward(self, batch):
        maps = self.conv(batch)
        weights = self.weigh(maps).flatten(2).softmax(-1)
        return self.found((maps.flatten(2) * weights).sum(-1))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_threads_do_not_change_bits_of_compiled_rows():
    random = np.random.default_rng(0)
    tiles = random.integers(0, 256, (BATCH, 96, 96, 3), dtype=np.uint8)
    found, before = [], torch.get_num_threads()
    try:
        for n_threads in (1, 2, 3):
            torch._dynamo.reset()
            torch.set_num_threads(n_threads)
            made = Features(
                Attention(),
                layers=["found", "conv"],
                pooling="avg",
                tile_px=96,
                batch_size=BATCH,
                device="cpu",
            )
            made.compile()
            found.append(made.forward(tiles, with_preds=False)[0])
    finally:
        torch.set_num_threads(before)
    for rows in found[1:]:
        for name, values in rows.items():
            assert values.tobytes() == found[0][name].tobytes()
