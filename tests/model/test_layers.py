"""What named layers give in a pass, compiled or not."""

import shutil

import numpy as np
import pytest
import torch
from torch import nn

from raylatent.errors import ConfigError, LayerError, ModelError
from raylatent.model import layers
from raylatent.model.devices import lane_of
from raylatent.model.features import Features
from raylatent.model.forward_pass import (
    call_model,
    evaluating,
    first_tensor,
    layer_shapes,
)
from raylatent.model.layers import LayerCapture, by_own_names, layer_names
from raylatent.model.postconv import Target
from raylatent.tiles.threads import Clock

N, PX = 3, 8

COMPILED_PX = 24
BATCH = 16
INDUCTOR = pytest.param(
    "inductor",
    marks=[
        pytest.mark.slow,
        pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler"),
    ],
)


def batch():
    return torch.rand(N, 3, PX, PX, generator=torch.Generator().manual_seed(5))


def capture(model, *layers, pooling=None):
    targets = [Target(layer=name, module=name) for name in layers]
    return LayerCapture(model, targets, pooling)


class Counting(nn.Module):
    """Passes through, counts its calls."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x


def chain():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), Counting(), nn.Conv2d(4, 2, 3)
    ).eval()


def test_the_pass_ends_after_the_last_layer_and_gives_the_same_bits():
    model = chain()
    capturing = capture(model, "0", "1")
    whole, output = capturing(batch(), with_output=True)
    assert output.shape == (N, 2, PX - 4, PX - 4)
    assert model[2].calls == 1
    stopped, nothing = capturing(batch(), with_output=False)
    assert nothing is None
    assert model[2].calls == 1  # not called again
    for name in ("0", "1"):
        assert torch.equal(stopped[name], whole[name])


def test_a_later_module_in_place_does_not_change_what_was_kept():
    model = chain()
    found, _ = capture(model, "0")(batch(), with_output=True)
    expected = nn.functional.conv2d(batch(), model[0].weight, model[0].bias)
    torch.testing.assert_close(found["0"], expected)
    assert (found["0"] < 0).any()


def test_what_goes_into_a_module_is_kept_before_it_is_changed():
    model = chain()
    target = Target(layer="pre", module="1", before=True)
    found, _ = LayerCapture(model, [target], None)(batch(), with_output=True)
    assert (found["pre"] < 0).any()


def test_hooks_are_gone_afterwards_also_after_an_error():
    class Fails(nn.Module):
        def forward(self, x):
            return x.reshape(7, 7)

    model = nn.Sequential(nn.Conv2d(3, 4, 3), Fails())
    with pytest.raises(ModelError, match=r"\(3, 3, 8, 8\).*invalid for input"):
        capture(model, "0")(batch(), with_output=True)
    capturing = capture(chain(), "0")
    capturing(batch(), with_output=True)
    capturing(batch(), with_output=False)
    for module in (*model.modules(), *capturing.model.modules()):
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


class Twice(nn.Module):
    """One layer used twice; the second time counts."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.after = nn.Conv2d(3, 3, 1), Counting()

    def forward(self, x):
        return self.after(self.layer(torch.relu(self.layer(x))))


def test_a_layer_used_twice_gives_its_last_output():
    model = Twice().eval()
    capturing = capture(model, "layer")
    whole, output = capturing(batch(), with_output=True)
    assert torch.equal(whole["layer"], output)
    stopped, _ = capturing(batch(), with_output=False)
    assert torch.equal(stopped["layer"], output)
    assert model.after.calls == 1


def test_the_order_is_the_one_asked_for():
    found, _ = capture(chain(), "3", "0")(batch(), with_output=True)
    assert list(found) == ["3", "0"]


def test_a_module_that_does_not_run_is_an_error():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Conv2d(3, 4, 3), nn.Linear(2, 2)

        def forward(self, x):
            return self.used(x)

    with pytest.raises(LayerError, match="'unused' is not used"):
        capture(Unused(), "unused")(batch(), with_output=True)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (lambda x: "words", "no tensor"),
        (lambda x: x[0], r"shape \(4, 6, 6\) for 3 tiles"),
        (lambda x: torch.cat([x, x]), r"shape \(6, 4, 6, 6\)"),
        (lambda x: x.sum(), r"shape \(\)"),
    ],
)
def test_an_output_that_is_not_one_row_a_tile_is_an_error(value, said):
    class Odd(nn.Module):
        def forward(self, x):
            return value(x)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.odd = nn.Conv2d(3, 4, 3), Odd()

        def forward(self, x):
            x = self.first(x)
            self.odd(x)
            return x

    with pytest.raises(LayerError, match=f"'odd' gives {said}"):
        capture(Model(), "odd")(batch(), with_output=True)


def test_a_number_a_tile_is_a_row_of_one():
    class Number(nn.Module):
        def forward(self, x):
            return x.mean((1, 2, 3))

    found, _ = capture(nn.Sequential(Number()), "0")(batch(), with_output=True)
    assert found["0"].shape == (N, 1)


def test_the_tensor_in_an_output():
    one, two = torch.zeros(1), torch.ones(1)
    assert first_tensor(one) is one
    assert first_tensor((None, "x", [two, one])) is two
    assert first_tensor({"a": one, "logits": two}) is two
    assert first_tensor({"a": one, "last_hidden_state": two}) is two
    assert first_tensor({"a": one, "logits": None}) is one
    assert first_tensor({"a": None, "b": {"c": two}}) is two
    assert first_tensor("words") is None
    assert first_tensor(None) is None


def test_a_users_module_goes_on_training():
    model = nn.Sequential(
        nn.Dropout(0.5), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1)
    ).train()
    model[2].eval()  # frozen by the user
    before = {k: v.clone() for k, v in model.state_dict().items()}
    first, second = (call_model(model, model, batch()) for _ in range(2))
    assert torch.equal(first, second)  # no dropout
    assert [module.training for module in model.modules()] == [True, True, True, False]
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    with pytest.raises(ZeroDivisionError), evaluating(model):
        int(model.training) / 0
    assert model.training


def test_names_of_layers():
    assert layer_names(["b", "a"]) == ["b", "a"]
    assert layer_names(None) == ["postconv"]
    with pytest.raises(ConfigError, match="not both"):
        layer_names("a", "b")
    with pytest.raises(LayerError, match="no layer"):
        layer_names([])
    for names in (["Conv", "conv"], ["slide"], ["Predictions"]):
        with pytest.raises(LayerError, match="collides"):
            layer_names(names)


def test_shapes_of_all_modules_in_order_of_execution():
    assert layer_shapes(Twice().eval(), batch()) == [
        ("layer", "Conv2d", "(3, 8, 8)"),
        ("layer", "Conv2d", "(3, 8, 8)"),
        ("after", "Counting", "(3, 8, 8)"),
    ]


class Shared(nn.Module):
    """One module under two names, and a part under a second name."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv1, self.act1 = nn.Conv2d(3, 4, 3), nn.ReLU()
        self.conv2, self.act2 = nn.Conv2d(4, 5, 3), self.act1
        self.body = nn.Sequential(self.conv1, self.act1)
        self.features = self.body[0]

    def forward(self, x):
        return self.act2(self.conv2(self.act1(self.features(x)))).mean((2, 3))


def test_each_name_of_a_module_gives_its_own_call():
    model = Shared().eval()
    names = ["act1", "act2", "features", "conv1", "body.0", "body.1"]
    targets = by_own_names(model, [Target(layer=n, module=n) for n in names], batch())
    found, _ = LayerCapture(model, targets, None)(batch(), with_output=True)
    with torch.inference_mode():
        first = model.conv1(batch())
        second = model.conv2(first.relu())
    for name, right in [
        ("act1", first.relu()),
        ("act2", second.relu()),
        ("features", first),
        ("conv1", first),  # it runs as `features` only
        ("body.0", first),
        ("body.1", second.relu()),
    ]:
        torch.testing.assert_close(found[name], right)
    assert [t.note for t in targets if t.note] == [
        "layer 'body.1' runs as act1, act2 in a pass: what act2 gives is kept"
    ]
    assert model.act1 is model.act2  # as before
    assert not any(module._forward_hooks for module in model.modules())


def test_names_of_one_module_are_listed_together():
    rows = layer_shapes(Shared().eval(), batch())
    assert ("act1 = act2 = body.1", "ReLU", "(5, 4, 4)") in rows


def test_a_layer_that_runs_several_times_says_so():
    capturing = capture(Twice().eval(), "layer", "after")
    capturing(batch(), with_output=True)
    capturing(batch(), with_output=False)
    assert capturing.notes == [
        "layer 'layer' runs 2 times in a pass: what it gives the last time is kept"
    ]


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
        tile_px=COMPILED_PX,
        batch_size=BATCH,
        device="cpu",
        **options,
    )


@pytest.fixture
def tiles():
    random = np.random.default_rng(0)
    return random.integers(0, 256, (BATCH, COMPILED_PX, COMPILED_PX, 3), dtype=np.uint8)


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
